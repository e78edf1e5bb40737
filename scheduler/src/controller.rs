//! The controller's machine: the pool of tasks, the engines' holdings, the order of direct requests.
//!
//! An event costs the logarithm of what is under way, plus the actions that it causes; only a request that names many
//! engines, and an engine's loss, look at many engines.

mod dependencies;
mod directs;
mod engines;
mod event;
mod losses;
mod map;
mod maps;
mod thefts;
mod waits;

pub use dependencies::{Dependency, Need};
pub use event::{Accepted, Action, EngineLoad, Event, Failed, Failure, NewMap, Suspect, Totals, Why};

use crate::grants::{GrantPolicy, Held};
use dependencies::Outcomes;
use directs::Directs;
use engines::{EngineState, Engines};
use maps::Maps;
use pxcluster_protocol::{ClientId, EngineId, EngineSet, Epoch, RequestId, RequestKey, TaskIndex};
use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use waits::Waits;

/// The controller's machine. See the crate's page for its invariants.
#[derive(Debug, Default)]
pub struct Controller {
    policy: GrantPolicy,
    epoch: Epoch,
    engines: Engines,
    directs: Directs,
    maps: Maps,
    outcomes: Outcomes,
    waits: Waits,
    /// Engines that get nothing until they are idle, because a task waits that must be alone.
    draining: BTreeSet<EngineId>,
}

impl Controller {
    /// A controller without engines.
    pub fn new(policy: GrantPolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// The engines that are alive.
    pub fn engines(&self) -> EngineSet {
        self.engines.ids().collect()
    }

    /// How busy `engine` is.
    pub fn load(&self, engine: EngineId) -> EngineLoad {
        self.engines.get(engine).map_or_else(EngineLoad::default, EngineState::load)
    }

    /// What the engines have done together.
    pub fn totals(&self) -> Totals {
        self.engines.totals()
    }

    /// Direct requests that some engine has not answered.
    pub fn directs(&self) -> u64 {
        self.directs.len()
    }

    /// Tasks that no engine holds.
    pub fn unassigned(&self) -> u64 {
        self.maps.unassigned() + self.maps.waiting()
    }

    /// The client's requests that are under way.
    pub fn requests_of(&self, client: ClientId) -> Vec<RequestKey> {
        self.maps.of_client(client).chain(self.directs.of_client(client)).collect()
    }

    /// The maps that are under way.
    pub fn maps(&self) -> impl Iterator<Item = RequestKey> + '_ {
        self.maps.keys()
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.maps.is_empty() && self.directs.is_empty()
    }

    /// Takes an event; appends to `out` what is to be done, in this order.
    pub fn handle(&mut self, event: Event<'_>, out: &mut Vec<Action>) {
        match event {
            Event::EngineJoined(engine) => {
                self.engines.join(engine);
                self.grant(engine, out);
            }
            Event::EngineLost { engine, suspect } => self.handle_engine_lost(engine, suspect, out),
            Event::Direct { key, targets } => {
                self.epoch = self.epoch.next();
                self.outcomes.begin_direct(key, &targets);
                let from = out.len();
                self.directs.submit(key, targets, self.epoch, &mut self.engines, out);
                self.note_directs(from, out);
            }
            Event::Map(new) => self.handle_map(new, out),
            Event::DirectFinished { key, engine, success } => {
                if self.engines.answer(engine, key) {
                    out.push(Action::Reply { key, engine });
                    self.outcomes.direct_ended(key, engine, success);
                    let from = out.len();
                    self.directs.close(key, engine, &self.engines, out);
                    self.note_directs(from, out);
                    self.judge_waiting_for(key, out);
                }
                self.grant(engine, out);
            }
            Event::TasksFinished { key, engine, tasks, failed, busy } => {
                self.handle_tasks_finished(key, engine, tasks, failed, busy, out);
                self.grant(engine, out);
            }
            Event::Asked { engine, received } => {
                if !self.draining.contains(&engine) && self.engines.ask(engine, received) {
                    self.grant(engine, out);
                }
            }
            Event::Gave { engine, key, thief, ranges } => self.handle_gave(engine, key, thief, &ranges, out),
            Event::Got { engine, key, victim, ranges } => self.handle_got(engine, key, victim, &ranges, out),
            Event::TimedOut(key) => self.handle_timed_out(key, out),
            Event::Abort(keys) => self.handle_aborts(&keys, out),
            Event::ClientGone(client) => self.handle_aborts(&self.requests_of(client), out),
        }
        self.match_thieves(out);
    }

