//! The maps that are under way, and the queues in which those with tasks to grant wait.

use super::map::Map;
use crate::ranges::TaskSet;
use pxcluster_protocol::{ClientId, EngineId, EngineSet, Epoch, RequestKey, TaskIndex};
use std::collections::BTreeMap;
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
    submitted: u64,
    unassigned: u64,
}

impl Maps {
    /// Tasks in all pools.
    pub(super) fn unassigned(&self) -> u64 {
        self.unassigned
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

    pub(super) fn of_client(&self, client: ClientId) -> impl Iterator<Item = RequestKey> + '_ {
        self.by_key.range(super::keys_of(client)).map(|(key, _)| *key)
    }

    pub(super) fn submit(
        &mut self,
        key: RequestKey,
        tasks: u32,
        targets: Option<EngineSet>,
        retries: u32,
        epoch: Epoch,
    ) {
        self.submitted += 1;
        self.by_key.insert(key, Map::new(tasks, targets, retries, epoch, self.submitted));
        self.put_back(key, 0..tasks);
    }

    /// Forgets a map whose tasks have all ended.
    pub(super) fn remove_finished(&mut self, key: RequestKey) -> Option<Map> {
        self.by_key.get(&key)?.is_finished().then(|| self.by_key.remove(&key)).flatten()
    }

    /// Puts tasks in the pool.
    pub(super) fn put_back(&mut self, key: RequestKey, range: Range<TaskIndex>) {
        let Some(map) = self.by_key.get_mut(&key).filter(|_| !range.is_empty()) else { return };
        if map.pool.is_empty() {
            let index = self.queues.iter().position(|queue| queue.targets == map.targets).unwrap_or_else(|| {
                self.queues.push(Queue { targets: map.targets.clone(), maps: BTreeMap::new() });
                self.queues.len() - 1
            });
            self.queues[index].maps.insert(map.number, key);
        }
        self.unassigned += range.len() as u64;
        map.pool.insert(range);
    }

    /// Takes at most `most` tasks in a row out of the pool.
    pub(super) fn take(&mut self, key: RequestKey, most: u32) -> Option<Range<TaskIndex>> {
        let map = self.by_key.get_mut(&key)?;
        let range = map.pool.take_front(most)?;
        self.unassigned -= range.len() as u64;
        self.dequeue_if_empty(key);
        Some(range)
    }

    /// Ends all tasks of the pool without running them; returns them.
    pub(super) fn end_pool(&mut self, key: RequestKey) -> Vec<Range<TaskIndex>> {
        let Some(map) = self.by_key.get_mut(&key).filter(|map| !map.pool.is_empty()) else { return Vec::new() };
        let pool = std::mem::take(&mut map.pool);
        map.finished += pool.len();
        self.unassigned -= pool.len();
        self.dequeue_if_empty(key);
        pool.iter().collect()
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

    /// Waiting maps none of whose targets is among those that `is_alive`.
    pub(super) fn orphans(&self, is_alive: impl Fn(Option<&EngineSet>) -> bool) -> Vec<RequestKey> {
        let orphaned = self.queues.iter().filter(|queue| !is_alive(queue.targets.as_ref()));
        orphaned.flat_map(|queue| queue.maps.values().copied()).collect()
    }

    pub(super) fn check_invariants(&self, held: impl Fn(RequestKey) -> u64) {
        for (key, map) in &self.by_key {
            let total = map.pool.len() + held(*key) + map.finished;
            assert_eq!(total, u64::from(map.tasks), "conservation: map {key} has lost or doubled tasks");
            let queue = self.queues.iter().find(|queue| queue.targets == map.targets);
            let waits = queue.is_some_and(|queue| queue.maps.get(&map.number) == Some(key));
            assert_eq!(waits, !map.pool.is_empty(), "map {key} waits exactly when its pool is not empty");
        }
        let queued: usize = self.queues.iter().map(|queue| queue.maps.len()).sum();
        let waiting = self.by_key.values().map(|map| &map.pool).filter(|pool| !pool.is_empty());
        assert_eq!(queued, waiting.clone().count(), "a queue has a map that does not wait");
        assert_eq!(self.unassigned, waiting.map(TaskSet::len).sum::<u64>(), "the count of unassigned tasks is wrong");
    }
}
