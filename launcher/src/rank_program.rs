//! The program `pxcluster-rank`: where it is, what it says of itself, and how to become it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;

use crate::plan::Flavour;

const NAME: &str = "pxcluster-rank";

/// Makes a rank program print its [`Description`] and end; it does not start MPI.
pub const DESCRIBE: &str = "--describe";

/// Names another rank program, for tests and for installations that keep one for each MPI.
const VARIABLE: &str = "PXCLUSTER_RANK_PROGRAM";

/// What the rank program says of the MPI it was built with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Description {
    /// Whose MPI it is.
    pub mpi: Mpi,
    /// Its name and version, for people.
    pub library: String,
    /// The mpirun that belongs to it.
    pub mpirun: Option<PathBuf>,
    /// The interpreter of engines, when none is chosen.
    #[serde(default)]
    pub python: Option<PathBuf>,
}

impl Description {
    /// Whose flags its launchers take.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        if self.mpi == Mpi::Mpich { Flavour::Mpich } else { Flavour::OpenMpi }
    }
}

/// Whose MPI it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mpi {
    /// Open MPI.
    #[serde(rename = "openmpi")]
    OpenMpi,
    /// MPICH.
    Mpich,
    /// None of these; nothing is assumed of it.
    #[serde(other)]
    Other,
}

/// Why there is no rank program to run.
#[derive(Debug, thiserror::Error)]
pub enum RankProgramError {
    /// It is not installed.
    #[error("{} does not exist; install all of pxcluster with `pip install .`, or set {VARIABLE}", .0.display())]
    Missing(PathBuf),
    /// This program does not know where it is itself.
    #[error("cannot find the directory of this program ({0}); set {VARIABLE}")]
    NoDirectory(io::Error),
    /// The system does not run it.
    #[error("cannot run {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It runs and fails, most often because this host lacks its MPI.
    #[error(
        "{} does not work on this host: {reason}; load the MPI it was built with (`module load …`), or build \
         pxcluster again with the one that is here", program.display()
    )]
    Broken {
        /// The program.
        program: PathBuf,
        /// Its last line.
        reason: String,
    },
}

/// The rank program: `PXCLUSTER_RANK_PROGRAM`, or the one beside this program once symbolic links are resolved.
pub fn locate() -> Result<PathBuf, RankProgramError> {
    let program = match std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()
            .and_then(|own| own.canonicalize())
            .map_err(RankProgramError::NoDirectory)?
            .with_file_name(NAME),
    };
    if program.exists() { Ok(program) } else { Err(RankProgramError::Missing(program)) }
}

/// Becomes the rank program, with the same process id, environment and open files. Returns only the reason why
/// this failed.
pub fn exec(args: &[OsString]) -> RankProgramError {
    match locate() {
        Ok(program) => {
            let source = Command::new(&program).args(args).exec();
            RankProgramError::Run { program, source }
        }
        Err(error) => error,
    }
}

/// Asks a rank program which MPI it was built with.
pub fn describe(program: &Path) -> Result<Description, RankProgramError> {
    let output = Command::new(program)
        .arg(DESCRIBE)
        .output()
        .map_err(|source| RankProgramError::Run { program: program.to_owned(), source })?;
    read_description(program, &output)
}

/// Reads what a rank program has answered to [`DESCRIBE`].
pub fn read_description(program: &Path, output: &Output) -> Result<Description, RankProgramError> {
    let broken = |reason| RankProgramError::Broken { program: program.to_owned(), reason };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        return Err(broken(last.map_or_else(|| output.status.to_string(), |line| line.trim().to_owned())));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| broken(format!("`--describe` printed no JSON ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_of_every_mpi_are_read() {
        let read = |text: &str| serde_json::from_str::<Description>(text).unwrap();
        let open_mpi = read(r#"{"mpi":"openmpi","library":"Open MPI v4.1.4","mpicc":"/c","mpirun":"/r"}"#);
        assert_eq!((open_mpi.mpi, open_mpi.mpirun), (Mpi::OpenMpi, Some("/r".into())));
        assert_eq!(read(r#"{"mpi":"mpich","library":"MPICH 4.0.2","mpirun":null}"#).mpi, Mpi::Mpich);
        assert_eq!(read(r#"{"mpi":"other","library":"?"}"#).mpi, Mpi::Other);
    }
}
