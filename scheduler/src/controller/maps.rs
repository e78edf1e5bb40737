//! The maps that are under way, and the queues in which those with tasks to grant wait.

use super::dependencies::Dependency;
use super::event::NewMap;
use super::map::{End, Map};
use pxcluster_protocol::{ClientId, EngineId, EngineSet, Epoch, RequestKey, TaskIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Maps with tasks in their pool that the same engines may run, in order of submission.
#[derive(Debug)]
struct Queue {
    targets: Option<EngineSet>,
    maps: BTreeMap<u64, RequestKey>,
}

/// Maps by key. A map is in a queue exactly while its pool is not empty.
#[derive(Debug, Default)]
pub(super) struct Maps {
    by_key: BTreeMap<RequestKey, Map>,
    /// One queue for each set of targets in use: few, however many maps there are.
    queues: Vec<Queue>,
    /// Maps with special tasks, in order of submission.
    with_specials: BTreeMap<u64, RequestKey>,
    submitted: u64,
    unassigned: u64,
    /// Tasks of maps that wait for others.
    waiting: u64,
}

impl Maps {
    /// Tasks that no engine holds and that could be granted.
    pub(super) fn unassigned(&self) -> u64 {
        self.unassigned
    }

    /// Tasks of maps that wait for others.
    pub(super) fn waiting(&self) -> u64 {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn get(&self, key: RequestKey) -> Option<&Map> {
        self.by_key.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: RequestKey) -> Option<&mut Map> {
        self.by_key.get_mut(&key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = RequestKey> + '_ {
        self.by_key.keys().copied()
    }

    pub(super) fn of_client(&self, client: ClientId) -> impl Iterator<Item = RequestKey> + '_ {
        self.by_key.range(super::keys_of(client)).map(|(key, _)| *key)
    }

    /// Keeps a map, whose tasks wait until [`Self::release`].
    pub(super) fn submit(&mut self, new: NewMap, epoch: Epoch) {
        self.submitted += 1;
        self.waiting += u64::from(new.tasks);
        self.by_key.insert(new.key, Map::new(new, epoch, self.submitted));
    }

    /// What a map waits for.
    pub(super) fn waits(&self, key: RequestKey) -> Option<&(Dependency, Dependency)> {
        self.by_key.get(&key)?.waits.as_ref()
    }

    /// The map waits for nothing any more; its tasks may run on `engines` only, if they are given.
    pub(super) fn release(&mut self, key: RequestKey, engines: Option<EngineSet>) {
        let Some(map) = self.by_key.get_mut(&key).filter(|map| map.waits.is_some()) else { return };
        map.waits = None;
        if let Some(engines) = engines {
            let allowed = engines.iter().filter(|&engine| map.allows(engine)).collect();
            map.restrict(allowed);
        }
        let tasks = map.tasks;
        self.waiting -= u64::from(tasks);
        self.put_back(key, 0..tasks);
    }

    /// Forgets a map whose tasks have all ended.
    pub(super) fn remove_finished(&mut self, key: RequestKey) -> Option<Map> {
        self.by_key.get(&key)?.is_finished().then(|| self.by_key.remove(&key)).flatten()
    }

    /// Puts tasks where they can be granted.
    pub(super) fn put_back(&mut self, key: RequestKey, range: Range<TaskIndex>) {
        let Some(map) = self.by_key.get_mut(&key).filter(|_| !range.is_empty()) else { return };
        if map.has_histories(&range) {
            for task in range {
                self.put_back_one(key, task);
            }
            return;
        }
        self.unassigned += range.len() as u64;
        self.queue(key);
        self.by_key.get_mut(&key).into_iter().for_each(|map| map.pool.insert(range.clone()));
    }

    fn put_back_one(&mut self, key: RequestKey, task: TaskIndex) {
        let Some(map) = self.by_key.get_mut(&key) else { return };
        self.unassigned += 1;
        if map.is_special(task) {
            map.specials.insert(task);
            self.with_specials.insert(map.number, key);
        } else {
            self.queue(key);
            self.by_key.get_mut(&key).into_iter().for_each(|map| map.pool.insert(task..task + 1));
        }
    }

    /// Puts a map in its queue, if its pool is empty and about to be filled.
    fn queue(&mut self, key: RequestKey) {
        let Some(map) = self.by_key.get(&key).filter(|map| map.pool.is_empty()) else { return };
        let index = self.queues.iter().position(|queue| queue.targets == map.targets).unwrap_or_else(|| {
            self.queues.push(Queue { targets: map.targets.clone(), maps: BTreeMap::new() });
            self.queues.len() - 1
        });
        self.queues[index].maps.insert(map.number, key);
    }

    /// Takes at most `most` tasks in a row out of the pool.
    pub(super) fn take(&mut self, key: RequestKey, end: End, most: u32) -> Option<Range<TaskIndex>> {
        let range = self.by_key.get_mut(&key)?.take(end, most)?;
        self.unassigned -= range.len() as u64;
        self.dequeue_if_empty(key);
        Some(range)
    }

    /// The oldest task that only some engines may run, and `engine` may; and whether it must be alone there.
    pub(super) fn special_for(&self, engine: EngineId) -> Option<(RequestKey, TaskIndex, bool)> {
        self.with_specials.values().find_map(|key| {
            let map = self.by_key.get(key).filter(|map| map.allows(engine))?;
            let task = *map.specials.iter().find(|task| !map.is_excluded(**task, engine))?;
            Some((*key, task, map.is_suspect(task)))
        })
    }

    /// Number of tasks that must be alone on an engine, as far as it matters (at most `most`).
    pub(super) fn suspects(&self, most: usize) -> usize {
        let maps = self.with_specials.values().filter_map(|key| self.by_key.get(key));
        maps.flat_map(|map| map.specials.iter().filter(|task| map.is_suspect(**task))).take(most).count()
    }

    /// Takes a special task; whether it was waiting.
    pub(super) fn take_special(&mut self, key: RequestKey, task: TaskIndex) -> bool {
        let Some(map) = self.by_key.get_mut(&key) else { return false };
        let waited = map.specials.remove(&task);
        self.unassigned -= u64::from(waited);
        if map.specials.is_empty() {
            self.with_specials.remove(&map.number);
        }
        waited
    }

    /// A task has become special: if it waits in the pool, it is to wait where it belongs.
    pub(super) fn refile(&mut self, key: RequestKey, task: TaskIndex) {
        let Some(map) = self.by_key.get_mut(&key) else { return };
        if map.pool.remove(task) {
            self.unassigned -= 1;
            self.dequeue_if_empty(key);
            self.put_back_one(key, task);
        }
    }

    /// Ends all tasks that no engine holds without running them; returns them.
    pub(super) fn end_unheld(&mut self, key: RequestKey) -> Vec<Range<TaskIndex>> {
        let Some(map) = self.by_key.get_mut(&key) else { return Vec::new() };
        if map.waits.take().is_some() {
            self.waiting -= u64::from(map.tasks);
            map.finished = u64::from(map.tasks);
            return if map.tasks == 0 { Vec::new() } else { std::iter::once(0..map.tasks).collect() };
        }
        let (pool, specials) = (std::mem::take(&mut map.pool), std::mem::take(&mut map.specials));
        map.finished += pool.len() + specials.len() as u64;
        self.unassigned -= pool.len() + specials.len() as u64;
        self.with_specials.remove(&map.number);
        if !pool.is_empty() {
            self.dequeue_if_empty(key);
        }
        pool.iter().chain(specials.into_iter().map(|task| task..task + 1)).collect()
    }

    /// Ends tasks that are in no holdings and in no pool.
    pub(super) fn end(&mut self, key: RequestKey, tasks: u64) {
        self.by_key.get_mut(&key).into_iter().for_each(|map| map.finished += tasks);
    }

    fn dequeue_if_empty(&mut self, key: RequestKey) {
        let Some(map) = self.by_key.get(&key).filter(|map| map.pool.is_empty()) else { return };
        let Some(at) = self.queues.iter().position(|queue| queue.targets == map.targets) else { return };
        self.queues[at].maps.remove(&map.number);
        if self.queues[at].maps.is_empty() {
            self.queues.swap_remove(at);
        }
    }

    /// The first map, in order of submission, with tasks that `engine` may run.
    pub(super) fn first_for(&self, engine: EngineId) -> Option<RequestKey> {
        let allows = |queue: &&Queue| queue.targets.as_ref().is_none_or(|targets| targets.contains(engine));
        self.queues.iter().filter(allows).filter_map(|queue| queue.maps.first_key_value()).min().map(|(_, key)| *key)
    }

    /// Maps with tasks in their pool none of whose targets is among those that `is_alive`.
    pub(super) fn orphans(&self, is_alive: impl Fn(Option<&EngineSet>) -> bool) -> Vec<RequestKey> {
        let orphaned = self.queues.iter().filter(|queue| !is_alive(queue.targets.as_ref()));
        orphaned.flat_map(|queue| queue.maps.values().copied()).collect()
    }

    /// Special tasks that no engine of `alive` may run: the map and the task.
    pub(super) fn special_orphans(&self, alive: &[EngineId]) -> Vec<(RequestKey, TaskIndex)> {
        let mut found = Vec::new();
        for (key, map) in self.with_specials.values().filter_map(|key| Some((*key, self.by_key.get(key)?))) {
            let may = |task| alive.iter().any(|&engine| map.allows(engine) && !map.is_excluded(task, engine));
            found.extend(map.specials.iter().filter(|task| !may(**task)).map(|task| (key, *task)));
        }
        found
    }

    /// Whether any special task waits.
    pub(super) fn has_specials(&self) -> bool {
        !self.with_specials.is_empty()
    }

    /// Whether any engine may run any map.
    pub(super) fn are_for_all(&self) -> bool {
        self.by_key.values().all(|map| map.targets.is_none() && !map.aborted)
    }

    pub(super) fn check_invariants(&self, held: impl Fn(RequestKey) -> u64) {
        let (mut unassigned, mut waiting) = (0, 0);
        for (key, map) in &self.by_key {
            let blocked = if map.waits.is_some() { u64::from(map.tasks) } else { 0 };
            let specials = map.specials.len() as u64;
            let total = map.pool.len() + specials + blocked + held(*key) + map.finished;
            assert_eq!(total, u64::from(map.tasks), "conservation: map {key} has lost or doubled tasks");
            let queue = self.queues.iter().find(|queue| queue.targets == map.targets);
            let waits = queue.is_some_and(|queue| queue.maps.get(&map.number) == Some(key));
            assert_eq!(waits, !map.pool.is_empty(), "map {key} waits exactly when its pool is not empty");
            let listed = self.with_specials.get(&map.number) == Some(key);
            assert_eq!(listed, specials > 0, "map {key} is listed exactly when it has special tasks");
            unassigned += map.pool.len() + specials;
            waiting += blocked;
        }
        let queued: BTreeSet<&RequestKey> = self.queues.iter().flat_map(|queue| queue.maps.values()).collect();
        assert!(queued.iter().all(|key| self.by_key.contains_key(key)), "a queue has a map that is gone");
        assert_eq!(self.unassigned, unassigned, "the count of unassigned tasks is wrong");
        assert_eq!(self.waiting, waiting, "the count of waiting tasks is wrong");
    }
}
