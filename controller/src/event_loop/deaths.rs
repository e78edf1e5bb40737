//! Engines that die, hang, or are to be killed.

use super::{Answer, Controller, ControllerError};
use crate::handshake::Report;
use crate::inbox::ConnectionId;
use crate::nannies::cause;
use pxcluster_protocol::frame::Frame;
use pxcluster_protocol::from_client::{FromClient, Silent};
use pxcluster_protocol::to_client::{LostEngine, ToClient};
use pxcluster_protocol::to_engine::{Cargo, ToEngine};
use pxcluster_protocol::{ClientId, EngineId, EngineSet, RequestKey};
use pxcluster_scheduler::{Event, Suspect};
use pxcluster_transport::{Transport, relay, send};
use std::io::Write;
use std::time::{Duration, Instant};

/// An engine to which MPI moves nothing is taken for dead when its nanny has not said so by then: its host is gone.
const NANNY_SPEAKS: Duration = Duration::from_secs(5);
/// Messages of a dying engine, and of others between them, that are handled before it is lost.
const LAST_WORDS: u32 = 4096;

impl<T: Transport> Controller<T> {
    /// The engines that have not died, ready or not.
    pub(super) fn living(&self) -> EngineSet {
        let all = EngineSet::first(self.transport.size() - 1);
        self.without_gone(&all)
    }

    pub(super) fn without_gone(&self, targets: &EngineSet) -> EngineSet {
        if self.gone.is_empty() {
            return targets.clone();
        }
        targets.iter().filter(|engine| !self.gone.contains_key(engine)).collect()
    }

    /// Whether every living engine has said goodbye.
    pub(super) fn all_have_ended(&self) -> bool {
        self.ended.len() + self.gone.len() >= self.transport.size() as usize - 1
            && self.living().iter().all(|engine| self.ended.contains(engine))
    }

    /// Sends `cargo` to those of `targets` that live; again, when one of them dies.
    pub(super) fn broadcast(&mut self, targets: &EngineSet, cargo: &Cargo) -> Result<(), ControllerError> {
        let targets = self.without_gone(targets);
        if targets.is_empty() {
            return Ok(());
        }
        let some_hang = !self.nannies.silent().is_empty();
        let cargo = self.relays.number(&targets, cargo, some_hang);
        Ok(relay(&mut self.transport, &targets, &cargo, &[])?)
    }

    /// A nanny has something to say.
    pub(super) fn handle_report(&mut self, report: Report) -> Result<(), ControllerError> {
        let engine = report.nanny().engine;
        if engine.0 + 1 >= self.transport.size() {
            tracing::warn!("a nanny reports of engine {engine}, which does not exist");
            return Ok(());
        }
        if self.gone.contains_key(&engine) {
            return Ok(()); // told again over a new connection
        }
        match report {
            Report::Death(death) => {
                let pid = death.nanny.pid;
                let suspect = death.running.map_or(Suspect::Nobody, |running| {
                    let key = RequestKey { client: ClientId(running.client), request: running.request };
                    Suspect::Task(key, running.task)
                });
                self.lose_engine(engine, pid, suspect, &cause(&death))
            }
            Report::Silent(Silent { nanny, seconds }) => {
                let name = self.name_of(engine, nanny.pid);
                let sentence = (seconds > 0.0).then(|| {
                    format!(
                        "{name} has said nothing for {seconds:.0} s, though its process is there: it is stopped, or its host \
                         overloaded; rc.kill_engines({engine}) ends it"
                    )
                });
                say(sentence.as_deref().unwrap_or(&format!("{name} is heard again")));
                let silent = LostEngine { id: engine, reason: sentence.clone().unwrap_or_default() };
                self.nannies.set_silent(engine, sentence);
                self.clients.send_to_all(&ToClient::Engines { joined: vec![], lost: vec![], silent: vec![silent] });
                Ok(())
            }
        }
    }

    /// A nanny goes on speaking.
    pub(super) fn handle_nanny_frame(
        &mut self,
        connection: ConnectionId,
        frame: &Frame,
    ) -> Result<(), ControllerError> {
        let report = frame.parse::<FromClient>().ok().and_then(Report::from_frame);
        let Some(report) = report.filter(|report| self.nannies.of(connection) == Some(report.nanny().engine)) else {
            tracing::warn!("a nanny sends what is no report of its engine");
            return Ok(());
        };
        self.handle_report(report)
    }

