//! Children of this process, which may read what was mapped when they were made.
//!
//! A child has the mappings, too, and reads through them what lies at their places. So a place that was mapped at a fork must
//! not be used for another buffer before that child, and its own children, have ended or become other programs. They hold
//! the writing end of a pipe, which the system closes then, and this process sees the end of the pipe.

use super::Arena;
use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError};

/// The forks of a process.
#[derive(Debug, Default)]
pub(super) struct Forks {
    /// How many there have been.
    count: u64,
    /// Those whose children are there: number, and the reading end of the pipe.
    living: Vec<(u64, OwnedFd)>,
    /// Places that wait: offset, and the forks while they were mapped.
    held: Vec<(u64, Range<u64>)>,
}

impl Forks {
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A child has been made, and holds the other end of this pipe.
    fn add(&mut self, pipe: OwnedFd) {
        self.living.push((self.count, pipe));
        self.count += 1;
    }

    /// A place is not mapped any more, and was at these forks: it, if no child has it.
    pub(super) fn release(&mut self, offset: u64, lived: Range<u64>) -> Option<u64> {
        if self.is_free(&lived) {
            return Some(offset);
        }
        self.held.push((offset, lived));
        None
    }

    /// Places that waited for children that have ended.
    pub(super) fn released(&mut self) -> Vec<u64> {
        if self.held.is_empty() {
            return vec![];
        }
        let (free, held) = std::mem::take(&mut self.held).into_iter().partition(|(_, lived)| self.is_free(lived));
        self.held = held;
        let free: Vec<_> = free;
        free.into_iter().map(|(offset, _)| offset).collect()
    }

    fn is_free(&mut self, lived: &Range<u64>) -> bool {
        self.living.retain(|(_, pipe)| !has_ended(pipe));
        !self.living.iter().any(|(number, _)| lived.contains(number))
    }
}

/// Whether nobody holds the other end.
fn has_ended(pipe: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: pipe.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one valid entry; does not wait.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 1 && poll.revents & libc::POLLHUP != 0 }
}

static WATCHED: OnceLock<Arc<Arena>> = OnceLock::new();
static IS_CHILD: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The pipe of a fork that this thread is making.
    static PIPE: RefCell<Option<(OwnedFd, OwnedFd)>> = const { RefCell::new(None) };
}

/// Watches the forks of this process for `arena`.
pub(super) fn watch(arena: Arc<Arena>) {
    if WATCHED.set(arena).is_ok() {
        // SAFETY: three functions that live for ever; called by `fork` in the thread that forks.
        unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) };
    }
}

extern "C" fn prepare() {
    let is_mapped = WATCHED.get().is_some_and(|arena| arena.mapped_bytes() > 0);
    let made = if is_mapped { pipe().ok() } else { None };
    let _a_thread_that_ends_makes_none = PIPE.try_with(|pipe| *pipe.borrow_mut() = made);
}

extern "C" fn in_parent() {
    let made = PIPE.try_with(|pipe| pipe.borrow_mut().take()).ok().flatten();
    if let (Some((reading, _closed_here)), Some(arena)) = (made, WATCHED.get()) {
        arena.forks.lock().unwrap_or_else(PoisonError::into_inner).add(reading);
    }
}

/// Whether this process is such a child: what its threads had locked at the fork stays locked.
pub(super) fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

extern "C" fn in_child() {
    IS_CHILD.store(true, Ordering::Relaxed);
    let made = PIPE.try_with(|pipe| pipe.borrow_mut().take()).ok().flatten();
    if let Some((_closed_here, writing)) = made {
        std::mem::forget(writing); // closed by the end of this process, or by exec
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: two fresh descriptors that nobody else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_waits_for_the_children_that_have_it() {
        let mut forks = Forks::default();
        let (reading, child) = pipe().expect("descriptors");
        forks.add(reading);
        assert_eq!(forks.release(1, 1..1), Some(1), "it was mapped after the fork");
        assert_eq!(forks.release(2, 0..1), None);
        assert!(forks.released().is_empty());
        drop(child);
        assert_eq!(forks.released(), vec![2]);
        assert_eq!(forks.release(3, 0..1), Some(3));
    }
}
