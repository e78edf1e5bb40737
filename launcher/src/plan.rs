//! From engines, machine and MPI to the command line of mpirun or srun. Pure.
//!
//! mpirun is told to bind nothing: each engine takes its share of the cores that it finds itself on, whoever has
//! started it (`placement.rs` of the rank program).

mod binding;
mod spread;

pub use binding::is_chosen as binding_is_chosen;
pub use spread::{Node, Spread};

use std::ffi::OsString;
use std::path::PathBuf;

/// Whose mpirun it is; this decides its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Open MPI 4 or 5.
    OpenMpi,
    /// MPICH and what descends from it.
    Mpich,
}

impl std::fmt::Display for Flavour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OpenMpi => "Open MPI",
            Self::Mpich => "MPICH",
        })
    }
}

impl From<Flavour> for hostfile::Grammar {
    fn from(flavour: Flavour) -> Self {
        match flavour {
            Flavour::OpenMpi => Self::OpenMpi,
            Flavour::Mpich => Self::Mpich,
        }
    }
}

/// How many processes fit, and who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Processes that fit without sharing cores.
    pub slots: usize,
    /// Processes that are allowed at the very most.
    pub max_slots: Option<usize>,
}

impl Room {
    /// The room in a batch job, or on this machine, which has `cores`. mpirun learns the hosts from the batch
    /// system; where that names none, as Flux does not, mpirun stays on this machine.
    pub fn of_job(job: Option<&allocation::Allocation>, cores: impl FnOnce() -> usize) -> Self {
        let slots = job.and_then(allocation::Allocation::slots).unwrap_or_else(cores);
        Self { slots, max_slots: None }
    }

    /// The number of engines when the user gives none: one process is the controller.
    #[must_use]
    pub fn default_engines(self) -> u32 {
        u32::try_from(self.slots).unwrap_or(u32::MAX).saturating_sub(1).max(1)
    }
}

/// What starts the ranks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Starter {
    /// This mpirun.
    Mpirun(PathBuf),
    /// Slurm's srun.
    Srun {
        /// CPUs of each task, which srun does not take over from the job by itself.
        cpus_per_task: Option<u32>,
    },
}

/// Everything that the command line depends on.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Whose MPI it is.
    pub flavour: Flavour,
    /// What starts the ranks.
    pub starter: Starter,
    /// The program that each rank runs.
    pub rank_program: PathBuf,
    /// Its arguments.
    pub rank_args: Vec<OsString>,
    /// Number of engines; the controller comes on top.
    pub engines: u32,
    /// How many processes fit.
    pub room: Room,
    /// Whether the user is root, whom Open MPI refuses unless told.
    pub as_root: bool,
    /// Hosts to start on.
    pub hostfile: Option<PathBuf>,
    /// How many processes each node gets, if that is not left to mpirun.
    pub spread: Option<Spread>,
    /// Flags for mpirun or srun that the user adds; they come last, and most of them then win.
    pub more: Vec<String>,
    /// Whether these, or variables, choose how ranks are bound.
    pub binding_is_chosen: bool,
    /// Names of variables that ranks on other hosts need.
    pub forward: Vec<String>,
}

/// Why there is no command line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The hostfile says how many processes its hosts take at most, and these are more.
    #[error(
        "{engines} engines and the controller are {} processes, more than the {max_slots} that max_slots allows \
         in the hostfile; ask for fewer engines or raise it", .engines + 1
    )]
    NoRoom {
        /// Engines asked for.
        engines: u32,
        /// The bound.
        max_slots: usize,
    },
    /// Each host is to have a few engines only.
    #[error(
        "{engines} engines, at most {per_node} on each host, need {needed} hosts, and there is room on {there}: ask for \
         fewer engines, for more hosts, or for more engines on each with --engines-per-node"
    )]
    TooFewNodes {
        /// Engines asked for.
        engines: u64,
        /// The bound.
        per_node: u32,
        /// Hosts that they need.
        needed: u64,
        /// Hosts that are there.
        there: usize,
    },
    /// srun has the hosts of the allocation.
    #[error("srun starts on the hosts of the allocation and reads no hostfile; leave out --hostfile, or srun")]
    HostfileForSrun,
}

