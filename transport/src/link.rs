//! One direction of traffic between two ranks, without I/O: fragments and credits.
//!
//! A message travels as one *head* fragment (12 bytes of prefix, then the first bytes of the message) and, if it is
//! long, *more* fragments that are plain slices of it. Every fragment costs the sender a credit. The receiver counts
//! what it has consumed and gives the credits back in the prefix of the next head that it sends anyway, or in an
//! *acknowledgement* when two are owed and nothing is going that way.
//!
//! Why I2 holds: at most [`WINDOW`] = 3 fragments are unanswered. An acknowledgement answers at least two of them,
//! and until it has been consumed the peer can send at most one fragment more, which is not enough for a second
//! acknowledgement. So at most 3 fragments and 1 acknowledgement are unanswered in each direction. Every send asserts it.

use bytes::{Buf, Bytes, BytesMut};
use pxcluster_protocol::Rank;
use std::collections::VecDeque;

/// Fragments from one rank to another that may be unanswered.
pub const WINDOW: u32 = 3;

/// Consumed fragments after which an acknowledgement is due.
const ACKNOWLEDGE_AT: u32 = 2;

/// MPI messages from one rank to another that may be unanswered: invariant I2.
pub const MOST_UNANSWERED: u32 = WINDOW + 1;

/// Longest *more* fragment, bytes. 4 MiB was the fastest relay segment in measurements on one node.
pub const SEGMENT: usize = 4 << 20;

/// Messages up to this size, bytes, travel in their head fragment; buffers below it are joined.
const SMALL: usize = 64 << 10;

/// Acknowledged fragments `u32`, length of the message `u64`.
const PREFIX: usize = 12;

/// What a fragment is; the MPI tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Kind {
    /// Begins a message.
    Head = 1,
    /// Continues the message before it.
    More = 2,
    /// Gives credits back.
    Acknowledgement = 3,
}

impl Kind {
    /// The kind that an MPI tag stands for.
    pub fn from_tag(tag: i32) -> Option<Self> {
        [Self::Head, Self::More, Self::Acknowledgement].into_iter().find(|kind| *kind as i32 == tag)
    }
}

/// A message that waits, or of which a part has been sent.
#[derive(Debug)]
struct Outgoing {
    chunks: VecDeque<Bytes>,
    left: usize,
    started: bool,
}

/// Where long messages are put together, if not in this process's own memory.
pub trait Depot: Send {
    /// Room for a message of so many bytes; `None`: it is put together in memory.
    fn room(&self, from: Rank, length: usize) -> Option<Box<dyn Room>>;
}

/// Room for one message.
pub trait Room: Send {
    /// Writes a part of it; whether that was possible.
    fn write(&mut self, at: usize, bytes: &[u8]) -> bool;

    /// What has been written so far.
    fn written(&self, length: usize) -> Bytes;

    /// The whole message, which has been written; `None` if it cannot be had.
    fn finish(self: Box<Self>) -> Option<Bytes>;
}

/// A message of which a part has come.
struct Assembly {
    length: usize,
    at: usize,
    place: Place,
}

enum Place {
    Memory(BytesMut),
    Elsewhere(Box<dyn Room>),
}

impl std::fmt::Debug for Assembly {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} of {} bytes", self.at, self.length)
    }
}

impl Assembly {
    fn new(length: usize, room: Option<Box<dyn Room>>) -> Self {
        let place = room.map_or_else(|| Place::Memory(BytesMut::with_capacity(length)), Place::Elsewhere);
        Self { length, at: 0, place }
    }

    fn extend(&mut self, bytes: &[u8]) {
        if let Place::Elsewhere(room) = &mut self.place {
            if room.write(self.at, bytes) {
                self.at += bytes.len();
                return;
            }
            let mut memory = BytesMut::with_capacity(self.length);
            memory.extend_from_slice(&room.written(self.at));
            self.place = Place::Memory(memory);
        }
        if let Place::Memory(memory) = &mut self.place {
            memory.extend_from_slice(bytes);
            self.at += bytes.len();
        }
    }

    fn finish(self) -> Option<Bytes> {
        match self.place {
            Place::Memory(memory) => Some(memory.freeze()),
            Place::Elsewhere(room) => room.finish(),
        }
    }
}

/// State of the link to one peer.
#[derive(Debug, Default)]
pub struct Link {
    queue: VecDeque<Outgoing>,
    unanswered: u32,
    owed: u32,
    /// Fragments that have come since the last acknowledgement was sent; `None`: none is unanswered.
    since_acknowledgement: Option<u32>,
    assembly: Option<Assembly>,
}

