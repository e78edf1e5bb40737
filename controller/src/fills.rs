//! Buffers on their way into the shared memory of other nodes, and messages that wait for them. Decides; sends nothing.
//!
//! A buffer goes from rank 0 to one engine of each node, its *leader*, in segments. Leaders pass segments on along a tree and
//! write them to the place that the buffer has on every node. What has been written is confirmed, and only so much is under
//! way. When a node has all buffers of a message, the message can name their places there. Where a leader has died, all that
//! have not everything begin again: it may have died with segments for others. One that has no room goes on passing segments
//! on, and the message must take the buffers along.
//!
//! A buffer may be on its way before rank 0 has all of it, and before the message is there that will name it.

use pxcluster_protocol::to_engine::Segment;
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

/// A segment to be sent to leaders.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) leaders: EngineSet,
    pub(crate) segment: Segment,
    pub(crate) length: u64,
}

/// A message that waits no more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ready<M> {
    pub(crate) message: M,
    /// Whether the node has every buffer of it.
    pub(crate) has_all: bool,
}

/// A transfer.
struct Fill {
    number: u64,
    buffer: Buffer,
    /// All leaders, from the beginning to the end: the tree must not change while segments are under way.
    leaders: BTreeMap<EngineId, Leader>,
    sent: u64,
    /// Bytes that rank 0 has.
    arrived: u64,
    /// Whether there will be no more of them: what is under way is waited for, and that is all.
    is_cut: bool,
}

struct Leader {
    node: Node,
    /// Bytes that it has written; `None`: it has no room.
    confirmed: Option<u64>,
}

impl Fill {
    fn new(number: u64, buffer: Buffer, arrived: u64, leaders: impl IntoIterator<Item = (EngineId, Node)>) -> Self {
        let leader = |(engine, node)| (engine, Leader { node, confirmed: Some(0) });
        let leaders = leaders.into_iter().map(leader).collect();
        Self { number, buffer, leaders, sent: 0, arrived, is_cut: false }
    }

    /// Bytes that leaders will have in the end.
    fn end(&self) -> u64 {
        if self.is_cut { self.sent } else { self.buffer.length }
    }

    /// The leaders that have room and not everything.
    fn unfinished(&self) -> impl Iterator<Item = (EngineId, &Leader, u64)> {
        let unfinished = |(engine, leader): (&EngineId, _)| {
            let leader: &Leader = leader;
            let confirmed = leader.confirmed.filter(|confirmed| *confirmed < self.end())?;
            Some((*engine, leader, confirmed))
        };
        self.leaders.iter().filter_map(unfinished)
    }

    /// Whether this brings a buffer to a node; `Some(false)`: it cannot, for want of room.
    fn serves(&self, id: u64, node: Node) -> Option<bool> {
        let leader = self.leaders.values().find(|leader| leader.node == node)?;
        (self.buffer.id == id && !self.is_cut).then(|| leader.confirmed.is_some())
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
    /// Number of the last transfer.
    last: u64,
    active: Vec<Fill>,
    waiting: Vec<Waiting<M>>,
    /// Which nodes have which buffers, by number.
    have: BTreeSet<(u64, Node)>,
    ready: Vec<Ready<M>>,
}

impl<M> Default for Fills<M> {
    fn default() -> Self {
        Self { last: 0, active: vec![], waiting: vec![], have: BTreeSet::new(), ready: vec![] }
    }
}

impl<M> Fills<M> {
    /// Sends messages to nodes when they have `buffers`. Each node is given with its leader.
    pub(crate) fn begin(&mut self, buffers: &[Buffer], messages: Vec<(Node, EngineId, M)>) {
        let mut leaders: BTreeMap<u64, BTreeMap<EngineId, Node>> = BTreeMap::new();
        for (node, leader, message) in messages {
            let (mut missing, mut has_all) = (BTreeSet::new(), true);
            for buffer in buffers.iter().filter(|buffer| !self.have.contains(&(buffer.id, node))) {
                match self.active.iter().find_map(|fill| fill.serves(buffer.id, node)) {
                    Some(false) => has_all = false,
                    Some(true) => _ = missing.insert(buffer.id),
                    None => {
                        missing.insert(buffer.id);
                        leaders.entry(buffer.id).or_default().insert(leader, node);
                    }
                }
            }
            self.waiting.push(Waiting { node, missing, has_all, message });
        }
        for buffer in buffers {
            if let Some(leaders) = leaders.remove(&buffer.id) {
                self.last += 1;
                self.active.push(Fill::new(self.last, *buffer, buffer.length, leaders));
            }
        }
        self.settle();
    }

    /// A buffer begins to arrive that will go to these nodes, each given with its leader. It must be there until it is not
    /// [active](Self::is_active) any more.
    pub(crate) fn expect(&mut self, buffer: Buffer, leaders: &BTreeMap<Node, EngineId>) {
        self.last += 1;
        self.active.push(Fill::new(self.last, buffer, 0, leaders.iter().map(|(node, leader)| (*leader, *node))));
        self.settle();
    }

