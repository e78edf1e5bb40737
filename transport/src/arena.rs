//! The arena: one file of a node's shared memory, in which large buffers lie once for all ranks of the node.
//!
//! Rank 0 gives out the places, the same ones on every node; here are the hands: writing, mapping. A
//! rank maps a buffer for itself alone (copy-on-write), so that reading costs no memory and writing is its own. Pages must
//! not be given to another buffer while any rank maps them; [`Arena::take_released`] says what is not mapped any more.
//!
//! The file is unlinked as soon as every rank of the node has opened it, so nothing of it can be left behind.

mod forks;

use bytes::Bytes;
use forks::Forks;
use pxcluster_protocol::Rank;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Buffers of at least so many bytes go through the arena; smaller ones are cheaper to copy.
pub const LARGE: usize = 512 << 10;
/// So many mappings to write through are kept, and so many bytes of them.
const WINDOWS: usize = 4;
const WINDOWS_BYTES: usize = 512 << 20;
/// Smaller buffers are written through windows of this size: the next place is likely to be in one of them.
const CHUNK: u64 = 32 << 20;
/// Lengths of the file, bytes: as long as possible.
const LENGTHS: [u64; 2] = [1 << 62, 1 << 43];
/// Places are multiples of this, bytes.
pub const PAGE: u64 = 4096;

/// What is known of a rank's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The first rank there, which names it.
    pub first: Rank,
    /// Bytes that its arena could have at the start; 0: it has none.
    pub room: u64,
}

/// Whether writing to a mapping is possible, and to whom it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nobody writes through it.
    Read,
    /// What is written is this process's own.
    CopyOnWrite,
}

/// What a process has mapped: by address, the length and the place.
type Mapped = BTreeMap<usize, (usize, u64, Access)>;

/// See the module's page.
#[derive(Debug)]
pub struct Arena {
    file: File,
    mapped: Mutex<Mapped>,
    /// Mappings to write through, the one that was used last at the end.
    windows: Mutex<Vec<Window>>,
    /// What is not needed any more, the oldest first.
    unneeded: Mutex<VecDeque<Unneeded>>,
    /// Children that have what was mapped when they were made.
    forks: Mutex<Forks>,
}

