//! A nanny's connection to rank 0.

use bytes::BytesMut;
use pxcluster_dial::{DialError, Stream};
use pxcluster_protocol::frame::{Frame, FrameError, Limits, decode};
use pxcluster_protocol::from_client::FromClient;
use pxcluster_protocol::to_client::ToClient;
use pxcluster_protocol::to_engine::ReportTo;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

/// How long a read may wait for the rest of a frame, or of a TLS record.
const REST: Duration = Duration::from_millis(100);

/// A connection that has been accepted by rank 0's listener.
pub(super) struct Reporter {
    stream: Stream,
    received: BytesMut,
}

/// What rank 0 says.
pub(super) enum Heard {
    /// Nothing that matters.
    Nothing,
    /// End the engine.
    Kill,
    /// Rank 0 ends, and nobody need stay for it.
    LetGo,
    /// The connection is closed, for this reason if one was given.
    Closed(Option<String>),
}

/// Why rank 0 cannot be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the connection to rank 0 broke: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
}

impl Reporter {
    /// Connects to rank 0's socket, or on another host to its port.
    pub(super) fn connect(place: &ReportTo) -> Result<Self, ReportError> {
        let socket = Path::new(&place.socket);
        let stream = pxcluster_dial::connect(socket.exists().then_some(socket), &place.addresses, &place.certificate)?;
        stream.set_read_timeout(REST)?;
        Ok(Self { stream, received: BytesMut::new() })
    }

    pub(super) fn say(&mut self, message: &FromClient) -> Result<(), ReportError> {
        self.stream.write_all(&Frame::new(message, Vec::new())?.encode())?;
        Ok(self.stream.flush()?)
    }

    /// Takes what has come. To be called when the descriptor is readable.
    pub(super) fn hear(&mut self) -> Heard {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Heard::Closed(None),
            Ok(count) => self.received.extend_from_slice(&chunk[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                return Heard::Nothing;
            }
            Err(_) => return Heard::Closed(None),
        }
        match decode(&mut self.received, Limits::STRANGER).map(|frame| frame.map(|frame| frame.parse())) {
            Ok(Some(Ok(ToClient::KillEngine))) => Heard::Kill,
            Ok(Some(Ok(ToClient::Closing { .. }))) => Heard::LetGo,
            Ok(Some(Ok(ToClient::Refused { reason }))) => Heard::Closed(Some(reason)),
            Ok(_) => Heard::Nothing,
            Err(error) => Heard::Closed(Some(error.to_string())),
        }
    }
}

impl AsFd for Reporter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
