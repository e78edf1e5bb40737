//! Two threads, one conversation: whoever is free talks to the other ranks.
//!
//! While Python has nothing to run, its main thread (without the GIL) sleeps on the rank's doorbell and takes the turns:
//! a request is then received, run and answered by one thread, with no hand-over. While user code runs, the comm thread
//! is the one that the bell wakes; it never touches the GIL, so that an engine relays, is interrupted and reports
//! whatever its Python does.
#![allow(unsafe_code, reason = "_exit")]

use super::comm::{Comm, Turn};
use super::shared::{Flusher, Piece, Shared};
use crate::nanny::Nanny;
use bytes::Bytes;
use pxcluster_protocol::Rank;
use pxcluster_transport::Transport;
use pxcluster_transport::arena::{Access, Arena, LARGE};
use pxcluster_transport::doorbell::Sleeper;
use pxcluster_transport::mpi::{Bell, MpiTransport};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What lies at a multiple of this, bytes, is aligned for any array.
const ALIGNED: usize = 64;
/// First and longest sleep of the comm thread while the main thread runs batches of tasks: it sends the results of those
/// before a task that takes longer than the others.
const WATCH: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(160)];

/// See the module's page.
pub(super) struct Driver {
    pub(super) shared: Shared,
    comm: Mutex<Comm>,
    bell: Bell,
    /// The memory that the ranks of this node share.
    arena: Option<Arc<Arena>>,
    /// Whether rank 0 is one of them.
    is_with_rank_0: bool,
}

impl Driver {
    pub(super) fn new(
        transport: MpiTransport,
        nanny: Arc<Nanny>,
        arena: Option<Arc<Arena>>,
        beat: Option<Duration>,
    ) -> anyhow::Result<Self> {
        arena.iter().for_each(Arena::watch_forks);
        let is_with_rank_0 = transport.is_local(Rank::CONTROLLER);
        let beat = beat.filter(|_| !is_with_rank_0); // there, the end of a process is seen
        let bell = transport.bell();
        let shared = Shared::new(bell.clone(), nanny.page(), transport.size() - 1);
        Ok(Self {
            shared,
            comm: Mutex::new(Comm::new(transport, nanny, arena.clone(), beat)?),
            bell,
            arena,
            is_with_rank_0,
        })
    }

    fn comm(&self) -> MutexGuard<'_, Comm> {
        self.comm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> anyhow::Result<Turn> {
        self.comm().turn(&self.shared)
    }

    /// Whether another engine is known to have died.
    pub(super) fn someone_has_died(&self) -> bool {
        self.comm().someone_has_died()
    }

    /// The comm thread: takes turns until Python has ended and everything has been said.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let (mut batches, mut watch) = (0, WATCH[0]);
        loop {
            let seen = self.bell.rings();
            match self.turn()? {
                Turn::Done => return Ok(()),
                // The main thread sleeps only when it has nothing to run, which may have changed.
                Turn::Busy => self.bell.wake(Sleeper::First),
                Turn::Idle(nap) => {
                    let nap = match self.shared.watched_batches(batches) {
                        Some(now) => {
                            watch = if now == batches { (watch * 2).min(WATCH[1]) } else { WATCH[0] };
                            batches = now;
                            nap.min(watch)
                        }
                        None => nap,
                    };
                    self.bell.sleep(seen, nap, Sleeper::Second);
                }
            }
        }
    }

    /// The main thread: the next work, taking turns until there is some.
    pub(super) fn next(&self) -> Piece {
        let Some(piece) = self.turns_until(|| self.shared.try_next()) else { return Piece::Shutdown };
        match self.shared.flusher(&piece) {
            Flusher::Nobody => {}
            Flusher::This => self.turn().map_or_else(|error| give_up(&error), drop),
            Flusher::Comm => self.bell.wake(Sleeper::Second),
        }
        self.shared.begin();
        piece
    }

    /// The main thread: takes turns until there is what it waits for; `None` if everything has been said before.
    fn turns_until<T>(&self, ready: impl Fn() -> Option<T>) -> Option<T> {
        loop {
            let seen = self.bell.rings();
            if let Some(value) = ready() {
                return Some(value);
            }
            match self.turn() {
                Err(error) => give_up(&error),
                Ok(Turn::Done) => return None,
                Ok(Turn::Idle(nap)) => self.bell.sleep(seen, nap, Sleeper::First),
                Ok(Turn::Busy) => {}
            }
        }
    }
}

impl Driver {
    /// Whether a buffer lies in shared memory, mapped for this engine alone, and arrays may be made of it where it lies.
    pub(super) fn is_shared(&self, buffer: &[u8]) -> bool {
        let is_aligned = (buffer.as_ptr() as usize).is_multiple_of(ALIGNED);
        buffer.len() >= LARGE && is_aligned && self.arena.as_ref().is_some_and(|arena| arena.is_own(buffer))
    }

    /// Writes large buffers of an answer, each in pieces, to memory shared with rank 0, so that only their places travel. To be
    /// called by the main thread; takes turns until rank 0 has said where. `None`: there is no room, or no such memory.
    pub(super) fn share(&self, buffers: &[&[&[u8]]]) -> Option<Vec<Bytes>> {
        let arena = self.arena.as_ref().filter(|_| self.is_with_rank_0 && !buffers.is_empty())?;
        let length = |pieces: &&[&[u8]]| pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let ticket = self.shared.ask_for_places(buffers.iter().map(|pieces| length(pieces) as u64).collect());
        let places = self.turns_until(|| self.shared.take_places(ticket))??;
        let written: std::io::Result<Vec<Bytes>> = places
            .iter()
            .zip(buffers)
            .map(|((place, is_warm), pieces)| {
                let mut at = *place;
                for piece in *pieces {
                    if *is_warm {
                        arena.write_warm(at, piece)?;
                    } else {
                        arena.write(at, piece)?;
                    }
                    at += piece.len() as u64;
                }
                arena.map(*place, length(pieces), Access::Read)
            })
            .collect();
        written
            .inspect_err(|error| {
                tracing::warn!("no room for an answer in shared memory ({error}): copied instead");
                self.shared.release_places(places.iter().map(|(place, _)| *place).collect());
            })
            .ok()
    }
}

/// Ends the engine, and without a nanny the job: without messages it is of no use, and the main thread is inside Python.
fn give_up(error: &anyhow::Error) -> ! {
    let _closed_stderr = writeln!(std::io::stderr(), "pxcluster: an engine cannot go on: {error:#}");
    // SAFETY: ends the process at once.
    unsafe { libc::_exit(1) }
}