    /// Peers to which MPI can move nothing: their nannies will tell why. If not, nobody will.
    pub(super) fn handle_suspects(&mut self) -> Result<(), ControllerError> {
        for (rank, words) in self.transport.take_suspects() {
            if let Some(engine) = rank.engine() {
                tracing::info!("engine {engine} cannot be reached: {words}");
                self.suspects.insert(engine, (Instant::now(), words));
            }
        }
        let due = self.suspects.iter().find(|(_, (since, _))| since.elapsed() >= NANNY_SPEAKS);
        if let Some((&engine, (_, words))) = due {
            let what = format!("cannot be reached any more: {words}");
            self.lose_engine(engine, self.pid_of(engine), Suspect::Anything, &what)?;
        }
        Ok(())
    }

    /// Hosts from which nobody is heard any more.
    pub(super) fn handle_silence(&mut self) -> Result<(), ControllerError> {
        if !self.published || self.deadline.is_some() {
            return Ok(());
        }
        let lost = self.silence.lost(Instant::now(), |engine| self.gone.contains_key(&engine));
        for engine in lost {
            let seconds = self.settings.lost_after.as_secs_f64();
            let what = format!(
                "is lost: nothing has been heard of its host for {seconds} s (power, network, or an overloaded host; \
                 --lost-after sets the time)"
            );
            self.lose_engine(engine, self.pid_of(engine), Suspect::Anything, &what)?;
        }
        Ok(())
    }

    fn lose_engine(&mut self, engine: EngineId, pid: u32, suspect: Suspect, what: &str) -> Result<(), ControllerError> {
        // What it has sent before its end counts.
        let mut left = LAST_WORDS;
        while left > 0
            && let Some((from, message)) = self.transport.receive()?
        {
            self.handle_message(from, &message)?;
            left -= 1;
        }
        let sentence = format!("{} {what}", self.name_of(engine, pid));
        if !self.published && self.deadline.is_none() {
            return Err(ControllerError::Died(sentence));
        }
        self.gone.insert(engine, sentence.clone());
        self.engines.remove(&engine);
        self.suspects.remove(&engine);
        self.nannies.forget(engine);
        if self.deadline.is_none() {
            let left = self.engines.len();
            let engines = if left == 1 { "engine is" } else { "engines are" };
            say(&format!("{sentence}; {left} {engines} left"));
        } else {
            tracing::info!("{sentence}");
        }
        self.transport.lose(engine.rank());
        self.store.iter().for_each(|store| store.lose(engine));
        let lost = vec![LostEngine { id: engine, reason: sentence }];
        self.clients.send_to_all(&ToClient::Engines { joined: vec![], lost, silent: vec![] });
        // First, so that what comes after it is not relayed to the dead.
        self.broadcast(&self.living(), &Cargo::Lost(engine))?;
        self.lose_leader(engine)?;
        self.decide(Event::EngineLost { engine, suspect }, &Answer::default())?;
        for (targets, cargo) in self.relays.lose(engine) {
            let targets = self.without_gone(&targets);
            relay(&mut self.transport, &targets, &cargo, &[])?;
        }
        Ok(())
    }

    /// Its process id, 0 if it has never said so.
    fn pid_of(&self, engine: EngineId) -> u32 {
        self.engines.get(&engine).map_or(0, |info| info.pid)
    }

    fn name_of(&self, engine: EngineId, pid: u32) -> String {
        let host = self.engines.get(&engine).map(|info| format!("host {}, ", info.host)).unwrap_or_default();
        format!("engine {engine} ({host}pid {pid})")
    }

    /// Ends an engine, by its own comm thread or by its nanny, whoever hears.
    pub(super) fn kill_engine(&mut self, engine: EngineId) -> Result<(), ControllerError> {
        let kill = ToEngine::Relay { targets: [engine].into_iter().collect(), cargo: Cargo::Kill };
        send(&mut self.transport, engine.rank(), &kill, vec![])?;
        self.nannies.kill(engine);
        Ok(())
    }

    /// The engines that have died.
    pub(super) fn lost(&self) -> Vec<LostEngine> {
        self.gone.iter().map(|(id, reason)| LostEngine { id: *id, reason: reason.clone() }).collect()
    }

    /// What a client is told beside the welcome: engines that died before it came, and those that are silent.
    pub(super) fn sorrows(&self) -> Option<ToClient> {
        let (lost, silent) = (self.lost(), self.nannies.silent());
        (!lost.is_empty() || !silent.is_empty()).then(|| ToClient::Engines { joined: vec![], lost, silent })
    }
}

/// One line for whoever reads the cluster's standard error.
pub(super) fn say(sentence: &str) {
    let _closed_stderr = writeln!(std::io::stderr(), "pxcluster: {sentence}");
}
