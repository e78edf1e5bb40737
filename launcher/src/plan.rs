//! From engines, machine and MPI to the command line of mpirun. Pure.

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
            (Starter::Srun { cpus_per_task }, flavour) => line.extend(srun_flags(flavour, *cpus_per_task)),
            (Starter::Mpirun(_), Flavour::OpenMpi) => line.extend(self.open_mpi_flags(processes)),
            (Starter::Mpirun(_), Flavour::Mpich) => line.extend(self.mpich_flags()),
        }
        line.extend(["-n".into(), processes.to_string().into(), self.rank_program.clone().into()]);
        line.extend(self.rank_args.iter().cloned());
        Ok(line)
    }

    fn open_mpi_flags(&self, processes: usize) -> Vec<OsString> {
        let mut flags: Vec<OsString> = Vec::new();
        if self.as_root {
            flags.push("--allow-run-as-root".into());
        }
        if processes > self.room.slots {
            // Without the second flag two ranks may be bound to one core while another is idle.
            flags.extend(["--oversubscribe".into(), "--bind-to".into(), "none".into()]);
        }
        if let Some(hostfile) = &self.hostfile {
            flags.extend(["--hostfile".into(), hostfile.into()]);
            for name in &self.forward {
                flags.extend(["-x".into(), name.into()]);
            }
        }
        flags
    }

    /// Hydra binds nothing, refuses nobody, and forwards the whole environment by itself.
    fn mpich_flags(&self) -> Vec<OsString> {
        self.hostfile.as_ref().map_or_else(Vec::new, |hostfile| vec!["-f".into(), hostfile.into()])
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
mod tests {
    use super::*;

    fn launch(flavour: Flavour, engines: u32) -> Launch {
        Launch {
            flavour,
            starter: Starter::Mpirun("/usr/bin/mpirun".into()),
            rank_program: "/v/bin/pxcluster-rank".into(),
            rank_args: vec!["--cluster-id".into(), "default".into()],
            engines,
            room: Room { slots: 4, max_slots: None },
            as_root: false,
            hostfile: None,
            forward: vec!["PXCLUSTER_DIR".into()],
        }
    }

    fn line(launch: &Launch) -> String {
        to_shell(&launch.command_line().unwrap())
    }

    #[test]
    fn a_machine_with_room_needs_no_flags() {
        let expected = "/usr/bin/mpirun -n 4 /v/bin/pxcluster-rank --cluster-id default";
        assert_eq!(line(&launch(Flavour::OpenMpi, 3)), expected);
        assert_eq!(line(&launch(Flavour::Mpich, 3)), expected);
    }

    #[test]
    fn open_mpi_is_told_of_root_and_of_too_few_cores() {
        let launch = Launch { as_root: true, ..launch(Flavour::OpenMpi, 4) };
        assert_eq!(
            line(&launch),
            "/usr/bin/mpirun --allow-run-as-root --oversubscribe --bind-to none -n 5 /v/bin/pxcluster-rank \
             --cluster-id default"
        );
    }

    #[test]
    fn mpich_needs_to_be_told_nothing() {
        let launch = Launch { as_root: true, ..launch(Flavour::Mpich, 8) };
        assert_eq!(line(&launch), "/usr/bin/mpirun -n 9 /v/bin/pxcluster-rank --cluster-id default");
    }

    #[test]
    fn each_has_its_own_flag_for_hosts() {
        let hosts = |flavour| line(&Launch { hostfile: Some("my hosts".into()), ..launch(flavour, 3) });
        assert!(hosts(Flavour::OpenMpi).contains(" --hostfile 'my hosts' -x PXCLUSTER_DIR -n 4 "));
        assert!(hosts(Flavour::Mpich).contains(" -f 'my hosts' -n 4 "));
    }

    #[test]
    fn srun_is_told_the_plugin_and_the_cpus() {
        let srun = |cpus_per_task| Starter::Srun { cpus_per_task };
        let open_mpi = Launch { starter: srun(Some(2)), as_root: true, ..launch(Flavour::OpenMpi, 8) };
        let expected =
            "srun --mpi=pmix --kill-on-bad-exit=0 --cpus-per-task=2 -n 9 /v/bin/pxcluster-rank --cluster-id default";
        assert_eq!(line(&open_mpi), expected);
        let mpich = Launch { starter: srun(None), ..launch(Flavour::Mpich, 1) };
        assert!(line(&mpich).starts_with("srun --mpi=pmi2 --kill-on-bad-exit=0 -n 2 "));
        let hosts = Launch { hostfile: Some("hosts".into()), ..mpich };
        assert_eq!(hosts.command_line(), Err(PlanError::HostfileForSrun));
    }

    #[test]
    fn max_slots_are_respected() {
        let full = Launch { room: Room { slots: 2, max_slots: Some(4) }, ..launch(Flavour::OpenMpi, 4) };
        assert_eq!(
            full.command_line().unwrap_err().to_string(),
            "4 engines and the controller are 5 processes, more than the 4 that max_slots allows in the hostfile; \
             ask for fewer engines or raise it"
        );
        assert!(Launch { engines: 3, ..full }.command_line().is_ok());
    }

    #[test]
    fn a_jobs_slots_count_where_its_hosts_are_known() {
        let room = |vars: &[(&str, &str)]| {
            let read_file = |_: &std::path::Path| Ok("h1 2 q UNDEFINED\nh2 3 q UNDEFINED\n".to_owned());
            let job = allocation::Allocation::find(vars.iter().copied(), read_file).unwrap();
            Room::of_job(job.as_ref(), || 8)
        };
        let slots = |slots| Room { slots, max_slots: None };
        assert_eq!(room(&[]), slots(8));
        assert_eq!(room(&[("JOB_ID", "1"), ("PE_HOSTFILE", "/pe")]), slots(5));
        assert_eq!(room(&[("LSB_JOBID", "1"), ("LSB_MCPU_HOSTS", "h1 16 h2 16")]), slots(32));
        assert_eq!(room(&[("FLUX_JOB_ID", "f1"), ("FLUX_JOB_NNODES", "4"), ("FLUX_JOB_SIZE", "4")]), slots(8));
    }

    #[test]
    fn one_process_of_the_room_is_the_controller() {
        for (slots, engines) in [(0, 1), (1, 1), (2, 1), (64, 63)] {
            assert_eq!(Room { slots, max_slots: None }.default_engines(), engines);
        }
    }
}
