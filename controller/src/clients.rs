//! The clients that are connected.

use crate::inbox::{ConnectionId, Outbox};
use bytes::Bytes;
use pxcluster_protocol::ClientId;
use pxcluster_protocol::frame::Frame;
use pxcluster_protocol::to_client::ToClient;
use std::collections::BTreeMap;

#[derive(Debug)]
struct Client {
    connection: ConnectionId,
    outbox: Outbox,
}

/// The clients that are connected, by the id that the controller gave them.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    last: u32,
    by_id: BTreeMap<ClientId, Client>,
    by_connection: BTreeMap<ConnectionId, ClientId>,
    by_name: BTreeMap<String, ClientId>,
}

impl Clients {
    pub(crate) fn add(&mut self, connection: ConnectionId, session: String, outbox: Outbox) -> ClientId {
        self.last += 1;
        let id = ClientId(self.last);
        self.by_id.insert(id, Client { connection, outbox });
        self.by_connection.insert(connection, id);
        self.by_name.insert(session, id);
        id
    }

    pub(crate) fn remove(&mut self, connection: ConnectionId) -> Option<ClientId> {
        let id = self.by_connection.remove(&connection)?;
        self.by_id.remove(&id);
        Some(id)
    }

    pub(crate) fn of(&self, connection: ConnectionId) -> Option<ClientId> {
        self.by_connection.get(&connection).copied()
    }

    /// The client of a session, here or gone.
    pub(crate) fn named(&self, session: &str) -> Option<ClientId> {
        self.by_name.get(session).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Queues a frame; a client that is gone loses it.
    pub(crate) fn send(&self, id: ClientId, header: &ToClient, buffers: Vec<Bytes>) {
        let Some(client) = self.by_id.get(&id) else { return };
        match Frame::new(header, buffers) {
            Ok(frame) => {
                if client.outbox.send(frame).is_err() {
                    tracing::debug!("connection {} is closing", client.connection);
                }
            }
            Err(error) => tracing::error!("a frame for client {} cannot be encoded: {error}", id.0),
        }
    }

    /// Queues the same frame for everybody.
    pub(crate) fn send_to_all(&self, header: &ToClient) {
        self.by_id.keys().for_each(|id| self.send(*id, header, vec![]));
    }
}
