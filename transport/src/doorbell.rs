//! Doorbells: how a rank sleeps until a message comes, which MPI itself cannot do.
//!
//! One futex word per rank lies in a shared memory file of the node. A sender on the same node rings the receiver's bell
//! after its send; the receiver polls and then sleeps. An engine has two threads that may sleep on its bell: the first, its
//! main thread while it has nothing to run, is the one to wake; the second, its comm thread, is woken when the first is
//! busy. Rank 0 also waits for sockets, so it has a FIFO in place of the futex.
//!
//! Both files are unlinked as soon as every rank of the node has opened them, so nothing of them can be left behind.

use crate::TransportError;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A rank's bell, on a cache line of its own.
#[repr(C, align(64))]
struct Cell {
    /// Grows with every ring.
    rings: AtomicU32,
    /// Who sleeps or is about to: a set of [`Sleeper`]s.
    sleeping: AtomicU32,
}

/// Who sleeps on a bell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Sleeper {
    /// The thread that is woken if it sleeps.
    First = 1,
    /// The thread that is woken if the first does not sleep.
    Second = 2,
    /// Rank 0, which waits on its FIFO.
    Descriptor = 4,
}

/// The bells of all ranks of this node; cells of other nodes' ranks exist and are never used.
pub struct Doorbells {
    cells: *const Cell,
    size: usize,
    /// Rank 0's FIFO, on its own node.
    fifo: Option<File>,
}

// SAFETY: the cells are only touched through atomics, and the mapping lives until the last owner drops it.
unsafe impl Send for Doorbells {}
// SAFETY: as above.
unsafe impl Sync for Doorbells {}

/// Where the file of a node lies until it is mapped.
pub fn path(name: &str) -> PathBuf {
    let directory = std::env::var_os("PXCLUSTER_SHM_DIR").map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    directory.join(format!("pxcluster-{name}"))
}

impl Doorbells {
    /// Makes the node's file. Done by one rank of the node, before the others map it.
    pub fn create(path: &Path, size: u32) -> Result<Self, TransportError> {
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
        let file = made.map_err(|source| failed(path, source))?;
        file.set_len(length(size as usize) as u64).map_err(|source| failed(path, source))?;
        Self::map(path, &file, size)
    }

    /// Makes rank 0's FIFO beside the node's file.
    pub fn create_fifo(&mut self, path: &Path) -> Result<(), TransportError> {
        let fifo = fifo_path(path);
        let name = CString::new(fifo.as_os_str().as_bytes()).map_err(|error| failed(&fifo, error.into()))?;
        // SAFETY: a valid C string.
        if unsafe { libc::mkfifo(name.as_ptr(), 0o600) } != 0 {
            return Err(failed(&fifo, std::io::Error::last_os_error()));
        }
        self.open_fifo(path)
    }

    /// Opens rank 0's FIFO.
    pub fn open_fifo(&mut self, path: &Path) -> Result<(), TransportError> {
        let fifo = fifo_path(path);
        // Opened for both directions so that it never comes to its end.
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&fifo);
        self.fifo = Some(opened.map_err(|source| failed(&fifo, source))?);
        Ok(())
    }

    /// Maps the file that another rank of the node has made.
    pub fn open(path: &Path, size: u32) -> Result<Self, TransportError> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|source| failed(path, source))?;
        Self::map(path, &file, size)
    }

    fn map(path: &Path, file: &File, size: u32) -> Result<Self, TransportError> {
        let length = length(size as usize);
        // SAFETY: a fresh shared mapping of a file that is at least that long.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(failed(path, std::io::Error::last_os_error()));
        }
        Ok(Self { cells: address.cast(), size: size as usize, fifo: None })
    }

    fn cell(&self, rank: usize) -> &Cell {
        assert!(rank < self.size, "rank {rank} of {}", self.size);
        // SAFETY: the mapping holds `size` cells, zero-filled by the file system, and all fields are atomics.
        unsafe { &*self.cells.add(rank) }
    }

    /// Wakes one sleeper of `rank`, which is on this node.
    pub fn ring(&self, rank: usize) {
        let cell = self.cell(rank);
        cell.rings.fetch_add(1, Ordering::SeqCst);
        let sleeping = cell.sleeping.load(Ordering::SeqCst);
        if sleeping & Sleeper::Descriptor as u32 != 0 {
            if let Some(mut fifo) = self.fifo.as_ref() {
                let _full_is_readable_too = fifo.write(&[0]);
            }
        } else if sleeping & Sleeper::First as u32 != 0 {
            wake(cell, Sleeper::First);
        } else if sleeping != 0 {
            wake(cell, Sleeper::Second);
        }
    }

    /// Wakes this sleeper of `rank` and no other.
    pub fn ring_for(&self, rank: usize, sleeper: Sleeper) {
        let cell = self.cell(rank);
        cell.rings.fetch_add(1, Ordering::SeqCst);
        if cell.sleeping.load(Ordering::SeqCst) & sleeper as u32 != 0 {
            wake(cell, sleeper);
        }
    }

    /// How often `rank`'s bell has been rung; to be read before the last look for work.
    pub fn rings(&self, rank: usize) -> u32 {
        self.cell(rank).rings.load(Ordering::SeqCst)
    }

    /// Sleeps until `rank`'s bell has been rung more often than `seen` (and for this sleeper), or `timeout` has passed.
    pub fn sleep(&self, rank: usize, seen: u32, timeout: Duration, sleeper: Sleeper) {
        let cell = self.cell(rank);
        let until = deadline(timeout);
        cell.sleeping.fetch_or(sleeper as u32, Ordering::SeqCst);
        // SAFETY: the word is a live, aligned u32; the kernel compares it with `seen` before it sleeps.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                &raw const cell.rings,
                libc::FUTEX_WAIT_BITSET,
                seen,
                &raw const until,
                std::ptr::null::<u32>(),
                sleeper as u32,
            )
        };
        cell.sleeping.fetch_and(!(sleeper as u32), Ordering::SeqCst);
    }

    /// From now on a ring for `rank` makes [`Doorbells::descriptor`] readable.
    pub fn arm(&self, rank: usize) {
        self.cell(rank).sleeping.fetch_or(Sleeper::Descriptor as u32, Ordering::SeqCst);
    }

    /// Ends [`Doorbells::arm`], and empties the FIFO.
    pub fn disarm(&self, rank: usize) {
        self.cell(rank).sleeping.fetch_and(!(Sleeper::Descriptor as u32), Ordering::SeqCst);
        if let Some(mut fifo) = self.fifo.as_ref() {
            let mut bytes = [0; 64];
            while fifo.read(&mut bytes).is_ok_and(|count| count == bytes.len()) {}
        }
    }

    /// Rank 0's FIFO, on its node.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.fifo.as_ref().map(AsFd::as_fd)
    }
}

