//! What a process can know of the job that a batch system runs it in: Slurm, PBS, LSF, Grid Engine, Flux, Cobalt.
//!
//! This crate never touches the environment, a file, a clock or a name service: it takes name and value pairs and
//! a function that reads a file, and gives back an [`Allocation`], or one error that names the variable, or file
//! and line, and what was expected there.
//!
//! | system | a job is known by | hosts and slots | from |
//! |---|---|---|---|
//! | Slurm | `SLURM_JOB_ID` | `SLURM_*` | crate `slurm-env` |
//! | PBS Professional, `OpenPBS`, Torque | `PBS_JOBID` | `PBS_NODEFILE`: a line for each slot | qsub(1) |
//! | LSF | `LSB_JOBID` | `LSB_MCPU_HOSTS`: `h1 2 h2 4`; `LSB_DJOB_HOSTFILE`, `LSB_HOSTS`: a name for each slot | LSF reference, "Environment variables" |
//! | Grid Engine | `JOB_ID` beside `PE_HOSTFILE` or `SGE_TASK_ID` | `PE_HOSTFILE`: `host slots queue range` | `sge_pe(5)` |
//! | Cobalt | `COBALT_JOBID` beside `COBALT_NODEFILE` | `COBALT_NODEFILE`: a host a line | qsub(1) |
//! | Flux | `FLUX_JOB_ID`, or `FLUX_URI` alone | not in the environment | flux-environment(7) |
//!
//! ```
//! let vars = [("PBS_JOBID", "71.server"), ("PBS_NODEFILE", "/aux/71")];
//! let nodefile = |_: &std::path::Path| Ok("n1\nn1\nn2\n".to_owned());
//! let allocation = allocation::Allocation::find(vars, nodefile)?.expect("inside a job");
//! assert_eq!(allocation.system, allocation::BatchSystem::Pbs);
//! assert_eq!(allocation.slots(), Some(3));
//! assert_eq!(allocation.hosts[0].name, "n1");
//! # Ok::<(), allocation::AllocationError>(())
//! ```

mod error;
mod find;
mod grammars;
mod job;

pub use error::AllocationError;

use std::fmt;
use std::time::Duration;

/// Who runs the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchSystem {
    /// Slurm.
    Slurm,
    /// PBS Professional, `OpenPBS` or Torque.
    Pbs,
    /// IBM Spectrum LSF.
    Lsf,
    /// Grid Engine: Sun's, Univa's, Altair's or one of the free ones.
    Sge,
    /// Flux.
    Flux,
    /// Cobalt.
    Cobalt,
}

impl fmt::Display for BatchSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Slurm => "Slurm",
            Self::Pbs => "PBS",
            Self::Lsf => "LSF",
            Self::Sge => "Grid Engine",
            Self::Flux => "Flux",
            Self::Cobalt => "Cobalt",
        })
    }
}

/// A job's hosts, as far as its variables and files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// Who runs the job.
    pub system: BatchSystem,
    /// The job's id, with its index in a job array; the shell of a Flux instance is not told.
    pub job_id: Option<String>,
    /// The hosts, in the batch system's order, each once. Empty under Flux, which names none.
    pub hosts: Vec<Host>,
    /// How many hosts there are, where that is known.
    pub host_count: Option<usize>,
    /// When the time limit ends the job, in Unix seconds, where that is known.
    pub end_time: Option<u64>,
}

/// One host of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name, as the batch system writes it.
    pub name: String,
    /// Processes that it takes.
    pub slots: u32,
    /// CPUs that the job has there, where that is known.
    pub cpus: Option<u32>,
    /// GPUs that the job has there, where that is known.
    pub gpus: Option<u32>,
}

impl Allocation {
    /// Processes that all hosts take; nothing where the hosts are not known.
    #[must_use]
    pub fn slots(&self) -> Option<usize> {
        (!self.hosts.is_empty()).then(|| self.hosts.iter().map(|host| host.slots as usize).sum())
    }

    /// How long the job may still run at the moment `now`, in Unix seconds; nothing when the end is not known.
    #[must_use]
    pub fn time_left(&self, now: u64) -> Option<Duration> {
        Some(Duration::from_secs(self.end_time?.saturating_sub(now)))
    }
}
