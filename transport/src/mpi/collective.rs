//! MPI's own broadcast, between rank 0 and the first rank of every other node.
//!
//! It is used for segments of buffers that go to all nodes while nobody has died, if a measurement at the start says that it
//! is faster on this network than the tree of messages. Everybody takes part in the same order, in which rank 0 tells them.
//! A member that dies leaves the others inside: what is under way is leaked then, and the tree is used from there on.

use super::calls::{Broadcasting, Communicator};
use crate::TransportError;
use bytes::Bytes;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{AsRaw, Communicator as _, CommunicatorCollectives, Destination, Root, Source};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is measured with: bytes and number of segments.
const SEGMENT: usize = 4 << 20;
const SEGMENTS: usize = 3;
/// `mpi` or `tree` in this variable of rank 0 in place of a measurement.
const CHOICE: &str = "PXCLUSTER_BROADCAST";

/// One rank's part in it.
pub(super) struct Collective {
    communicator: Communicator,
    is_root: bool,
    /// Under way, in order.
    pending: VecDeque<Broadcasting>,
    /// What has come, in order.
    ready: VecDeque<Bytes>,
}

impl Collective {
    pub(super) fn new(members: &SimpleCommunicator) -> Self {
        let (communicator, is_root) = (Communicator(members.as_raw()), members.rank() == 0);
        Self { communicator, is_root, pending: VecDeque::new(), ready: VecDeque::new() }
    }

    /// Rank 0 sends a segment.
    pub(super) fn send(&mut self, segment: Bytes) -> Result<(), TransportError> {
        self.pending.push_back(self.communicator.broadcast(segment)?);
        Ok(())
    }

    /// Another member gets the next segment.
    pub(super) fn join(&mut self, length: usize) -> Result<(), TransportError> {
        self.pending.push_back(self.communicator.join_broadcast(length)?);
        Ok(())
    }

    /// The next segment that has come whole.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Whether anything is under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// `Ok(true)` if anything moved.
    pub(super) fn progress(&mut self) -> Result<bool, TransportError> {
        let mut moved = false;
        while let Some(first) = self.pending.front_mut()
            && let Some(bytes) = first.take_if_done()?
        {
            moved = true;
            self.pending.pop_front();
            if !self.is_root {
                self.ready.push_back(bytes);
            }
        }
        Ok(moved)
    }

    /// A member has died: nothing of this will end.
    pub(super) fn abandon(mut self) {
        std::mem::forget(std::mem::take(&mut self.pending));
    }
}

/// Whether MPI's broadcast is to be used, as rank 0 finds. Collective over the members.
pub(super) fn is_faster(members: &SimpleCommunicator) -> Result<bool, TransportError> {
    const MEASURE: u8 = 2;
    let mut choice = match std::env::var(CHOICE).as_deref() {
        Ok("mpi") => 1,
        Ok("tree") => 0,
        _ if members.size() < 3 => 0, // with one other node they are the same
        _ => MEASURE,
    };
    let root = members.process_at_rank(0);
    root.broadcast_into(&mut choice);
    if choice == MEASURE {
        let broadcast = measure(members, || through_broadcast(members))?;
        let tree = measure(members, || {
            through_tree(members);
            Ok(())
        })?;
        tracing::info!("4 MiB segments to {} nodes: {broadcast:?} by MPI, {tree:?} by the tree", members.size() - 1);
        choice = u8::from(broadcast < tree);
        root.broadcast_into(&mut choice);
    }
    Ok(choice == 1)
}

/// The better of two runs: the first one makes MPI's connections.
fn measure(
    members: &SimpleCommunicator,
    run: impl Fn() -> Result<(), TransportError>,
) -> Result<Duration, TransportError> {
    let mut best = Duration::MAX;
    for _ in 0..2 {
        members.barrier();
        let begun = Instant::now();
        run()?;
        members.barrier();
        best = best.min(begun.elapsed());
    }
    Ok(best)
}

fn through_broadcast(members: &SimpleCommunicator) -> Result<(), TransportError> {
    let mut collective = Collective::new(members);
    for _ in 0..SEGMENTS {
        if members.rank() == 0 {
            collective.send(Bytes::from(vec![0; SEGMENT]))?;
        } else {
            collective.join(SEGMENT)?;
        }
    }
    while collective.is_busy() {
        collective.progress()?;
    }
    Ok(())
}

/// As `relay_fill` sends, but with blocking calls.
fn through_tree(members: &SimpleCommunicator) {
    let (me, size) = (members.rank(), members.size());
    let mut segment = vec![0u8; SEGMENT];
    for _ in 0..SEGMENTS {
        if me > 0 {
            members.process_at_rank((me - 1) / 2).receive_into(&mut segment[..]);
        }
        for child in [2 * me + 1, 2 * me + 2].into_iter().filter(|child| *child < size) {
            members.process_at_rank(child).send(&segment[..]);
        }
    }
}
