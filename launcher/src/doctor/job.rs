//! The batch job that this shell is in, from which `pxcluster start` takes hosts and slots.

use allocation::{Allocation, AllocationError, BatchSystem};

use super::finding::Finding;

const CHECK: &str = "job";

type Job = Result<Option<Allocation>, AllocationError>;

/// Whether this is, or seems to be, a job of Slurm's.
pub(crate) fn is_slurms(job: &Job) -> bool {
    match job {
        Ok(job) => job.as_ref().is_some_and(|job| job.system == BatchSystem::Slurm),
        Err(error) => matches!(error, AllocationError::Slurm(_)),
    }
}

pub(crate) fn judge(job: &Job) -> Option<Finding> {
    let job = match job {
        Ok(job) => job.as_ref()?,
        Err(error) => {
            let mend = "run in a shell that the batch system has made, or unset its variables outside a job";
            return Some(Finding::of_error(CHECK, error, mend));
        }
    };
    let id = job.job_id.as_ref().map(|id| format!(" {id}")).unwrap_or_default();
    let name = format!("this is in {} job{id}", job.system);
    Some(match job.slots() {
        Some(slots) => {
            let (hosts, s) = (job.hosts.len(), if job.hosts.len() == 1 { "" } else { "s" });
            let found = format!("{name} with {slots} slots on {hosts} host{s}, which `pxcluster start` takes");
            Finding::ok(CHECK, found)
        }
        None => Finding::ok(CHECK, format!("{name}, which names no hosts: `pxcluster start` stays on this one")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn job(text: &str) -> Job {
        let vars = text.lines().filter_map(|line| line.split_once('='));
        Allocation::find(vars, |_| Err(std::io::ErrorKind::NotFound.into()))
    }

    #[test]
    fn jobs_are_named() {
        assert_eq!(judge(&job("HOME=/")), None);
        for (vars, found, slurms) in [
            (
                "SLURM_JOB_ID=7\nSLURM_JOB_NODELIST=h[1-3]\nSLURM_TASKS_PER_NODE=4,2(x2)",
                "Slurm job 7 with 8 slots on 3 hosts, ",
                true,
            ),
            ("LSB_JOBID=9\nLSB_MCPU_HOSTS=h1 4", "LSF job 9 with 4 slots on 1 host, ", false),
            ("FLUX_URI=local:///x", "Flux job, which names no hosts: ", false),
        ] {
            let job = job(vars);
            let finding = judge(&job).unwrap().to_string();
            assert!(finding.starts_with(&format!("ok      this is in {found}")), "{finding}");
            assert_eq!(is_slurms(&job), slurms);
        }
    }

    #[test]
    fn variables_that_make_no_sense_are_a_problem() {
        let job = job("SLURM_JOB_ID=7\nSLURM_JOB_NODELIST=h1");
        let broken = judge(&job).unwrap();
        assert_eq!(broken.verdict, Verdict::Problem);
        assert_eq!(broken.found, "SLURM_TASKS_PER_NODE is not set although SLURM_JOB_ID is");
        assert_eq!(broken.mend.unwrap(), "run inside an unmodified Slurm environment");
        assert!(is_slurms(&job));
    }
}