impl Arena {
    /// Makes the node's file. Done by one rank of the node, before the others open it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        // Pages come with what is written to them. A length of its own lets any place be mapped; not every file system has the
        // first one.
        let _as_long_as_it_is = LENGTHS.iter().find(|length| file.set_len(**length).is_ok());
        Ok(Self::new(file))
    }

    /// Opens the file that another rank of the node has made.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().read(true).write(true).open(path).map(Self::new)
    }

    fn new(file: File) -> Self {
        Self {
            file,
            mapped: Mutex::default(),
            windows: Mutex::default(),
            unneeded: Mutex::default(),
            forks: Mutex::default(),
        }
    }

    /// Bytes that can be reserved at this moment, as far as the file system and the memory of the node are concerned.
    pub fn room(&self) -> u64 {
        // SAFETY: a plain struct of numbers, filled by the call.
        let mut of_files: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: a live descriptor and a valid place.
        if unsafe { libc::fstatvfs(self.file.as_raw_fd(), &raw mut of_files) } != 0 {
            return 0;
        }
        of_files.f_bavail.saturating_mul(of_files.f_frsize)
    }

    /// The file, to be handed to a client of this host.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Writes to a place without mapping it: no page is touched twice, and a file system that is full says so, where a
    /// mapping would end the process.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// The same where a place has its pages: through a mapping that is kept for the next time, in a third of the time.
    pub fn write_warm(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + bytes.len() as u64;
        let fits = |window: &Window| window.offset <= offset && end <= window.offset + window.length as u64;
        let window = match windows.iter().position(fits) {
            Some(at) => windows.remove(at),
            None if offset / CHUNK == (end - 1) / CHUNK => {
                Window::open(&self.file, offset - offset % CHUNK, CHUNK as usize)?
            }
            None => Window::open(&self.file, offset, bytes.len())?.populated(),
        };
        let target = window.address + (offset - window.offset) as usize;
        // SAFETY: within a writable mapping of pages that are there; rank 0 has given the place to this process alone.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target as *mut u8, bytes.len()) };
        windows.push(window);
        while windows.len() > WINDOWS || windows.iter().map(|window| window.length).sum::<usize>() > WINDOWS_BYTES {
            windows.remove(0);
        }
        Ok(())
    }

    /// Gives the pages of a place back to the system; who maps it would read zeros.
    pub fn punch(&self, offset: u64, length: u64) {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (offset, length) = (offset as libc::off_t, length as libc::off_t);
        // SAFETY: a live descriptor and numbers. A failure leaves the pages where they are.
        let _kept = unsafe { libc::fallocate(self.file.as_raw_fd(), mode, offset, length) };
    }

    /// The bytes at a place that has been written; they stay mapped until the last clone or slice of them is gone.
    pub fn map(self: &Arc<Self>, offset: u64, length: usize, access: Access) -> io::Result<Bytes> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let start = offset - offset % PAGE;
        let before = (offset - start) as usize;
        let (protection, flags) = match access {
            Access::Read => (libc::PROT_READ, libc::MAP_SHARED),
            Access::CopyOnWrite => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE),
        };
        let (fd, start) = (self.file.as_raw_fd(), start as libc::off_t);
        // SAFETY: a fresh mapping of a live descriptor at an aligned offset.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), before + length, protection, flags, fd, start) };
        if address == libc::MAP_FAILED {
            return self.copy(offset, length, access);
        }
        let data = address as usize + before;
        self.mapped().insert(data, (length, offset, access));
        let arena = Arc::clone(self);
        let (range, born) = (Pages { address: address as usize, length: before + length }, self.fork_count());
        Ok(Bytes::from_owner(Mapping { arena, range, born, before, length, offset, access }))
    }

    /// In place of a mapping, of which a process may have only so many.
    fn copy(&self, offset: u64, length: usize, access: Access) -> io::Result<Bytes> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        if access == Access::CopyOnWrite {
            self.unneeded().push_back(Unneeded { since: Instant::now(), offset, lived: 0..0, range: Pages::default() });
        }
        Ok(bytes.into())
    }

    /// Where in the arena these bytes lie, if they are, or are a part of, what [`Arena::map`] gave to be read.
    pub fn place_of(&self, bytes: &[u8]) -> Option<u64> {
        self.find(bytes).filter(|(_, access)| *access == Access::Read).map(|(place, _)| place)
    }

    /// Whether these bytes may be written to by who owns them all: nobody else sees it.
    pub fn is_own(&self, bytes: &[u8]) -> bool {
        self.find(bytes).is_some_and(|(_, access)| access == Access::CopyOnWrite)
    }

    fn find(&self, bytes: &[u8]) -> Option<(u64, Access)> {
        let address = bytes.as_ptr() as usize;
        let mapped = self.mapped();
        let (start, (length, offset, access)) = mapped.range(..=address).next_back()?;
        (address + bytes.len() <= start + length).then(|| (offset + (address - start) as u64, *access))
    }

    /// Unmaps what nobody needs and has not for that long. It takes milliseconds where many pages were read, so that there are
    /// better times for it than the one at which a buffer goes. Places that were mapped copy-on-write and are not any more, once
    /// for each time they were.
    pub fn take_released(&self, age: Duration) -> Vec<u64> {
        let old: Vec<Unneeded> = {
            let mut unneeded = self.unneeded();
            let old = unneeded.iter().take_while(|entry| entry.since.elapsed() >= age).count();
            unneeded.drain(..old).collect()
        };
        let unmap = |Unneeded { offset, lived, range, .. }| {
            drop(range);
            (offset, lived)
        };
        let unmapped: Vec<(u64, Range<u64>)> = old.into_iter().map(unmap).collect(); // no lock is held meanwhile
        let mut forks = self.forks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut released = forks.released();
        released.extend(unmapped.into_iter().filter_map(|(offset, lived)| forks.release(offset, lived)));
        released
    }

    /// Whether [`Arena::take_released`] will have something to do soon.
    pub fn has_unneeded(&self) -> bool {
        !self.unneeded().is_empty()
    }

    /// From now on children of this process may read what is mapped when they are made: its places are released after their end.
    /// To be called once in a process.
    pub fn watch_forks(self: &Arc<Self>) {
        forks::watch(Arc::clone(self));
    }

    fn fork_count(&self) -> u64 {
        self.forks.lock().unwrap_or_else(PoisonError::into_inner).count()
    }

    fn unneeded(&self) -> MutexGuard<'_, VecDeque<Unneeded>> {
        self.unneeded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that this process has mapped.
    pub fn mapped_bytes(&self) -> u64 {
        self.mapped().values().map(|(length, ..)| *length as u64).sum()
    }

    fn mapped(&self) -> MutexGuard<'_, Mapped> {
        self.mapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A writable mapping of a range.
#[derive(Debug)]
struct Window {
    address: usize,
    offset: u64,
    length: usize,
}

