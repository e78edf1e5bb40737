//! `pxcluster logs`: what mpirun and the ranks of a cluster have printed, which `pxcluster start` keeps in a file.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::cli::LogsFlags;
use crate::directory::{ClusterDirectory, Controller, DirectoryError, shown};

/// How often a log is looked at.
const INTERVAL: Duration = Duration::from_millis(100);

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "transparent variants; the others have their message")]
pub enum LogsError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(
        "cluster '{cluster_id}' has no log (there is no {path}): only `pxcluster start` keeps one, under mpirun or srun \
         it goes where theirs goes"
    )]
    None { cluster_id: String, path: String },
    #[error("cannot copy {path}: {source}")]
    Io { path: String, source: io::Error },
}

/// Copies the log to `out`, to its present end or, following it, until the cluster has ended.
pub fn run(flags: &LogsFlags, out: &mut impl Write) -> Result<(), LogsError> {
    let directory = ClusterDirectory::locate(&flags.cluster_id)?;
    let path = directory.log_file();
    let failed = |source| LogsError::Io { path: shown(&path), source };
    let mut file = File::open(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LogsError::None { cluster_id: flags.cluster_id.clone(), path: shown(&path) },
        _ => LogsError::Io { path: shown(&path), source },
    })?;
    loop {
        let over = !flags.follow || !may_go_on(&directory, &path); // before the last copy, which then has all
        match io::copy(&mut file, out).and_then(|_bytes| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()), // the reader has enough
            copied => copied.map_err(failed)?,
        }
        if over {
            return Ok(());
        }
        thread::sleep(INTERVAL);
    }
}

/// Whether the log may grow: its cluster runs, or is starting, which holds the log's lock.
fn may_go_on(directory: &ClusterDirectory, log: &Path) -> bool {
    let running = directory.read_connection().is_ok_and(|connection| Controller::find(&connection) != Controller::Gone);
    running || crate::start::is_locked(log)
}
