//! Signals by which a launcher tells every process of a job that its end is near. Rank 0 drains the cluster, so its engines
//! must go on, and end when rank 0 says so.
//!
//! But such a signal may also be meant for one engine alone, and then it is to end it. The nanny knows: launchers send theirs
//! to it, too.

use super::Page;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};
use std::time::{Duration, Instant};

/// As rank 0 has them.
const WARNINGS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGUSR2];
/// Between a launcher's signals to an engine and to its nanny no more time passes than this.
const TOGETHER: Duration = Duration::from_secs(1);
/// How often an engine looks meanwhile whether its nanny has had one.
pub(crate) const LOOK: Duration = Duration::from_millis(50);

/// The page of this process, if it is a nanny.
static PAGE: AtomicPtr<Page> = AtomicPtr::new(null_mut());
/// This process, if it is an engine; a process that it forks inherits the handler and is none.
static ENGINE: AtomicI32 = AtomicI32::new(0);
/// The signal that has come to this engine, 0: none.
static ARRIVED: AtomicI32 = AtomicI32::new(0);

/// The nanny's part: it lives on, and notes that a signal came.
pub(super) fn note(page: &'static Page) {
    PAGE.store(std::ptr::from_ref(page).cast_mut(), Ordering::SeqCst);
    handle(SigHandler::Handler(noted));
}

extern "C" fn noted(_signal: libc::c_int) {
    // SAFETY: the page is never unmapped, and this is called after it has been stored.
    if let Some(page) = unsafe { PAGE.load(Ordering::SeqCst).as_ref() } {
        page.warn();
    }
}

/// The engine's part, to be called when Python has started: its own books then still have the default handler, which user
/// code may want to put back.
pub(crate) fn put_off() {
    ENGINE.store(std::process::id().cast_signed(), Ordering::SeqCst);
    handle(SigHandler::SigAction(put_off_or_die));
}

extern "C" fn put_off_or_die(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: a system call without arguments, and what the kernel has filled in.
    let (me, sender) = unsafe { (libc::getpid(), (*info).si_pid()) };
    if me != ENGINE.load(Ordering::SeqCst) || sender == me {
        die(signal);
    } else {
        ARRIVED.store(signal, Ordering::SeqCst);
    }
}

/// Ends the process as the signal would have; in a handler for it, when that returns.
fn die(signal: libc::c_int) {
    // SAFETY: both are async-signal-safe.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
    }
}

/// What an engine knows of such signals.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    since: Option<Instant>,
}

impl Warnings {
    /// Looks at what has come: ends this engine if it was meant alone. Whether to look again soon.
    pub(crate) fn look(&mut self, page: &Page) -> bool {
        let signal = ARRIVED.load(Ordering::Relaxed);
        if signal == 0 {
            return false;
        }
        if page.is_warned() {
            ARRIVED.store(0, Ordering::Relaxed);
            self.since = None;
            return false;
        }
        if self.since.get_or_insert_with(Instant::now).elapsed() >= TOGETHER {
            die(signal);
        }
        true
    }
}

fn handle(handler: SigHandler) {
    let flags = if matches!(handler, SigHandler::SigAction(_)) { SaFlags::SA_SIGINFO } else { SaFlags::empty() };
    let action = SigAction::new(handler, flags | SaFlags::SA_RESTART, SigSet::empty());
    for signal in WARNINGS {
        // SAFETY: the handlers use atomics and async-signal-safe calls only.
        let _never_fails = unsafe { sigaction(signal, &action) };
    }
}