impl Link {
    /// Queues a message.
    pub fn push(&mut self, head: Bytes, body: Vec<Bytes>) {
        let chunks: VecDeque<Bytes> = std::iter::once(head).chain(body).filter(|chunk| !chunk.is_empty()).collect();
        let left = chunks.iter().map(Bytes::len).sum();
        self.queue.push_back(Outgoing { chunks, left, started: false });
    }

    /// Whether nothing waits to be sent.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// MPI messages sent to the peer that it has not answered, by what has come from it.
    pub fn unanswered(&self) -> u32 {
        self.unanswered + u32::from(self.since_acknowledgement.is_some())
    }

    /// The next fragment to send, if there is one and a credit for it.
    ///
    /// # Panics
    /// If it broke invariant I2.
    pub fn next_fragment(&mut self) -> Option<(Kind, Bytes)> {
        let fragment = self.take_fragment()?;
        let unanswered = self.unanswered();
        assert!(unanswered <= MOST_UNANSWERED, "I2: {unanswered} messages to one rank are unanswered");
        Some(fragment)
    }

    fn take_fragment(&mut self) -> Option<(Kind, Bytes)> {
        if self.unanswered < WINDOW
            && let Some(message) = self.queue.front_mut()
        {
            let fragment = if message.started {
                (Kind::More, message.take_segment())
            } else {
                message.started = true;
                (Kind::Head, message.take_head(std::mem::take(&mut self.owed)))
            };
            if message.left == 0 {
                self.queue.pop_front();
            }
            self.unanswered += 1;
            return Some(fragment);
        }
        (self.owed >= ACKNOWLEDGE_AT).then(|| {
            assert!(self.since_acknowledgement.is_none(), "I2: two acknowledgements are unanswered");
            self.since_acknowledgement = Some(0);
            let owed = std::mem::take(&mut self.owed);
            (Kind::Acknowledgement, Bytes::copy_from_slice(&owed.to_le_bytes()))
        })
    }

    /// Takes a fragment from the peer; the message that it completes, if any. `Err`: not a fragment of ours. `room` is that
    /// of the peer's for a message of so many bytes.
    pub fn accept(
        &mut self,
        kind: Kind,
        mut fragment: Bytes,
        room: &dyn Fn(usize) -> Option<Box<dyn Room>>,
    ) -> Result<Option<Bytes>, NotAFragment> {
        match kind {
            Kind::Acknowledgement => {
                if fragment.len() != 4 {
                    return Err(NotAFragment);
                }
                self.answered(fragment.get_u32_le())?;
                Ok(None)
            }
            Kind::Head => {
                if fragment.len() < PREFIX || self.assembly.is_some() {
                    return Err(NotAFragment);
                }
                self.arrived();
                self.answered(fragment.get_u32_le())?;
                let total = fragment.get_u64_le() as usize;
                if fragment.len() == total {
                    return Ok(Some(fragment));
                }
                let mut assembly = Assembly::new(total, room(total));
                assembly.extend(&fragment);
                self.assembly = Some(assembly);
                Ok(None)
            }
            Kind::More => {
                self.arrived();
                let mut assembly = self.assembly.take().ok_or(NotAFragment)?;
                if assembly.at + fragment.len() > assembly.length {
                    return Err(NotAFragment);
                }
                assembly.extend(&fragment);
                if assembly.at == assembly.length {
                    return assembly.finish().map(Some).ok_or(NotAFragment);
                }
                self.assembly = Some(assembly);
                Ok(None)
            }
        }
    }

    /// A fragment has come. The peer had at most one credit left when an acknowledgement was sent to it, so the second
    /// fragment after that says that it has been consumed.
    fn arrived(&mut self) {
        self.owed += 1;
        self.since_acknowledgement = self.since_acknowledgement.map(|count| count + 1).filter(|&count| count < 2);
    }

    fn answered(&mut self, count: u32) -> Result<(), NotAFragment> {
        self.unanswered = self.unanswered.checked_sub(count).ok_or(NotAFragment)?;
        Ok(())
    }
}

impl Outgoing {
    fn take_head(&mut self, acknowledged: u32) -> Bytes {
        let mut head = BytesMut::with_capacity(PREFIX + self.left.min(SMALL));
        head.extend_from_slice(&acknowledged.to_le_bytes());
        head.extend_from_slice(&(self.left as u64).to_le_bytes());
        // A long message leaves its large buffers to be sent in place, without a copy.
        let whole = self.left <= SMALL;
        let mut room = SMALL;
        while let Some(chunk) = self.chunks.front_mut() {
            if room == 0 || !(whole || chunk.len() < SMALL) {
                break;
            }
            let piece = chunk.split_to(chunk.len().min(room));
            room -= piece.len();
            self.left -= piece.len();
            head.extend_from_slice(&piece);
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
        head.freeze()
    }

    fn take_segment(&mut self) -> Bytes {
        let mut joined = BytesMut::new();
        while let Some(chunk) = self.chunks.front_mut() {
            let in_place = chunk.len() >= SMALL;
            if in_place && !joined.is_empty() {
                break;
            }
            let piece = chunk.split_to(chunk.len().min(SEGMENT - joined.len()));
            self.left -= piece.len();
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            if in_place {
                return piece;
            }
            joined.extend_from_slice(&piece);
            if joined.len() == SEGMENT {
                break;
            }
        }
        joined.freeze()
    }
}

/// Bytes that no link of this build sends.
#[derive(Debug, PartialEq, Eq)]
pub struct NotAFragment;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Room for the first megabytes of a message.
    struct Shelf(Vec<u8>);

