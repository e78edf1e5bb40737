//! Large buffers: places in shared memory for who writes them, and messages that name such places.

use super::{Controller, ControllerError};
use crate::Settings;
use crate::fills::{Buffer, Node, Outgoing, Ready};
use crate::inbox::ConnectionId;
use crate::reading::Arrived;
use crate::regions::Usage;
use crate::store::{Reservation, Store};
use bytes::Bytes;
use pxcluster_protocol::frame::{Frame, FrameError};
use pxcluster_protocol::from_client::Targets;
use pxcluster_protocol::to_client::{Memory, NodeMemory, ToClient};
use pxcluster_protocol::to_engine::{Cargo, ToEngine};
use pxcluster_protocol::{ClientId, EngineId, EngineSet, Rank};
use pxcluster_transport::{Transport, relay, relay_fill, send, send_places};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

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

    /// Learns how much memory engines of rank 0's node have; the others say it themselves.
    pub(super) fn look_at_memory(&mut self) {
        let here = self.engines.values().filter(|info| self.is_here(info.id.rank()));
        let here: Vec<_> = here.map(|info| (info.id, info.pid)).collect();
        self.rss.look(here, Instant::now());
    }

    // -- buffers that come ----------------------------------------------------------------------------------------------

    /// Gives a client places to write to, for a direct request to an `audience` or for another one.
    pub(super) fn reserve_for_client(
        &mut self,
        connection: ConnectionId,
        client: ClientId,
        ticket: u64,
        sizes: &[u64],
        audience: Option<Targets>,
    ) {
        let reserved = self.reserve(sizes).unwrap_or_default();
        let places = reserved.iter().map(|place| (place.offset, place.is_warm)).collect::<Vec<_>>();
        let keepers = || reserved.iter().map(|place| (place.keeper(), place.length)).collect();
        let tell = audience.is_some_and(|targets| self.expect(connection, keepers(), &targets));
        self.reservations.entry(connection).or_default().extend(reserved);
        let places = (places.len() == sizes.len()).then_some(places);
        self.clients.send(client, &ToClient::Reserved { ticket, places, tell }, vec![]);
    }

    /// Takes places back that a client will not name.
    pub(super) fn abandon(&mut self, connection: ConnectionId, places: &[u64]) -> Result<(), ControllerError> {
        for place in places {
            drop(self.claim(connection, *place));
        }
        self.cut_arrivals(|arrival| arrival.connection == connection && places.contains(&arrival.place.place))
    }

    /// The frame with the buffers that the client has written to shared memory.
    pub(super) fn complete(&mut self, connection: ConnectionId, arrived: Arrived) -> Result<Frame, FrameError> {
        let Arrived { mut frame, places, .. } = arrived;
        for (at, place, length) in places {
            let reservation = self.claim(connection, place).filter(|reservation| reservation.length == length);
            let bytes = reservation.and_then(|reservation| reservation.finish().ok());
            self.arrived(place, length);
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
        let shares = self.is_here(engine.rank());
        self.send_shared(engine, message, body, shares)
    }

    /// Sends a message to one engine; of large buffers the places, if they are there on its node (`is_there`).
    fn send_shared(
        &mut self,
        engine: EngineId,
        message: &ToEngine,
        body: Vec<Bytes>,
        is_there: bool,
    ) -> Result<(), ControllerError> {
        let store = self.store.as_ref().filter(|_| is_there);
        let place_of =
            |buffer: &Bytes| store.and_then(|store| store.place_of(buffer).inspect(|place| store.hold(*place, engine)));
        Ok(send_places(&mut self.transport, engine.rank(), message, body, &place_of)?)
    }

    /// Sends a cargo with its body to all of `targets`.
    pub(super) fn broadcast_body(
        &mut self,
        targets: &EngineSet,
        cargo: &Cargo,
        body: &[Bytes],
    ) -> Result<(), ControllerError> {
        let buffers = self.stored(body);
        if buffers.is_empty() {
            return Ok(relay(&mut self.transport, targets, cargo, body)?);
        }
        let mut by_node: BTreeMap<Option<Node>, Vec<EngineId>> = BTreeMap::new();
        for engine in targets.iter() {
            by_node.entry(self.node_of(engine)).or_default().push(engine);
        }
        if let Some(copied) = by_node.remove(&None) {
            relay(&mut self.transport, &copied.into_iter().collect(), cargo, body)?;
        }
        let (mut here, mut elsewhere) = (vec![], vec![]);
        for (node, targets) in by_node {
            let (Some(node), Some(&leader)) = (node, targets.first()) else { continue };
            let waiting = Waiting { targets: targets.into_iter().collect(), cargo: cargo.clone(), body: body.to_vec() };
            if self.is_here(leader.rank()) {
                here.push(waiting);
            } else {
                elsewhere.push((node, leader, waiting));
            }
        }
        for waiting in here {
            self.send_places(waiting)?;
        }
        self.fills.begin(&buffers, elsewhere);
        self.pump()
    }

    /// Sends a message to engines of one node, which has its buffers.
    fn send_places(&mut self, waiting: Waiting) -> Result<(), ControllerError> {
        let Waiting { targets, cargo, body } = waiting;
        for engine in self.without_gone(&targets).iter() {
            let alone = ToEngine::Relay { targets: std::iter::once(engine).collect(), cargo: cargo.clone() };
            self.send_shared(engine, &alone, body.clone(), true)?;
        }
        Ok(())
    }

    // -- other nodes ----------------------------------------------------------------------------------------------------

    /// The node of an engine, if its ranks share memory.
    fn node_of(&self, engine: EngineId) -> Option<Node> {
        let node = self.settings.nodes.get(engine.rank().0 as usize)?;
        (node.room > 0).then_some(node.first)
    }

    /// The buffers of a body that lie in the store.
    fn stored(&self, body: &[Bytes]) -> Vec<Buffer> {
        let Some(store) = &self.store else { return vec![] };
        let buffer = |bytes: &Bytes| {
            let place = store.place_of(bytes)?;
            Some(Buffer { id: store.id_of(place)?, place, length: bytes.len() as u64 })
        };
        body.iter().filter_map(buffer).collect()
    }

    /// A leader has written so much of a buffer, or has no room for it.
    pub(super) fn filled(&mut self, leader: EngineId, transfer: u64, upto: Option<u64>) -> Result<(), ControllerError> {
        if let Some(upto) = upto {
            self.fills.confirm(leader, transfer, upto);
        } else if let (Some(place), Some(store)) = (self.fills.refuse(leader, transfer), &self.store) {
            store.taint(place);
        }
        self.pump()
    }

    /// Sends what may be sent now.
    pub(super) fn pump(&mut self) -> Result<(), ControllerError> {
        let Some(store) = self.store.clone() else { return Ok(()) };
        for Outgoing { leaders, segment, length } in self.fills.next_segments() {
            let bytes = store.segment(segment.place + segment.at, length as usize);
            let bytes = bytes.map_err(ControllerError::SharedMemory)?;
            if self.transport.broadcast_members() == Some(&leaders) {
                for leader in leaders.iter() {
                    send(&mut self.transport, leader.rank(), &ToEngine::Join { segment, length }, vec![])?;
                }
                self.transport.broadcast(bytes)?;
            } else {
                relay_fill(&mut self.transport, &leaders, segment, &[bytes])?;
            }
        }
        self.arrivals.retain(|arrival| self.fills.is_active(arrival.id));
        for Ready { message, has_all } in self.fills.take_ready() {
            if has_all {
                self.send_places(message)?;
            } else {
                let living = self.without_gone(&message.targets);
                relay(&mut self.transport, &living, &message.cargo, &message.body)?;
            }
        }
        Ok(())
    }

    /// An engine has died: another one of its node takes what it was being sent for the node.
    pub(super) fn lose_leader(&mut self, engine: EngineId) -> Result<(), ControllerError> {
        let Some(store) = self.store.clone() else { return Ok(()) };
        let leaders = self.leaders();
        for place in self.fills.lose(engine, |node| leaders.get(&node).copied()) {
            store.taint(place);
        }
        self.pump()
    }

    /// The first living engine of each other node whose ranks share memory.
    pub(super) fn leaders(&self) -> BTreeMap<Node, EngineId> {
        self.leaders_among(&self.living())
    }

    /// The first of these engines on each other node whose ranks share memory.
    pub(super) fn leaders_among(&self, engines: &EngineSet) -> BTreeMap<Node, EngineId> {
        let mut leaders = BTreeMap::new();
        for engine in engines.iter().filter(|engine| !self.is_here(engine.rank())) {
            if let Some(node) = self.node_of(engine) {
                leaders.entry(node).or_insert(engine);
            }
        }
        leaders
    }

    /// What there is in shared memory.
    pub(super) fn memory(&self) -> Option<Memory> {
        let store = self.store.as_ref()?;
        let (Usage { buffers, used, pooled, bound }, lengths) = (store.usage(), store.lengths());
        let mut others: BTreeMap<Node, NodeMemory> = BTreeMap::new();
        for engine in self.engines.values().filter(|engine| !self.is_here(engine.id.rank())) {
            if let Some(node) = self.node_of(engine.id) {
                let used = self.fills.on(node).filter_map(|id| lengths.get(&id)).sum();
                others.entry(node).or_insert_with(|| NodeMemory { host: engine.host.clone(), used });
            }
        }
        Some(Memory { buffers, used, pooled, bound, others: others.into_values().collect() })
    }

    /// Lets other nodes give back pages that rank 0's has given back.
    pub(super) fn punch_elsewhere(&mut self) -> Result<(), ControllerError> {
        let Some(store) = self.store.clone() else { return Ok(()) };
        let ranges = store.take_punched();
        if ranges.is_empty() {
            return Ok(());
        }
        let live = store.lengths();
        self.fills.retain(|id| live.contains_key(&id));
        let leaders = self.leaders().into_values().collect();
        self.broadcast(&leaders, &Cargo::Punch(ranges))
    }
}

/// A message to engines of one node whose buffers are on their way there.
pub(super) struct Waiting {
    targets: EngineSet,
    cargo: Cargo,
    body: Vec<Bytes>,
}
