//! A blocking stream to a running controller: its Unix socket on its own host, TLS 1.3 to one of its addresses elsewhere.
//!
//! The controller's certificate is its own; whoever dials has it from rank 0 or from the connection file, and accepts no
//! other. What is said over the stream is not known here.

mod pinned;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConnection, StreamOwned};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long an address may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a read or a write may take at first.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a controller.
pub enum Stream {
    /// On the controller's host.
    Unix(UnixStream),
    /// From anywhere.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody accepts connections there.
    #[error("cannot reach the controller at {tried}: {source}")]
    Unreachable {
        /// Every address that was tried.
        tried: String,
        /// What the last one said.
        source: io::Error,
    },
    /// The certificate is none.
    #[error("the certificate in the connection file cannot be used: {0}")]
    Certificate(String),
}

/// What was tried in vain.
struct Tried {
    names: Vec<String>,
    last: io::Error,
}

impl Tried {
    fn new() -> Self {
        Self { names: Vec::new(), last: io::Error::new(ErrorKind::NotFound, "the connection file has no address") }
    }

    /// The connection, if it was made.
    fn note<T>(&mut self, name: String, attempt: io::Result<T>) -> Option<T> {
        let noted = attempt.map_err(|error| {
            self.last = error;
            self.names.push(name);
        });
        noted.ok()
    }

    fn into_error(self) -> DialError {
        DialError::Unreachable { tried: self.names.join(", "), source: self.last }
    }
}

/// Connects to the socket, if one is given, else to the first of the addresses (`host:port`) that accepts. `certificate`:
/// the controller's, PEM.
pub fn connect(socket: Option<&Path>, addresses: &[String], certificate: &str) -> Result<Stream, DialError> {
    let mut tried = Tried::new();
    if let Some(path) = socket
        && let Some(stream) = tried.note(path.display().to_string(), connect_unix(path).and_then(with_timeouts))
    {
        return Ok(Stream::Unix(stream));
    }
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
        .map_err(|error| DialError::Certificate(error.to_string()))?;
    let config =
        Arc::new(pinned::client_config(certificate).map_err(|error| DialError::Certificate(error.to_string()))?);
    let tls = addresses.iter().find_map(|address| tried.note(address.clone(), connect_tls(address, &config)));
    tls.map(|stream| Stream::Tls(Box::new(stream))).ok_or_else(|| tried.into_error())
}

/// A connection to a controller on which nothing has been said, for somebody else to speak on.
pub struct Bare {
    /// The stream socket.
    pub descriptor: OwnedFd,
    /// Whether TLS is to be spoken on it.
    pub needs_tls: bool,
}

/// Connects as [`connect`] does, and leaves the rest to whoever speaks.
pub fn connect_bare(socket: Option<&Path>, addresses: &[String]) -> Result<Bare, DialError> {
    let mut tried = Tried::new();
    if let Some(path) = socket
        && let Some(stream) = tried.note(path.display().to_string(), connect_unix(path))
    {
        return Ok(Bare { descriptor: stream.into(), needs_tls: false });
    }
    let tcp = addresses.iter().find_map(|address| tried.note(address.clone(), connect_tcp(address)));
    tcp.map(|tcp| Bare { descriptor: tcp.into(), needs_tls: true }).ok_or_else(|| tried.into_error())
}

/// Connects to the socket, and makes sure that nobody else put it there to learn the key.
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    let peer = getsockopt(&stream.as_fd(), PeerCredentials)?.uid();
    if peer != nix::unistd::geteuid().as_raw() && peer != 0 {
        return Err(io::Error::new(ErrorKind::PermissionDenied, format!("user {peer} serves {}", path.display())));
    }
    Ok(stream)
}

fn with_timeouts(stream: UnixStream) -> io::Result<UnixStream> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(stream)
}

fn connect_tls(
    address: &str,
    config: &Arc<rustls::ClientConfig>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut tcp = connect_tcp(address)?;
    tcp.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    tcp.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    // No name is checked: the certificate itself is known.
    let name = ServerName::try_from("pxcluster").map_err(io::Error::other)?;
    let mut tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    Ok(StreamOwned::new(tls, tcp))
}

fn connect_tcp(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, format!("{address} has no IP address"));
    for socket_address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&socket_address, CONNECT_TIMEOUT) {
            Ok(tcp) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Stream {
    /// How long a read may take from now on.
    pub fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(timeout)),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.sock.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
