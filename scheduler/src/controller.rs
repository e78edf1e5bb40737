//! The controller's machine: the pool of tasks, the engines' holdings, the order of direct requests.
//!
//! An event costs the logarithm of what is under way, plus the actions that it causes; only a request that names many
//! engines, and an engine's loss, look at many engines.

mod directs;
mod engines;
mod event;
mod map;
mod maps;

pub use event::{Accepted, Action, EngineLoad, Event};

use crate::grants::{GrantPolicy, Held};
use directs::Directs;
use engines::{EngineState, Engines};
use maps::Maps;
use pxcluster_protocol::{ClientId, EngineId, EngineSet, Epoch, RequestId, RequestKey, TaskIndex};
use std::ops::RangeInclusive;

/// The controller's machine. See the crate's page for its invariants.
#[derive(Debug, Default)]
pub struct Controller {
    policy: GrantPolicy,
    epoch: Epoch,
    engines: Engines,
    directs: Directs,
    maps: Maps,
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

    /// Tasks that no engine holds.
    pub fn unassigned(&self) -> u64 {
        self.maps.unassigned()
    }

    /// The client's requests that are under way.
    pub fn requests_of(&self, client: ClientId) -> Vec<RequestKey> {
        self.maps.of_client(client).chain(self.directs.of_client(client)).collect()
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
            Event::EngineLost(engine) => self.handle_engine_lost(engine, out),
            Event::Direct { key, targets } => {
                self.epoch = self.epoch.next();
                self.directs.submit(key, targets, self.epoch, &mut self.engines, out);
            }
            Event::Map { key, tasks, targets, retries } => {
                self.maps.submit(key, tasks, targets, retries, self.epoch);
                self.end_orphans(out);
                self.feed_idle(key, out);
                self.end_map_if_finished(key, out);
            }
            Event::DirectFinished { key, engine } => {
                if self.engines.answer(engine, key) {
                    out.push(Action::Reply { key, engine });
                    self.directs.close(key, engine, &self.engines, out);
                }
                self.grant(engine, out);
            }
            Event::TasksFinished { key, engine, tasks, failed, busy } => {
                self.handle_tasks_finished(key, engine, tasks, failed, busy, out);
                self.grant(engine, out);
            }
            Event::Abort(keys) => keys.into_iter().for_each(|key| self.handle_abort(key, out)),
            Event::ClientGone(client) => {
                let keys: Vec<_> = self.maps.of_client(client).chain(self.directs.of_client(client)).collect();
                for key in keys {
                    self.handle_abort(key, out);
                }
            }
        }
    }

    fn handle_tasks_finished(
        &mut self,
        key: RequestKey,
        engine: EngineId,
        tasks: &[TaskIndex],
        failed: &[usize],
        busy: f64,
        out: &mut Vec<Action>,
    ) {
        let mut positions = self.engines.release(engine, key, tasks);
        let Some(map) = self.maps.get_mut(key).filter(|_| !positions.is_empty()) else { return };
        map.measure(tasks.len(), busy);
        let mut again = Vec::new();
        positions.retain(|at| {
            let counts = failed.binary_search(at).is_err() || !map.try_again(tasks[*at]);
            if !counts {
                again.push(tasks[*at]);
            }
            counts
        });
        map.finished += positions.len() as u64;
        if !positions.is_empty() {
            let accepted = if positions.len() == tasks.len() { Accepted::All } else { Accepted::Positions(positions) };
            out.push(Action::Deliver { key, accepted });
        }
        if !again.is_empty() {
            for task in again {
                self.maps.put_back(key, task..task + 1);
            }
            self.feed_idle(key, out);
        }
        self.end_map_if_finished(key, out);
    }

    fn handle_engine_lost(&mut self, engine: EngineId, out: &mut Vec<Action>) {
        let Some(state) = self.engines.lose(engine) else { return };
        for key in state.directs.into_keys() {
            out.push(Action::DirectLost { key, engine });
            self.directs.close(key, engine, &self.engines, out);
        }
        self.directs.repeat_relayed_by(engine, &self.engines, out);
        let mut grown = Vec::new();
        for (key, held) in state.held {
            for range in held.iter() {
                self.maps.put_back(key, range);
            }
            if let Some(map) = self.maps.get(key) {
                grown.push((map.number, key));
                if map.aborted {
                    self.end_pool_as_aborted(key, out);
                }
            }
        }
        self.end_orphans(out);
        grown.sort_unstable();
        for (_, key) in grown {
            self.feed_idle(key, out);
        }
    }

    fn handle_abort(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        self.directs.abort(key, out);
        let Some(map) = self.maps.get_mut(key) else { return };
        map.aborted = true;
        let holds = |id: &&EngineId| self.engines.get(**id).is_some_and(|state| state.held.contains_key(&key));
        let engines: EngineSet = map.served.iter().filter(holds).copied().collect();
        if !engines.is_empty() {
            out.push(Action::AbortOn { key, engines });
        }
        self.end_pool_as_aborted(key, out);
    }

    fn end_pool_as_aborted(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        let tasks = self.maps.end_pool(key);
        if !tasks.is_empty() {
            out.push(Action::TasksAborted { key, tasks });
        }
        self.end_map_if_finished(key, out);
    }

    /// Ends the waiting tasks that no living engine may run.
    fn end_orphans(&mut self, out: &mut Vec<Action>) {
        let engines = &self.engines;
        let is_alive = |targets: Option<&EngineSet>| match targets {
            None => engines.len() > 0,
            Some(targets) => targets.iter().any(|engine| engines.is_alive(engine)),
        };
        for key in self.maps.orphans(is_alive) {
            let tasks = self.maps.end_pool(key);
            out.push(Action::TasksLost { key, tasks });
            self.end_map_if_finished(key, out);
        }
    }

    fn end_map_if_finished(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        if let Some(map) = self.maps.remove_finished(key) {
            let engines = map.served.into_iter().filter(|&engine| self.engines.is_alive(engine)).collect();
            out.push(Action::MapDone { key, engines });
        }
    }

    /// Grants to idle engines when the pool of a map has grown, until it is empty or no engine that may run it is idle.
    /// An engine may take from an older map first, hence the loop. Engines at work get more when they report.
    fn feed_idle(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        while let Some(map) = self.maps.get(key) {
            let engines = self.engines.idle(map.targets.as_ref(), map.pool.len() as usize);
            if engines.is_empty() {
                return;
            }
            for engine in engines {
                self.grant(engine, out);
            }
        }
    }

    /// Grants to one engine what it should hold, from the oldest map that it may run.
    ///
    /// An engine with an unanswered direct request gets nothing: it could not start a task before that is finished,
    /// and another engine may.
    fn grant(&mut self, engine: EngineId, out: &mut Vec<Action>) {
        while let Some(key) = self.maps.first_for(engine) {
            let Some(state) = self.engines.get(engine).filter(|state| state.directs.is_empty()) else { return };
            let (held, last_direct) = (self.held(state), state.last_direct);
            let alive = self.engines.len();
            let unassigned = self.maps.unassigned();
            let Some(map) = self.maps.get_mut(key) else { return };
            let size = self.policy.size(held, map.task_seconds(), unassigned, map.width(alive));
            if size == 0 {
                return;
            }
            let (submitted, first) = (map.submitted, map.served.insert(engine));
            let Some(range) = self.maps.take(key, size) else { return };
            self.engines.hold(engine, key, range.clone());
            out.push(Action::Grant { engine, key, range, submitted, last_direct, first });
            if self.maps.first_for(engine) == Some(key) {
                return;
            }
        }
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
            let idle = state.held.is_empty() && state.directs.is_empty();
            assert!(!idle || self.maps.first_for(id).is_none(), "engine {id} is idle while tasks wait for it");
        }
        assert!(self.engines.len() > 0 || self.maps.unassigned() == 0, "tasks wait for no engine");
    }
}

/// The keys of all requests of a client.
fn keys_of(client: ClientId) -> RangeInclusive<RequestKey> {
    RequestKey { client, request: 0 }..=RequestKey { client, request: RequestId::MAX }
}

#[cfg(test)]
mod tests;
