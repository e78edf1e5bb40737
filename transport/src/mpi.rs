//! The transport over MPI, and the only door to rsmpi.
//!
//! Used are `MPI_Isend`, `MPI_Improbe`, `MPI_Imrecv` (or `MPI_Mrecv` for what has already arrived) and `MPI_Test`:
//! nothing that can block on a peer. Messages are found by probing; a sender on the same node rings the receiver's
//! doorbell, what comes from other nodes is looked for every few milliseconds.

mod calls;
mod collective;
pub mod pmix;
mod start;
mod world;

pub use world::{World, WorldError, library_version};

use crate::doorbell::{Doorbells, Sleeper};
use crate::link::{Depot, Kind, Link};
use crate::{Transport, TransportError};
use bytes::Bytes;
use calls::{Found, Receiving, Sending};
use collective::Collective;
use pxcluster_protocol::{EngineSet, Rank};
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest sleep while a transfer is under way, which MPI only advances when it is called.
const TRANSFER_NAP: Duration = Duration::from_micros(200);
/// First and longest sleep after the last message, doubled each time. Short ones come first because MPI may hold back a
/// message until its sender calls MPI again, although the send is complete.
const NAPS: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];
/// Longest sleep of a rank that has peers on other nodes: these cannot ring.
const REMOTE_NAP: Duration = Duration::from_millis(5);

/// How long probes may fail in a row. Some MPIs let them fail for a while when a rank has died.
const PROBES_FAIL: Duration = Duration::from_secs(10);

/// The transport of one rank. It may be moved to another thread; all its calls are made by one thread at a time.
pub struct MpiTransport {
    rank: Rank,
    communicator: calls::Communicator,
    links: Vec<Link>,
    /// Peers whose link may have something to send.
    dirty: VecDeque<usize>,
    is_dirty: Vec<bool>,
    /// Sends under way, with their receivers.
    sending: Vec<(usize, Sending)>,
    /// Fragments whose receive has begun, per peer and in order, so that none overtakes another.
    receiving: Vec<VecDeque<Receiving>>,
    receiving_count: usize,
    ready: VecDeque<(Rank, Bytes)>,
    doorbells: Arc<Doorbells>,
    /// Which ranks are on this node.
    local: Arc<[bool]>,
    has_remote_peers: bool,
    nap: Duration,
    /// Peers that have died.
    lost: Vec<bool>,
    suspects: Vec<(Rank, String)>,
    /// Since when every probe has failed.
    probes_fail: Option<Instant>,
    /// MPI's own broadcast to other nodes, where it is to be used, and the engines that take part.
    collective: Option<(Collective, EngineSet)>,
    depot: Option<Box<dyn Depot>>,
}

/// One rank's bell.
#[derive(Clone)]
pub struct Bell {
    doorbells: Arc<Doorbells>,
    rank: usize,
}

impl Bell {
    /// How often it has been rung; to be read before the last look for work.
    pub fn rings(&self) -> u32 {
        self.doorbells.rings(self.rank)
    }

    /// Sleeps until it has been rung more often than `seen`, or `timeout` has passed.
    pub fn sleep(&self, seen: u32, timeout: Duration, sleeper: Sleeper) {
        self.doorbells.sleep(self.rank, seen, timeout, sleeper);
    }

    /// Wakes this sleeper, if it sleeps.
    pub fn wake(&self, sleeper: Sleeper) {
        self.doorbells.ring_for(self.rank, sleeper);
    }
}

impl MpiTransport {
    fn new(communicator: calls::Communicator, rank: Rank, doorbells: Arc<Doorbells>, local: Arc<[bool]>) -> Self {
        let size = local.len();
        Self {
            rank,
            communicator,
            links: (0..size).map(|_| Link::default()).collect(),
            dirty: VecDeque::new(),
            is_dirty: vec![false; size],
            sending: Vec::new(),
            receiving: (0..size).map(|_| VecDeque::new()).collect(),
            receiving_count: 0,
            ready: VecDeque::new(),
            doorbells,
            has_remote_peers: local.contains(&false),
            nap: NAPS[0],
            local,
            lost: vec![false; size],
            suspects: Vec::new(),
            probes_fail: None,
            collective: None,
            depot: None,
        }
    }

