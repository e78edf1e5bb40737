//! A world of ranks in one process, for tests of what stands on a transport.
//!
//! It uses the same [`Link`]s as MPI does, so that fragments and credits are exercised, and asserts invariant I2. A rank
//! dies by being dropped: what it has sent can still be received, and what is sent to it stays unanswered.

use crate::link::{Kind, Link, MOST_UNANSWERED};
use crate::{Transport, TransportError};
use bytes::Bytes;
use pxcluster_protocol::Rank;
use std::collections::VecDeque;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A fragment and its sender.
type Arrival = (Rank, Kind, Bytes);

/// Fragments under way to one rank, and its bells: a byte in the socket for every fragment, and one in the pipe for the
/// first fragment after it was armed.
#[derive(Debug)]
struct Mailbox {
    fragments: Mutex<VecDeque<Arrival>>,
    bell: (UnixStream, UnixStream),
    armed: AtomicBool,
    pipe: (PipeReader, PipeWriter),
}

impl Mailbox {
    fn new() -> std::io::Result<Self> {
        let bell = UnixStream::pair()?;
        bell.0.set_nonblocking(true)?;
        bell.1.set_nonblocking(true)?;
        Ok(Self { fragments: Mutex::default(), bell, armed: AtomicBool::new(false), pipe: pipe()? })
    }

    fn put(&self, from: Rank, kind: Kind, fragment: Bytes) {
        let mut fragments = self.fragments.lock().unwrap_or_else(PoisonError::into_inner);
        fragments.push_back((from, kind, fragment));
        let under_way = fragments.iter().filter(|(sender, ..)| *sender == from).count();
        assert!(under_way <= MOST_UNANSWERED as usize, "I2: {under_way} messages of {from} are under way");
        let _full_is_readable_too = (&self.bell.0).write(&[0]);
        if self.armed.swap(false, Ordering::SeqCst) {
            let _reader_lives_as_long = (&self.pipe.1).write(&[0]);
        }
    }
}

/// One rank of a world in this process.
#[derive(Debug)]
pub struct Loopback {
    rank: Rank,
    world: Arc<Vec<Mailbox>>,
    links: Vec<Link>,
    lost: Vec<bool>,
}

/// Makes a world of `size` ranks.
pub fn world(size: u32) -> std::io::Result<Vec<Loopback>> {
    let world = Arc::new((0..size).map(|_| Mailbox::new()).collect::<Result<Vec<_>, _>>()?);
    Ok((0..size)
        .map(|rank| Loopback {
            rank: Rank(rank),
            world: Arc::clone(&world),
            links: (0..size).map(|_| Link::default()).collect(),
            lost: vec![false; size as usize],
        })
        .collect())
}

impl Loopback {
    fn flush(&mut self) {
        for (mailbox, link) in self.world.iter().zip(&mut self.links) {
            while let Some((kind, fragment)) = link.next_fragment() {
                mailbox.put(self.rank, kind, fragment);
            }
        }
    }
}

impl Transport for Loopback {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn size(&self) -> u32 {
        self.world.len() as u32
    }

    fn send(&mut self, to: Rank, head: Bytes, body: Vec<Bytes>) {
        if !self.lost[to.0 as usize] {
            self.links[to.0 as usize].push(head, body);
            self.flush();
        }
    }

    fn receive(&mut self) -> Result<Option<(Rank, Bytes)>, TransportError> {
        loop {
            let mailbox = &self.world[self.rank.0 as usize];
            let next = mailbox.fragments.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some((from, kind, fragment)) = next else { return Ok(None) };
            if self.lost[from.0 as usize] {
                continue;
            }
            let message = self.links[from.0 as usize].accept(kind, fragment, &|_| None);
            self.flush();
            if let Some(message) = message.map_err(|_| TransportError::Foreign { from })? {
                return Ok(Some((from, message)));
            }
        }
    }

