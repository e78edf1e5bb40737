//! Waiting until the cluster of a submitted job is ready, and saying meanwhile what keeps it.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pxcluster_protocol::connection::ConnectionFile;

use super::SubmitError;
use crate::directory::{ClusterDirectory, DirectoryError};
use crate::doctor::ask::squeue;
use crate::start::tail;

/// How often the connection file is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// How often squeue is asked at first, and later.
const ASK_FIRST: Duration = Duration::from_secs(1);
const ASK_LATER: Duration = Duration::from_secs(5);
/// How long squeue is asked as often as at first.
const AT_FIRST: Duration = Duration::from_secs(20);

/// What squeue says of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Queued {
    state: String,
    /// Why it is pending.
    reason: String,
    /// Where it runs.
    nodes: String,
}

/// A job that is waited for.
pub(super) struct Job<'a> {
    pub(super) id: &'a str,
    pub(super) directory: &'a ClusterDirectory,
    /// What the job prints, if that is known here.
    pub(super) log: Option<PathBuf>,
    /// How long the cluster may take once the job runs.
    pub(super) timeout: Duration,
}

impl Job<'_> {
    /// Waits for the connection file of this job.
    pub(super) fn wait(&self, interrupted: &AtomicBool) -> Result<ConnectionFile, SubmitError> {
        let begun = Instant::now();
        let (mut asked, mut running_since) = (None::<Instant>, None::<Instant>);
        let mut said = String::new();
        loop {
            match self.directory.read_connection() {
                Ok(connection) if connection.slurm_job_id.as_deref() == Some(self.id) => return Ok(connection),
                Ok(_) | Err(DirectoryError::NoCluster { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if interrupted.load(Ordering::Relaxed) {
                return Err(self.left(&said));
            }
            let often = if begun.elapsed() < AT_FIRST { ASK_FIRST } else { ASK_LATER };
            if asked.is_none_or(|last| last.elapsed() >= often) {
                asked = Some(Instant::now());
                let queued = ask(self.id)?;
                let Some(queued) = queued.filter(|queued| !queued.has_ended()) else { return Err(self.ended()) };
                if queued.state == "RUNNING" && running_since.is_none() {
                    running_since = Some(Instant::now());
                }
                say(&queued, begun.elapsed(), &mut said);
            }
            if running_since.is_some_and(|since| since.elapsed() > self.timeout) {
                let log = self.tail();
                return Err(SubmitError::TooSlow { id: self.id.to_owned(), seconds: self.timeout.as_secs_f64(), log });
            }
            std::thread::sleep(LOOK);
        }
    }

    fn left(&self, state: &str) -> SubmitError {
        let cluster_id = self.directory.cluster_id().to_owned();
        SubmitError::Left { id: self.id.to_owned(), cluster_id, state: state.to_owned() }
    }

    /// It may have been ready and stopped in between; that is no success either.
    fn ended(&self) -> SubmitError {
        SubmitError::Ended { id: self.id.to_owned(), log: self.tail() }
    }

    fn tail(&self) -> String {
        match &self.log {
            Some(log) => tail(log),
            None => format!("look at its output, and at `scontrol show job {}`", self.id),
        }
    }
}

impl Queued {
    /// Whether it will never run, or not any more.
    fn has_ended(&self) -> bool {
        let goes_on = ["PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING"];
        !goes_on.contains(&self.state.as_str())
    }

    fn sentence(&self) -> String {
        match self.state.as_str() {
            "RUNNING" => format!("running on {}", self.nodes),
            state if self.reason.is_empty() || self.reason == "None" => state.to_lowercase(),
            state => format!("{} ({})", state.to_lowercase(), self.reason),
        }
    }
}

/// Asks squeue; `None`: Slurm does not know the job any more.
fn ask(id: &str) -> Result<Option<Queued>, SubmitError> {
    let output = squeue(id, "%T|%r|%N").output().map_err(SubmitError::Squeue)?;
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

fn parse(said: &str) -> Option<Queued> {
    let mut fields = said.lines().next()?.trim().split('|');
    let mut field = || fields.next().map(str::to_owned);
    Some(Queued { state: field()?, reason: field()?, nodes: field()? })
}

/// Tells the user, when there is news, how long it has been.
fn say(queued: &Queued, waited: Duration, said: &mut String) {
    let sentence = queued.sentence();
    if *said != sentence {
        let seconds = waited.as_secs();
        let _closed_stderr = writeln!(io::stderr(), "pxcluster: {sentence}, {:02}:{:02}", seconds / 60, seconds % 60);
        *said = sentence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_squeue_says_is_understood() {
        let pending = parse("PENDING|Resources|\n").unwrap();
        assert_eq!((pending.sentence().as_str(), pending.has_ended()), ("pending (Resources)", false));
        let running = parse("RUNNING|None|n[001-004]\n").unwrap();
        assert_eq!((running.sentence().as_str(), running.has_ended()), ("running on n[001-004]", false));
        assert!(parse("CANCELLED|None|\n").unwrap().has_ended());
        assert!(parse("COMPLETING|None|n1\n").unwrap().has_ended());
        assert_eq!(parse("CONFIGURING|None|n1").unwrap().sentence(), "configuring");
        assert_eq!(parse(""), None);
        assert_eq!(parse("slurm_load_jobs error"), None);
    }
}
