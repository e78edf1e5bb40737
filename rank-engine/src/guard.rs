//! What keeps a rank from failing silently: the log, the panic hook, and the parent of rank 0 that cleans up.
#![allow(unsafe_code, reason = "fork before any thread exists, and prctl")]

use crate::environment::Place;
use anyhow::Context;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use pxcluster_controller::ClusterFiles;
use pxcluster_protocol::Rank;
use std::io::Write;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

/// How long MPI may take to end.
const MPI_END: Duration = Duration::from_secs(10);

/// Sends the log to standard error, each record with the rank; a panic is logged and ends the job.
pub(crate) fn log_and_abort_on_panic(place: Place, level: tracing::Level) {
    let rank = place.rank;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .event_format(Line { rank })
        .init();
    place.warn_of_srun();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic
            .payload()
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.payload().downcast_ref::<String>().map(String::as_str));
        let what = what.unwrap_or("no message");
        let _closed_stderr = writeln!(
            std::io::stderr(),
            "pxcluster: {rank}: internal error at {place}: {what}; the cluster ends. Please report this line."
        );
        // The launcher ends the whole job when a rank fails; unwinding could leave the others waiting for this one.
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(134) }
    }));
}

/// One log record a line: `pxcluster: rank 0: WARN …`.
struct Line {
    rank: Rank,
}

impl<S, N> tracing_subscriber::fmt::FormatEvent<S, N> for Line
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    N: for<'a> tracing_subscriber::fmt::FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &tracing_subscriber::fmt::FmtContext<'_, S, N>,
        mut writer: tracing_subscriber::fmt::format::Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "pxcluster: {}: {} ", self.rank, event.metadata().level())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// The controller's process, for the signal handler of its parent.
static CHILD: AtomicI32 = AtomicI32::new(0);

/// Splits rank 0 in two: the child goes on and becomes the controller; the parent only waits for it, and removes the
/// cluster's files however the child ended, `kill -9` included. Must be called before any thread or MPI is started.
pub(crate) fn clean_up_after_a_crash(cluster_id: &str) -> anyhow::Result<()> {
    let files = ClusterFiles::locate(cluster_id)?;
    // SAFETY: the process has one thread, so the child may do anything.
    match unsafe { fork() }.context("rank 0 cannot be forked")? {
        ForkResult::Child => {
            // mpirun's SIGKILL often follows its SIGTERM at once, and goes to the parent's process group. The controller is
            // in a group of its own, and told of its parent's end by a SIGTERM, so that it can clean up in both cases.
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).context("setpgid")?;
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).context("prctl")?;
            Ok(())
        }
        ForkResult::Parent { child } => {
            CHILD.store(child.as_raw(), Ordering::SeqCst);
            for forwarded in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR2] {
                // SAFETY: the handler only calls kill(), which is async-signal-safe.
                unsafe { signal(forwarded, SigHandler::Handler(forward)) }.context("sigaction")?;
            }
            let code = loop {
                match waitpid(child, None) {
                    Ok(WaitStatus::Exited(_, code)) => break code,
                    Ok(WaitStatus::Signaled(_, signal, _)) => {
                        let _closed_stderr = writeln!(
                            std::io::stderr(),
                            "pxcluster: the controller was killed by {signal}; the cluster '{cluster_id}' ends"
                        );
                        break 128 + signal as i32;
                    }
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(error).context("waitpid"),
                }
            };
            files.remove(child.as_raw() as u32);
            // SAFETY: ends this process without running the destructors that are the child's business.
            unsafe { libc::_exit(code) }
        }
    }
}

extern "C" fn forward(signal: libc::c_int) {
    if let Ok(signal) = Signal::try_from(signal) {
        let _gone_already = kill(Pid::from_raw(CHILD.load(Ordering::SeqCst)), signal);
    }
}

/// Ends this process after a while whatever MPI does: its end waits for all ranks, and one may have been lost.
pub(crate) fn exit_if_mpi_does_not_end() {
    let wait = move || {
        std::thread::sleep(MPI_END);
        // SAFETY: ends the process without destructors, which are what hangs.
        unsafe { libc::_exit(1) }
    };
    let _without_it_too = std::thread::Builder::new().name("px-end".into()).spawn(wait);
}