    /// The bell of this rank, for threads that sleep on it beside the transport.
    pub fn bell(&self) -> Bell {
        Bell { doorbells: Arc::clone(&self.doorbells), rank: self.rank.0 as usize }
    }

    /// Whether a rank is on this one's node.
    pub fn is_local(&self, rank: Rank) -> bool {
        self.local.get(rank.0 as usize).is_some_and(|local| *local)
    }

    fn leave_broadcasts(&mut self) {
        if let Some((collective, _)) = self.collective.take() {
            collective.abandon();
        }
    }

    fn mark(&mut self, peer: usize) {
        if !std::mem::replace(&mut self.is_dirty[peer], true) {
            self.dirty.push_back(peer);
        }
    }

    /// Advances everything once. `Ok(true)` if anything moved.
    fn progress(&mut self) -> Result<bool, TransportError> {
        let mut moved = self.progress_sends()? | self.progress_receives()?;
        if let Some((collective, _)) = &mut self.collective {
            match collective.progress() {
                Ok(more) => moved |= more,
                // Somebody has died, as everybody will be told.
                Err(error) => {
                    tracing::info!("{error}");
                    self.leave_broadcasts();
                }
            }
        }
        // One probe often misses what has arrived, so two are made before giving up.
        let mut misses = 0;
        while misses < 2 {
            match self.probe()? {
                None => misses += 1,
                Some(found) if self.lost[found.source] => found.ignore(),
                Some(found) => {
                    moved = true;
                    let from = found.source;
                    match found.receive() {
                        Ok(receiving) => {
                            self.receiving[from].push_back(receiving);
                            self.receiving_count += 1;
                            self.deliver(from)?;
                        }
                        Err(error) => self.suspect(from, error)?,
                    }
                }
            }
        }
        moved |= self.flush()?;
        if moved {
            self.nap = NAPS[0];
        }
        Ok(moved)
    }

