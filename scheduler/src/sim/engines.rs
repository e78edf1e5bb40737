//! The engines: the real machines, with a main thread that only takes time, and an outbox.

use super::network::{Happening, Message, Results};
use super::{Cluster, Work};
use crate::{Engine, EngineEvent, Failed, Failure};
use pxcluster_protocol::to_engine::Cargo;
use pxcluster_protocol::{EngineId, Epoch, Rank, RequestKey, TaskIndex};
use std::ops::Range;

#[derive(Debug)]
pub(super) struct SimEngine {
    pub(super) machine: Engine,
    pub(super) alive: bool,
    /// What the main thread is at, since when, and how long each of its tasks takes.
    work: Option<(Work, f64, Vec<f64>)>,
    /// Number of what the main thread is at; grows also when a part of it is stolen.
    pub(super) batch: u64,
    parcels: u64,
    /// Results that wait for others, since when.
    outbox: Option<(Results, f64)>,
}

impl SimEngine {
    pub(super) fn new() -> Self {
        Self { machine: Engine::new(), alive: true, work: None, batch: 0, parcels: 0, outbox: None }
    }

    /// How many tasks of the running batch have started.
    fn started(&self, now: f64) -> usize {
        let Some((_, since, seconds)) = &self.work else { return 0 };
        let ends = seconds.iter().scan(*since, |end, seconds| {
            *end += seconds;
            Some(*end)
        });
        (1 + ends.take_while(|end| *end <= now).count()).min(seconds.len())
    }

    /// The task that runs.
    pub(super) fn running_task(&self, now: f64) -> Option<(RequestKey, TaskIndex)> {
        match &self.work {
            Some((Work::Tasks { key, range, .. }, ..)) => Some((*key, range.start + self.started(now) as u32 - 1)),
            _ => None,
        }
    }
}

impl Cluster {
    pub(super) fn arrives_at_engine(&mut self, engine: EngineId, from: Rank, message: Message) {
        match message {
            Message::Relay { targets, cargo } => {
                self.network.relay(engine.rank(), &targets.without(engine), &cargo, &mut self.random);
                self.take_cargo(engine, &cargo);
            }
            Message::Tasks { key, ranges, last_direct, function } => {
                if function {
                    self.oracle.function_arrived(engine, key);
                }
                if let Some(victim) = from.engine() {
                    self.say(engine, Message::Got { key, victim, ranges: ranges.clone() });
                }
                let state = &mut self.engines[engine.0 as usize];
                let mut parcels = Vec::new();
                for range in ranges {
                    state.parcels += 1;
                    parcels.push((state.parcels, range));
                }
                state.machine.handle(EngineEvent::Tasks { key, parcels, last_direct });
            }
            Message::Steal { key, thief, last_direct, function } => {
                self.give(engine, key, thief, last_direct, function);
            }
            Message::Reply { .. }
            | Message::Results(_)
            | Message::Ask { .. }
            | Message::Gave { .. }
            | Message::Got { .. } => {
                panic!("not for an engine")
            }
        }
        self.answer_aborted(engine);
        self.keep_main_thread_busy(engine);
    }

    fn take_cargo(&mut self, engine: EngineId, cargo: &Cargo) {
        let machine = &mut self.engines[engine.0 as usize].machine;
        match cargo {
            Cargo::Direct(direct) => {
                let (key, epoch, previous) = (direct.key, direct.epoch, direct.previous_of(engine));
                machine.handle(EngineEvent::Direct { key, epoch, previous });
            }
            Cargo::Abort(keys) => {
                for key in keys {
                    self.oracle.abort_arrived(engine, *key);
                }
                machine.handle(EngineEvent::Abort(keys.clone()));
            }
            Cargo::Forget(keys) => {
                for key in keys {
                    self.oracle.forgotten(engine, *key);
                }
                machine.handle(EngineEvent::Forget(keys.clone()));
            }
            other => panic!("{other:?} is never sent"),
        }
    }

    fn give(&mut self, engine: EngineId, key: RequestKey, thief: EngineId, last_direct: Epoch, function: bool) {
        let now = self.network.now();
        let state = &mut self.engines[engine.0 as usize];
        let pieces = state.machine.give(key, state.started(now));
        let ranges: Vec<Range<TaskIndex>> = pieces.into_iter().map(|piece| piece.range).collect();
        self.cut_work(engine);
        if !ranges.is_empty() {
            let loot = Message::Tasks { key, ranges: ranges.clone(), last_direct, function };
            self.network.send(engine.rank(), thief.rank(), loot, &mut self.random);
        }
        self.say(engine, Message::Gave { key, thief, ranges });
    }

    /// The running batch may have become shorter.
    fn cut_work(&mut self, engine: EngineId) {
        let state = &mut self.engines[engine.0 as usize];
        let left = state.machine.running_tasks();
        if let Some((Work::Tasks { range, .. }, _, seconds)) = &mut state.work
            && left.len() < range.len()
        {
            *range = left;
            seconds.truncate(range.len());
            self.plan_end_of_work(engine);
        }
    }

