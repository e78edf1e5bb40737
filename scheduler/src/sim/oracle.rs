//! What must be true of the whole cluster, judged from outside the machines.

use super::network::Results;
use crate::Accepted;
use pxcluster_protocol::{EngineId, EngineSet, RequestKey, TaskIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

#[derive(Debug)]
pub(super) struct MapRecord {
    number: u64,
    targets: Option<EngineSet>,
    retries: u32,
    ended: Vec<bool>,
    raised: BTreeMap<TaskIndex, u32>,
    aborted: bool,
    done: bool,
    /// How long each task takes.
    pub(super) seconds: Vec<f64>,
    /// How likely a task raises.
    pub(super) raise_chance: f64,
}

#[derive(Debug)]
struct DirectRecord {
    number: u64,
    /// Targets that have neither answered nor been reported lost.
    open: BTreeSet<EngineId>,
    done: bool,
}

/// Sees everything, and panics at the first breach.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    submitted: u64,
    maps: BTreeMap<RequestKey, MapRecord>,
    directs: BTreeMap<RequestKey, DirectRecord>,
    /// Direct requests that each engine has to finish, in order of submission.
    owed: BTreeMap<EngineId, BTreeMap<u64, RequestKey>>,
    functions: BTreeSet<(EngineId, RequestKey)>,
    told_to_abort: BTreeSet<(EngineId, RequestKey)>,
    lost: BTreeSet<EngineId>,
}

impl Oracle {
    pub(super) fn map(&self, key: RequestKey) -> &MapRecord {
        &self.maps[&key]
    }

    pub(super) fn direct_submitted(&mut self, key: RequestKey, targets: &EngineSet) {
        self.submitted += 1;
        let number = self.submitted;
        for engine in targets.iter() {
            self.owed.entry(engine).or_default().insert(number, key);
        }
        self.directs.insert(key, DirectRecord { number, open: targets.iter().collect(), done: false });
    }

    pub(super) fn map_submitted(
        &mut self,
        key: RequestKey,
        targets: Option<EngineSet>,
        retries: u32,
        seconds: Vec<f64>,
        raise_chance: f64,
    ) {
        self.submitted += 1;
        let (number, ended) = (self.submitted, vec![false; seconds.len()]);
        let raised = BTreeMap::new();
        let record =
            MapRecord { number, targets, retries, ended, raised, aborted: false, done: false, seconds, raise_chance };
        self.maps.insert(key, record);
    }

    pub(super) fn abort_asked(&mut self, key: RequestKey) {
        if let Some(map) = self.maps.get_mut(&key) {
            map.aborted = true;
        }
    }

    pub(super) fn engine_lost(&mut self, engine: EngineId) {
        self.lost.insert(engine);
    }

    pub(super) fn grant_made(&self, key: RequestKey) {
        let map = &self.maps[&key];
        assert!(!map.aborted && !map.done, "{key} is granted although it was aborted or is done");
    }

    // At the engines.

    pub(super) fn granted(&mut self, engine: EngineId, key: RequestKey, first: bool) {
        assert_eq!(self.functions.insert((engine, key)), first, "engine {engine}: the function of {key} comes once");
    }

    pub(super) fn abort_arrived(&mut self, engine: EngineId, key: RequestKey) {
        self.told_to_abort.insert((engine, key));
    }

    pub(super) fn forgotten(&mut self, engine: EngineId, key: RequestKey) {
        self.functions.remove(&(engine, key));
    }

    pub(super) fn direct_started(&mut self, engine: EngineId, key: RequestKey) {
        let number = self.directs[&key].number;
        let first = self.owed.get(&engine).and_then(BTreeMap::first_key_value);
        assert_eq!(first, Some((&number, &key)), "engine {engine} runs direct requests once and in order");
    }

    pub(super) fn direct_ended(&mut self, engine: EngineId, key: RequestKey) {
        self.direct_started(engine, key);
        self.owed.get_mut(&engine).and_then(BTreeMap::pop_first);
    }

