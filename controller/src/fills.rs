//! Buffers on their way into the shared memory of other nodes, and messages that wait for them. Decides; sends nothing.
//!
//! A buffer goes from rank 0 to one engine of each node, its *leader*, in segments. Leaders pass segments on along a tree and
//! write them to the place that the buffer has on every node. What has been written is confirmed, and only so much is under
//! way. When a node has all buffers of a message, the message can name their places there. Where a leader has died, all that
//! have not everything begin again: it may have died with segments for others. One that has no room goes on passing segments
//! on, and the message must take the buffers along.

use pxcluster_protocol::{EngineId, EngineSet, Rank};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of a segment: the fastest relay in measurements on one node.
pub(crate) const SEGMENT: u64 = 4 << 20;
/// Bytes that the slowest leader may not have confirmed.
const WINDOW: u64 = 8 * SEGMENT;

/// A node, by its first rank.
pub(crate) type Node = Rank;

/// A buffer: number, place, bytes. A place may be used again; the number is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub(crate) id: u64,
    pub(crate) place: u64,
    pub(crate) length: u64,
}

/// A part of a buffer to be sent to leaders.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) leaders: EngineSet,
    pub(crate) place: u64,
    /// Of the segment, from the beginning of the buffer.
    pub(crate) at: u64,
    pub(crate) length: u64,
}

/// A message that waits no more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ready<M> {
    pub(crate) message: M,
    /// Whether the node has every buffer of it.
    pub(crate) has_all: bool,
}

struct Fill {
    buffer: Buffer,
    /// All leaders, from the beginning to the end: the tree must not change while segments are under way.
    leaders: BTreeMap<EngineId, Leader>,
    sent: u64,
}

struct Leader {
    node: Node,
    /// Bytes that it has written; `None`: it has no room.
    confirmed: Option<u64>,
}

impl Fill {
    fn new(buffer: Buffer, leaders: impl IntoIterator<Item = (EngineId, Node)>) -> Self {
        let leader = |(engine, node)| (engine, Leader { node, confirmed: Some(0) });
        Self { buffer, leaders: leaders.into_iter().map(leader).collect(), sent: 0 }
    }

    /// The leaders that have room and not everything.
    fn unfinished(&self) -> impl Iterator<Item = (EngineId, &Leader, u64)> {
        let unfinished = |(engine, leader): (&EngineId, _)| {
            let leader: &Leader = leader;
            let confirmed = leader.confirmed.filter(|confirmed| *confirmed < self.buffer.length)?;
            Some((*engine, leader, confirmed))
        };
        self.leaders.iter().filter_map(unfinished)
    }

    fn serves(&self, id: u64, node: Node) -> bool {
        self.buffer.id == id && self.unfinished().any(|(_, leader, _)| leader.node == node)
    }
}

struct Waiting<M> {
    node: Node,
    missing: BTreeSet<u64>,
    has_all: bool,
    message: M,
}

/// See the module's page.
pub(crate) struct Fills<M> {
    active: Vec<Fill>,
    waiting: Vec<Waiting<M>>,
    /// Which nodes have which buffers, by number.
    have: BTreeSet<(u64, Node)>,
    ready: Vec<Ready<M>>,
}

impl<M> Default for Fills<M> {
    fn default() -> Self {
        Self { active: vec![], waiting: vec![], have: BTreeSet::new(), ready: vec![] }
    }
}

impl<M> Fills<M> {
    /// Sends messages to nodes when they have `buffers`. Each node is given with its leader.
    pub(crate) fn begin(&mut self, buffers: &[Buffer], messages: Vec<(Node, EngineId, M)>) {
        let mut leaders: BTreeMap<u64, BTreeMap<EngineId, Node>> = BTreeMap::new();
        for (node, leader, message) in messages {
            let mut missing = BTreeSet::new();
            for buffer in buffers.iter().filter(|buffer| !self.have.contains(&(buffer.id, node))) {
                missing.insert(buffer.id);
                if !self.active.iter().any(|fill| fill.serves(buffer.id, node)) {
                    leaders.entry(buffer.id).or_default().insert(leader, node);
                }
            }
            self.waiting.push(Waiting { node, missing, has_all: true, message });
        }
        for buffer in buffers {
            if let Some(leaders) = leaders.remove(&buffer.id) {
                self.active.push(Fill::new(*buffer, leaders));
            }
        }
        self.settle();
    }

