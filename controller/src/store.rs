//! Large buffers that rank 0 has: in the arena, where engines and local clients find them without a copy.
//!
//! To the rest of the controller such a buffer is `Bytes` like any other. [`Store::place_of`] says of any slice where it lies.
//! The last clone that goes gives the place back, unless engines hold it.

use crate::incoming::Incoming;
use crate::regions::{Range, Regions, Taken, Usage};
use bytes::Bytes;
use pxcluster_protocol::EngineId;
use pxcluster_transport::arena::{Access, Arena};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Slices below this size, bytes, are copied into the message: mapping them would take longer.
const SMALL: usize = 64 << 10;

/// See the module's page. Used by all threads of the controller.
#[derive(Debug)]
pub(crate) struct Store {
    arena: Arc<Arena>,
    regions: Mutex<Regions>,
    /// What other nodes have to give back, too.
    punched: Mutex<Vec<Range>>,
    /// Messages that are being put together.
    pub(crate) incoming: Incoming,
}

impl Store {
    /// A store of at most `bound` bytes.
    pub(crate) fn new(arena: Arc<Arena>, bound: u64) -> Arc<Self> {
        let regions = Mutex::new(Regions::new(bound));
        Arc::new(Self { arena, regions, punched: Mutex::default(), incoming: Incoming::default() })
    }

    fn regions(&self) -> MutexGuard<'_, Regions> {
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the bookkeeping, and gives pages that nobody needs any more back to the system.
    fn change<R>(&self, change: impl FnOnce(&mut Regions, Instant) -> R) -> R {
        let (result, surplus) = {
            let mut regions = self.regions();
            let result = change(&mut regions, Instant::now());
            (result, regions.take_surplus())
        };
        for (offset, length) in &surplus {
            self.arena.punch(*offset, *length);
        }
        if !surplus.is_empty() {
            self.punched.lock().unwrap_or_else(PoisonError::into_inner).extend(surplus);
        }
        result
    }

    /// A place for so many bytes, for who writes them; `None`: there is no room.
    pub(crate) fn take(self: &Arc<Self>, length: u64) -> Option<Reservation> {
        let Taken { offset, is_warm } = self.change(|regions, _| regions.take(length))?;
        Some(Reservation { store: Arc::clone(self), offset, length, is_warm })
    }

    /// Where a buffer lies, if it is one of these and large enough to be mapped.
    pub(crate) fn place_of(&self, buffer: &[u8]) -> Option<u64> {
        if buffer.len() < SMALL { None } else { self.arena.place_of(buffer) }
    }

    /// The file, for clients of this host.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.arena.descriptor()
    }

    /// An engine of this node is sent a place.
    pub(crate) fn hold(&self, place: u64, engine: EngineId) {
        self.regions().hold(place, engine);
    }

    /// An engine has let go of places.
    pub(crate) fn release(&self, places: &[u64], engine: EngineId) {
        self.change(|regions, now| places.iter().for_each(|place| regions.release(*place, engine, now)));
    }

    /// An engine is gone.
    pub(crate) fn lose(&self, engine: EngineId) {
        self.change(|regions, now| regions.lose(engine, now));
    }

    /// The bytes at a place that is held by `engine`, which has written them and lets go of them.
    pub(crate) fn adopt(self: &Arc<Self>, engine: EngineId, place: u64, length: usize) -> io::Result<Bytes> {
        self.change(|regions, now| {
            regions.keep(place);
            regions.written(place);
            regions.release(place, engine, now);
        });
        self.map(place, length)
    }

    /// A part of what is being written, by whom the place is kept so far.
    pub(crate) fn share(self: &Arc<Self>, place: u64, length: usize) -> io::Result<Bytes> {
        self.change(|regions, _| regions.keep(place));
        self.map(place, length)
    }

    /// Maps a place that is kept for it.
    fn map(self: &Arc<Self>, place: u64, length: usize) -> io::Result<Bytes> {
        let keeper = Keeper { store: Arc::clone(self), place };
        let bytes = self.arena.map(place, length, Access::Read)?;
        Ok(Bytes::from_owner(Kept { bytes, _keeper: keeper }))
    }

    /// A part of a buffer that is kept, to be sent; unmapped when it is gone.
    pub(crate) fn segment(&self, place: u64, length: usize) -> io::Result<Bytes> {
        self.arena.map(place, length, Access::Read)
    }

    /// Gives pages that have waited too long back to the system; how long until there may be more of them.
    pub(crate) fn tidy(&self) -> Option<Duration> {
        self.change(|regions, now| {
            regions.tidy(now);
            regions.due().map(|due| due.saturating_duration_since(now))
        })
    }

    pub(crate) fn usage(&self) -> Usage {
        self.regions().usage()
    }

    /// The number of the buffer at a place: no other has it, or will.
    pub(crate) fn id_of(&self, place: u64) -> Option<u64> {
        self.regions().id_of(place)
    }

    /// Bytes of all buffers, by number.
    pub(crate) fn lengths(&self) -> BTreeMap<u64, u64> {
        self.regions().lengths()
    }

    /// A place is not to be used again.
    pub(crate) fn taint(&self, place: u64) {
        self.regions().taint(place);
    }

    /// Ranges whose pages other nodes have to give back.
    pub(crate) fn take_punched(&self) -> Vec<Range> {
        std::mem::take(&mut *self.punched.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes that an engine has mapped.
    pub(crate) fn held_by(&self, engine: EngineId) -> u64 {
        self.regions().held_by(engine)
    }
}

/// A place that is being written to. Dropped before it is finished, it is not used again: somebody may still write there.
#[derive(Debug)]
pub(crate) struct Reservation {
    store: Arc<Store>,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Whether the place has its pages already.
    pub(crate) is_warm: bool,
}

impl Reservation {
    /// Writes to a part of the place.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.store.arena.write(self.offset + at, bytes)
    }

    /// What has been written.
    pub(crate) fn written(&self, length: usize) -> io::Result<Bytes> {
        self.store.arena.map(self.offset, length, Access::Read)
    }

    /// The whole place, which has been written.
    pub(crate) fn finish(self) -> io::Result<Bytes> {
        self.store.change(|regions, _| {
            regions.keep(self.offset);
            regions.written(self.offset);
        });
        self.store.map(self.offset, self.length as usize)
    }

    /// Keeps the place beyond this reservation; what has been written there can be sent.
    pub(crate) fn keeper(&self) -> Keeper {
        self.store.change(|regions, _| regions.keep(self.offset));
        Keeper { store: Arc::clone(&self.store), place: self.offset }
    }

    /// For an engine, which holds it from now on.
    pub(crate) fn hold(self, engine: EngineId) -> u64 {
        self.store.hold(self.offset, engine);
        self.offset
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.store.change(|regions, now| regions.let_go(self.offset, now));
    }
}

/// Bytes, and the place that is kept for them.
struct Kept {
    bytes: Bytes,
    _keeper: Keeper,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Keeps a place.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Arc<Store>,
    pub(crate) place: u64,
}

impl Keeper {
    /// The number of the buffer there.
    pub(crate) fn id(&self) -> Option<u64> {
        self.store.id_of(self.place)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.store.change(|regions, now| regions.let_go(self.place, now));
    }
}