    fn handle_map(&mut self, new: NewMap, out: &mut Vec<Action>) {
        let key = new.key;
        self.outcomes.begin_map(key, new.tasks);
        self.maps.submit(new, self.epoch);
        self.begin_waiting(key, out);
        self.end_map_if_finished(key, out);
    }

    fn handle_tasks_finished(
        &mut self,
        key: RequestKey,
        engine: EngineId,
        tasks: &[TaskIndex],
        failed: &[Failed],
        busy: f64,
        out: &mut Vec<Action>,
    ) {
        let positions = self.engines.release(engine, key, tasks);
        let Some(map) = self.maps.get_mut(key) else {
            if self.engines.is_alive(engine) {
                out.push(Action::Forget { key, engine }); // late news of tasks that others have finished meanwhile
            }
            return;
        };
        map.served.insert(engine);
        if positions.is_empty() {
            return;
        }
        map.measure(tasks, busy);
        let (mut counted, mut again, mut tries) = (Vec::with_capacity(positions.len()), Vec::new(), Vec::new());
        let mut failures = failed.iter().peekable();
        for at in positions {
            while failures.next_if(|failure| failure.at < at).is_some() {}
            let how = failures.peek().filter(|failure| failure.at == at).map(|failure| failure.how);
            let task = tasks[at];
            match how {
                Some(Failure::Raised) if map.try_again(task) => again.push(task),
                Some(Failure::Unmet) if !map.aborted => {
                    map.exclude(task, engine);
                    again.push(task);
                }
                _ => {
                    self.outcomes.task_ended(key, task, Some(engine), how.is_none());
                    tries.extend(map.tries(task).map(|count| (at, count)));
                    counted.push(at);
                }
            }
        }
        map.finished += counted.len() as u64;
        if !counted.is_empty() {
            let accepted = if counted.len() == tasks.len() { Accepted::All } else { Accepted::Positions(counted) };
            out.push(Action::Deliver { key, accepted, tries });
        }
        if !again.is_empty() {
            for task in again {
                self.maps.put_back(key, task..task + 1);
            }
            self.end_orphans(out);
            self.feed_idle(key, out);
        }
        self.judge_waiting_for(key, out);
        self.end_map_if_finished(key, out);
    }

    fn handle_timed_out(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        self.end_unheld(key, Why::TimedOut, out);
    }

    fn handle_aborts(&mut self, keys: &[RequestKey], out: &mut Vec<Action>) {
        // All are marked first: the end of one may let another one start.
        for key in keys {
            self.maps.get_mut(*key).into_iter().for_each(|map| map.aborted = true);
        }
        for key in keys {
            self.handle_abort(*key, out);
        }
    }

    fn handle_abort(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        self.directs.abort(key, out);
        let Some(map) = self.maps.get(key) else { return };
        let holds = |id: &&EngineId| self.engines.get(**id).is_some_and(|state| state.held.contains_key(&key));
        let engines: EngineSet = map.served.iter().filter(holds).copied().collect();
        if !engines.is_empty() {
            out.push(Action::AbortOn { key, engines });
        }
        self.end_unheld(key, Why::Aborted, out);
    }

    /// Ends the tasks of a map that no engine holds.
    fn end_unheld(&mut self, key: RequestKey, why: Why, out: &mut Vec<Action>) {
        let tasks = self.maps.end_unheld(key);
        if !tasks.is_empty() {
            self.outcomes.tasks_not_run(key, &tasks);
            out.push(Action::TasksEnded { key, tasks, why });
            self.judge_waiting_for(key, out);
        }
        self.end_map_if_finished(key, out);
    }

    /// Ends tasks that are in no holdings and no pool.
    fn end_tasks(&mut self, key: RequestKey, tasks: Vec<Range<TaskIndex>>, why: Why, out: &mut Vec<Action>) {
        self.maps.end(key, tasks.iter().map(|range| range.len() as u64).sum());
        self.outcomes.tasks_not_run(key, &tasks);
        out.push(Action::TasksEnded { key, tasks, why });
        self.judge_waiting_for(key, out);
        self.end_map_if_finished(key, out);
    }

    fn end_map_if_finished(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        if let Some(map) = self.maps.remove_finished(key) {
            let engines = map.served.into_iter().filter(|&engine| self.engines.is_alive(engine)).collect();
            self.outcomes.end(key);
            self.waits.forget(key);
            out.push(Action::MapDone { key, engines });
        }
    }

    /// Grants to idle engines when the pool of a map has grown, until it is empty or no engine that may run it is idle.
    /// An engine may take from an older map first, hence the loop. Engines at work get more when they report.
    fn feed_idle(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        while let Some(map) = self.maps.get(key) {
            // Of those that are idle some may be the ones that a special task excludes.
            let most = if map.specials.is_empty() { map.pool.len() as usize } else { usize::MAX };
            let engines = self.engines.idle(map.targets.as_ref(), most);
            let before = out.len();
            for engine in engines {
                self.grant(engine, out);
            }
            if out.len() == before {
                return;
            }
        }
    }

