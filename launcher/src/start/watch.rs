//! Whether a start that has not ended by itself has failed all the same, and the reason of one that has ended.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{ExitStatus, Output};
use std::time::{Duration, Instant};

use super::{StartError, tail};
use crate::directory::shown;
use crate::doctor::ask::{Ask, squeue};
use crate::failure::{job_is_foreign, job_is_over, reason};

/// How much of what was printed is looked at.
const HEAD: u64 = 256 << 10;

/// How long mpirun has to end by itself after what ends the start; MPICH's does not when ssh has failed.
const END: Duration = Duration::from_secs(3);

/// How long a start may take before Slurm is asked whether the job is there: mpirun throws away what srun says of it.
const JOB_PATIENCE: Duration = Duration::from_secs(3);

/// How long squeue may take to answer.
const SQUEUE: Duration = Duration::from_secs(20);

/// Looks at a start from time to time.
pub(super) struct Watch<'a> {
    log: &'a Path,
    job: Option<String>,
    begin: Instant,
    seen: u64,
    failed: Option<(Instant, String)>,
}

impl<'a> Watch<'a> {
    /// `job`: the Slurm job that this program runs in.
    pub(super) fn new(log: &'a Path, job: Option<String>) -> Self {
        Self { log, job, begin: Instant::now(), seen: 0, failed: None }
    }

    /// Why it will not become anything, although mpirun runs.
    pub(super) fn failure(&mut self) -> Option<StartError> {
        let length = self.log.metadata().map_or(0, |about| about.len());
        if self.failed.is_none() && self.seen != length {
            self.seen = length;
            let found = reason(&head(self.log)).filter(|reason| reason.is_final);
            self.failed = found.map(|reason| (Instant::now(), reason.sentence));
        }
        if self.failed.is_none() && self.begin.elapsed() >= JOB_PATIENCE {
            self.failed = self.job.take().and_then(|job| ask_slurm(&job)).map(|sentence| (self.begin, sentence));
        }
        let (since, sentence) = self.failed.as_ref()?;
        (since.elapsed() >= END).then(|| self.because(sentence.clone()))
    }

    /// Why mpirun has ended.
    pub(super) fn ended(&mut self, status: ExitStatus) -> StartError {
        let said = reason(&head(self.log)).map(|reason| reason.sentence);
        match said.or_else(|| self.job.take().and_then(|job| ask_slurm(&job))) {
            Some(sentence) => self.because(sentence),
            None => StartError::Ended { status, tail: tail(self.log) },
        }
    }

    fn because(&self, reason: String) -> StartError {
        StartError::Failed { reason, log: shown(self.log) }
    }
}

/// The beginning of a file, as far as it can be read.
fn head(log: &Path) -> String {
    let mut bytes = Vec::new();
    // What cannot be read has no reason in it; the error then shows the same file's end.
    let _unreadable = File::open(log).and_then(|file| file.take(HEAD).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is wrong with a job, as far as Slurm answers.
fn ask_slurm(job: &str) -> Option<String> {
    let answer = Ask::new(SQUEUE).program(&mut squeue(job, "%T %U")).ok()?;
    judge(job, &answer, nix::unistd::geteuid().as_raw())
}

/// Reads what `squeue --format "%T %U"` has answered to the user `uid`.
fn judge(job: &str, answer: &Output, uid: u32) -> Option<String> {
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (out, err) = (said(&answer.stdout), said(&answer.stderr));
    if !answer.status.success() {
        return err.contains("Invalid job id").then(|| job_is_over(job));
    }
    let mut words = out.split_whitespace();
    match (words.next(), words.next().and_then(|owner| owner.parse::<u32>().ok())) {
        (None, _) => Some(job_is_over(job)),
        (Some("RUNNING" | "CONFIGURING" | "PENDING" | "SUSPENDED"), Some(owner)) => {
            (owner != uid && uid != 0).then(|| job_is_foreign(job))
        }
        (Some("COMPLETING" | "COMPLETED" | "CANCELLED" | "FAILED" | "TIMEOUT" | "NODE_FAIL"), _) => {
            Some(job_is_over(job))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn jobs_that_are_over_and_jobs_of_others_are_told_from_ours() {
        let over = Some(job_is_over("7"));
        for (code, out, err, expected) in [
            (0, "RUNNING 1000\n", "", None),
            (0, "RUNNING 1001\n", "", Some(job_is_foreign("7"))),
            (0, "COMPLETING 1000\n", "", over.clone()),
            (0, "", "", over.clone()),
            (1, "", "slurm_load_jobs error: Invalid job id specified\n", over),
            (1, "", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", None),
        ] {
            let status = ExitStatus::from_raw(code << 8);
            let answer = Output { status, stdout: out.into(), stderr: err.into() };
            assert_eq!(judge("7", &answer, 1000), expected, "{out}{err}");
        }
        let answer = Output { status: ExitStatus::from_raw(0), stdout: "RUNNING 1000".into(), stderr: vec![] };
        assert_eq!(judge("7", &answer, 0), None);
    }
}
