//! A whole cluster in one thread, from a seed: the machines are the real ones; clock, network, engines' main threads
//! and clients are simulated.
//!
//! The network keeps order per pair of ranks only. Direct requests go down a relay tree, so that they reach engines out
//! of order. Engines die at any moment, some of them by the task that they run: a rank that is dead receives nothing, and
//! of what it sent the last part may be lost. Clients come and go, abort, and wait for each other's requests. After every
//! step the machines check their invariants, and an oracle judges the whole.
//!
//! A breach panics with the line that replays it.

mod clients;
mod efficiency;
mod engines;
mod network;
mod oracle;
mod random;

pub use efficiency::{Distribution, Efficiency, central_queue, efficiency, static_chunks};

use crate::{Action, Controller, Event, GrantPolicy, Suspect, Work};
use clients::Client;
use engines::SimEngine;
use network::{Happening, Message, Network, Results};
use oracle::Oracle;
use pxcluster_protocol::from_client::DirectKind;
use pxcluster_protocol::to_engine::{Cargo, Direct};
use pxcluster_protocol::{EngineId, EngineSet, Rank};
use random::Random;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

/// More steps than any run needs.
const ENDLESS: u64 = 50_000_000;

/// How large a simulated cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 3 to 16 engines, checked after every step.
    Small,
    /// 1,000 to 10,000 engines, checked now and then.
    Large,
}

/// Runs a cluster from a seed until nothing happens any more; returns how many steps that took.
///
/// # Panics
/// If an invariant or a promise is broken; the message says how to replay it.
pub fn run(seed: u64, size: Size) -> u64 {
    catch_unwind(AssertUnwindSafe(|| Cluster::from_seed(seed, size).run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        panic!("{size:?}: {text}; replay: PXCLUSTER_SIM_SEED={seed} cargo test -p pxcluster-scheduler sim")
    })
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    /// Seconds from rank to rank.
    latency: f64,
    jitter: bool,
    /// Seconds that the controller needs for each message.
    service: f64,
    /// Results wait so long for others, seconds.
    results_age: f64,
    /// Steps from one check of the controller's invariants to the next.
    check_every: u64,
    policy: GrantPolicy,
}

#[derive(Debug)]
struct Cluster {
    settings: Settings,
    random: Random,
    network: Network,
    controller: Controller,
    engines: Vec<SimEngine>,
    clients: Vec<Client>,
    oracle: Oracle,
    /// Links of dead ranks of which a message was lost, and so every later one.
    severed: BTreeSet<(Rank, Rank)>,
    /// Whether the reply that is being dealt with is of a success.
    replied_well: bool,
    steps: u64,
    last_map_done: f64,
}

impl Cluster {
    /// A cluster with one client, whose engines have joined.
    fn new(seed: u64, settings: Settings, engines: u32) -> Self {
        let mut cluster = Self {
            settings,
            random: Random::new(seed),
            network: Network::new(settings.latency, settings.jitter, settings.service),
            controller: Controller::new(settings.policy),
            engines: (0..engines).map(|_| SimEngine::new()).collect(),
            clients: vec![Client::new(0, 0, 0, 0.0)],
            oracle: Oracle::default(),
            severed: BTreeSet::new(),
            replied_well: false,
            steps: 0,
            last_map_done: 0.0,
        };
        for id in 0..engines {
            cluster.tell(Event::EngineJoined(EngineId(id)), None);
        }
        cluster
    }

    fn from_seed(seed: u64, size: Size) -> Self {
        let mut random = Random::new(seed);
        let (engines, acts, most_tasks, check_every) = match size {
            Size::Small => (3 + random.below(14), 24, 60, 1),
            Size::Large => (1_000 + random.below(9_001), 10, 40_000, 20_000),
        };
        let results_age = if random.chance(0.5) { 0.0 } else { 1e-3 };
        let (service, policy) = (1e-6, GrantPolicy::default());
        let settings = Settings { latency: 100e-6, jitter: true, service, results_age, check_every, policy };
        let mut cluster = Self::new(random.next(), settings, engines);
        let pause = [200e-6, 2e-3, 20e-3][random.below(3) as usize];
        let client = |index| Client::new(index, acts, most_tasks, pause);
        cluster.clients = (0..=random.below(3) as usize).map(client).collect();
        for index in 0..cluster.clients.len() {
            cluster.network.plan(0.0, Happening::ClientActs(index));
        }
        let deaths = if random.chance(0.3) { 0 } else { random.below(1 + engines.min(40)) };
        let late = EngineId(engines);
        if random.chance(0.3) {
            cluster.engines.push(SimEngine::new());
            cluster.network.plan(random.exponential(pause * 10.0), Happening::Joins(late));
        }
        for _ in 0..deaths {
            let seconds = random.unit() * pause * f64::from(acts) * 2.0;
            cluster.network.plan(seconds, Happening::Dies(EngineId(random.below(engines))));
        }
        cluster
    }

    fn run(&mut self) -> u64 {
        while let Some(happening) = self.network.next() {
            self.steps += 1;
            assert!(self.steps < ENDLESS, "no end after {ENDLESS} steps");
            self.step(happening);
            if self.steps.is_multiple_of(self.settings.check_every) {
                self.controller.check_invariants();
            }
        }
        self.controller.check_invariants();
        assert!(self.controller.is_idle(), "something is under way, and nothing happens any more");
        assert_eq!(self.controller.unassigned(), 0);
        self.oracle.at_the_end();
        for engine in self.engines.iter().filter(|engine| engine.alive) {
            assert_eq!(engine.machine.depth(), 0, "an engine keeps tasks");
        }
        self.steps
    }

