//! The only door to a running controller: a blocking client of the frame protocol.
//!
//! On the controller's own host the link is its Unix socket, elsewhere TLS 1.3 to one of its addresses. The
//! controller's certificate is its own; the connection file holds it, and no other is accepted.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use pxcluster_protocol::connection::ConnectionFile;
use pxcluster_protocol::frame::{Frame, FrameError, Limits, decode};
use pxcluster_protocol::from_client::{FromClient, Hello};
use pxcluster_protocol::to_client::{ClusterStatus, ToClient};
use pxcluster_protocol::{PROTOCOL_VERSION, RequestId, VERSION};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConnection, StreamOwned};

use crate::machine::host_name;

mod pinned;
#[cfg(test)]
mod tests;

/// How long an address may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the controller may be silent while an answer is due.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A session with a controller. Dropping it ends the session.
pub struct Link {
    stream: Box<dyn Stream>,
    received: BytesMut,
    last_id: RequestId,
}

/// Why the controller did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody accepts connections there.
    #[error("cannot reach the controller at {tried}: {source}")]
    Unreachable {
        /// Every address that was tried.
        tried: String,
        /// What the last one said.
        source: io::Error,
    },
    /// The connection file's certificate cannot be read.
    #[error("the certificate in the connection file cannot be used: {0}")]
    Certificate(String),
    /// The handshake failed.
    #[error("the controller refused: {0}")]
    Refused(String),
    /// The controller said why it cannot do it.
    #[error("the controller failed: {0}")]
    Failed(String),
    /// The connection ended before the answer came.
    #[error("the controller closed the connection{0}")]
    Closed(String),
    /// No answer came in time.
    #[error("the controller did not answer within {} seconds", ANSWER_TIMEOUT.as_secs())]
    Silent,
    /// The connection broke.
    #[error("the connection to the controller broke: {0}")]
    Io(#[from] io::Error),
    /// It does not speak the protocol.
    #[error("what answers there is not a pxcluster controller: {0}")]
    Frame(#[from] FrameError),
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Link {
    /// Connects, and shows the key of the connection file.
    pub fn open(connection: &ConnectionFile) -> Result<Self, LinkError> {
        let mut link = Self { stream: connect(connection)?, received: BytesMut::new(), last_id: 0 };
        link.send(&FromClient::Hello(Hello {
            protocol_version: PROTOCOL_VERSION,
            key: connection.key.clone(),
            client_version: VERSION.to_owned(),
            python: String::new(),
            host: host_name(),
            pid: std::process::id(),
            session: None,
        }))?;
        loop {
            match link.receive()? {
                ToClient::Welcome(_) => return Ok(link),
                ToClient::Refused { reason } => return Err(LinkError::Refused(reason)),
                _ => {}
            }
        }
    }

    /// Asks for the state of the cluster.
    pub fn status(&mut self) -> Result<ClusterStatus, LinkError> {
        let id = self.next_id();
        self.send(&FromClient::Status { id })?;
        loop {
            match self.receive()? {
                ToClient::Status(status) if status.id == id => return Ok(status),
                ToClient::Failed { id: failed, message, .. } if failed == id => return Err(LinkError::Failed(message)),
                _ => {}
            }
        }
    }

    /// Stops the cluster. Returns when the controller has taken leave; its processes may need a moment more.
    pub fn shutdown(mut self) -> Result<(), LinkError> {
        let id = self.next_id();
        self.send(&FromClient::Shutdown { id })?;
        loop {
            match self.receive() {
                Err(LinkError::Closed(_)) => return Ok(()),
                Ok(ToClient::Failed { id: failed, message, .. }) if failed == id => {
                    return Err(LinkError::Failed(message));
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn next_id(&mut self) -> RequestId {
        self.last_id += 1;
        self.last_id
    }

    fn send(&mut self, message: &FromClient) -> Result<(), LinkError> {
        self.stream.write_all(&Frame::new(message, Vec::new())?.encode())?;
        Ok(self.stream.flush()?)
    }

    fn receive(&mut self) -> Result<ToClient, LinkError> {
        loop {
            if let Some(frame) = decode(&mut self.received, Limits::CLIENT)? {
                return match frame.parse()? {
                    ToClient::Closing { reason } => Err(LinkError::Closed(format!(": {reason}"))),
                    message => Ok(message),
                };
            }
            let mut chunk = [0; 1 << 14];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(LinkError::Closed(String::new())),
                Ok(count) => self.received.extend_from_slice(&chunk[..count]),
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(LinkError::Silent),
                    ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => {
                        return Err(LinkError::Closed(String::new()));
                    }
                    _ => return Err(error.into()),
                },
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The controller notices the end of the connection anyway.
        let _ = self.send(&FromClient::Goodbye);
    }
}

fn connect(connection: &ConnectionFile) -> Result<Box<dyn Stream>, LinkError> {
    let mut tried = Vec::new();
    let mut last = io::Error::new(ErrorKind::NotFound, "the connection file has no address");
    if connection.host == host_name() && Path::new(&connection.socket).exists() {
        match connect_unix(Path::new(&connection.socket)) {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => last = error,
        }
        tried.push(connection.socket.as_str());
    }
    let certificate = CertificateDer::from_pem_slice(connection.certificate.as_bytes())
        .map_err(|error| LinkError::Certificate(error.to_string()))?;
    let config =
        Arc::new(pinned::client_config(certificate).map_err(|error| LinkError::Certificate(error.to_string()))?);
    for address in &connection.addresses {
        match connect_tls(address, &config) {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => last = error,
        }
        tried.push(address);
    }
    Err(LinkError::Unreachable { tried: tried.join(", "), source: last })
}

/// Connects to the socket, and makes sure that nobody else put it there to learn the key.
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    let peer = getsockopt(&stream.as_fd(), PeerCredentials)?.uid();
    if peer != nix::unistd::geteuid().as_raw() && peer != 0 {
        return Err(io::Error::new(ErrorKind::PermissionDenied, format!("user {peer} serves {}", path.display())));
    }
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

fn connect_tls(
    address: &str,
    config: &Arc<rustls::ClientConfig>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut last = io::Error::new(ErrorKind::NotFound, format!("{address} has no IP address"));
    for socket_address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket_address, CONNECT_TIMEOUT) {
            Ok(mut tcp) => {
                tcp.set_nodelay(true)?;
                tcp.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                tcp.set_write_timeout(Some(ANSWER_TIMEOUT))?;
                // No name is checked: the certificate itself is known.
                let name = ServerName::try_from("pxcluster").map_err(io::Error::other)?;
                let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                while tls.is_handshaking() {
                    tls.complete_io(&mut tcp)?;
                }
                return Ok(StreamOwned::new(tls, tcp));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
