//! `pxcluster run --requeue`: a script in a batch job of Slurm's that is put back into the queue when its time is over.
//!
//! A signal that tells of the end drains the cluster: what runs may finish, nothing new begins, and the script's maps
//! raise `ClusterEnding`. A script that does not end by itself is ended. If it has not succeeded, Slurm runs the job
//! again, and a map with a checkpoint goes on where it was.

use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pxcluster_protocol::connection::ConnectionFile;

use crate::link::Link;

/// How long tasks may run on after SIGUSR1 or SIGUSR2, by which a script asks for a warning in good time.
const GRACE_AFTER_WARNING: Duration = Duration::from_secs(60);

/// The same after SIGTERM, behind which SIGKILL comes soon: 30 seconds later, where a site has not changed `KillWait`.
const GRACE_AFTER_SIGTERM: Duration = Duration::from_secs(15);

/// Signals that tell of the end.
const TOLD_BY: [Signal; 3] = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM];

/// How long a script has to end when its cluster has drained, and again when it has been sent SIGTERM.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a job cannot be put back.
#[derive(Debug, thiserror::Error)]
pub enum RequeueError {
    /// There is no job.
    #[error(
        "--requeue puts a batch job of Slurm's back into the queue, and this is none: submit the script with sbatch"
    )]
    NoJob,
    /// Signals cannot be watched.
    #[error("cannot watch signals: {0}")]
    Signals(io::Error),
    /// Slurm is not there.
    #[error("job {job} is not put back into the queue: cannot run scontrol: {source}; submit it again")]
    Scontrol {
        /// The job.
        job: String,
        /// What went wrong.
        source: io::Error,
    },
    /// Slurm does not want to.
    #[error("job {job} is not put back into the queue: {said}; submit it again")]
    Refused {
        /// The job.
        job: String,
        /// Slurm's words.
        said: String,
    },
}

/// The job that this program runs in, and whether it was told of its end.
#[derive(Debug)]
pub struct Requeue {
    job: String,
    grace: Option<Duration>,
    told: Arc<AtomicBool>,
}

impl Requeue {
    /// For the job of these variables; `grace`: how long tasks may run on, when the user says so.
    ///
    /// Signals are noted at once: one may come before the script runs, or end it before anybody else hears of it, because
    /// Slurm sends SIGTERM to all processes of a job.
    pub fn new(
        variables: impl IntoIterator<Item = (String, String)>,
        grace: Option<Duration>,
    ) -> Result<Self, RequeueError> {
        let job = variables.into_iter().find(|(name, value)| name == "SLURM_JOB_ID" && !value.is_empty());
        let job = job.ok_or(RequeueError::NoJob)?.1;
        let told = Arc::new(AtomicBool::new(false));
        for signal in TOLD_BY {
            signal_hook::flag::register(signal as i32, Arc::clone(&told)).map_err(RequeueError::Signals)?;
        }
        Ok(Self { job, grace, told })
    }

    /// Whether this signal tells of the end.
    #[must_use]
    pub fn is_told_by(signal: Signal) -> bool {
        TOLD_BY.contains(&signal)
    }

    /// Whether one has come.
    #[must_use]
    pub fn was_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Such a signal has come: ends cluster and script, whose own end drops the other end of `ended`.
    pub fn end(&self, signal: Signal, connection: &ConnectionFile, script: Pid, ended: &Receiver<()>) {
        let grace = self.grace.unwrap_or(match signal {
            Signal::SIGTERM => GRACE_AFTER_SIGTERM,
            _ => GRACE_AFTER_WARNING,
        });
        let job = &self.job;
        say(&format!("{signal}: job {job} is to end, and what runs may finish within {} seconds", grace.as_secs_f64()));
        let patience = match Link::open(connection).and_then(|link| link.drain(Some(grace))) {
            Ok(()) => grace + SCRIPT_TIMEOUT,
            Err(error) => {
                say(&format!("the cluster is not told: {error}"));
                Duration::ZERO
            }
        };
        for (time, signal) in [(patience, Signal::SIGTERM), (SCRIPT_TIMEOUT, Signal::SIGKILL)] {
            match ended.recv_timeout(time) {
                Err(RecvTimeoutError::Timeout) => {
                    let _ended_now = kill(script, signal);
                }
                Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Puts the job back, if it was told of its end and its script has not succeeded. One that somebody has cancelled
    /// stays so, and Slurm itself puts back what it preempts.
    pub fn put_back(&self, succeeded: bool) -> Result<(), RequeueError> {
        if succeeded || !self.was_told() {
            return Ok(());
        }
        let job = &self.job;
        let shown = self.scontrol(&["--oneliner", "show", "job", job])?;
        if !can_go_back(&String::from_utf8_lossy(&shown.stdout)) {
            say(&format!("job {job} was cancelled or preempted, and is left alone"));
            return Ok(());
        }
        let done = self.scontrol(&["requeue", job])?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            return Err(RequeueError::Refused { job: job.clone(), said });
        }
        say(&format!("job {job} is put back into the queue"));
        Ok(())
    }

    fn scontrol(&self, arguments: &[&str]) -> Result<Output, RequeueError> {
        let ran = Command::new("scontrol").args(arguments).stdin(Stdio::null()).output();
        ran.map_err(|source| RequeueError::Scontrol { job: self.job.clone(), source })
    }
}

/// Whether the job that `scontrol --oneliner show job` shows runs, or has reached its time limit.
///
/// All jobs that Slurm ends are shown as COMPLETING, those that were cancelled or preempted without a reason.
fn can_go_back(text: &str) -> bool {
    let field = |name: &str| text.split_whitespace().find_map(|field| field.strip_prefix(name));
    field("JobState=") == Some("RUNNING") || field("Reason=") == Some("TimeLimit")
}

/// A line for whoever reads standard error.
pub(crate) fn say(sentence: &str) {
    let _closed_stderr = writeln!(io::stderr(), "pxcluster: {sentence}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_can_go_back() {
        let shown =
            "JobId=17 JobName=a UserId=root(0) Nice=0 JobState=RUNNING Reason=None Requeue=1 Command=/tmp/Reason=a";
        assert!(can_go_back(shown));
        assert!(can_go_back(&shown.replace("RUNNING Reason=None", "COMPLETING Reason=TimeLimit")));
        for other in ["COMPLETING Reason=None", "CANCELLED Reason=None", "FAILED Reason=NonZeroExitCode"] {
            assert!(!can_go_back(&shown.replace("RUNNING Reason=None", other)));
        }
        assert!(!can_go_back("slurm_load_jobs error: Invalid job id specified"));
    }

    #[test]
    fn outside_a_job_it_is_refused() {
        let variable = |value: &str| vec![("SLURM_JOB_ID".to_owned(), value.to_owned())];
        assert!(matches!(Requeue::new(Vec::new(), None), Err(RequeueError::NoJob)));
        assert!(matches!(Requeue::new(variable(""), None), Err(RequeueError::NoJob)));
        assert_eq!(Requeue::new(variable("17"), None).unwrap().job, "17");
    }

    #[test]
    fn signals_that_tell_of_the_end() {
        let told = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
        assert_eq!(told.map(Requeue::is_told_by), [true, true, true, false, false]);
    }
}
