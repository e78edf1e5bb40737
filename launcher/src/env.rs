//! Whether this process is an MPI rank, from its environment alone.

use slurm_env::{Allocation, AllocationError};

/// Variables that a process manager gives to each rank and to nothing else: Open MPI's, MPICH's, PMIx's.
const RANK_VARIABLES: [&str; 3] = ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"];

/// What a process manager leaves in a rank's environment; an mpirun below must not see it.
const MANAGER_PREFIXES: [&str; 8] =
    ["OMPI_COMM_WORLD_", "OMPI_MCA_orte_", "OMPI_MCA_ess", "OMPI_UNIVERSE_", "PMI_", "PMIX_", "PRTE_", "HYDI_"];

/// Whether mpirun or srun started this process as a rank.
///
/// # Errors
/// The `SLURM_*` variables of a step cannot be read.
pub fn is_rank<I>(vars: I) -> Result<bool, AllocationError>
where
    I: IntoIterator<Item = (String, String)>,
{
    let vars: Vec<(String, String)> = vars.into_iter().collect();
    if vars.iter().any(|(name, _)| RANK_VARIABLES.contains(&name.as_str())) {
        return Ok(true);
    }
    if !vars.iter().any(|(name, _)| name == "SLURM_STEP_ID") {
        return Ok(false);
    }
    Ok(Allocation::from_vars(vars)?.is_some_and(|allocation| allocation.task.is_some()))
}

/// The rank of this process, as its process manager says it; `None` outside an MPI job, or where that is no number.
#[must_use]
pub fn rank(vars: impl IntoIterator<Item = (String, String)>) -> Option<u32> {
    let vars: Vec<(String, String)> = vars.into_iter().collect();
    let named = |name: &str| vars.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    match RANK_VARIABLES.iter().find_map(|name| named(name)) {
        Some(rank) => rank.parse().ok(),
        None => Allocation::from_vars(vars).ok().flatten().and_then(|allocation| allocation.task).map(|task| task.rank),
    }
}

/// Whether a variable belongs to the process manager of an enclosing MPI job.
#[must_use]
pub fn is_manager_variable(name: &str) -> bool {
    MANAGER_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with("PRTE_MCA_")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is a rank, and which.
    fn asked(text: &str) -> (Result<bool, AllocationError>, Option<u32>) {
        let pairs = text.lines().map(|line| line.split_once('=').unwrap());
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        (is_rank(pairs.clone()), rank(pairs))
    }

    /// The variables of task 0 in a recording whose lines begin with the task's number.
    fn task_0(recording: &str) -> String {
        recording.lines().filter_map(|line| line.strip_prefix("0: ")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn ranks_of_every_process_manager_are_known() {
        for recording in [
            include_str!("../../slurm/tests/data/environments/sbatch.srun-mpi-pmi2.txt"),
            include_str!("../../slurm/tests/data/environments/sbatch.srun-mpi-pmix.txt"),
            include_str!("../../slurm/tests/data/environments/sbatch.srun-step.all-tasks.txt"),
        ] {
            assert_eq!(asked(&task_0(recording)), (Ok(true), Some(0)));
        }
        assert_eq!(asked("OMPI_COMM_WORLD_RANK=3\nHOME=/root"), (Ok(true), Some(3)));
        assert_eq!(asked("PMI_RANK=x"), (Ok(true), None));
    }

    #[test]
    fn shells_are_no_ranks() {
        let batch = include_str!("../../slurm/tests/data/environments/sbatch.batch-step.txt");
        assert_eq!(asked(batch), (Ok(false), None));
        assert_eq!(asked("HOME=/root\nPATH=/bin"), (Ok(false), None));
        assert_eq!(asked(""), (Ok(false), None));
    }

    #[test]
    fn a_broken_step_is_an_error() {
        let error = asked("SLURM_JOB_ID=1\nSLURM_STEP_ID=zero").0.unwrap_err();
        assert_eq!(error.to_string(), "SLURM_STEP_ID='zero': expected a number");
    }

    #[test]
    fn settings_of_the_user_are_not_the_managers() {
        for (name, managers) in [
            ("PMIX_RANK", true),
            ("OMPI_COMM_WORLD_SIZE", true),
            ("OMPI_MCA_ess_base_jobid", true),
            ("OMPI_MCA_rmaps_base_oversubscribe", false),
            ("OMPI_ALLOW_RUN_AS_ROOT", false),
            ("PRTE_MCA_rmaps_default_mapping_policy", false),
            ("PATH", false),
        ] {
            assert_eq!(is_manager_variable(name), managers, "{name}");
        }
    }
}
