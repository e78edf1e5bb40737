//! The time between a word that the end is near and the end: what runs may finish, nothing new begins.
//!
//! Slurm sends SIGTERM a while before it kills, often twice, and whatever a script asks for by `--signal` long before that. A
//! signal that comes again changes nothing, and one with less time shortens what is left.

use super::deaths::say;
use super::{Answer, Controller, ControllerError};
use pxcluster_protocol::to_client::ToClient;
use pxcluster_protocol::{RequestKey, Status};
use pxcluster_scheduler::Event;
use pxcluster_transport::Transport;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long the cluster waits, when nothing runs any more, for what its clients make of that: the last pull of a script.
const LINGER: Duration = Duration::from_secs(1);

/// A cluster that drains.
#[derive(Debug)]
pub(super) struct Draining {
    reason: String,
    /// When what runs is ended; `None`: it is not.
    until: Option<Instant>,
    quiet_since: Option<Instant>,
    /// Tasks that have not run, of the maps that were under way.
    unrun: BTreeMap<RequestKey, usize>,
}

impl Draining {
    /// Why the cluster drains.
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// What clients are told.
    pub(super) fn notice(&self) -> ToClient {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()).as_secs_f64());
        ToClient::Draining { reason: self.reason.clone(), grace: left }
    }

    /// What is said to a client that asks for more.
    pub(super) fn refusal(&self) -> String {
        format!("the cluster is ending and takes no new tasks: {}", self.reason)
    }
}

impl<T: Transport> Controller<T> {
    /// A signal has come of those that come before the end.
    pub(super) fn handle_warning(&mut self, signal: &str) -> Result<(), ControllerError> {
        // SIGTERM is followed by SIGKILL; any other is the user's own choice and says nothing of the time left.
        let grace = (signal == "SIGTERM").then_some(self.settings.grace);
        let reason = match &self.settings.slurm_job_id {
            Some(job) if signal == "SIGTERM" => {
                format!("Slurm job {job} is about to end: time limit, scancel or preemption (SIGTERM)")
            }
            Some(job) => format!("Slurm job {job} is about to end ({signal})"),
            None => format!("the controller received {signal}"),
        };
        self.drain(&reason, grace)
    }

    /// Lets what runs come to its end within `grace` (`None`: as long as it takes), and then stops.
    pub(super) fn drain(&mut self, reason: &str, grace: Option<Duration>) -> Result<(), ControllerError> {
        if !self.published {
            return self.stop(reason);
        }
        let until = grace.and_then(|grace| Instant::now().checked_add(grace));
        if let Some(draining) = &mut self.draining {
            draining.until = draining.until.into_iter().chain(until).min();
            return Ok(());
        }
        if self.deadline.is_some() {
            return Ok(());
        }
        let maps: Vec<RequestKey> = self.scheduler.maps().collect();
        let unrun = maps.iter().map(|key| (*key, 0)).collect();
        let draining = Draining { reason: reason.to_owned(), until, quiet_since: None, unrun };
        let within = grace.map(|grace| format!(", within {} s", grace.as_secs_f64())).unwrap_or_default();
        say(&format!(
            "cluster '{}' is ending: {reason}; tasks that have not started will not run, the others may finish{within}",
            self.settings.cluster_id
        ));
        self.clients.send_to_all(&draining.notice());
        self.draining = Some(draining);
        self.decide(Event::Abort(maps), &Answer::default())
    }

    /// Tasks of a map have ended with these statuses.
    pub(super) fn note_unrun(&mut self, key: RequestKey, statuses: &[u8]) {
        if let Some(count) = self.draining.as_mut().and_then(|draining| draining.unrun.get_mut(&key)) {
            let aborted = u8::from(Status::Aborted);
            *count += statuses.iter().map(|status| usize::from(*status == aborted)).sum::<usize>();
        }
    }

    /// Stops the cluster when nothing runs any more, or the time is up.
    pub(super) fn look_for_the_end_of_draining(&mut self) -> Result<(), ControllerError> {
        let Some(draining) = self.draining.as_mut().filter(|_| self.deadline.is_none()) else { return Ok(()) };
        let now = Instant::now();
        draining.quiet_since = self.scheduler.is_idle().then(|| draining.quiet_since.unwrap_or(now));
        let is_over = draining.quiet_since.is_some_and(|since| self.clients.len() == 0 || now >= since + LINGER);
        let is_late = draining.until.is_some_and(|until| now >= until);
        let is_orphaned = nix::unistd::getppid() != self.parent;
        if !is_over && !is_late && !is_orphaned {
            return Ok(());
        }
        let (reason, unrun) = (draining.reason.clone(), std::mem::take(&mut draining.unrun));
        for (key, count) in unrun.into_iter().filter(|(_, count)| *count > 0) {
            let (session, request) = (self.clients.name(key.client), key.request);
            let tasks = if count == 1 { "task" } else { "tasks" };
            say(&format!("{count} {tasks} of map {request} of session {session} did not run"));
        }
        for key in self.scheduler.maps() {
            let (session, request) = (self.clients.name(key.client), key.request);
            say(&format!("map {request} of session {session} is ended while tasks of it run"));
        }
        self.stop(&reason)
    }
}