fn wake(cell: &Cell, sleeper: Sleeper) {
    // SAFETY: the word is a live, aligned u32 in shared memory.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            &raw const cell.rings,
            libc::FUTEX_WAKE_BITSET,
            1,
            std::ptr::null::<libc::timespec>(),
            std::ptr::null::<u32>(),
            sleeper as u32,
        )
    };
}

/// `timeout` from now, on the clock of `FUTEX_WAIT_BITSET`.
fn deadline(timeout: Duration) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let nanoseconds = now.tv_nsec + i64::from(timeout.subsec_nanos());
    libc::timespec {
        tv_sec: now.tv_sec + timeout.as_secs() as i64 + nanoseconds / 1_000_000_000,
        tv_nsec: nanoseconds % 1_000_000_000,
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length.
        unsafe { libc::munmap(self.cells.cast_mut().cast(), length(self.size)) };
    }
}

/// Unlinks the file and the FIFO beside it; what is mapped or open stays.
pub fn unlink(path: &Path) {
    let _already_gone = std::fs::remove_file(path);
    let _most_have_none = std::fs::remove_file(fifo_path(path));
}

fn fifo_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".fifo");
    PathBuf::from(name)
}

fn length(size: usize) -> usize {
    size * size_of::<Cell>()
}

fn failed(path: &Path, source: std::io::Error) -> TransportError {
    TransportError::SharedMemory { path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn pair(name: &str) -> (Doorbells, Doorbells) {
        let path = path(&format!("{name}-{}", std::process::id()));
        let mut ours = Doorbells::create(&path, 2).expect("shared memory");
        ours.create_fifo(&path).expect("a FIFO");
        let mut theirs = Doorbells::open(&path, 2).expect("mapped twice");
        theirs.open_fifo(&path).expect("opened twice");
        unlink(&path);
        assert!(!path.exists() && !fifo_path(&path).exists());
        (ours, theirs)
    }

    #[test]
    fn a_ring_between_the_look_and_the_sleep_is_not_lost() {
        let (ours, theirs) = pair("test-ring");
        let ours = Arc::new(ours);
        for round in 0..1000 {
            let seen = ours.rings(1);
            let sleeper = {
                let ours = Arc::clone(&ours);
                let who = if round % 2 == 0 { Sleeper::First } else { Sleeper::Second };
                std::thread::spawn(move || ours.sleep(1, seen, Duration::from_secs(60), who))
            };
            theirs.ring(1);
            sleeper.join().expect("woke up");
        }
    }

    #[test]
    fn rank_0_is_woken_through_its_fifo_while_it_is_armed() {
        let (ours, theirs) = pair("test-fifo");
        let readable = || {
            let mut fifo = ours.fifo.as_ref().expect("made above");
            fifo.read(&mut [0; 8]).is_ok()
        };
        theirs.ring(0);
        assert!(!readable(), "nobody asked for it");
        ours.arm(0);
        theirs.ring(0);
        assert!(readable());
        theirs.ring(0);
        ours.disarm(0);
        assert!(!readable(), "disarming empties it");
    }
}
