//! Doorbells: one futex word per rank in a shared memory file of the node.
//!
//! MPI has no way to sleep until a message comes. A sender on the same node rings the receiver's bell after its send;
//! the receiver polls, spins for a few microseconds, and then sleeps on its word. The file is unlinked as soon as
//! every rank of the node has mapped it, so nothing of it can be left behind.

use crate::TransportError;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A rank's bell, on a cache line of its own.
#[repr(C, align(64))]
struct Cell {
    /// Grows with every ring.
    rings: AtomicU32,
    /// 1 while the owner sleeps or is about to.
    sleeping: AtomicU32,
}

/// The bells of all ranks of this node; cells of other nodes' ranks exist and are never used.
pub struct Doorbells {
    cells: *const Cell,
    size: usize,
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
        Ok(Self { cells: address.cast(), size: size as usize })
    }

    fn cell(&self, rank: usize) -> &Cell {
        assert!(rank < self.size, "rank {rank} of {}", self.size);
        // SAFETY: the mapping holds `size` cells, zero-filled by the file system, and all fields are atomics.
        unsafe { &*self.cells.add(rank) }
    }

    /// Wakes `rank`, which is on this node.
    pub fn ring(&self, rank: usize) {
        let cell = self.cell(rank);
        cell.rings.fetch_add(1, Ordering::SeqCst);
        if cell.sleeping.load(Ordering::SeqCst) != 0 {
            // SAFETY: the word is a live, aligned u32 in shared memory.
            unsafe { libc::syscall(libc::SYS_futex, &raw const cell.rings, libc::FUTEX_WAKE, 1) };
        }
    }

    /// How often `rank`'s bell has been rung; to be read before the last look for work.
    pub fn rings(&self, rank: usize) -> u32 {
        self.cell(rank).rings.load(Ordering::SeqCst)
    }

    /// Sleeps until `rank`'s bell has been rung more often than `seen`, or `timeout` has passed.
    pub fn sleep(&self, rank: usize, seen: u32, timeout: Duration) {
        let cell = self.cell(rank);
        let time = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: i64::from(timeout.subsec_nanos()) as libc::c_long,
        };
        cell.sleeping.store(1, Ordering::SeqCst);
        // SAFETY: the word is a live, aligned u32; the kernel compares it with `seen` before it sleeps.
        unsafe { libc::syscall(libc::SYS_futex, &raw const cell.rings, libc::FUTEX_WAIT, seen, &raw const time) };
        cell.sleeping.store(0, Ordering::SeqCst);
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` with this length.
        unsafe { libc::munmap(self.cells.cast_mut().cast(), length(self.size)) };
    }
}

/// Unlinks the file; the mappings stay.
pub fn unlink(path: &Path) {
    let _already_gone = std::fs::remove_file(path);
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

    #[test]
    fn a_ring_between_the_look_and_the_sleep_is_not_lost() {
        let path = path(&format!("test-{}", std::process::id()));
        let ours = Arc::new(Doorbells::create(&path, 2).expect("shared memory"));
        let theirs = Doorbells::open(&path, 2).expect("mapped twice");
        unlink(&path);
        assert!(!path.exists());
        for _ in 0..1000 {
            let seen = ours.rings(1);
            let sleeper = {
                let ours = Arc::clone(&ours);
                std::thread::spawn(move || ours.sleep(1, seen, Duration::from_secs(60)))
            };
            theirs.ring(1);
            sleeper.join().expect("woke up");
        }
    }
}
