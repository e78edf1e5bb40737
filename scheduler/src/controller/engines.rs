//! The engines as the controller sees them: what each holds and owes, and which are idle.

use super::EngineLoad;
use crate::ranges::TaskSet;
use pxcluster_protocol::{EngineId, EngineSet, Epoch, RequestKey, TaskIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

#[derive(Debug, Default)]
pub(super) struct EngineState {
    pub(super) last_direct: Epoch,
    /// Direct requests that it has not answered, with the one that it runs before each.
    pub(super) directs: BTreeMap<RequestKey, Epoch>,
    /// Tasks that it has been granted and has not reported, by map; no set is empty.
    pub(super) held: BTreeMap<RequestKey, TaskSet>,
    /// Sum of the sizes of `held`.
    tasks: u64,
    completed: u64,
}

impl EngineState {
    pub(super) fn load(&self) -> EngineLoad {
        EngineLoad { queue: self.directs.len() as u64, tasks: self.tasks, completed: self.completed }
    }

    /// Its place among the idle: who has done least comes first. `None` if it is busy.
    fn idle_place(&self) -> Option<u64> {
        (self.tasks == 0 && self.directs.is_empty()).then_some(self.completed)
    }
}

#[derive(Debug, Default)]
pub(super) struct Engines {
    alive: BTreeMap<EngineId, EngineState>,
    /// Exactly the engines that hold no task and owe no answer.
    idle: BTreeSet<(u64, EngineId)>,
}

impl Engines {
    pub(super) fn len(&self) -> usize {
        self.alive.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = EngineId> + '_ {
        self.alive.keys().copied()
    }

    pub(super) fn is_alive(&self, engine: EngineId) -> bool {
        self.alive.contains_key(&engine)
    }

    pub(super) fn get(&self, engine: EngineId) -> Option<&EngineState> {
        self.alive.get(&engine)
    }

    pub(super) fn join(&mut self, engine: EngineId) {
        let state = self.alive.entry(engine).or_default();
        self.idle.extend(state.idle_place().map(|place| (place, engine)));
    }

    pub(super) fn lose(&mut self, engine: EngineId) -> Option<EngineState> {
        let state = self.alive.remove(&engine)?;
        state.idle_place().map(|place| self.idle.remove(&(place, engine)));
        Some(state)
    }

    /// Changes an engine and keeps the index of the idle true. `None` if it is not alive.
    fn change<R>(&mut self, engine: EngineId, change: impl FnOnce(&mut EngineState) -> R) -> Option<R> {
        let state = self.alive.get_mut(&engine)?;
        let before = state.idle_place();
        let result = change(state);
        let after = state.idle_place();
        if before != after {
            before.map(|place| self.idle.remove(&(place, engine)));
            after.map(|place| self.idle.insert((place, engine)));
        }
        Some(result)
    }

    /// `engine` will have to answer a direct request; returns the one that it runs before. `None` if it is not alive.
    pub(super) fn owe(&mut self, engine: EngineId, key: RequestKey, epoch: Epoch) -> Option<Epoch> {
        self.change(engine, |state| {
            let previous = std::mem::replace(&mut state.last_direct, epoch);
            state.directs.insert(key, previous);
            previous
        })
    }

    /// Whether `engine` still owed this answer.
    pub(super) fn answer(&mut self, engine: EngineId, key: RequestKey) -> bool {
        self.change(engine, |state| {
            let owed = state.directs.remove(&key).is_some();
            state.completed += u64::from(owed);
            owed
        })
        .unwrap_or(false)
    }

    /// Adds tasks to the holdings of a living engine.
    pub(super) fn hold(&mut self, engine: EngineId, key: RequestKey, range: Range<TaskIndex>) {
        self.change(engine, |state| {
            state.tasks += range.len() as u64;
            state.held.entry(key).or_default().insert(range);
        });
    }

    /// Takes tasks out of an engine's holdings; returns the positions in `tasks` of those that were in them.
    pub(super) fn release(&mut self, engine: EngineId, key: RequestKey, tasks: &[TaskIndex]) -> Vec<usize> {
        let release = |state: &mut EngineState| {
            let held = state.held.get_mut(&key)?;
            let is_held = |(at, task): (usize, &TaskIndex)| held.remove(*task).then_some(at);
            let positions: Vec<usize> = tasks.iter().enumerate().filter_map(is_held).collect();
            if held.is_empty() {
                state.held.remove(&key);
            }
            state.tasks -= positions.len() as u64;
            state.completed += positions.len() as u64;
            Some(positions)
        };
        self.change(engine, release).flatten().unwrap_or_default()
    }

    /// At most `most` idle engines of `targets` (`None`: of all), who has done least first.
    pub(super) fn idle(&self, targets: Option<&EngineSet>, most: usize) -> Vec<EngineId> {
        let all = self.idle.iter();
        let Some(targets) = targets else { return all.take(most).map(|&(_, engine)| engine).collect() };
        if self.idle.len() <= targets.len() {
            return all.map(|&(_, engine)| engine).filter(|&engine| targets.contains(engine)).take(most).collect();
        }
        let place = |engine| Some((self.get(engine)?.idle_place()?, engine));
        let mut places: Vec<(u64, EngineId)> = targets.iter().filter_map(place).collect();
        places.sort_unstable();
        places.into_iter().take(most).map(|(_, engine)| engine).collect()
    }

    pub(super) fn check_invariants(&self, epoch: Epoch) {
        for (id, state) in &self.alive {
            assert!(state.last_direct <= epoch, "engine {id} is ahead of the controller's epoch");
            assert!(state.held.values().all(|held| !held.is_empty()), "engine {id} holds nothing of a map");
            let held: u64 = state.held.values().map(TaskSet::len).sum();
            assert_eq!(state.tasks, held, "engine {id}: the count of held tasks is wrong");
        }
        let place = |(id, state): (&EngineId, &EngineState)| Some((state.idle_place()?, *id));
        let idle: BTreeSet<(u64, EngineId)> = self.alive.iter().filter_map(place).collect();
        assert_eq!(self.idle, idle, "the index of idle engines is wrong");
    }
}