    fn answer_aborted(&mut self, engine: EngineId) {
        let now = self.network.now();
        let state = &mut self.engines[engine.0 as usize];
        let aborted = state.machine.take_aborted(state.started(now));
        self.cut_work(engine);
        for (key, _) in aborted.directs {
            self.oracle.direct_aborted(engine, key);
            self.say(engine, Message::Reply { key, success: false });
        }
        for (key, piece) in aborted.tasks {
            let tasks: Vec<TaskIndex> = piece.range.collect();
            let failed = (0..tasks.len()).map(|at| Failed { at, how: Failure::Aborted }).collect();
            self.put_results(engine, Results { key, tasks, failed, busy: 0.0 });
            self.send_results(engine);
        }
    }

    fn keep_main_thread_busy(&mut self, engine: EngineId) {
        while let Some(work) = self.engines[engine.0 as usize].machine.next_work() {
            let seconds = match &work {
                Work::Direct { key, .. } => {
                    self.oracle.direct_started(engine, *key);
                    vec![self.random.heavy_tailed(50e-6)]
                }
                Work::Tasks { key, range, .. } => {
                    self.oracle.tasks_started(engine, *key);
                    let seconds = &self.oracle.map(*key).seconds;
                    range.clone().map(|task| seconds[task as usize]).collect()
                }
            };
            let now = self.network.now();
            let state = &mut self.engines[engine.0 as usize];
            state.work = Some((work, now, seconds));
            let ask = state.machine.take_ask();
            self.plan_end_of_work(engine);
            if let Some(received) = ask {
                self.say(engine, Message::Ask { received });
            }
        }
        if self.engines[engine.0 as usize].work.is_none() {
            self.send_results(engine);
        }
        self.engines[engine.0 as usize].machine.check_invariants();
    }

    /// Plans the end of what the main thread is at, or the engine's end if a task of it is deadly.
    fn plan_end_of_work(&mut self, engine: EngineId) {
        let state = &mut self.engines[engine.0 as usize];
        state.batch += 1;
        let batch = state.batch;
        let Some((work, since, seconds)) = &state.work else { return };
        let deadly = match work {
            Work::Tasks { key, range, .. } => {
                let map = self.oracle.map(*key);
                range.clone().position(|task| map.is_deadly(task))
            }
            Work::Direct { .. } => None,
        };
        let count = deadly.map_or(seconds.len(), |at| at + 1);
        let end = since + seconds[..count].iter().sum::<f64>();
        let happening = match deadly {
            Some(_) => Happening::TaskKills { engine, batch },
            None => Happening::MainThreadIsDone { engine, batch },
        };
        self.network.plan(end - self.network.now(), happening);
    }

    pub(super) fn main_thread_is_done(&mut self, engine: EngineId, batch: u64) {
        let state = &mut self.engines[engine.0 as usize];
        if !state.alive || state.batch != batch {
            return;
        }
        let Some((work, _, seconds)) = state.work.take() else { return };
        match work {
            Work::Direct { key, epoch } => {
                self.oracle.direct_ended(engine, key);
                state.machine.handle(EngineEvent::DirectFinished(epoch));
                let success = self.random.chance(0.9);
                self.say(engine, Message::Reply { key, success });
            }
            Work::Tasks { key, range, .. } => {
                let busy = seconds.iter().sum();
                let tasks: Vec<u32> = range.collect();
                state.machine.handle(EngineEvent::TasksFinished { key, tasks: tasks.len(), busy });
                let map = self.oracle.map(key);
                let mut failed = Vec::new();
                for (at, &task) in tasks.iter().enumerate() {
                    if map.is_unmet(task, engine) {
                        failed.push(Failed { at, how: Failure::Unmet });
                    } else if self.random.chance(map.raise_chance) {
                        failed.push(Failed { at, how: Failure::Raised });
                    }
                }
                self.put_results(engine, Results { key, tasks, failed, busy });
            }
        }
        self.keep_main_thread_busy(engine);
    }

    /// Joins results with those of the same map that wait.
    fn put_results(&mut self, engine: EngineId, new: Results) {
        let now = self.network.now();
        let state = &mut self.engines[engine.0 as usize];
        if let Some((old, since)) = state.outbox.as_mut().filter(|(old, _)| old.key == new.key) {
            let before = old.tasks.len();
            old.failed.extend(new.failed.into_iter().map(|failed| Failed { at: before + failed.at, ..failed }));
            old.tasks.extend(new.tasks);
            old.busy += new.busy;
            if now - *since >= self.settings.results_age {
                self.send_results(engine);
            }
            return;
        }
        self.send_results(engine);
        self.engines[engine.0 as usize].outbox = Some((new, now));
        if self.settings.results_age > 0.0 {
            self.network.plan(self.settings.results_age, Happening::ResultsAreDue(engine));
        } else {
            self.send_results(engine);
        }
    }

    pub(super) fn send_results(&mut self, engine: EngineId) {
        let state = &mut self.engines[engine.0 as usize];
        if let Some((results, _)) = state.outbox.take().filter(|_| state.alive) {
            self.network.send(engine.rank(), Rank::CONTROLLER, Message::Results(results), &mut self.random);
        }
    }

    /// Sends to the controller, behind the results that wait.
    fn say(&mut self, engine: EngineId, message: Message) {
        self.send_results(engine);
        self.network.send(engine.rank(), Rank::CONTROLLER, message, &mut self.random);
    }
}
