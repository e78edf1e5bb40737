//! Between the sessions and the event loop: notices one way, frames the other.

use crate::budget::Budget;
use crate::handshake::Report;
use crate::reading::{Arrived, Arriving};
use crate::store::Store;
use bytes::Bytes;
use pxcluster_protocol::frame::Frame;
use pxcluster_protocol::from_client::Hello;
use pxcluster_protocol::to_client::{Ahead, ToClient};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// What goes to a client.
#[derive(Clone, Debug)]
pub(crate) enum Outgoing {
    Frame(Frame),
    /// A part of a frame to come.
    Ahead(Ahead, Bytes),
    /// What came ahead from this place will not be named.
    Forget(u64),
}

/// For one client; dropping the sender closes the connection after the last frame.
pub(crate) type Outbox = mpsc::UnboundedSender<Outgoing>;

/// What the event loop has of a client's connection.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) outbox: Outbox,
    pub(crate) budget: Budget,
}

impl Link {
    /// Queues a frame; a connection that is closing loses it.
    pub(crate) fn put(&self, frame: Frame) {
        self.put_outgoing(Outgoing::Frame(frame));
    }

    pub(crate) fn put_outgoing(&self, outgoing: Outgoing) {
        let _its_end_will_be_told = self.outbox.send(outgoing);
    }

    /// The same with a frame without buffers.
    pub(crate) fn send(&self, header: &ToClient) {
        if let Ok(frame) = Frame::new(header, vec![]) {
            self.put(frame);
        }
    }
}

/// Number of a connection, given by the socket thread; the event loop maps it to a client.
pub(crate) type ConnectionId = u64;

/// A signal that says that the process is to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Terminate {
    /// At once.
    Now(&'static str),
    /// In a while.
    Soon(&'static str),
}

/// What the sockets tell the event loop.
pub(crate) enum Notice {
    /// A client has shown the key.
    Connected { connection: ConnectionId, link: Link, hello: Box<Hello> },
    /// An engine's nanny has shown the key.
    Nanny { connection: ConnectionId, outbox: Outbox, report: Report },
    /// A client, or a nanny, sends a frame.
    Frame { connection: ConnectionId, arrived: Arrived },
    /// A client sends a frame with a large buffer.
    Arriving { connection: ConnectionId, arriving: Arriving },
    /// A client, or a nanny, is gone.
    Disconnected { connection: ConnectionId },
    /// The process was asked to end.
    Terminate(Terminate),
}

/// The event loop's ear.
#[derive(Clone)]
pub(crate) struct Inbox {
    notices: mpsc::UnboundedSender<Notice>,
    connections: Arc<AtomicU64>,
    /// Bytes of requests under way, per client.
    requests: usize,
    /// Where large buffers go.
    pub(crate) store: Option<Arc<Store>>,
}

impl Inbox {
    pub(crate) fn new(requests: usize, store: Option<Arc<Store>>) -> (Self, mpsc::UnboundedReceiver<Notice>) {
        let (notices, receiver) = mpsc::unbounded_channel();
        (Self { notices, connections: Arc::default(), requests, store }, receiver)
    }

    pub(crate) fn put(&self, notice: Notice) {
        // A closed channel means that the event loop has ended; the process is about to.
        let _closed = self.notices.send(notice);
    }

    /// A client has shown the key: the number of its connection, and its budget.
    pub(crate) fn connect(&self, hello: Hello, outbox: Outbox) -> (ConnectionId, Budget) {
        let budget = Budget::new(self.requests);
        let connection = self.number();
        let link = Link { outbox, budget: budget.clone() };
        self.put(Notice::Connected { connection, link, hello: Box::new(hello) });
        (connection, budget)
    }

    /// A nanny has shown the key.
    pub(crate) fn connect_nanny(&self, report: Report, outbox: Outbox) -> (ConnectionId, Budget) {
        let connection = self.number();
        self.put(Notice::Nanny { connection, outbox, report });
        (connection, Budget::new(self.requests))
    }

    fn number(&self) -> ConnectionId {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }
}
