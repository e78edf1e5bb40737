//! How ranks leave a step of Slurm's when engines have died: without MPI's own end, which would wait for the dead.
//!
//! Slurm kills a step as soon as its PMIx server loses the connection of a rank that has not said goodbye. So those that
//! live say goodbye to that server themselves, and the nannies of the dead are the last to go. What they leave behind holds
//! the connections of the dead a moment longer, until all tasks have ended with status 0, and the step with them.
#![allow(unsafe_code, reason = "fork, and nothing but system calls in the child")]

use crate::guard;
use nix::unistd::{ForkResult, fork};
use pxcluster_transport::mpi::pmix;
use std::time::Duration;

/// How long connections are held, seconds. Slurm needs less to find that every task has ended, and kills what is left then.
const HOLD: u32 = 5;
/// How long the nannies of the dead stay after rank 0 has let them go, so that everybody else has ended.
const LAST: Duration = Duration::from_secs(2);

/// Says goodbye for a rank that lives and does not end MPI; whether that was possible. Where it was not, the process has to
/// be left by [`exit_keeping_connections`].
pub(crate) fn say_goodbye() -> bool {
    guard::exit_if_mpi_does_not_end();
    pmix::say_goodbye()
}

/// Ends the nanny of a dead engine, after everybody else.
pub(crate) fn exit_last() -> ! {
    std::thread::sleep(LAST);
    exit_keeping_connections(0)
}

/// Ends this process with `code`; its connections stay open for a while.
pub(crate) fn exit_keeping_connections(code: i32) -> ! {
    // SAFETY: the child makes system calls only, which is all that may be done where there were other threads.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => unsafe {
            // Slurm waits for the end of its tasks' output.
            for standard in 0..=2 {
                libc::close(standard);
            }
            libc::sleep(HOLD);
            libc::_exit(0)
        },
        // SAFETY: always safe. If there is no child, Slurm may report the step as killed, and it ends all the same.
        Ok(ForkResult::Parent { .. }) | Err(_) => unsafe { libc::_exit(code) },
    }
}