impl Launch {
    /// The command line: program first.
    pub fn command_line(&self) -> Result<Vec<OsString>, PlanError> {
        let processes = self.engines as usize + 1;
        if let Some(max_slots) = self.room.max_slots.filter(|&max| processes > max) {
            return Err(PlanError::NoRoom { engines: self.engines, max_slots });
        }
        let mut line: Vec<OsString> = match &self.starter {
            Starter::Mpirun(mpirun) => vec![mpirun.clone().into()],
            Starter::Srun { .. } => vec!["srun".into()],
        };
        match (&self.starter, self.flavour) {
            (Starter::Srun { .. }, _) if self.hostfile.is_some() => return Err(PlanError::HostfileForSrun),
            (Starter::Srun { cpus_per_task }, flavour) => {
                line.extend(srun_flags(flavour, *cpus_per_task));
                line.extend(self.spread.iter().flat_map(Spread::srun_flags).map(OsString::from));
            }
            (Starter::Mpirun(_), Flavour::OpenMpi) => line.extend(self.open_mpi_flags(processes)),
            (Starter::Mpirun(_), Flavour::Mpich) => line.extend(self.mpich_flags()),
        }
        line.extend(self.more.iter().map(OsString::from));
        line.extend(["-n".into(), processes.to_string().into(), self.rank_program.clone().into()]);
        line.extend(self.rank_args.iter().cloned());
        Ok(line)
    }

    fn open_mpi_flags(&self, processes: usize) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        if self.as_root {
            flags.push("--allow-run-as-root".into());
        }
        let hosts = self.spread.as_ref().and_then(Spread::hosts);
        let fits = match &self.spread {
            Some(spread) => spread.fits || self.hostfile.is_some(), // the slots are then those of --host
            None => processes <= self.room.slots,
        };
        if !fits {
            flags.push("--oversubscribe".into());
        }
        if !self.binding_is_chosen {
            flags.extend(["--bind-to".into(), "none".into()]);
        }
        match (hosts, &self.hostfile) {
            (Some(hosts), _) => flags.extend(["--host".into(), hosts.into()]),
            (None, Some(hostfile)) => flags.extend(["--hostfile".into(), hostfile.into()]),
            (None, None) => {}
        }
        for name in self.forward.iter().filter(|_| self.hostfile.is_some()) {
            flags.extend(["-x".into(), name.into()]);
        }
        flags
    }

    /// Hydra binds nothing, refuses nobody, and forwards the whole environment by itself.
    fn mpich_flags(&self) -> Vec<OsString> {
        match (self.spread.as_ref().and_then(Spread::hosts), &self.hostfile) {
            (Some(hosts), _) => vec!["-hosts".into(), hosts.into()],
            (None, Some(hostfile)) => vec!["-f".into(), hostfile.into()],
            (None, None) => Vec::new(),
        }
    }
}

/// An engine's death is not to end the step, whatever the site has set.
fn srun_flags(flavour: Flavour, cpus_per_task: Option<u32>) -> Vec<OsString> {
    let plugin = match flavour {
        Flavour::OpenMpi => "--mpi=pmix",
        Flavour::Mpich => "--mpi=pmi2",
    };
    let mut flags: Vec<OsString> = vec![plugin.into(), "--kill-on-bad-exit=0".into()];
    flags.extend(cpus_per_task.map(|cpus| format!("--cpus-per-task={cpus}").into()));
    flags
}

/// A command line as a person would type it.
#[must_use]
pub fn to_shell(line: &[OsString]) -> String {
    line.iter().map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// A word for a shell, in quotes if it needs them.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;