    pub(super) fn tasks_started(&self, engine: EngineId, key: RequestKey) {
        let map = &self.maps[&key];
        let before = self.owed.get(&engine).and_then(|owed| owed.range(..map.number).next());
        assert_eq!(before, None, "P1: engine {engine} starts a task of {key} before what was submitted before it");
        assert!(map.targets.as_ref().is_none_or(|set| set.contains(engine)), "{key} is not for engine {engine}");
        assert!(self.functions.contains(&(engine, key)), "engine {engine} has not got the function of {key}");
        assert!(!self.told_to_abort.contains(&(engine, key)), "engine {engine} was told to abort {key}");
    }

    // At the client.

    pub(super) fn answered(&mut self, key: RequestKey, engine: EngineId) {
        let direct = self.directs.get_mut(&key).expect("submitted");
        assert!(direct.open.remove(&engine), "{key} is answered twice for engine {engine}");
    }

    pub(super) fn answer_lost(&mut self, key: RequestKey, engine: EngineId, alive: &EngineSet) {
        assert!(!alive.contains(engine), "engine {engine} is alive");
        self.answered(key, engine);
        let number = self.directs[&key].number;
        self.owed.get_mut(&engine).and_then(|owed| owed.remove(&number));
    }

    pub(super) fn direct_done(&mut self, key: RequestKey) {
        let direct = self.directs.get_mut(&key).expect("submitted");
        assert!(direct.open.is_empty() && !direct.done, "{key} is done once, when everybody has answered");
        direct.done = true;
    }

    /// A message with results is dealt with; `accepted`: what was delivered of it.
    pub(super) fn reported(&mut self, engine: EngineId, results: &Results, accepted: Option<&Accepted>) {
        let map = self.maps.get_mut(&results.key).expect("submitted");
        assert!(!results.aborted || map.aborted, "nobody aborted {}", results.key);
        let counts = |at: &usize| match accepted {
            None => false,
            Some(Accepted::All) => true,
            Some(Accepted::Positions(positions)) => positions.contains(at),
        };
        for (at, &task) in results.tasks.iter().enumerate() {
            let failed = results.failed.contains(&at);
            let raised = map.raised.entry(task).or_default();
            if counts(&at) {
                assert!(!self.lost.contains(&engine), "a lost engine's results do not count");
                assert!(!failed || *raised == map.retries || map.aborted, "task {task}: {raised} retries");
                end(results.key, map, task..task + 1);
            } else if !self.lost.contains(&engine) {
                *raised += 1;
                assert!(failed && *raised <= map.retries, "task {task} of a living engine is not delivered");
            }
        }
    }

    pub(super) fn tasks_aborted(&mut self, key: RequestKey, tasks: Vec<Range<TaskIndex>>) {
        let map = self.maps.get_mut(&key).expect("submitted");
        assert!(map.aborted, "nobody aborted {key}");
        for range in tasks {
            end(key, map, range);
        }
    }

    pub(super) fn tasks_lost(&mut self, key: RequestKey, tasks: Vec<Range<TaskIndex>>, alive: &EngineSet) {
        let map = self.maps.get_mut(&key).expect("submitted");
        let may_run = |engine| map.targets.as_ref().is_none_or(|targets| targets.contains(engine));
        assert!(!alive.iter().any(may_run), "an engine is alive that may run {key}");
        for range in tasks {
            end(key, map, range);
        }
    }

    pub(super) fn map_done(&mut self, key: RequestKey) {
        let map = self.maps.get_mut(&key).expect("submitted");
        assert!(!map.done && map.ended.iter().all(|ended| *ended), "{key} is done once, when all tasks have ended");
        map.done = true;
    }

    /// Nothing more will happen.
    pub(super) fn at_the_end(&self) {
        for (key, map) in &self.maps {
            assert!(map.done, "map {key} hangs");
        }
        for (key, direct) in &self.directs {
            assert!(direct.done, "direct request {key} hangs");
        }
        for (engine, owed) in &self.owed {
            assert!(owed.is_empty() || self.lost.contains(engine), "engine {engine} has missed {owed:?}");
        }
        assert!(!self.lost.is_empty() || self.functions.is_empty(), "functions stay behind: {:?}", self.functions);
    }
}

fn end(key: RequestKey, map: &mut MapRecord, tasks: Range<TaskIndex>) {
    for task in tasks {
        let ended = std::mem::replace(&mut map.ended[task as usize], true);
        assert!(!ended, "task {task} of {key} ends twice");
    }
}
