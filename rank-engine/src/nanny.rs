//! Why an engine may die: every engine rank is two processes, and the launcher knows only the one that does nothing.
//!
//! Before MPI or any thread starts the rank forks. The child goes on and becomes the engine. The parent, its *nanny*,
//! ignores the signals that launchers send, keeps duplicates of the child's connections (Slurm's PMIx server ends the step
//! when it loses one), and waits. When the engine dies it tells rank 0 how, by a socket, and stays until rank 0 lets it go,
//! so that the launcher sees no process end. Were the nanny killed, the kernel would kill the engine with it.
//!
//! The two share a socket pair, for what the engine tells its nanny, and one page of memory. In it the comm thread
//! counts its turns: a count that stands still is a hung engine. And there stands which task runs, so that a task that kills
//! engines can be told from those that only waited on one.

#![allow(unsafe_code, reason = "fork before any thread exists, shared memory, _exit")]

mod page;
mod pulse;
mod report;
pub(crate) mod warnings;
mod watch;

pub(crate) use page::Page;

use crate::cli::Flags;
use crate::environment::Place;
use anyhow::Context;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrStorage, getpeername, sendmsg, socketpair,
};
use nix::unistd::{ForkResult, Pid, fork};
use pxcluster_protocol::to_engine::ReportTo;
use serde::{Deserialize, Serialize};
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Most descriptors that one message carries (the kernel allows 253).
const DESCRIPTORS: usize = 200;
/// Longest message to a nanny, bytes; it names every interface of rank 0's host.
const LONGEST: usize = 128 << 10;

/// What an engine tells its nanny.
#[derive(Debug, Serialize, Deserialize)]
enum ToNanny {
    /// The descriptors that come with it are to be kept open.
    Keep,
    /// Where a death is reported. From now on the engine may die.
    ReportTo(ReportTo),
    /// The engine is about to end in order.
    Leaving,
    /// The same, but its connections must outlive it: it could not say goodbye to the PMIx server.
    Deserting,
}

/// The engine's side.
pub(crate) struct Nanny {
    line: Option<OwnedFd>,
    page: &'static Page,
    by_srun: bool,
}

/// Splits an engine's rank in two and returns in the child. Rank 0 has no nanny, nor has anybody with `--no-nanny`. Must be
/// called before any thread or MPI is started.
pub(crate) fn begin(place: Place, flags: &Flags) -> anyhow::Result<Nanny> {
    let page = shared_page().context("no memory can be shared with a nanny")?;
    let by_srun = place.by_srun;
    if flags.no_nanny {
        return Ok(Nanny { line: None, page, by_srun });
    }
    let_mpich_survive();
    let Some(engine) = place.rank.engine() else { return Ok(Nanny { line: None, page, by_srun }) };
    let (ours, its) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context("no sockets for a nanny")?;
    // Blocked until the nanny reads it from a descriptor, so that no end of the child is missed.
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGCHLD);
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut before)).context("sigprocmask")?;
    let parent = nix::unistd::getpid();
    // SAFETY: the process has one thread, so the child may do anything.
    match unsafe { fork() }.context("the engine cannot be forked")? {
        ForkResult::Child => {
            drop(its);
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None).context("sigprocmask")?;
            become_the_engine(parent)?;
            Ok(Nanny { line: Some(ours), page, by_srun })
        }
        ForkResult::Parent { child } => {
            drop(ours);
            watch::Watch::new(engine, child, its, page, flags.hung_after, by_srun).run()
        }
    }
}

/// In a group of its own, so that the signals that launchers and terminals send to groups go to the nanny alone; and never
/// without a nanny.
fn become_the_engine(nanny: Pid) -> anyhow::Result<()> {
    nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).context("setpgid")?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("prctl")?;
    if nix::unistd::getppid() != nanny {
        // SAFETY: ends the process at once. The nanny died before the line above.
        unsafe { libc::_exit(1) }
    }
    Ok(())
}

/// MPICH's UCX reads a peer's memory unless told not to, and fails with the peer. The transports that remain are those that
/// a process may leave without a word. Whoever sets the variable knows better.
fn let_mpich_survive() {
    let library = pxcluster_transport::mpi::library_version().to_ascii_lowercase();
    if library.contains("mpich") && std::env::var_os("UCX_TLS").is_none() {
        // SAFETY: the process has one thread.
        unsafe { std::env::set_var("UCX_TLS", "posix,sysv,self,tcp") };
    }
}

/// Memory that survives a fork as one.
fn shared_page() -> std::io::Result<&'static Page> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, which nothing else uses.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), size_of::<Page>(), protection, flags, -1, 0) };
    if page == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the page is zeroed, which is a valid value, aligned, and never unmapped.
    Ok(unsafe { &*page.cast::<Page>() })
}

impl Nanny {
    /// Whether there is one, so that this process may die.
    pub(crate) fn is_there(&self) -> bool {
        self.line.is_some()
    }

    /// The engine's communication has taken a turn.
    pub(crate) fn beat(&self) {
        self.page.beat();
    }

    /// Where the engine says which task it runs.
    pub(crate) fn page(&self) -> &'static Page {
        self.page
    }

    /// Gives the nanny duplicates of every connection that this process has: all are MPI's, as long as no user code runs.
    pub(crate) fn keep_connections(&self) {
        let Some(line) = self.line.as_ref().map(AsRawFd::as_raw_fd) else { return };
        let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten().filter_map(Result::ok);
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
        let is_kept = |&number: &RawFd| number > 2 && number != line && getpeername::<SockaddrStorage>(number).is_ok();
        let connections: Vec<RawFd> = numbers.filter(is_kept).collect();
        for some in connections.chunks(DESCRIPTORS) {
            self.tell(&ToNanny::Keep, some);
        }
    }

    /// Where the nanny reports this engine's death.
    pub(crate) fn report_to(&self, place: &ReportTo) {
        self.tell(&ToNanny::ReportTo(place.clone()), &[]);
    }

    /// This process is about to end in order.
    pub(crate) fn leaving(&self) {
        self.tell(&ToNanny::Leaving, &[]);
    }

    /// Whether this rank is a task of a step of Slurm's.
    pub(crate) fn is_of_step(&self) -> bool {
        self.by_srun
    }

    /// This process is about to end without MPI's own end, and its PMIx server does not know.
    pub(crate) fn deserting(&self) {
        self.tell(&ToNanny::Deserting, &[]);
    }

    fn tell(&self, message: &ToNanny, descriptors: &[RawFd]) {
        let Some(line) = &self.line else { return };
        let bytes = serde_json::to_vec(message).unwrap_or_default();
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights };
        let sent = sendmsg::<()>(line.as_raw_fd(), &[IoSlice::new(&bytes)], rights, MsgFlags::MSG_NOSIGNAL, None);
        if let Err(error) = sent {
            tracing::warn!("the nanny cannot be told: {error}");
        }
    }
}