    /// So much of a buffer that was expected has arrived.
    pub(crate) fn arrived(&mut self, id: u64, upto: u64) {
        for fill in self.active.iter_mut().filter(|fill| fill.buffer.id == id) {
            fill.arrived = upto.clamp(fill.arrived, fill.buffer.length);
        }
    }

    /// The rest of a buffer that was expected will not come, if it has not.
    pub(crate) fn cut(&mut self, id: u64) {
        for fill in self.active.iter_mut().filter(|fill| fill.buffer.id == id) {
            fill.is_cut = fill.arrived < fill.buffer.length;
        }
        self.settle();
    }

    /// Whether a buffer is under way.
    pub(crate) fn is_active(&self, id: u64) -> bool {
        self.active.iter().any(|fill| fill.buffer.id == id)
    }

    /// A leader has written a buffer so far.
    pub(crate) fn confirm(&mut self, leader: EngineId, transfer: u64, upto: u64) {
        for fill in self.active.iter_mut().filter(|fill| fill.number == transfer) {
            if let Some(Leader { node, confirmed: Some(confirmed) }) = fill.leaders.get_mut(&leader) {
                *confirmed = upto.max(*confirmed);
                if *confirmed >= fill.buffer.length && !fill.is_cut {
                    self.have.insert((fill.buffer.id, *node));
                }
            }
        }
        self.settle();
    }

    /// A leader cannot write a buffer. What is under way to it could be written later: its place, which is given back, must
    /// not be used again.
    pub(crate) fn refuse(&mut self, leader: EngineId, transfer: u64) -> Option<u64> {
        let mut place = None;
        for fill in self.active.iter_mut().filter(|fill| fill.number == transfer) {
            place = Some(fill.buffer.place);
            if let Some(Leader { node, confirmed }) = fill.leaders.get_mut(&leader) {
                *confirmed = None;
                let id = fill.buffer.id;
                for waiting in self.waiting.iter_mut().filter(|waiting| waiting.node == *node) {
                    waiting.has_all &= !waiting.missing.remove(&id);
                }
            }
        }
        self.settle();
        place
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
            let again = again.collect::<Vec<_>>();
            self.last += 1;
            *fill = Fill { is_cut: fill.is_cut, ..Fill::new(self.last, fill.buffer, fill.arrived, again) };
        }
        let active = &self.active;
        let is_served = |id: u64, node: Node| active.iter().any(|fill| fill.serves(id, node) == Some(true));
        self.waiting.retain(|waiting| waiting.missing.iter().all(|id| is_served(*id, waiting.node)));
        self.settle();
        places
    }

    /// The segments that are to be sent now.
    pub(crate) fn next_segments(&mut self) -> Vec<Outgoing> {
        let mut segments = vec![];
        for fill in &mut self.active {
            let slowest = fill.unfinished().map(|(_, _, confirmed)| confirmed).min().unwrap_or(0);
            let Fill { number, buffer, leaders, sent, arrived, is_cut } = fill;
            while *sent < buffer.length && *sent < slowest + WINDOW && !*is_cut {
                let length = SEGMENT.min(buffer.length - *sent);
                if *sent + length > *arrived {
                    break;
                }
                let leaders = leaders.keys().copied().collect();
                let segment = Segment { transfer: *number, place: buffer.place, at: *sent };
                segments.push(Outgoing { leaders, segment, length });
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

    fn outgoing(leaders: EngineSet, transfer: u64, at: u64) -> Outgoing {
        Outgoing { leaders, segment: Segment { transfer, place: 4096, at }, length: SEGMENT }
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
        assert_eq!(first[1], outgoing(set(&[4, 8]), 1, SEGMENT));
        fills.confirm(EngineId(4), 1, 3 * SEGMENT);
        assert_eq!(fills.next_segments(), vec![]);
        fills.confirm(EngineId(8), 1, 2 * SEGMENT);
        assert_eq!(fills.next_segments().len(), 2);
        fills.confirm(EngineId(8), 1, 13 * SEGMENT);
        fills.confirm(EngineId(4), 1, 13 * SEGMENT);
        let last = fills.next_segments().pop().expect("there is more");
        assert_eq!((last.segment.at, last.length), (20 * SEGMENT, 5));
        fills.confirm(EngineId(4), 1, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("b", true)]);
        fills.begin(&[BUFFER], vec![(Rank(5), EngineId(4), "again"), (Rank(9), EngineId(8), "too")]);
        assert_eq!(names(fills.take_ready()), vec![("again", true)]);
        fills.confirm(EngineId(8), 1, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("c", true), ("too", true)]);
        assert_eq!(fills.next_segments(), vec![]);
        fills.retain(|_| false);
        fills.begin(&[BUFFER], vec![(Rank(5), EngineId(4), "anew")]);
        assert!(fills.take_ready().is_empty() && !fills.next_segments().is_empty());
    }

    #[test]
    fn where_there_is_no_room_the_message_takes_the_buffer_along() {
        let mut fills = begun();
        fills.refuse(EngineId(8), 1);
        fills.begin(&[BUFFER], vec![(Rank(9), EngineId(8), "d")]);
        assert_eq!(names(fills.take_ready()), vec![("c", false), ("d", false)]);
        assert_eq!(fills.next_segments()[0].leaders, set(&[4, 8]), "it may be others' way to the buffer");
        fills.confirm(EngineId(8), 1, SEGMENT);
        fills.confirm(EngineId(4), 1, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("b", true)]);
        assert_eq!(fills.next_segments(), vec![]);
    }