    /// A leader has written a buffer so far.
    pub(crate) fn confirm(&mut self, leader: EngineId, place: u64, upto: u64) {
        for fill in self.active.iter_mut().filter(|fill| fill.buffer.place == place) {
            if let Some(Leader { node, confirmed: Some(confirmed) }) = fill.leaders.get_mut(&leader) {
                *confirmed = upto.max(*confirmed);
                if *confirmed >= fill.buffer.length {
                    self.have.insert((fill.buffer.id, *node));
                }
            }
        }
        self.settle();
    }

    /// A leader cannot write a buffer. What is under way to it could be written later: its place must not be used again.
    pub(crate) fn refuse(&mut self, leader: EngineId, place: u64) {
        for fill in self.active.iter_mut().filter(|fill| fill.buffer.place == place) {
            if let Some(Leader { node, confirmed }) = fill.leaders.get_mut(&leader) {
                *confirmed = None;
                let id = fill.buffer.id;
                for waiting in self.waiting.iter_mut().filter(|waiting| waiting.node == *node) {
                    waiting.has_all &= !waiting.missing.remove(&id);
                }
            }
        }
        self.settle();
    }

    /// An engine has died; `leader` names another one of its node, if there is one. The places of which old segments may still
    /// be under way: they must not be used for other buffers later.
    pub(crate) fn lose(&mut self, engine: EngineId, leader: impl Fn(Node) -> Option<EngineId>) -> Vec<u64> {
        let mut places = vec![];
        for fill in self.active.iter_mut().filter(|fill| fill.leaders.contains_key(&engine)) {
            places.push(fill.buffer.place);
            let again = fill.unfinished().filter_map(|(old, Leader { node, .. }, _)| {
                let new = if old == engine { leader(*node)? } else { old };
                Some((new, *node))
            });
            *fill = Fill::new(fill.buffer, again.collect::<Vec<_>>());
        }
        let active = &self.active;
        let is_served = |id: u64, node: Node| active.iter().any(|fill| fill.serves(id, node));
        self.waiting.retain(|waiting| waiting.missing.iter().all(|id| is_served(*id, waiting.node)));
        self.settle();
        places
    }

    /// The segments that are to be sent now.
    pub(crate) fn next_segments(&mut self) -> Vec<Segment> {
        let mut segments = vec![];
        for fill in &mut self.active {
            let slowest = fill.unfinished().map(|(_, _, confirmed)| confirmed).min().unwrap_or(0);
            let Fill { buffer, leaders, sent } = fill;
            while *sent < buffer.length && *sent < slowest + WINDOW {
                let length = SEGMENT.min(buffer.length - *sent);
                let leaders = leaders.keys().copied().collect();
                segments.push(Segment { leaders, place: buffer.place, at: *sent, length });
                *sent += length;
            }
        }
        segments
    }

    /// Messages that wait no more, in the order of their beginning on each node.
    pub(crate) fn take_ready(&mut self) -> Vec<Ready<M>> {
        std::mem::take(&mut self.ready)
    }

    /// Numbers of the buffers that a node has; some may be gone.
    pub(crate) fn on(&self, node: Node) -> impl Iterator<Item = u64> {
        self.have.iter().filter(move |(_, other)| *other == node).map(|(id, _)| *id)
    }

    /// Forgets which nodes have buffers that are gone.
    pub(crate) fn retain(&mut self, lives: impl Fn(u64) -> bool) {
        self.have.retain(|(id, _)| lives(*id));
    }

