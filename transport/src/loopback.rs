//! A world of ranks in one process, for tests of what stands on a transport.
//!
//! It uses the same [`Link`]s as MPI does, so that fragments and credits are exercised, and asserts invariant I2.

use crate::link::{Kind, Link};
use crate::{Bell, Transport, TransportError};
use bytes::Bytes;
use pxcluster_protocol::Rank;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A fragment and its sender.
type Arrival = (Rank, Kind, Bytes);

/// Fragments under way to one rank, and whether its bell has been rung.
#[derive(Debug, Default)]
struct Mailbox {
    state: Mutex<(VecDeque<Arrival>, bool)>,
    bell: Condvar,
}

impl Mailbox {
    fn put(&self, from: Rank, kind: Kind, fragment: Bytes) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.push_back((from, kind, fragment));
        let under_way = state.0.iter().filter(|(sender, ..)| *sender == from).count();
        assert!(under_way <= 4, "I2: {under_way} messages of {from} are under way");
        state.1 = true;
        self.bell.notify_all();
    }

    fn ring(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.bell.notify_all();
    }
}

/// One rank of a world in this process.
#[derive(Debug)]
pub struct Loopback {
    rank: Rank,
    world: Arc<Vec<Mailbox>>,
    links: Vec<Link>,
}

/// Makes a world of `size` ranks.
pub fn world(size: u32) -> Vec<Loopback> {
    let world = Arc::new((0..size).map(|_| Mailbox::default()).collect::<Vec<_>>());
    (0..size)
        .map(|rank| Loopback {
            rank: Rank(rank),
            world: Arc::clone(&world),
            links: (0..size).map(|_| Link::default()).collect(),
        })
        .collect()
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
        self.links[to.0 as usize].push(head, body);
        self.flush();
    }

    fn receive(&mut self) -> Result<Option<(Rank, Bytes)>, TransportError> {
        loop {
            let next =
                self.world[self.rank.0 as usize].state.lock().unwrap_or_else(PoisonError::into_inner).0.pop_front();
            let Some((from, kind, fragment)) = next else { return Ok(None) };
            let message = self.links[from.0 as usize].accept(kind, fragment);
            self.flush();
            if let Some(message) = message.map_err(|_| TransportError::Foreign { from })? {
                return Ok(Some((from, message)));
            }
        }
    }

    fn wait(&mut self, timeout: Duration) {
        let mailbox = &self.world[self.rank.0 as usize];
        let state = mailbox.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = mailbox.bell.wait_timeout_while(state, timeout, |state| !state.1);
        waited.unwrap_or_else(PoisonError::into_inner).0.1 = false;
    }

    fn bell(&self) -> Bell {
        let (world, rank) = (Arc::clone(&self.world), self.rank.0 as usize);
        Arc::new(move || world[rank].ring())
    }

    fn is_drained(&self) -> bool {
        self.links.iter().all(Link::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_in_threads_exchange_more_than_the_window() {
        let mut ranks = world(3).into_iter();
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
}
