//! `pxcluster run script.py`: a cluster for one program, which is its client; gone when the program ends.
//!
//! From a shell or a batch script the cluster is started as `pxcluster start` does. As ranks of an MPI job, which
//! `mpirun -n 64 pxcluster run script.py` makes, every process is a rank of the cluster, and that of rank 0 has the
//! script beside it.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pxcluster_protocol::connection::ConnectionFile;
use signal_hook::iterator::Signals;

use crate::cli::{RunFlags, StopFlags};
use crate::directory::{ClusterDirectory, Controller, DirectoryError};
use crate::env::rank;
use crate::link::Link;
use crate::machine::{Process, host_name, variables, wait_until};
use crate::rank_program::{self, RankProgramError};
use crate::requeue::{Requeue, RequeueError, say};
use crate::start::{self, Lifetime, StartError, Started, tail, without_manager};
use crate::stop;

/// How long the ranks of an MPI job have to end when the script has ended.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Signals that are the script's, and reach this program.
const FORWARDED: [Signal; 5] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGINT];

/// Why the script did not run.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "transparent variants; the others have their message")]
pub enum RunError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    RankProgram(#[from] RankProgramError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Requeue(#[from] RequeueError),
    #[error("{0} does not exist; name a script, or, behind `--`, what else Python is to run")]
    NoScript(String),
    #[error("--dry-run shows how a cluster starts: use it with `pxcluster start`, which takes the same flags")]
    DryRun,
    #[error("cannot run {program}: {source}; name the script's Python with --python")]
    Python { program: String, source: io::Error },
    #[error("cannot watch signals: {0}")]
    Signals(io::Error),
    #[error("the cluster did not start: its controller ended with {0}")]
    Ended(ExitStatus),
    #[error("the cluster was not ready after {0} seconds (--timeout gives it longer)")]
    TooSlow(f64),
}

/// Runs the script, and gives back its exit code.
pub fn run(flags: &RunFlags) -> Result<ExitCode, RunError> {
    let script = Path::new(&flags.script[0]);
    if !flags.script[0].as_encoded_bytes().starts_with(b"-") && !script.exists() {
        return Err(RunError::NoScript(script.display().to_string()));
    }
    if flags.start.dry_run {
        return Err(RunError::DryRun);
    }
    let rank = rank(variables());
    if rank.is_some_and(|rank| rank != 0) {
        return Err(rank_program::exec(&flags.start.rank.to_args()).into());
    }
    let requeue = flags.requeue.then(|| Requeue::new(variables(), flags.start.rank.grace)).transpose()?;
    let outcome = match rank {
        None => from_a_shell(flags, requeue.as_ref()),
        Some(_) => as_rank_0(flags, requeue.as_ref()),
    };
    if let Some(requeue) = requeue {
        let succeeded = outcome.as_ref().is_ok_and(ExitStatus::success);
        requeue.put_back(succeeded).unwrap_or_else(|error| say(&error.to_string()));
    }
    Ok(exit_code(outcome?))
}

/// A cluster of its own, started by mpirun.
fn from_a_shell(flags: &RunFlags, requeue: Option<&Requeue>) -> Result<ExitStatus, RunError> {
    let given = flags.start.rank.cluster_id.clone();
    let mut start = flags.start.clone();
    let cluster_id = given.clone().unwrap_or_else(|| own_cluster_id(&host_name(), std::process::id()));
    start.rank.cluster_id = Some(cluster_id.clone());
    let directory = ClusterDirectory::locate(&cluster_id)?;
    let Started { connection, mut mpirun, interrupted } = start::start(&start, &directory, Lifetime::OfThisProgram)?;
    let status = run_script(flags, &directory, &connection, &interrupted, requeue);
    let died = Controller::find(&connection) == Controller::Gone;
    let surprise = if died {
        Some(format!("the cluster ended before the script did; {}", tail(&directory.log_file())))
    } else {
        let flags = StopFlags { cluster_id, drain: None, timeout: END_TIMEOUT };
        stop::run(&flags).err().map(|error| error.to_string())
    };
    if let Some(surprise) = surprise.filter(|_| !was_told(requeue)) {
        say(&surprise); // one that has drained has ended by itself
    }
    let _ended = wait_until(END_TIMEOUT, || matches!(mpirun.try_wait(), Ok(Some(_)) | Err(_)));
    if given.is_none() && (!died || was_told(requeue)) {
        directory.remove()?;
    }
    status
}

/// The cluster is the MPI job that this process is rank 0 of: the rank runs below it, and the script beside that.
fn as_rank_0(flags: &RunFlags, requeue: Option<&Requeue>) -> Result<ExitStatus, RunError> {
    // The MPI launcher may be killed; what it started on this host is then told by nobody else.
    nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(|error| RunError::Signals(error.into()))?;
    let mut ranks = flags.start.rank.clone();
    let cluster_id = ranks.cluster_id.unwrap_or_else(|| own_cluster_id(&host_name(), std::process::id()));
    let directory = ClusterDirectory::locate(&cluster_id)?;
    ranks.cluster_id = Some(cluster_id);
    let mut command = Command::new(rank_program::locate()?);
    command.args(ranks.to_args()).stdin(Stdio::null());
    end_with_this_program(&mut command);
    let program = PathBuf::from(command.get_program());
    let mut rank = command.spawn().map_err(|source| RankProgramError::Run { program, source })?;
    let connection = match wait_ready(&mut rank, &directory, flags.start.timeout) {
        Ok(connection) => connection,
        Err(error) => {
            end(&mut rank);
            return Err(error);
        }
    };
    let status = run_script(flags, &directory, &connection, &AtomicBool::new(false), requeue);
    if matches!(rank.try_wait(), Ok(None)) {
        let asked = Link::open(&connection).and_then(Link::shutdown);
        if asked.is_err() || !wait_until(END_TIMEOUT, || !matches!(rank.try_wait(), Ok(None))) {
            end(&mut rank);
        }
    } else if !was_told(requeue) {
        say("the cluster ended before the script did");
    }
    status
}