    fn shelf(length: usize) -> Option<Box<dyn Room>> {
        (length > 1 << 20).then(|| Box::new(Shelf(vec![])) as Box<dyn Room>)
    }

    impl Room for Shelf {
        fn write(&mut self, at: usize, bytes: &[u8]) -> bool {
            assert_eq!(at, self.0.len());
            let fits = at + bytes.len() < 9 << 20;
            if fits {
                self.0.extend_from_slice(bytes);
            }
            fits
        }

        fn written(&self, length: usize) -> Bytes {
            Bytes::copy_from_slice(&self.0[..length])
        }

        fn finish(self: Box<Self>) -> Option<Bytes> {
            Some(self.0.into())
        }
    }

    /// Two links that talk to each other over channels that hold what is under way.
    fn exchange(messages: [Vec<Vec<usize>>; 2], steps: &[u8]) {
        let mut links = [Link::default(), Link::default()];
        let mut wires: [VecDeque<(Kind, Bytes)>; 2] = Default::default();
        let mut sent: [VecDeque<Vec<u8>>; 2] = Default::default();
        let mut waiting = messages.map(VecDeque::from);
        let mut seed = 1u8;
        let mut step =
            |side: usize, action: u8, links: &mut [Link; 2], wires: &mut [VecDeque<(Kind, Bytes)>; 2]| match action {
                0 => {
                    if let Some(sizes) = waiting[side].pop_front() {
                        seed = seed.wrapping_mul(5).wrapping_add(3);
                        let body: Vec<Bytes> = sizes.iter().map(|&n| Bytes::from(vec![seed; n])).collect();
                        sent[side].push_back(body.concat());
                        let mut chunks = body.into_iter();
                        links[side].push(chunks.next().unwrap_or_default(), chunks.collect());
                    }
                }
                1 => {
                    if let Some(fragment) = links[side].next_fragment() {
                        wires[side].push_back(fragment);
                        assert!(wires[side].len() <= 4, "I2: {} messages under way", wires[side].len());
                    }
                }
                _ => {
                    if let Some((kind, bytes)) = wires[side].pop_front()
                        && let Some(message) = links[1 - side].accept(kind, bytes, &shelf).expect("is a fragment")
                    {
                        assert_eq!(Some(message.to_vec()), sent[side].pop_front());
                    }
                }
            };
        for &choice in steps {
            step(usize::from(choice & 1), (choice >> 1) % 3, &mut links, &mut wires);
        }
        for round in 0..10_000 {
            for side in [0, 1] {
                for action in 0..3 {
                    step(side, action, &mut links, &mut wires);
                }
            }
            if round > 100 && links.iter().all(Link::is_empty) && wires.iter().all(VecDeque::is_empty) {
                break;
            }
        }
        assert!(sent.iter().all(VecDeque::is_empty), "messages are stuck");
    }

    proptest! {
        #[test]
        fn every_message_arrives_once_in_order_and_i2_holds(
            left in prop::collection::vec(prop::collection::vec(0usize..200, 1..4), 0..12),
            right in prop::collection::vec(prop::collection::vec(0usize..200, 1..4), 0..12),
            steps in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            exchange([left, right], &steps);
        }
    }

    #[test]
    fn long_messages_travel_in_segments() {
        exchange([vec![vec![30, 9 << 20, 5, 70_000, 100, 200_000]], vec![vec![3]]], &[]);
        exchange([vec![vec![3 << 20], vec![20 << 20]], vec![]], &[]);
        exchange([vec![vec![100_000], vec![0], vec![SMALL], vec![SMALL + 1]], vec![]], &[]);
    }

    #[test]
    fn foreign_fragments_are_refused() {
        let fragments = [(Kind::More, &b"x"[..]), (Kind::Acknowledgement, &[9, 0, 0, 0]), (Kind::Head, b"x")];
        for (kind, bytes) in fragments {
            assert_eq!(Link::default().accept(kind, Bytes::from_static(bytes), &shelf), Err(NotAFragment));
        }
    }
}
