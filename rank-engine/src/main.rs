//! The rank program. `mpirun -n 5 pxcluster` ends up here five times: rank 0 runs the controller, every other rank
//! embeds a Python engine.

mod cli;
mod controller;
mod describe;
mod engine;
mod environment;
mod guard;
mod keeper;
mod nanny;
mod placement;
mod python;

use anyhow::{Context, bail};
use clap::Parser;
use pxcluster_protocol::Rank;
use pxcluster_transport::mpi::World;
use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    let flags = cli::Flags::parse();
    if flags.describe {
        return describe::print();
    }
    run(&flags).unwrap_or_else(|error| fail(&error))
}

fn run(flags: &cli::Flags) -> anyhow::Result<ExitCode> {
    let place = environment::place(std::env::vars())?;
    guard::log_and_abort_on_panic(place, flags.log);
    if place.size == Some(1) {
        bail!("one rank leaves no engine: start at least two, as in `mpirun -n 5 pxcluster` for four engines");
    }
    let interpreter = if place.rank == Rank::CONTROLLER {
        guard::clean_up_after_a_crash(&flags.cluster_id)?;
        Some(python::Probe::spawn(flags.python.as_deref()))
    } else {
        placement::take_share(place, flags);
        None
    };
    let nanny = nanny::begin(place, flags)?;
    let multiple = std::env::var("PXCLUSTER_MPI_THREADS").is_ok_and(|level| level == "serialized");
    let world = World::start(!multiple).context("MPI does not start")?;
    place.check(world.size())?;
    let result = match interpreter {
        Some(probe) => controller::run(&world, place, flags, probe),
        None => engine::run(&world, nanny),
    };
    // Said before the others are let go: the launcher ends every rank when one has failed.
    let code = result.unwrap_or_else(|error| fail(&error));
    guard::exit_if_mpi_does_not_end();
    world.finish();
    Ok(code)
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let _closed_stderr = writeln!(std::io::stderr(), "pxcluster: {error:#}");
    ExitCode::FAILURE
}
