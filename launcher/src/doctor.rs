//! `pxcluster doctor`: looks at everything that a cluster needs here, one line for each thing and its mend.
//!
//! Nothing is started that stays, nothing is changed, and nothing can hang: a program that is asked, a name that is
//! looked up and a file system that is read have [`ask`]'s time-out.
//!
//! | module | what it looks at |
//! |---|---|
//! | `rank` | `pxcluster-rank` |
//! | `launch` | mpirun: whose it is, whether it starts processes, others on `PATH` |
//! | `python` | the interpreter of the engines and what is installed there |
//! | `directory` | `PXCLUSTER_DIR` and what clusters have left in it |
//! | `memory` | `/dev/shm`; `mounts`: the file system of a path |
//! | `limits` | ulimits |
//! | `network` | addresses and the host's name |
//! | `job` | the batch job that this shell is in |
//! | `slurm` | what srun offers |
//!
//! In each of them gathering is apart from judging: a judgement takes facts and gives back a [`Finding`].

pub(crate) mod ask;
mod directory;
mod finding;
mod job;
mod launch;
mod limits;
mod memory;
mod mounts;
mod network;
mod python;
mod rank;
mod slurm;

pub use finding::{Finding, Verdict};

use std::io::{self, Write};
use std::process::ExitCode;

use allocation::Allocation;

use crate::cli::DoctorFlags;
use crate::machine::{cores, variables};
use crate::plan::Room;
use ask::Ask;

/// The findings so far. Text is written line by line, because some checks take seconds.
struct Chart<W> {
    out: W,
    json: bool,
    findings: Vec<Finding>,
}

/// Looks at everything and prints what was found; the exit code is 1 if there is a problem.
///
/// # Errors
/// Standard output cannot be written to.
pub fn run(flags: &DoctorFlags) -> io::Result<ExitCode> {
    let mut chart = Chart { out: io::stdout().lock(), json: flags.json, findings: Vec::new() };
    examine(flags, &mut chart)?;
    chart.finish()
}

fn examine(flags: &DoctorFlags, chart: &mut Chart<impl Write>) -> io::Result<()> {
    let ask = Ask::new(flags.timeout);
    // A server that does not answer is told of with the directory.
    let job = ask.within(|| Allocation::find(variables(), |path| std::fs::read_to_string(path))).unwrap_or(Ok(None));
    let allocation = job.as_ref().ok().and_then(Option::as_ref);
    let room = Room::of_job(allocation, cores);

    let rank = rank::Rank::find(&ask);
    chart.note([rank.finding()])?;
    let mpirun = launch::Mpirun::find(&ask, flags.mpirun.as_deref(), rank.description());
    chart.note([mpirun.finding()])?;
    chart.note(mpirun.others(&ask))?;
    chart.note(mpirun.start_two(&ask, rank.program(), room))?;
    chart.note(python::examine(&ask, flags.python.as_deref(), rank.description()))?;
    chart.note(directory::examine(&ask))?;
    chart.note(memory::examine(&ask))?;
    chart.note(limits::examine(allocation))?;
    chart.note(network::examine(&ask))?;
    chart.note(job::judge(&job))?;
    chart.note([slurm::examine(&ask, job::is_slurms(&job), rank.mpi())])
}

impl<W: Write> Chart<W> {
    fn note(&mut self, findings: impl IntoIterator<Item = Finding>) -> io::Result<()> {
        for finding in findings {
            if !self.json {
                writeln!(self.out, "{finding}")?;
                self.out.flush()?;
            }
            self.findings.push(finding);
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<ExitCode> {
        if self.json {
            writeln!(self.out, "{}", serde_json::to_string_pretty(&self.findings)?)?;
        } else {
            writeln!(self.out, "{}", finding::summary(&self.findings))?;
        }
        let sick = self.findings.iter().any(|finding| finding.verdict == Verdict::Problem);
        Ok(if sick { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