impl Window {
    fn open(file: &File, offset: u64, length: usize) -> io::Result<Self> {
        let start = offset - offset % PAGE;
        let length = length + (offset - start) as usize;
        let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, file.as_raw_fd());
        // SAFETY: a fresh mapping of a live descriptor at an aligned offset.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, start as libc::off_t) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address: address as usize, offset: start, length })
    }

    /// Its pages, which are there, without a fault for each.
    fn populated(self) -> Self {
        // SAFETY: the mapping made in `open`. Kernels before 5.14 do not know this.
        let _not_known =
            unsafe { libc::madvise(self.address as *mut libc::c_void, self.length, libc::MADV_POPULATE_WRITE) };
        self
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `open`, and nothing borrows from it.
        unsafe { libc::munmap(self.address as *mut libc::c_void, self.length) };
    }
}

/// Mapped pages.
#[derive(Debug, Default)]
struct Pages {
    address: usize,
    length: usize,
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: pages that `Arena::map` has mapped, and nothing borrows from them any more.
            unsafe { libc::munmap(self.address as *mut libc::c_void, self.length) };
        }
    }
}

/// A place that was mapped copy-on-write.
#[derive(Debug)]
struct Unneeded {
    since: Instant,
    offset: u64,
    /// Numbers of the forks while it was mapped.
    lived: Range<u64>,
    range: Pages,
}

/// One mapped place.
struct Mapping {
    arena: Arc<Arena>,
    range: Pages,
    /// Number of the next fork when it was mapped.
    born: u64,
    /// Bytes of the first page before the place.
    before: usize,
    length: usize,
    offset: u64,
    access: Access,
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mapped for as long as this value lives. Nobody changes the bytes through a shared mapping while rank 0
        // keeps the place for this buffer; a private one is written to by Python alone, which owns the whole buffer then.
        unsafe { std::slice::from_raw_parts((self.range.address + self.before) as *const u8, self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if forks::is_child() {
            return;
        }
        self.arena.mapped().remove(&(self.range.address + self.before));
        if self.access == Access::CopyOnWrite {
            let (range, lived) = (std::mem::take(&mut self.range), self.born..self.arena.fork_count());
            self.arena.unneeded().push_back(Unneeded { since: Instant::now(), offset: self.offset, lived, range });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena() -> Arc<Arena> {
        let path = std::env::temp_dir().join(format!("pxcluster-test-arena-{:?}", std::thread::current().id()));
        let _left_by_a_killed_test = std::fs::remove_file(&path);
        let arena = Arena::create(&path).expect("a file");
        std::fs::remove_file(&path).expect("its own file");
        Arc::new(arena)
    }

    #[test]
    fn a_buffer_is_found_in_parts_and_told_when_it_is_gone() {
        let arena = arena();
        arena.write(PAGE + 10, &[0; 5000]).expect("room");
        arena.write_warm(PAGE + 10, &[7; 5000]).expect("its pages are there");
        let whole = arena.map(PAGE + 10, 5000, Access::Read).expect("is mapped");
        assert_eq!((arena.place_of(&whole), arena.place_of(&whole.slice(100..))), (Some(PAGE + 10), Some(PAGE + 110)));
        assert_eq!(arena.place_of(b"elsewhere"), None);
        drop(whole);
        assert!(arena.take_released(Duration::ZERO).is_empty());
        let whole = arena.map(PAGE + 10, 5000, Access::CopyOnWrite).expect("is mapped");
        assert!(whole.iter().all(|byte| *byte == 7));
        let part = whole.slice(100..200);
        assert_eq!(arena.place_of(&part), None);
        assert!(arena.is_own(&part));
        drop(whole);
        assert_eq!((arena.take_released(Duration::ZERO), arena.mapped_bytes()), (vec![], 5000));
        drop(part);
        assert_eq!((arena.take_released(Duration::ZERO), arena.mapped_bytes()), (vec![PAGE + 10], 0));
        assert_eq!(arena.map(0, 0, Access::Read).expect("nothing").len(), 0);
    }

    #[test]
    fn what_is_written_to_a_private_mapping_is_nobody_elses() {
        let arena = arena();
        arena.write(0, b"abc").expect("room");
        let (mine, theirs) = (arena.map(0, 3, Access::CopyOnWrite), arena.map(0, 3, Access::CopyOnWrite));
        let (mine, theirs) = (mine.expect("is mapped"), theirs.expect("is mapped"));
        assert!(arena.is_own(&mine));
        // SAFETY: a writable mapping that nobody reads at this moment.
        unsafe { mine.as_ptr().cast_mut().write(b'x') };
        assert_eq!((&mine[..], &theirs[..]), (&b"xbc"[..], &b"abc"[..]));
        let shown = arena.map(0, 3, Access::Read).expect("is mapped");
        assert_eq!((&shown[..], arena.is_own(&shown)), (&b"abc"[..], false));
        drop(shown);
        assert!(arena.take_released(Duration::ZERO).is_empty());
    }
}
