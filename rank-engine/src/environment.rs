//! Which rank this is, before MPI is started: from the variables that launchers set.

use pxcluster_protocol::Rank;
use std::collections::BTreeMap;

/// Variables of rank and size, by launcher: Open MPI, MPICH's hydra, PMIx, Slurm.
const LAUNCHERS: [(&str, &str); 4] = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
];

/// This process's place in its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Its rank.
    pub(crate) rank: Rank,
    /// Number of ranks, if the launcher says it.
    pub(crate) size: Option<u32>,
    /// Whether srun has started it, and no mpirun inside a job.
    pub(crate) by_srun: bool,
    /// Whether it is a task of srun's without PMIx, by which most builds of Open MPI do not start.
    pub(crate) lacks_pmix: bool,
}

/// A process that no launcher has started, or one that sets nonsense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("this is not an MPI rank: start it as `mpirun -n 5 pxcluster`, or on one machine `pxcluster start -n 4`")]
    NoRank,
    #[error("{variable}={value} is not a number, so the MPI launcher is not one that pxcluster knows")]
    NotANumber { variable: &'static str, value: String },
    #[error(
        "this pxcluster was built with {library} but {size} ranks were started by another MPI's launcher: start it with {} \
         (under srun: --mpi=pmix for Open MPI, --mpi=pmi2 for MPICH), or install pxcluster again with that MPI's mpicc on PATH",
        env!("PXCLUSTER_MPIRUN")
    )]
    OtherMpi { size: u32, library: String },
}

impl Place {
    /// Says at rank 0 what is probably wrong, before Open MPI ends the process with a page about it.
    pub(crate) fn warn_of_srun(self) {
        if self.lacks_pmix
            && self.rank == Rank::CONTROLLER
            && pxcluster_transport::mpi::library_version().contains("Open MPI")
        {
            tracing::warn!(
                "srun has started this without PMIx: where Open MPI needs that, `srun --mpi=pmix` or mpirun is right"
            );
        }
    }

    /// Compares with what MPI says. An MPI that does not understand the launcher makes every process rank 0 of 1.
    pub(crate) fn check(self, mpi_size: u32) -> Result<(), PlaceError> {
        match self.size {
            Some(size) if size != mpi_size => {
                Err(PlaceError::OtherMpi { size, library: pxcluster_transport::mpi::library_version() })
            }
            _ => Ok(()),
        }
    }
}

/// Reads rank and size from the environment.
pub(crate) fn place(variables: impl IntoIterator<Item = (String, String)>) -> Result<Place, PlaceError> {
    let variables: BTreeMap<String, String> = variables.into_iter().collect();
    let number = |variable: &'static str| {
        let value = variables.get(variable)?;
        Some(value.parse::<u32>().map_err(|_| PlaceError::NotANumber { variable, value: value.clone() }))
    };
    for (rank, size) in LAUNCHERS {
        if let Some(found) = number(rank) {
            let by_srun = rank != LAUNCHERS[0].0 && is_task_of_step(&variables);
            let lacks_pmix = rank != LAUNCHERS[0].0
                && variables.contains_key("SLURM_STEP_ID")
                && !variables.contains_key("PMIX_RANK");
            return Ok(Place { rank: Rank(found?), size: number(size).transpose()?, by_srun, lacks_pmix });
        }
    }
    Err(PlaceError::NoRank)
}

/// Whether Slurm's own plugin for PMIx or PMI-2 has set the variables, each of which names the job and the step.
fn is_task_of_step(variables: &BTreeMap<String, String>) -> bool {
    let get = |name: &str| variables.get(name).map(String::as_str);
    let (Some(job), Some(step)) = (get("SLURM_JOB_ID"), get("SLURM_STEP_ID")) else { return false };
    get("PMIX_NAMESPACE") == Some(&format!("slurm.pmix.{job}.{step}"))
        || get("PMI_JOBID") == Some(&format!("{job}.{step}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Place, PlaceError> {
        place(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn launchers_are_told_apart() {
        let open_mpi = of(&[("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_SIZE", "5"), ("PMIX_RANK", "3")]);
        assert_eq!(
            open_mpi.expect("a rank"),
            Place { rank: Rank(3), size: Some(5), by_srun: false, lacks_pmix: false }
        );
        let alone = of(&[("PMI_RANK", "0")]).expect("a rank");
        assert_eq!(alone, Place { rank: Rank(0), size: None, by_srun: false, lacks_pmix: false });
        let slurm = of(&[("SLURM_PROCID", "2"), ("SLURM_STEP_NUM_TASKS", "7")]);
        assert_eq!(slurm.expect("a rank"), Place { rank: Rank(2), size: Some(7), by_srun: false, lacks_pmix: false });
        let step = [("SLURM_JOB_ID", "4"), ("SLURM_STEP_ID", "1"), ("SLURM_PROCID", "1")];
        let pmix = [&step[..], &[("PMIX_RANK", "1"), ("PMIX_NAMESPACE", "slurm.pmix.4.1")]].concat();
        assert!(of(&pmix).expect("a rank").by_srun && !of(&pmix).expect("a rank").lacks_pmix);
        let older = [&step[..], &[("PMI_RANK", "1"), ("PMI_JOBID", "4.1")]].concat();
        assert!(of(&older).expect("a rank").by_srun && of(&older).expect("a rank").lacks_pmix);
        let hydra = [&step[..], &[("PMI_RANK", "1")]].concat();
        assert!(!of(&hydra).expect("a rank").by_srun, "mpiexec started its proxies by srun");
        assert!(matches!(of(&[("HOME", "/")]), Err(PlaceError::NoRank)));
        assert!(matches!(of(&[("PMI_RANK", "x")]), Err(PlaceError::NotANumber { .. })));
    }
}
