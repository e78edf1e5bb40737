//! The only door to a running controller: a blocking client of the frame protocol.
//!
//! On the controller's own host the link is its Unix socket, elsewhere TLS 1.3 to one of its addresses.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pxcluster_dial::{ANSWER_TIMEOUT, DialError, Stream};
use pxcluster_protocol::connection::ConnectionFile;
use pxcluster_protocol::frame::{Frame, FrameError, Limits, decode};
use pxcluster_protocol::from_client::{FromClient, Hello};
use pxcluster_protocol::to_client::{ClusterStatus, ToClient};
use pxcluster_protocol::{PROTOCOL_VERSION, RequestId, VERSION};

use crate::machine::host_name;

#[cfg(test)]
mod tests;

/// How long the rest of what has begun to come may take when nothing is waited for.
const BRIEFLY: Duration = Duration::from_millis(100);

/// A session with a controller. Dropping it ends the session.
pub struct Link {
    stream: Stream,
    received: BytesMut,
    last_id: RequestId,
}

/// Why the controller did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
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
            received: None,
            shares: false,
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
        if let Err(error) = self.send(&FromClient::Status { id }) {
            return Err(self.last_words().unwrap_or(error));
        }
        self.answer(id, |message| match message {
            ToClient::Status(status) if status.id == id => Some(status),
            _ => None,
        })
    }

    /// Lets what runs come to its end, at most within `grace` (`None`: as long as it takes), and nothing new begin; the
    /// cluster stops afterwards by itself. Returns when the controller knows.
    pub fn drain(mut self, grace: Option<Duration>) -> Result<(), LinkError> {
        let id = self.next_id();
        self.send(&FromClient::Drain { id, grace: grace.map(|grace| grace.as_secs_f64()) })?;
        self.answer(id, |message| matches!(message, ToClient::Done { id: done } if done == id).then_some(()))
    }

    /// What `wanted` finds in one of the messages that come, unless the controller says that this request failed.
    fn answer<T>(&mut self, id: RequestId, wanted: impl Fn(ToClient) -> Option<T>) -> Result<T, LinkError> {
        loop {
            match self.receive()? {
                ToClient::Failed { id: failed, message, .. } if failed == id => return Err(LinkError::Failed(message)),
                message => {
                    if let Some(found) = wanted(message) {
                        return Ok(found);
                    }
                }
            }
        }
    }

    /// Waits for `timeout`, or until `wake` can be read or is closed; whether that is so. Hears meanwhile what the
    /// controller says, which is an error if it says goodbye.
    pub fn wait(&mut self, timeout: Duration, wake: BorrowedFd<'_>) -> Result<bool, LinkError> {
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut both = [self.stream.as_fd(), wake].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut both, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Err(error) if error != Errno::EINTR => return Err(io::Error::from(error).into()),
                _ => {}
            }
            let [said, woken] = both.map(|fd| fd.any().unwrap_or(true));
            if woken {
                return Ok(true);
            }
            if said {
                self.overhear()?;
            } else if left.is_zero() {
                return Ok(false);
            }
        }
    }

    /// Receives a message that nobody waits for, if it is whole; TLS has messages of its own, too.
    fn overhear(&mut self) -> Result<(), LinkError> {
        self.stream.set_read_timeout(BRIEFLY)?;
        let heard = self.receive();
        self.stream.set_read_timeout(ANSWER_TIMEOUT)?;
        match heard {
            Ok(_) | Err(LinkError::Silent) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How the controller took its leave, if it did before the connection ended.
    fn last_words(&mut self) -> Option<LinkError> {
        loop {
            match self.receive() {
                Ok(_) => {}
                Err(error) => return matches!(&error, LinkError::Closed(why) if !why.is_empty()).then_some(error),
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

fn connect(connection: &ConnectionFile) -> Result<Stream, DialError> {
    pxcluster_dial::connect(socket_here(connection), &connection.addresses, &connection.certificate)
}

/// The controller's socket, on its own host.
pub(crate) fn socket_here(connection: &ConnectionFile) -> Option<&Path> {
    let socket = Path::new(&connection.socket);
    (connection.host == host_name() && socket.exists()).then_some(socket)
}
