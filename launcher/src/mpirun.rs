//! Which mpirun to use, and whose it is.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::plan::Flavour;
use crate::rank_program::{Description, Mpi};

/// Why there is no mpirun to use.
#[derive(Debug, thiserror::Error)]
pub enum MpirunError {
    /// None was named and none is on PATH.
    #[error(
        "there is no mpirun on this host; install one (on Debian `apt install openmpi-bin` or `apt install mpich`), \
         load one (`module load openmpi`), or name it with --mpirun or PXCLUSTER_MPIRUN"
    )]
    Missing,
    /// The one that was named cannot be run.
    #[error("cannot run {} ({reason}); name an mpirun with --mpirun or PXCLUSTER_MPIRUN", mpirun.display())]
    Run {
        /// The program.
        mpirun: PathBuf,
        /// What the system or the program said.
        reason: String,
    },
    /// It is neither Open MPI's nor MPICH's.
    #[error("{} is neither Open MPI's nor MPICH's mpirun: `--version` prints {said:?}", mpirun.display())]
    Unknown {
        /// The program.
        mpirun: PathBuf,
        /// The first line of its version.
        said: String,
    },
    /// It belongs to another MPI than the rank program, so that every process would be rank 0 of 1.
    #[error(
        "{} is {flavour}'s, but this pxcluster was built with {library}; use the mpirun of that MPI (--mpirun or \
         PXCLUSTER_MPIRUN), or install pxcluster again with MPICC set to {flavour}'s mpicc", mpirun.display()
    )]
    OtherMpi {
        /// The program.
        mpirun: PathBuf,
        /// Whose it is.
        flavour: Flavour,
        /// What the rank program was built with.
        library: String,
    },
}

/// The mpirun to use: the user's, else the rank program's own, else the one on `PATH`.
pub fn find(
    wanted: Option<&Path>,
    description: &Description,
    search_path: Option<&OsStr>,
) -> Result<PathBuf, MpirunError> {
    let on_path = |name: &Path| {
        let directories = std::env::split_paths(search_path.unwrap_or_default());
        directories.map(|directory| directory.join(name)).find(|candidate| candidate.is_file())
    };
    match wanted {
        Some(path) if path.components().count() > 1 => Ok(path.to_owned()),
        Some(name) => on_path(name)
            .ok_or_else(|| MpirunError::Run { mpirun: name.to_owned(), reason: "it is not on PATH".to_owned() }),
        None => description
            .mpirun
            .clone()
            .filter(|own| own.is_file())
            .or_else(|| on_path(Path::new("mpirun")))
            .ok_or(MpirunError::Missing),
    }
}

/// Whose mpirun it is, by what it says of its version. Refuses one that cannot start the rank program.
pub fn flavour(mpirun: &Path, description: &Description) -> Result<Flavour, MpirunError> {
    let output = Command::new(mpirun).arg("--version").output();
    let output = output.map_err(|error| MpirunError::Run { mpirun: mpirun.to_owned(), reason: error.to_string() })?;
    read_flavour(mpirun, description, &output)
}

/// Reads what an mpirun has answered to `--version`, as [`flavour`] does.
pub fn read_flavour(mpirun: &Path, description: &Description, output: &Output) -> Result<Flavour, MpirunError> {
    let failed = |reason: String| MpirunError::Run { mpirun: mpirun.to_owned(), reason };
    let said = String::from_utf8_lossy(&output.stdout);
    let Some(flavour) = parse_version(&said) else {
        let said = said.lines().next().unwrap_or_default().to_owned();
        return Err(if output.status.success() {
            MpirunError::Unknown { mpirun: mpirun.to_owned(), said }
        } else {
            failed(format!("`--version` ends with {}", output.status))
        });
    };
    match (description.mpi, flavour) {
        (Mpi::Other, _) | (Mpi::OpenMpi, Flavour::OpenMpi) | (Mpi::Mpich, Flavour::Mpich) => Ok(flavour),
        _ => Err(MpirunError::OtherMpi { mpirun: mpirun.to_owned(), flavour, library: description.library.clone() }),
    }
}

/// Whose mpirun prints this; `None` if it is nobody's that pxcluster knows.
pub(crate) fn parse_version(said: &str) -> Option<Flavour> {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["Open MPI", "OpenRTE", "PRRTE"]) {
        Some(Flavour::OpenMpi)
    } else if has(&["HYDRA", "MPICH", "Intel(R) MPI"]) {
        Some(Flavour::Mpich)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mpirun_says_whose_it_is() {
        for (said, flavour) in [
            ("mpirun (Open MPI) 4.1.4\n\nReport bugs to …", Some(Flavour::OpenMpi)),
            ("mpirun (Open MPI) 5.0.11", Some(Flavour::OpenMpi)),
            ("prterun (PRRTE) 3.0.13", Some(Flavour::OpenMpi)),
            ("HYDRA build details:\n    Version:      4.0.2", Some(Flavour::Mpich)),
            ("Intel(R) MPI Library for Linux* OS, Version 2021.9", Some(Flavour::Mpich)),
            ("mpirun 1.0", None),
        ] {
            assert_eq!(parse_version(said), flavour, "{said}");
        }
    }
}
