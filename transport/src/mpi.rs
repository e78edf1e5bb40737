//! The transport over MPI, and the only door to rsmpi.
//!
//! Used are `MPI_Isend`, `MPI_Improbe`, `MPI_Imrecv` (or `MPI_Mrecv` for what has already arrived) and `MPI_Test`:
//! nothing that can block on a peer. Messages are found by probing; a sender on the same node rings the receiver's
//! doorbell, what comes from other nodes is looked for every few milliseconds.

mod calls;
mod world;

pub use world::{World, WorldError, library_version};

use crate::doorbell::{Doorbells, Sleeper};
use crate::link::{Kind, Link};
use crate::{Transport, TransportError};
use bytes::Bytes;
use calls::{Receiving, Sending};
use pxcluster_protocol::Rank;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// Longest sleep while a transfer is under way, which MPI only advances when it is called.
const TRANSFER_NAP: Duration = Duration::from_micros(200);
/// First and longest sleep after the last message, doubled each time. Short ones come first because MPI may hold back a
/// message until its sender calls MPI again, although the send is complete.
const NAPS: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(1)];
/// Longest sleep of a rank that has peers on other nodes: these cannot ring.
const REMOTE_NAP: Duration = Duration::from_millis(5);

/// The transport of one rank. It may be moved to another thread; all its calls are made by one thread at a time.
pub struct MpiTransport {
    rank: Rank,
    communicator: calls::Communicator,
    links: Vec<Link>,
    /// Peers whose link may have something to send.
    dirty: VecDeque<usize>,
    is_dirty: Vec<bool>,
    sending: Vec<Sending>,
    /// Fragments whose receive has begun, per peer and in order, so that none overtakes another.
    receiving: Vec<VecDeque<Receiving>>,
    receiving_count: usize,
    ready: VecDeque<(Rank, Bytes)>,
    doorbells: Arc<Doorbells>,
    /// Which ranks are on this node.
    local: Arc<[bool]>,
    has_remote_peers: bool,
    nap: Duration,
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
        }
    }

    /// The bell of this rank, for threads that sleep on it beside the transport.
    pub fn bell(&self) -> Bell {
        Bell { doorbells: Arc::clone(&self.doorbells), rank: self.rank.0 as usize }
    }

    fn mark(&mut self, peer: usize) {
        if !std::mem::replace(&mut self.is_dirty[peer], true) {
            self.dirty.push_back(peer);
        }
    }

    /// Advances everything once. `Ok(true)` if anything moved.
    fn progress(&mut self) -> Result<bool, TransportError> {
        let mut moved = self.progress_sends()? | self.progress_receives()?;
        // One probe often misses what has arrived, so two are made before giving up.
        let mut misses = 0;
        while misses < 2 {
            match self.communicator.probe()? {
                None => misses += 1,
                Some(found) => {
                    moved = true;
                    let from = found.source;
                    self.receiving[from].push_back(found.receive()?);
                    self.receiving_count += 1;
                    self.deliver(from)?;
                }
            }
        }
        moved |= self.flush()?;
        if moved {
            self.nap = NAPS[0];
        }
        Ok(moved)
    }

    fn progress_sends(&mut self) -> Result<bool, TransportError> {
        let before = self.sending.len();
        let mut at = 0;
        while at < self.sending.len() {
            if self.sending[at].is_done()? {
                drop(self.sending.swap_remove(at));
            } else {
                at += 1;
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
            let Some(bytes) = first.take_if_done()? else { break };
            let tag = first.tag();
            self.receiving[from].pop_front();
            self.receiving_count -= 1;
            let sender = Rank(from as u32);
            let foreign = || TransportError::Foreign { from: sender };
            let kind = Kind::from_tag(tag).ok_or_else(foreign)?;
            if let Some(message) = self.links[from].accept(kind, bytes).map_err(|_| foreign())? {
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
                let mut sending = self.communicator.send(peer, kind as i32, fragment)?;
                if !sending.is_done()? {
                    self.sending.push(sending);
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
        self.links[peer].push(head, body);
        self.mark(peer);
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
        if !self.sending.is_empty() || self.receiving_count > 0 {
            return Some(TRANSFER_NAP);
        }
        let nap = self.nap;
        self.nap = (nap * 2).min(if self.has_remote_peers { REMOTE_NAP } else { NAPS[1] });
        Some(nap)
    }

    fn is_drained(&self) -> bool {
        self.sending.is_empty() && self.links.iter().all(Link::is_empty)
    }
}