    fn settle(&mut self) {
        self.active.retain(|fill| fill.unfinished().next().is_some());
        for mut waiting in std::mem::take(&mut self.waiting) {
            waiting.missing.retain(|id| !self.have.contains(&(*id, waiting.node)));
            if waiting.missing.is_empty() {
                self.ready.push(Ready { message: waiting.message, has_all: waiting.has_all });
            } else {
                self.waiting.push(waiting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER: Buffer = Buffer { id: 1, place: 4096, length: 20 * SEGMENT + 5 };

    fn set(ids: &[u32]) -> EngineSet {
        ids.iter().copied().map(EngineId).collect()
    }

    fn names<M>(ready: Vec<Ready<M>>) -> Vec<(M, bool)> {
        ready.into_iter().map(|ready| (ready.message, ready.has_all)).collect()
    }

    fn begun() -> Fills<&'static str> {
        let mut fills = Fills::default();
        fills.begin(&[BUFFER], vec![(Rank(5), EngineId(4), "b"), (Rank(9), EngineId(8), "c")]);
        fills
    }

    #[test]
    fn the_slowest_leader_holds_the_window() {
        let mut fills = begun();
        let first = fills.next_segments();
        assert_eq!(first.len() as u64, WINDOW / SEGMENT);
        assert_eq!(first[1], Segment { leaders: set(&[4, 8]), place: 4096, at: SEGMENT, length: SEGMENT });
        fills.confirm(EngineId(4), 4096, 3 * SEGMENT);
        assert_eq!(fills.next_segments(), vec![]);
        fills.confirm(EngineId(8), 4096, 2 * SEGMENT);
        assert_eq!(fills.next_segments().len(), 2);
        fills.confirm(EngineId(8), 4096, 13 * SEGMENT);
        fills.confirm(EngineId(4), 4096, 13 * SEGMENT);
        let last = fills.next_segments().pop().expect("there is more");
        assert_eq!((last.at, last.length), (20 * SEGMENT, 5));
        fills.confirm(EngineId(4), 4096, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("b", true)]);
        fills.begin(&[BUFFER], vec![(Rank(5), EngineId(4), "again"), (Rank(9), EngineId(8), "too")]);
        assert_eq!(names(fills.take_ready()), vec![("again", true)]);
        fills.confirm(EngineId(8), 4096, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("c", true), ("too", true)]);
        assert_eq!(fills.next_segments(), vec![]);
        fills.retain(|_| false);
        fills.begin(&[BUFFER], vec![(Rank(5), EngineId(4), "anew")]);
        assert!(fills.take_ready().is_empty() && !fills.next_segments().is_empty());
    }

    #[test]
    fn where_there_is_no_room_the_message_takes_the_buffer_along() {
        let mut fills = begun();
        fills.refuse(EngineId(8), 4096);
        assert_eq!(names(fills.take_ready()), vec![("c", false)]);
        assert_eq!(fills.next_segments()[0].leaders, set(&[4, 8]), "it may be others' way to the buffer");
        fills.confirm(EngineId(8), 4096, SEGMENT);
        fills.confirm(EngineId(4), 4096, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("b", true)]);
        assert_eq!(fills.next_segments(), vec![]);
    }

    #[test]
    fn a_leader_that_has_everything_may_die_with_segments_for_others() {
        let mut fills = begun();
        fills.next_segments();
        fills.confirm(EngineId(4), 4096, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("b", true)]);
        assert_eq!(fills.lose(EngineId(4), |_| Some(EngineId(6))), vec![4096]);
        assert_eq!(fills.next_segments()[0], Segment { leaders: set(&[8]), place: 4096, at: 0, length: SEGMENT });
    }

    #[test]
    fn all_begin_again_when_a_leader_dies() {
        let mut fills = begun();
        fills.next_segments();
        fills.confirm(EngineId(8), 4096, SEGMENT);
        assert_eq!(fills.lose(EngineId(4), |_| Some(EngineId(6))), vec![4096]);
        assert_eq!(fills.next_segments()[0], Segment { leaders: set(&[6, 8]), place: 4096, at: 0, length: SEGMENT });
        assert_eq!(fills.lose(EngineId(6), |_| None), vec![4096]);
        assert_eq!(fills.next_segments()[0].leaders, set(&[8]));
        fills.confirm(EngineId(8), 4096, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("c", true)]);
        assert!(fills.lose(EngineId(8), |_| None).is_empty());
    }
}