    /// A message that has come from anybody. Failures count when they go on: they may be about a rank that has died.
    fn probe(&mut self) -> Result<Option<Found>, TransportError> {
        match self.communicator.probe() {
            Ok(found) => {
                self.probes_fail = None;
                Ok(found)
            }
            Err(error) if self.probes_fail.get_or_insert_with(Instant::now).elapsed() > PROBES_FAIL => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// MPI fails to move something to or from a peer. Without rank 0 there is no cluster; an engine has probably died.
    fn suspect(&mut self, peer: usize, error: TransportError) -> Result<(), TransportError> {
        let rank = Rank(peer as u32);
        if rank == Rank::CONTROLLER {
            return Err(error);
        }
        if !self.lost[peer] {
            self.lose(rank);
            self.suspects.push((rank, error.to_string()));
        }
        Ok(())
    }

    fn progress_sends(&mut self) -> Result<bool, TransportError> {
        let before = self.sending.len();
        let mut at = 0;
        while let Some((peer, sending)) = self.sending.get_mut(at) {
            let peer = *peer;
            match sending.is_done() {
                Ok(true) => drop(self.sending.swap_remove(at)),
                Ok(false) => at += 1,
                Err(error) => {
                    self.suspect(peer, error)?;
                    at = 0; // the sends to this peer are gone
                }
            }
        }
        Ok(self.sending.len() < before)
    }

    fn progress_receives(&mut self) -> Result<bool, TransportError> {
        if self.receiving_count == 0 {
            return Ok(false);
        }
        let before = self.receiving_count;
        for from in 0..self.receiving.len() {
            if !self.receiving[from].is_empty() {
                self.deliver(from)?;
            }
        }
        Ok(self.receiving_count < before)
    }

    /// Takes the finished fragments of one peer in order.
    fn deliver(&mut self, from: usize) -> Result<(), TransportError> {
        while let Some(first) = self.receiving[from].front_mut() {
            let tag = first.tag();
            let bytes = match first.take_if_done() {
                Ok(Some(bytes)) => bytes,
                Ok(None) => break,
                Err(error) => return self.suspect(from, error),
            };
            self.receiving[from].pop_front();
            self.receiving_count -= 1;
            let sender = Rank(from as u32);
            let foreign = || TransportError::Foreign { from: sender };
            let kind = Kind::from_tag(tag).ok_or_else(foreign)?;
            let room = |length| self.depot.as_ref()?.room(sender, length);
            if let Some(message) = self.links[from].accept(kind, bytes, &room).map_err(|_| foreign())? {
                self.ready.push_back((sender, message));
            }
            self.mark(from);
        }
        Ok(())
    }

    /// Starts every send that has a credit.
    fn flush(&mut self) -> Result<bool, TransportError> {
        let mut moved = false;
        while let Some(peer) = self.dirty.pop_front() {
            self.is_dirty[peer] = false;
            let mut sent = false;
            while let Some((kind, fragment)) = self.links[peer].next_fragment() {
                let started = self.communicator.send(peer, kind as i32, fragment);
                match started.and_then(|mut sending| Ok((sending.is_done()?, sending))) {
                    Ok((true, _)) => {}
                    Ok((false, sending)) => self.sending.push((peer, sending)),
                    Err(error) => self.suspect(peer, error)?,
                }
                sent = true;
            }
            if sent && self.local[peer] {
                self.doorbells.ring(peer);
            }
            moved |= sent;
        }
        Ok(moved)
    }
}

impl Transport for MpiTransport {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn size(&self) -> u32 {
        self.links.len() as u32
    }

    fn send(&mut self, to: Rank, head: Bytes, body: Vec<Bytes>) {
        let peer = to.0 as usize;
        if !self.lost[peer] {
            self.links[peer].push(head, body);
            self.mark(peer);
        }
    }

    fn receive(&mut self) -> Result<Option<(Rank, Bytes)>, TransportError> {
        if self.ready.is_empty() {
            self.progress()?;
        } else {
            self.flush()?;
        }
        Ok(self.ready.pop_front())
    }

    fn wait(&mut self, timeout: Duration) {
        let bell = self.bell();
        let seen = bell.rings();
        // An error here is met again, and reported, by the next `receive`.
        if !self.progress().unwrap_or(true) {
            let nap = self.nap().map_or(timeout, |nap| nap.min(timeout));
            bell.sleep(seen, nap, Sleeper::Second);
        }
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.doorbells.descriptor()
    }

    fn arm(&mut self) {
        self.doorbells.arm(self.rank.0 as usize);
    }

    fn disarm(&mut self) {
        self.doorbells.disarm(self.rank.0 as usize);
    }

    fn nap(&mut self) -> Option<Duration> {
        let is_broadcasting = self.collective.as_ref().is_some_and(|(collective, _)| collective.is_busy());
        if !self.sending.is_empty() || self.receiving_count > 0 || is_broadcasting {
            return Some(TRANSFER_NAP);
        }
        let nap = self.nap;
        self.nap = (nap * 2).min(if self.has_remote_peers { REMOTE_NAP } else { NAPS[1] });
        Some(nap)
    }

    fn is_drained(&self) -> bool {
        self.sending.is_empty() && self.links.iter().all(Link::is_empty)
    }

    fn lose(&mut self, peer: Rank) {
        let at = peer.0 as usize;
        if std::mem::replace(&mut self.lost[at], true) {
            return;
        }
        self.leave_broadcasts();
        self.links[at] = Link::default();
        self.ready.retain(|(from, _)| *from != peer);
        let receiving = std::mem::take(&mut self.receiving[at]);
        self.receiving_count -= receiving.len();
        std::mem::forget(receiving);
        let (dead, living) = std::mem::take(&mut self.sending).into_iter().partition(|(to, _)| *to == at);
        self.sending = living;
        std::mem::forget::<Vec<_>>(dead);
    }

    fn take_suspects(&mut self) -> Vec<(Rank, String)> {
        std::mem::take(&mut self.suspects)
    }

    fn set_depot(&mut self, depot: Box<dyn Depot>) {
        self.depot = Some(depot);
    }

    fn broadcast_members(&self) -> Option<&EngineSet> {
        self.collective.as_ref().map(|(_, members)| members)
    }

    fn broadcast(&mut self, segment: Bytes) -> Result<(), TransportError> {
        self.collective.as_mut().map_or(Ok(()), |(collective, _)| collective.send(segment))
    }

    fn join_broadcast(&mut self, length: usize) -> Result<(), TransportError> {
        self.collective.as_mut().map_or(Ok(()), |(collective, _)| collective.join(length))
    }

    fn take_broadcast(&mut self) -> Option<Bytes> {
        self.collective.as_mut().and_then(|(collective, _)| collective.take())
    }
}
