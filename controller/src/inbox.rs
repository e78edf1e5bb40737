//! Between the sessions and the event loop: notices one way, frames the other.

use crate::handshake::{Peer, Report};
use pxcluster_protocol::frame::Frame;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Frames for one client; dropping the sender closes the connection after the last frame.
pub(crate) type Outbox = mpsc::UnboundedSender<Frame>;

/// Number of a connection, given by the socket thread; the event loop maps it to a client.
pub(crate) type ConnectionId = u64;

/// What the sockets tell the event loop.
pub(crate) enum Notice {
    /// A client has shown the key.
    Connected { connection: ConnectionId, outbox: Outbox },
    /// An engine's nanny has shown the key.
    Nanny { connection: ConnectionId, outbox: Outbox, report: Report },
    /// A client, or a nanny, sends a frame.
    Frame { connection: ConnectionId, frame: Frame },
    /// A client, or a nanny, is gone.
    Disconnected { connection: ConnectionId },
    /// The process was asked to end.
    Terminate(&'static str),
}

/// The event loop's ear.
#[derive(Clone)]
pub(crate) struct Inbox {
    notices: mpsc::UnboundedSender<Notice>,
    connections: Arc<AtomicU64>,
}

impl Inbox {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Notice>) {
        let (notices, receiver) = mpsc::unbounded_channel();
        (Self { notices, connections: Arc::default() }, receiver)
    }

    pub(crate) fn put(&self, notice: Notice) {
        // A closed channel means that the event loop has ended; the process is about to.
        let _closed = self.notices.send(notice);
    }

    pub(crate) fn connect(&self, peer: Peer, outbox: Outbox) -> ConnectionId {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed);
        self.put(match peer {
            Peer::Client(_) => Notice::Connected { connection, outbox },
            Peer::Nanny(report) => Notice::Nanny { connection, outbox, report },
        });
        connection
    }
}
