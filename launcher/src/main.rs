//! `pxcluster`: becomes an MPI rank, or starts, asks and stops a cluster.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use pxcluster_launcher::cli::{Cli, Command, is_command};
use pxcluster_launcher::{
    doctor, env, list, logs, machine, proxy, rank_program, run as run_script, start, status, stop, submit, top,
};

/// Exit code for a command line that makes no sense, as clap's.
const USAGE: u8 = 2;

const NOTHING_TO_DO: &str = "not started by mpirun or srun, and no command given: start a cluster with \
    `pxcluster start -n 4` or `mpirun -n 5 pxcluster`, or see `pxcluster --help`";

fn main() -> ExitCode {
    let code = run().unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "pxcluster: {error:#}");
        ExitCode::FAILURE
    });
    let _ = std::io::stdout().flush();
    code
}

fn run() -> Result<ExitCode> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if !args.first().is_some_and(is_command) && env::is_rank(machine::variables())? {
        return Err(rank_program::exec(&args)).context("cannot become an MPI rank");
    }
    let report = match Cli::parse().command {
        Some(Command::Start(flags)) => start::run(&flags)?,
        Some(Command::Run(flags)) => return Ok(run_script::run(&flags)?),
        Some(Command::Status(flags)) => status::run(&flags)?,
        Some(Command::Top(flags)) => return Ok(top::run(&flags)?),
        Some(Command::Submit(flags)) => submit::run(&flags)?,
        Some(Command::List(flags)) => list::run(&flags)?,
        Some(Command::Logs(flags)) => {
            logs::run(&flags, &mut std::io::stdout())?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Proxy(flags)) => {
            proxy::run(&flags)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Stop(flags)) => stop::run(&flags)?,
        Some(Command::Doctor(flags)) => return doctor::run(&flags).context("cannot write to standard output"),
        None => {
            writeln!(std::io::stderr(), "pxcluster: {NOTHING_TO_DO}")?;
            return Ok(ExitCode::from(USAGE));
        }
    };
    writeln!(std::io::stdout(), "{report}").context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}