/// Waits for the connection file of the controller below `rank`; an older cluster's may still lie there.
fn wait_ready(rank: &mut Child, directory: &ClusterDirectory, timeout: Duration) -> Result<ConnectionFile, RunError> {
    let own = Process::find(rank.id());
    let mut outcome = None;
    wait_until(timeout, || {
        outcome = match directory.read_connection() {
            Ok(connection) if own.is_some() && controller_of(&connection) == own => Some(Ok(connection)),
            Ok(_) | Err(DirectoryError::NoCluster { .. }) => match rank.try_wait() {
                Ok(Some(status)) => Some(Err(RunError::Ended(status))),
                _ => None,
            },
            Err(error) => Some(Err(error.into())),
        };
        outcome.is_some()
    });
    outcome.unwrap_or(Err(RunError::TooSlow(timeout.as_secs_f64())))
}

/// The process that the controller of a connection file was forked from.
fn controller_of(connection: &ConnectionFile) -> Option<Process> {
    match Controller::find(connection) {
        Controller::Here(controller) => controller.parent(),
        Controller::Gone | Controller::Elsewhere => None,
    }
}

/// Runs the script to its end. What it is told by signals, it is told; a Ctrl-C at a terminal reaches it by itself.
fn run_script(
    flags: &RunFlags,
    directory: &ClusterDirectory,
    connection: &ConnectionFile,
    interrupted: &AtomicBool,
    requeue: Option<&Requeue>,
) -> Result<ExitStatus, RunError> {
    let python = python(flags)?;
    let mut signals = Signals::new(FORWARDED.map(|signal| signal as i32)).map_err(RunError::Signals)?;
    if interrupted.load(Ordering::Relaxed) {
        return Err(StartError::Interrupted.into());
    }
    if was_told(requeue) {
        return Ok(ExitStatus::from_raw(Signal::SIGTERM as i32)); // as if it had been ended at once
    }
    let mut command = Command::new(&python);
    command
        .args(&flags.script)
        .env("PXCLUSTER_CLUSTER_ID", &connection.cluster_id)
        .env("PXCLUSTER_DIR", directory.base());
    without_manager(&mut command);
    end_with_this_program(&mut command);
    let program = python.to_string_lossy().into_owned();
    let mut script = command.spawn().map_err(|source| RunError::Python { program: program.clone(), source })?;
    let (handle, pid) = (signals.handle(), Pid::from_raw(script.id().cast_signed()));
    let (running, ended) = mpsc::channel::<()>();
    let mut ended = Some(ended);
    thread::scope(|threads| {
        threads.spawn(move || {
            let at_terminal = io::stdin().is_terminal();
            for number in signals.forever() {
                match (Signal::try_from(number), requeue) {
                    (Ok(signal), Some(requeue)) if Requeue::is_told_by(signal) => {
                        // Slurm sends SIGTERM twice, and once more after a warning.
                        if let Some(ended) = ended.take() {
                            threads.spawn(move || requeue.end(signal, connection, pid, &ended));
                        }
                    }
                    (Ok(signal), _) if !(at_terminal && signal == Signal::SIGINT) => {
                        let _ended_already = kill(pid, signal);
                    }
                    _ => {}
                }
            }
        });
        let status = script.wait().map_err(|source| RunError::Python { program, source });
        drop(running);
        handle.close();
        status
    })
}

fn was_told(requeue: Option<&Requeue>) -> bool {
    requeue.is_some_and(Requeue::was_told)
}

/// The Python that the script is for: the chosen one, else that of the engines.
fn python(flags: &RunFlags) -> Result<OsString, RunError> {
    let set = std::env::var_os("PXCLUSTER_PYTHON").filter(|path| !path.is_empty());
    if let Some(chosen) = flags.start.rank.python.clone().map(PathBuf::into_os_string).or(set) {
        return Ok(chosen);
    }
    let python = rank_program::describe(&rank_program::locate()?)?.python;
    Ok(python.map_or_else(|| OsStr::new("python3").to_owned(), PathBuf::into_os_string))
}

/// A child that gets SIGTERM when this program is gone, `kill -9` included.
fn end_with_this_program(command: &mut Command) {
    #[expect(unsafe_code, reason = "one system call that allocates nothing, as code after fork() must be")]
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGTERM).map_err(io::Error::from));
    }
}

fn end(child: &mut Child) {
    if let Some(process) = Process::find(child.id()) {
        process.signal(Signal::SIGTERM);
        if !wait_until(END_TIMEOUT, || !process.is_alive()) {
            process.signal(Signal::SIGKILL);
        }
    }
    let _ = child.wait();
}

/// A name that no other cluster of this user has.
fn own_cluster_id(host: &str, pid: u32) -> String {
    let host: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("run-{host}-{pid}")
}

/// As a shell has it: 128 and the number of the signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_its_own_has_a_name_that_is_one() {
        let name = own_cluster_id("node-17.example.org", 42);
        assert_eq!(name, "run-node-17-example-org-42");
        assert!(pxcluster_protocol::connection::parse_cluster_id(&name).is_ok());
    }
}