    fn wait(&mut self, timeout: Duration) {
        let bell = &self.world[self.rank.0 as usize].bell.1;
        let waits = bell.set_nonblocking(false).and_then(|()| bell.set_read_timeout(Some(timeout)));
        if waits.is_ok() {
            let _time_out_is_fine = (&*bell).read(&mut [0; 64]);
        }
        let _still_usable = bell.set_nonblocking(true);
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.world[self.rank.0 as usize].pipe.0.as_fd())
    }

    fn arm(&mut self) {
        self.world[self.rank.0 as usize].armed.store(true, Ordering::SeqCst);
    }

    fn disarm(&mut self) {
        self.world[self.rank.0 as usize].armed.store(false, Ordering::SeqCst);
    }

    fn nap(&mut self) -> Option<Duration> {
        None
    }

    fn is_drained(&self) -> bool {
        self.links.iter().all(Link::is_empty)
    }

    fn lose(&mut self, peer: Rank) {
        self.lost[peer.0 as usize] = true;
        self.links[peer.0 as usize] = Link::default();
    }

    fn take_suspects(&mut self) -> Vec<(Rank, String)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::SEGMENT;

    #[test]
    fn ranks_in_threads_exchange_more_than_the_window() {
        let mut ranks = world(3).expect("sockets").into_iter();
        let (mut first, others) = (ranks.next().expect("three ranks"), ranks);
        let threads: Vec<_> = others
            .map(|mut rank| {
                std::thread::spawn(move || {
                    let mut seen = 0;
                    while seen < 100 {
                        while let Some((from, message)) = rank.receive().expect("is ours") {
                            assert_eq!(usize::from(message[0]), seen);
                            rank.send(from, message, vec![]);
                            seen += 1;
                        }
                        rank.wait(Duration::from_millis(5));
                    }
                    rank
                })
            })
            .collect();
        for number in 0..100u8 {
            for to in 1..3 {
                first.send(Rank(to), Bytes::from(vec![number; 10]), vec![]);
            }
        }
        let mut seen = [0u8; 3];
        while seen[1] < 100 || seen[2] < 100 {
            while let Some((from, message)) = first.receive().expect("is ours") {
                assert_eq!(message[0], seen[from.0 as usize]);
                seen[from.0 as usize] += 1;
            }
            first.wait(Duration::from_millis(5));
        }
        threads.into_iter().for_each(|thread| drop(thread.join().expect("a rank panicked")));
        assert!(first.is_drained());
    }

    /// Three ranks; the first two have exchanged a fragment or two of a long message each way.
    fn in_the_middle_of_long_messages() -> (Loopback, Loopback, Loopback) {
        let mut ranks = world(3).expect("sockets").into_iter();
        let mut next = || ranks.next().expect("three ranks");
        let (mut first, mut second, third) = (next(), next(), next());
        let long = || vec![Bytes::from(vec![7; 9 * SEGMENT])];
        first.send(Rank(1), Bytes::from_static(b"to the second"), long());
        second.send(Rank(0), Bytes::from_static(b"to the first"), long());
        assert!(second.receive().expect("is ours").is_none());
        assert!(first.receive().expect("is ours").is_none());
        assert!(!first.is_drained() && !second.is_drained());
        (first, second, third)
    }

    #[test]
    fn a_rank_that_dies_in_the_middle_of_long_messages_stops_nobody() {
        let (mut first, second, mut third) = in_the_middle_of_long_messages();
        drop(second);
        first.send(Rank(1), Bytes::from_static(b"queued"), vec![]);
        first.lose(Rank(1));
        assert!(first.is_drained(), "the dead rank is waited for");
        first.send(Rank(1), Bytes::from_static(b"too late"), vec![]);
        assert!(first.is_drained(), "something is queued for the dead rank");
        for number in 0..100u8 {
            first.send(Rank(2), Bytes::from(vec![number]), vec![]);
            third.send(Rank(0), Bytes::from(vec![number]), vec![]);
            assert_eq!(third.receive().expect("is ours").expect("is there").1[..], [number]);
            assert_eq!(first.receive().expect("is ours").expect("is there"), (Rank(2), Bytes::from(vec![number])));
        }
        assert!(first.is_drained());
    }

    #[test]
    fn what_comes_from_a_lost_rank_is_ignored() {
        let (mut first, mut second, _third) = in_the_middle_of_long_messages();
        first.lose(Rank(1));
        second.send(Rank(0), Bytes::from_static(b"more"), vec![]);
        while second.receive().expect("is ours").is_some() {}
        assert!(first.receive().expect("is ours").is_none());
    }
}
