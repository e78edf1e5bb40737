//! `--describe`: which MPI this program was built with, and whose Python it would embed, for the launcher.

use crate::python;
use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

#[derive(Serialize)]
struct Description {
    mpi: &'static str,
    library: String,
    mpicc: &'static str,
    mpirun: &'static str,
    python: String,
}

/// Prints the description as JSON. MPI is not started.
pub(crate) fn print() -> ExitCode {
    let library = pxcluster_transport::mpi::library_version();
    let mpi = match library.to_ascii_lowercase() {
        name if name.contains("open mpi") => "openmpi",
        name if name.contains("mpich") => "mpich",
        _ => "other",
    };
    let python = python::active().to_string_lossy().into_owned();
    let (mpicc, mpirun) = (env!("PXCLUSTER_MPICC"), env!("PXCLUSTER_MPIRUN"));
    let description = Description { mpi, library, mpicc, mpirun, python };
    let printed = serde_json::to_string(&description)
        .map_err(std::io::Error::from)
        .and_then(|text| writeln!(std::io::stdout(), "{text}"));
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