    fn step(&mut self, happening: Happening) {
        match happening {
            Happening::Joins(engine) => self.tell(Event::EngineJoined(engine), None),
            Happening::Arrives { from, to, message } | Happening::IsRead { from, to, message } => {
                if !self.is_dropped(from, to) {
                    match to.engine() {
                        None => self.arrives_at_controller(from, message),
                        Some(engine) => self.arrives_at_engine(engine, from, message),
                    }
                }
            }
            Happening::MainThreadIsDone { engine, batch } => self.main_thread_is_done(engine, batch),
            Happening::ResultsAreDue(engine) => self.send_results(engine),
            Happening::ClientActs(index) => self.client_acts(index),
            Happening::TimesOut(key) => {
                self.oracle.time_is_up(key);
                self.tell(Event::TimedOut(key), None);
            }
            Happening::Dies(engine) => self.dies(engine),
            Happening::TaskKills { engine, batch } => {
                if self.engines[engine.0 as usize].batch == batch {
                    self.dies(engine);
                }
            }
            Happening::DeathIsNoticed { engine, suspect } => {
                self.oracle.engine_lost(engine);
                self.tell(Event::EngineLost { engine, suspect }, None);
            }
        }
    }

    fn dies(&mut self, engine: EngineId) {
        let now = self.network.now();
        let state = &mut self.engines[engine.0 as usize];
        if !std::mem::replace(&mut state.alive, false) {
            return;
        }
        let running = state.running_task(now);
        if let Some((key, task)) = running {
            self.oracle.died_under(key, task);
        }
        let suspect = if self.random.chance(0.3) {
            Suspect::Anything
        } else {
            running.map_or(Suspect::Nobody, |(key, task)| Suspect::Task(key, task))
        };
        let seconds = self.random.heavy_tailed(100e-6);
        self.network.plan(seconds, Happening::DeathIsNoticed { engine, suspect });
    }

    fn is_dropped(&mut self, from: Rank, to: Rank) -> bool {
        let is_dead = |rank: Rank| rank.engine().is_some_and(|engine| !self.engines[engine.0 as usize].alive);
        if is_dead(from) && (self.severed.contains(&(from, to)) || self.random.chance(0.5)) {
            self.severed.insert((from, to));
            return true;
        }
        is_dead(to)
    }

    fn arrives_at_controller(&mut self, from: Rank, message: Message) {
        let Some(engine) = from.engine() else { return };
        match message {
            Message::Reply { key, success } => {
                self.replied_well = success;
                self.tell(Event::DirectFinished { key, engine, success }, None);
            }
            Message::Results(results) => {
                let Results { key, ref tasks, ref failed, busy } = results;
                let event = Event::TasksFinished { key, engine, tasks, failed, busy };
                self.tell(event, Some((engine, &results)));
            }
            Message::Ask { received } => self.tell(Event::Asked { engine, received }, None),
            Message::Gave { key, thief, ranges } => self.tell(Event::Gave { engine, key, thief, ranges }, None),
            Message::Got { key, victim, ranges } => self.tell(Event::Got { engine, key, victim, ranges }, None),
            Message::Relay { .. } | Message::Tasks { .. } | Message::Steal { .. } => panic!("not for the controller"),
        }
    }

    /// Tells the controller an event and does what it says; `results`: the message that the event is.
    fn tell(&mut self, event: Event<'_>, results: Option<(EngineId, &Results)>) {
        let mut actions = Vec::new();
        self.controller.handle(event, &mut actions);
        if let Some((engine, results)) = results {
            let accepted = actions.iter().find_map(|action| match action {
                Action::Deliver { accepted, .. } => Some(accepted),
                _ => None,
            });
            self.oracle.reported(engine, results, accepted);
        }
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Broadcast { key, targets, epoch, previous, exceptions } => {
                let direct = Direct { key, kind: DirectKind::Apply, epoch, previous, exceptions };
                self.broadcast(&targets, Cargo::Direct(direct));
            }
            Action::Grant { engine, key, range, last_direct, function, .. } => {
                self.oracle.grant_made(key, engine);
                let grant = Message::Tasks { key, ranges: vec![range], last_direct, function };
                self.network.send(Rank::CONTROLLER, engine.rank(), grant, &mut self.random);
            }
            Action::Steal { victim, thief, key, last_direct, function } => {
                self.oracle.grant_made(key, thief);
                let steal = Message::Steal { key, thief, last_direct, function };
                self.network.send(Rank::CONTROLLER, victim.rank(), steal, &mut self.random);
            }
            Action::Reply { key, engine } => self.oracle.answered(key, engine, self.replied_well),
            Action::Deliver { .. } => {}
            Action::TasksEnded { key, tasks, why } => {
                self.oracle.tasks_ended(key, tasks, &why, &self.controller.engines());
            }
            Action::AbortOn { key, engines } => self.broadcast(&engines, Cargo::Abort(vec![key])),
            Action::DirectLost { key, engine } => self.oracle.answer_lost(key, engine, &self.controller.engines()),
            Action::DirectDone { key, engines } => {
                self.oracle.direct_done(key);
                self.broadcast(&engines, Cargo::Forget(vec![key]));
            }
            Action::MapDone { key, engines } => {
                self.oracle.map_done(key);
                self.last_map_done = self.network.now();
                self.broadcast(&engines, Cargo::Forget(vec![key]));
            }
            Action::Forget { key, engine } => {
                self.broadcast(&std::iter::once(engine).collect(), Cargo::Forget(vec![key]));
            }
        }
    }

    fn broadcast(&mut self, targets: &EngineSet, cargo: Cargo) {
        self.network.relay(Rank::CONTROLLER, targets, &Rc::new(cargo), &mut self.random);
    }
}

#[cfg(test)]
mod tests;
