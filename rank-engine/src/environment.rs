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
        if let Some(rank) = number(rank) {
            return Ok(Place { rank: Rank(rank?), size: number(size).transpose()? });
        }
    }
    Err(PlaceError::NoRank)
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
        assert_eq!(open_mpi.expect("a rank"), Place { rank: Rank(3), size: Some(5) });
        assert_eq!(of(&[("PMI_RANK", "0")]).expect("a rank"), Place { rank: Rank(0), size: None });
        let slurm = of(&[("SLURM_PROCID", "2"), ("SLURM_STEP_NUM_TASKS", "7")]);
        assert_eq!(slurm.expect("a rank"), Place { rank: Rank(2), size: Some(7) });
        assert!(matches!(of(&[("HOME", "/")]), Err(PlaceError::NoRank)));
        assert!(matches!(of(&[("PMI_RANK", "x")]), Err(PlaceError::NotANumber { .. })));
    }
}
