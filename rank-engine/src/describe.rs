//! `--describe`: which MPI this program was built with, for the launcher.

use serde::Serialize;
use std::io::Write;
use std::process::ExitCode;

#[derive(Serialize)]
struct Description {
    mpi: &'static str,
    library: String,
    mpicc: &'static str,
    mpirun: &'static str,
}

/// Prints the description as JSON. MPI is not started.
pub(crate) fn print() -> ExitCode {
    let library = pxcluster_transport::mpi::library_version();
    let mpi = match library.to_ascii_lowercase() {
        name if name.contains("open mpi") => "openmpi",
        name if name.contains("mpich") => "mpich",
        _ => "other",
    };
    let description = Description { mpi, library, mpicc: env!("PXCLUSTER_MPICC"), mpirun: env!("PXCLUSTER_MPIRUN") };
    let printed = serde_json::to_string(&description)
        .map_err(std::io::Error::from)
        .and_then(|text| writeln!(std::io::stdout(), "{text}"));
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