    #[test]
    fn a_leader_that_has_everything_may_die_with_segments_for_others() {
        let mut fills = begun();
        fills.next_segments();
        fills.confirm(EngineId(4), 1, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("b", true)]);
        assert_eq!(fills.lose(EngineId(4), |_| Some(EngineId(6))), vec![4096]);
        assert_eq!(fills.next_segments()[0], outgoing(set(&[8]), 2, 0));
    }

    fn expected() -> Fills<&'static str> {
        let mut fills = Fills::default();
        fills.expect(BUFFER, &[(Rank(5), EngineId(4)), (Rank(9), EngineId(8))].into());
        fills
    }

    #[test]
    fn what_has_arrived_goes_on_before_the_rest_is_there() {
        let mut fills = expected();
        assert_eq!(fills.next_segments(), vec![]);
        fills.arrived(BUFFER.id, 2 * SEGMENT + 1);
        assert_eq!(fills.next_segments().len(), 2);
        fills.confirm(EngineId(4), 1, 2 * SEGMENT);
        fills.begin(&[BUFFER], vec![(Rank(5), EngineId(4), "b")]);
        fills.arrived(BUFFER.id, BUFFER.length);
        fills.confirm(EngineId(8), 1, 2 * SEGMENT);
        assert_eq!(fills.next_segments()[0].segment.at, 2 * SEGMENT, "it goes on, and does not begin again");
        for leader in [4, 8] {
            fills.confirm(EngineId(leader), 1, 10 * SEGMENT);
        }
        while !fills.next_segments().is_empty() {}
        fills.confirm(EngineId(4), 1, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("b", true)]);
        assert!(fills.is_active(BUFFER.id));
        fills.confirm(EngineId(8), 1, BUFFER.length);
        assert!(!fills.is_active(BUFFER.id));
        fills.begin(&[BUFFER], vec![(Rank(9), EngineId(8), "c")]);
        assert_eq!(names(fills.take_ready()), vec![("c", true)]);
    }

    #[test]
    fn what_will_never_be_whole_is_active_until_nothing_of_it_is_under_way() {
        let mut fills = expected();
        fills.arrived(BUFFER.id, 2 * SEGMENT);
        assert_eq!(fills.next_segments().len(), 2);
        fills.confirm(EngineId(4), 1, 2 * SEGMENT);
        fills.cut(BUFFER.id);
        fills.arrived(BUFFER.id, BUFFER.length);
        assert_eq!(fills.next_segments(), vec![]);
        assert!(fills.is_active(BUFFER.id));
        fills.confirm(EngineId(8), 1, 2 * SEGMENT);
        assert!(!fills.is_active(BUFFER.id) && fills.on(Rank(5)).next().is_none());
        let mut fills = expected();
        fills.cut(BUFFER.id);
        assert!(!fills.is_active(BUFFER.id), "nothing had been sent");
        let mut fills = expected();
        fills.arrived(BUFFER.id, BUFFER.length);
        fills.cut(BUFFER.id);
        assert!(!fills.next_segments().is_empty(), "all had come");
    }

    #[test]
    fn all_begin_again_when_a_leader_dies() {
        let mut fills = begun();
        fills.next_segments();
        fills.confirm(EngineId(8), 1, SEGMENT);
        assert_eq!(fills.lose(EngineId(4), |_| Some(EngineId(6))), vec![4096]);
        assert_eq!(fills.next_segments()[0], outgoing(set(&[6, 8]), 2, 0));
        assert_eq!(fills.lose(EngineId(6), |_| None), vec![4096]);
        assert_eq!(fills.next_segments()[0].leaders, set(&[8]));
        fills.confirm(EngineId(8), 2, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![], "what was confirmed of another transfer does not count");
        fills.confirm(EngineId(8), 3, BUFFER.length);
        assert_eq!(names(fills.take_ready()), vec![("c", true)]);
        assert!(fills.lose(EngineId(8), |_| None).is_empty());
    }
}
