//! Long messages of engines on other nodes, put together in the store.

use crate::store::{Reservation, Store};
use bytes::Bytes;
use pxcluster_protocol::{EngineId, Rank};
use pxcluster_transport::arena::LARGE;
use pxcluster_transport::link::{Depot, Room};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How far a message has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    pub(crate) from: EngineId,
    /// Where it lies.
    pub(crate) place: u64,
    /// Its bytes, and those that are there.
    pub(crate) length: u64,
    pub(crate) upto: u64,
}

/// The messages of which a part has come, by the numbers of their buffers.
#[derive(Debug, Default)]
pub(crate) struct Incoming(Mutex<BTreeMap<u64, Progress>>);

impl Incoming {
    fn messages(&self) -> MutexGuard<'_, BTreeMap<u64, Progress>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progress(&self) -> BTreeMap<u64, Progress> {
        self.messages().clone()
    }
}

/// The store, as messages come to lie there.
pub(crate) struct Messages(pub(crate) Arc<Store>);

impl Depot for Messages {
    fn room(&self, from: Rank, length: usize) -> Option<Box<dyn Room>> {
        let from = from.engine().filter(|_| length >= LARGE)?;
        let place = self.0.take(length as u64)?;
        let id = self.0.id_of(place.offset)?;
        let progress = Progress { from, place: place.offset, length: length as u64, upto: 0 };
        self.0.incoming.messages().insert(id, progress);
        Some(Box::new(Message { id, store: Arc::clone(&self.0), place: Some(place) }))
    }
}

/// A message of which a part has come.
struct Message {
    id: u64,
    store: Arc<Store>,
    /// `None` when it is whole.
    place: Option<Reservation>,
}

impl Room for Message {
    fn write(&mut self, at: usize, bytes: &[u8]) -> bool {
        let Some(place) = &self.place else { return false };
        if let Err(error) = place.write(at as u64, bytes) {
            tracing::warn!("no room for a message in shared memory: {error}");
            return false;
        }
        if let Some(progress) = self.store.incoming.messages().get_mut(&self.id) {
            progress.upto = (at + bytes.len()) as u64;
        }
        true
    }

    fn written(&self, length: usize) -> Bytes {
        self.place.as_ref().and_then(|place| place.written(length).ok()).unwrap_or_default()
    }

    fn finish(mut self: Box<Self>) -> Option<Bytes> {
        self.place.take()?.finish().ok()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.store.incoming.messages().remove(&self.id);
    }
}