    /// Grants to one engine what it should hold, from the oldest map that it may run.
    ///
    /// An engine with an unanswered direct request gets nothing: it could not start a task before that is finished,
    /// and another engine may.
    fn grant(&mut self, engine: EngineId, out: &mut Vec<Action>) {
        loop {
            let Some(state) = self.engines.get(engine).filter(|state| state.directs.is_empty() && !state.is_alone)
            else {
                return;
            };
            let held = self.held(state);
            let is_empty_handed = held.tasks == 0 && state.receiving.is_none();
            if let Some((key, task, alone)) = self.maps.special_for(engine) {
                if alone && held.tasks > 0 && self.should_drain(engine) {
                    return;
                }
                let has_room = if alone { is_empty_handed } else { held.seconds < self.policy.refill_seconds };
                if has_room {
                    self.draining.remove(&engine);
                    self.maps.take_special(key, task);
                    self.push_grant(engine, key, task..task + 1, alone, out);
                    continue;
                }
            } else {
                self.draining.remove(&engine);
            }
            let Some(key) = self.maps.first_for(engine) else { return };
            let Some(map) = self.maps.get(key) else { return };
            let alive = self.engines.len();
            let (end, seconds) = map.next_end(map.width(alive));
            let size = self.policy.size(held, seconds, self.maps.unassigned(), map.width(alive));
            if size == 0 {
                return;
            }
            let Some(range) = self.maps.take(key, end, size) else { return };
            self.push_grant(engine, key, range, false, out);
            if self.maps.first_for(engine) == Some(key) && self.maps.special_for(engine).is_none() {
                return;
            }
        }
    }

    /// Whether `engine` is to get nothing more until it is idle, for a task that must be alone.
    fn should_drain(&mut self, engine: EngineId) -> bool {
        let draining = self.draining.len();
        self.draining.contains(&engine) || (self.maps.suspects(draining + 1) > draining && self.draining.insert(engine))
    }

    fn push_grant(
        &mut self,
        engine: EngineId,
        key: RequestKey,
        range: Range<TaskIndex>,
        alone: bool,
        out: &mut Vec<Action>,
    ) {
        let Some(map) = self.maps.get_mut(key) else { return };
        let (submitted, function) = (map.submitted, map.served.insert(engine));
        self.engines.hold(engine, key, range.clone());
        self.engines.deliver(engine, alone);
        let last_direct = self.engines.get(engine).map_or(Epoch::ZERO, |state| state.last_direct);
        out.push(Action::Grant { engine, key, range, submitted, last_direct, function });
    }

    /// What an engine holds. A task of unknown duration is taken for a long one.
    fn held(&self, state: &EngineState) -> Held {
        let seconds = |key: &RequestKey| self.maps.get(*key).and_then(map::Map::task_seconds);
        let work =
            state.held.iter().map(|(key, held)| held.len() as f64 * seconds(key).unwrap_or(self.policy.long_seconds));
        Held { tasks: state.load().tasks, seconds: work.sum() }
    }

    /// Checks what must hold between any two events.
    ///
    /// # Panics
    /// If it does not hold; the message names the invariant.
    pub fn check_invariants(&self) {
        self.engines.check_invariants(self.epoch);
        self.directs.check_invariants(&self.engines);
        let states = || self.engines.ids().filter_map(|id| Some((id, self.engines.get(id)?)));
        self.maps.check_invariants(|key| states().filter_map(|(_, state)| Some(state.held.get(&key)?.len())).sum());
        for (id, state) in states() {
            for key in state.held.keys() {
                assert!(self.maps.get(*key).is_some(), "engine {id} holds tasks of no map");
            }
            assert!(!state.is_alone || state.load().tasks == 1, "a task that must be alone has company on engine {id}");
            let idle = state.held.is_empty() && state.directs.is_empty() && state.receiving.is_none();
            let waits = self.maps.first_for(id).is_some() || self.maps.special_for(id).is_some();
            assert!(!idle || !waits, "engine {id} is idle while tasks wait for it");
        }
        self.check_thefts();
        assert!(self.engines.len() > 0 || self.maps.unassigned() == 0, "tasks wait for no engine");
    }
}

/// The keys of all requests of a client.
fn keys_of(client: ClientId) -> RangeInclusive<RequestKey> {
    RequestKey { client, request: 0 }..=RequestKey { client, request: RequestId::MAX }
}

#[cfg(test)]
mod tests;
