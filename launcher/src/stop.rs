//! `pxcluster stop`: asks the controller to end the cluster, and sees to it that it does.

use std::time::Duration;

use nix::sys::signal::Signal;
use pxcluster_protocol::connection::ConnectionFile;

use crate::cli::StopFlags;
use crate::directory::{ClusterDirectory, Controller, DirectoryError, shown};
use crate::link::{Link, LinkError};
use crate::machine::{Process, wait_until};

/// Programs between a shell and rank 0: they end with the cluster.
const MPIRUN_NAMES: [&str; 13] = [
    "mpirun",
    "mpiexec",
    "mpirun.openmpi", // Debian's names
    "mpiexec.openmpi",
    "mpirun.mpich",
    "mpiexec.mpich",
    "orterun",
    "prterun",
    "orted",
    "prted",
    "mpiexec.hydra",
    "hydra_pmi_proxy",
    "pxcluster-rank",
];

/// How long a process may take to heed a signal.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the cluster is not stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// There is no such cluster.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The controller had ended without removing its connection file.
    #[error("cluster '{cluster_id}' was not running any more; its connection file {path} is removed")]
    Gone {
        /// The cluster asked for.
        cluster_id: String,
        /// The file that was left.
        path: String,
    },
    /// The controller is on another host and does not answer.
    #[error("cluster '{cluster_id}' runs on host {host} and was not stopped: {source}; try `pxcluster stop` there")]
    Unheard {
        /// The cluster asked for.
        cluster_id: String,
        /// The controller's host.
        host: String,
        /// Why it did not hear.
        source: LinkError,
    },
    /// Its processes are still there.
    #[error("cluster '{cluster_id}' on host {host} was asked to stop but still runs after {seconds} seconds")]
    StillRunning {
        /// The cluster asked for.
        cluster_id: String,
        /// The controller's host.
        host: String,
        /// How long it had.
        seconds: f64,
    },
}

/// Stops the cluster, and gives back what to print.
pub fn run(flags: &StopFlags) -> Result<String, StopError> {
    let directory = ClusterDirectory::locate(&flags.cluster_id)?;
    let connection = directory.read_connection()?;
    let how = match Controller::find(&connection) {
        Controller::Gone => {
            directory.remove_connection()?;
            let path = shown(&directory.connection_file());
            return Err(StopError::Gone { cluster_id: flags.cluster_id.clone(), path });
        }
        Controller::Here(controller) => stop_here(flags, &connection, controller)?,
        Controller::Elsewhere => stop_elsewhere(flags, &connection, &directory)?,
    };
    // A new cluster of the same name may already have written its own.
    if directory.read_connection().is_ok_and(|left| left.key == connection.key) {
        directory.remove_connection()?;
    }
    Ok(format!("pxcluster: cluster '{}' is stopped{how}", flags.cluster_id))
}

/// On the controller's own host the processes themselves are watched, and killed if need be.
fn stop_here(flags: &StopFlags, connection: &ConnectionFile, controller: Process) -> Result<&'static str, StopError> {
    let processes = with_mpirun(controller);
    let gone = || !processes.iter().any(Process::is_alive);
    // A controller that does not listen is stopped by signals.
    let asked = ask(flags, connection);
    let patience = if asked.is_ok() { patience(flags) } else { Duration::ZERO };
    if wait_until(patience, gone) {
        return Ok("");
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        for process in &processes {
            process.signal(signal);
        }
        if wait_until(SIGNAL_TIMEOUT, gone) {
            return Ok(" (it did not end by itself and was killed)");
        }
    }
    Err(still_running(flags, connection, patience + 2 * SIGNAL_TIMEOUT))
}

/// From another host only the connection file shows that the cluster has ended.
fn stop_elsewhere(
    flags: &StopFlags,
    connection: &ConnectionFile,
    directory: &ClusterDirectory,
) -> Result<&'static str, StopError> {
    ask(flags, connection).map_err(|source| StopError::Unheard {
        cluster_id: flags.cluster_id.clone(),
        host: connection.host.clone(),
        source,
    })?;
    let gone = || directory.read_connection().map_or(true, |now| now.key != connection.key);
    if wait_until(patience(flags), gone) {
        return Ok("");
    }
    Err(still_running(flags, connection, patience(flags)))
}

fn ask(flags: &StopFlags, connection: &ConnectionFile) -> Result<(), LinkError> {
    let link = Link::open(connection)?;
    match flags.drain {
        None => link.shutdown(),
        grace => link.drain(grace),
    }
}

/// How long the cluster has to end by itself.
fn patience(flags: &StopFlags) -> Duration {
    flags.timeout + flags.drain.unwrap_or_default()
}

fn still_running(flags: &StopFlags, connection: &ConnectionFile, after: Duration) -> StopError {
    StopError::StillRunning {
        cluster_id: flags.cluster_id.clone(),
        host: connection.host.clone(),
        seconds: after.as_secs_f64(),
    }
}

/// The controller and, above it, the programs of mpirun that started it.
fn with_mpirun(controller: Process) -> Vec<Process> {
    std::iter::successors(Some(controller), Process::parent)
        .enumerate()
        .take_while(|(index, process)| *index == 0 || MPIRUN_NAMES.contains(&process.name()))
        .map(|(_, process)| process)
        .collect()
}
