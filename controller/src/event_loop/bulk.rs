//! Large buffers: places in shared memory for who writes them, and messages that name such places.

use super::{Controller, ControllerError};
use crate::Settings;
use crate::inbox::ConnectionId;
use crate::reading::Arrived;
use crate::store::{Reservation, Store};
use bytes::Bytes;
use pxcluster_protocol::frame::{Frame, FrameError};
use pxcluster_protocol::to_client::ToClient;
use pxcluster_protocol::to_engine::{Cargo, ToEngine};
use pxcluster_protocol::{ClientId, EngineId, EngineSet, Rank};
use pxcluster_transport::{Transport, relay, send, send_places};
use std::sync::Arc;

/// Share of what the node has room for that buffers may take, percent.
const SHARE: u64 = 80;

/// The store of a cluster, if it has shared memory and may use it.
pub(super) fn store(settings: &Settings) -> Option<Arc<Store>> {
    let arena = settings.arena.clone()?;
    let room = settings.nodes.first().map_or(0, |node| node.room / 100 * SHARE);
    let bound = settings.bounds.shared.map_or(room, |bound| bound.min(room));
    (bound > 0).then(|| Store::new(arena, bound))
}

impl<T: Transport> Controller<T> {
    /// Whether an engine shares memory with rank 0.
    fn is_here(&self, rank: Rank) -> bool {
        let node = |rank: usize| self.settings.nodes.get(rank).map(|node| node.first);
        node(rank.0 as usize).is_some_and(|first| node(0) == Some(first))
    }

    // -- buffers that come ----------------------------------------------------------------------------------------------

    /// Gives a client places to write to.
    pub(super) fn reserve_for_client(
        &mut self,
        connection: ConnectionId,
        client: ClientId,
        ticket: u64,
        sizes: &[u64],
    ) {
        let reserved = self.reserve(sizes);
        let places = reserved.as_ref().map(|places| places.iter().map(|place| (place.offset, place.is_warm)).collect());
        if let Some(reserved) = reserved {
            self.reservations.entry(connection).or_default().extend(reserved);
        }
        self.clients.send(client, &ToClient::Reserved { ticket, places }, vec![]);
    }

    /// Takes places back that a client will not name.
    pub(super) fn abandon(&mut self, connection: ConnectionId, places: &[u64]) {
        for place in places {
            drop(self.claim(connection, *place));
        }
    }

    /// The frame with the buffers that the client has written to shared memory.
    pub(super) fn complete(&mut self, connection: ConnectionId, arrived: Arrived) -> Result<Frame, FrameError> {
        let Arrived { mut frame, places, .. } = arrived;
        for (at, place, length) in places {
            let reservation = self.claim(connection, place).filter(|reservation| reservation.length == length);
            let bytes = reservation.and_then(|reservation| reservation.finish().ok());
            frame.buffers[at] = bytes.ok_or(FrameError::NotShared)?;
        }
        Ok(frame)
    }

    fn claim(&mut self, connection: ConnectionId, place: u64) -> Option<Reservation> {
        let reserved = self.reservations.get_mut(&connection)?;
        let at = reserved.iter().position(|reservation| reservation.offset == place)?;
        Some(reserved.swap_remove(at))
    }

    /// Gives an engine places to write an answer to.
    pub(super) fn reserve_for_engine(
        &mut self,
        engine: EngineId,
        ticket: u64,
        sizes: &[u64],
    ) -> Result<(), ControllerError> {
        let reserved = if self.is_here(engine.rank()) { self.reserve(sizes) } else { None };
        let give = |place: Reservation| {
            let is_warm = place.is_warm;
            (place.hold(engine), is_warm)
        };
        let places = reserved.map(|places| places.into_iter().map(give).collect());
        Ok(send(&mut self.transport, engine.rank(), &ToEngine::Reserved { ticket, places }, vec![])?)
    }

    fn reserve(&self, sizes: &[u64]) -> Option<Vec<Reservation>> {
        let store = self.store.as_ref()?;
        sizes.iter().map(|size| store.take(*size)).collect()
    }

    /// A buffer that an engine has written to shared memory.
    pub(super) fn adopt(&self, from: Rank, place: u64, length: usize) -> Result<Bytes, String> {
        let (Some(store), Some(engine)) = (&self.store, from.engine()) else {
            return Err("there is no shared memory".to_owned());
        };
        store.adopt(engine, place, length).map_err(|error| error.to_string())
    }

    // -- buffers that go ------------------------------------------------------------------------------------------------

    /// Sends a message to one engine; of large buffers the places, if it shares them.
    pub(super) fn send_body(
        &mut self,
        engine: EngineId,
        message: &ToEngine,
        body: Vec<Bytes>,
    ) -> Result<(), ControllerError> {
        let store = self.store.clone().filter(|_| self.is_here(engine.rank()));
        let place_of = |buffer: &Bytes| {
            let store = store.as_ref()?;
            store.place_of(buffer).inspect(|place| store.hold(*place, engine))
        };
        Ok(send_places(&mut self.transport, engine.rank(), message, body, &place_of)?)
    }

    /// Sends a cargo with its body to all of `targets`.
    pub(super) fn broadcast_body(
        &mut self,
        targets: &EngineSet,
        cargo: &Cargo,
        body: &[Bytes],
    ) -> Result<(), ControllerError> {
        let is_shared = |store: &Arc<Store>| body.iter().any(|buffer| store.place_of(buffer).is_some());
        if !self.store.as_ref().is_some_and(is_shared) {
            return Ok(relay(&mut self.transport, targets, cargo, body)?);
        }
        let (here, elsewhere): (Vec<EngineId>, Vec<EngineId>) =
            targets.iter().partition(|engine| self.is_here(engine.rank()));
        for engine in here {
            let alone = ToEngine::Relay { targets: std::iter::once(engine).collect(), cargo: cargo.clone() };
            self.send_body(engine, &alone, body.to_vec())?;
        }
        Ok(relay(&mut self.transport, &elsewhere.into_iter().collect(), cargo, body)?)
    }
}
