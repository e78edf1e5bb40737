//! What must be true of the whole cluster, judged from outside the machines.

use super::network::Results;
use super::random::Random;
use crate::{Accepted, Dependency, Failure, Why};
use pxcluster_protocol::{EngineId, EngineSet, RequestKey, TaskIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How a part of a request ended, and where.
type End = (bool, Option<EngineId>);

#[derive(Debug)]
pub(super) struct MapRecord {
    number: u64,
    pub(super) targets: Option<EngineSet>,
    pub(super) retries: u32,
    /// How long each task takes.
    pub(super) seconds: Vec<f64>,
    /// How likely a task raises.
    pub(super) raise_chance: f64,
    /// Tasks that kill every engine that runs them.
    pub(super) deadly: BTreeSet<TaskIndex>,
    /// How likely an engine refuses a task.
    pub(super) unmet: f64,
    pub(super) after: Dependency,
    pub(super) follow: Dependency,
    ended: Vec<Option<End>>,
    raised: BTreeMap<TaskIndex, u32>,
    /// How many engines have died while a task was running.
    deaths: BTreeMap<TaskIndex, u32>,
    aborted: bool,
    timed_out: bool,
    done: bool,
}

impl MapRecord {
    pub(super) fn new(seconds: Vec<f64>) -> Self {
        Self {
            number: 0,
            targets: None,
            retries: 0,
            raise_chance: 0.0,
            deadly: BTreeSet::new(),
            unmet: 0.0,
            after: Dependency::default(),
            follow: Dependency::default(),
            ended: vec![None; seconds.len()],
            raised: BTreeMap::new(),
            deaths: BTreeMap::new(),
            aborted: false,
            timed_out: false,
            done: false,
            seconds,
        }
    }

    pub(super) fn is_deadly(&self, task: TaskIndex) -> bool {
        self.deadly.contains(&task)
    }

    /// Whether `engine` refuses the task, always the same.
    pub(super) fn is_unmet(&self, task: TaskIndex, engine: EngineId) -> bool {
        self.unmet > 0.0 && Random::new(u64::from(task) << 32 | u64::from(engine.0)).unit() < self.unmet
    }

    fn allows(&self, engine: EngineId) -> bool {
        self.targets.as_ref().is_none_or(|targets| targets.contains(engine))
    }
}

#[derive(Debug)]
struct DirectRecord {
    number: u64,
    /// Targets that have neither answered nor been reported lost.
    open: BTreeSet<EngineId>,
    ended: BTreeMap<EngineId, Option<End>>,
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
        let (open, ended) = (targets.iter().collect(), targets.iter().map(|engine| (engine, None)).collect());
        self.directs.insert(key, DirectRecord { number, open, ended, done: false });
    }

    pub(super) fn map_submitted(&mut self, key: RequestKey, record: MapRecord) {
        self.submitted += 1;
        self.maps.insert(key, MapRecord { number: self.submitted, ..record });
    }

    pub(super) fn abort_asked(&mut self, key: RequestKey) {
        if let Some(map) = self.maps.get_mut(&key) {
            map.aborted = true;
        }
    }

    pub(super) fn time_is_up(&mut self, key: RequestKey) {
        self.maps.get_mut(&key).expect("submitted").timed_out = true;
    }

    pub(super) fn engine_lost(&mut self, engine: EngineId) {
        self.lost.insert(engine);
    }

    pub(super) fn died_under(&mut self, key: RequestKey, task: TaskIndex) {
        let map = self.maps.get_mut(&key).expect("submitted");
        *map.deaths.entry(task).or_default() += 1;
        // Two, and one more that ran it a second time at the same time because its first engine was lost.
        assert!(map.deaths[&task] <= 3, "task {task} of {key} goes on killing engines");
    }

    pub(super) fn grant_made(&self, key: RequestKey, engine: EngineId) {
        let map = &self.maps[&key];
        assert!(!map.aborted && !map.done, "{key} is granted although it was aborted or is done");
        assert!(!self.lost.contains(&engine), "tasks are sent to engine {engine}, which is dead");
        assert!(map.allows(engine), "{key} is not for engine {engine}");
        assert!(self.holds(&map.after, None), "{key} is granted before what it comes after");
        assert!(self.holds(&map.follow, Some(engine)), "{key} does not follow on engine {engine}");
    }

    // Dependencies, as ipyparallel checks them.

    /// The parts that a dependency names, and how those ended that have.
    fn parts(&self, dependency: &Dependency) -> BTreeMap<(RequestKey, u32), Option<End>> {
        let mut found = BTreeMap::new();
        for need in &dependency.needs {
            let wanted = |part: u32| need.part.is_none_or(|only| only == part);
            if let Some(map) = self.maps.get(&need.key) {
                let all = map.ended.iter().enumerate().map(|(task, end)| (task as u32, *end));
                found.extend(all.filter(|(part, _)| wanted(*part)).map(|(part, end)| ((need.key, part), end)));
            } else if let Some(direct) = self.directs.get(&need.key) {
                let all = direct.ended.iter().map(|(engine, end)| (engine.0, *end));
                found.extend(all.filter(|(part, _)| wanted(*part)).map(|(part, end)| ((need.key, part), end)));
            }
        }
        found
    }

    /// `on`: only what ran there counts.
    fn holds(&self, dependency: &Dependency, on: Option<EngineId>) -> bool {
        let counts = |end: &Option<End>| {
            end.is_some_and(|(success, engine)| {
                (if success { dependency.success } else { dependency.failure }) && (on.is_none() || engine == on)
            })
        };
        let parts = self.parts(dependency);
        dependency.needs.is_empty()
            || if dependency.all { parts.values().all(counts) } else { parts.values().any(counts) }
    }

    fn is_unreachable(&self, dependency: &Dependency) -> bool {
        let misses = |end: &Option<End>| {
            end.is_some_and(|(success, _)| if success { !dependency.success } else { !dependency.failure })
        };
        let parts = self.parts(dependency);
        if dependency.all { parts.values().any(misses) } else { parts.values().all(misses) }
    }

    /// Whether what a map waits for can never be, or on no engine that is left.
    fn is_impossible(&self, map: &MapRecord, alive: &EngineSet) -> bool {
        let follows = |engine| map.allows(engine) && self.holds(&map.follow, Some(engine));
        let engines = |dependency: &Dependency| -> BTreeSet<_> {
            self.parts(dependency).values().filter_map(|end| end.and_then(|(_, engine)| engine)).collect()
        };
        (!map.after.needs.is_empty() && self.is_unreachable(&map.after))
            || (!map.follow.needs.is_empty()
                && (self.is_unreachable(&map.follow)
                    || (map.follow.all && engines(&map.follow).len() > 1)
                    || self.parts(&map.follow).values().any(|end| matches!(end, Some((_, None))))
                    || !alive.iter().any(follows)))
    }

    pub(super) fn has_parts(&self, key: RequestKey) -> bool {
        self.maps.get(&key).is_some_and(|map| !map.ended.is_empty())
            || self.directs.get(&key).is_some_and(|direct| !direct.ended.is_empty())
    }

    /// Any part of a request that has some.
    pub(super) fn some_part(&self, key: RequestKey, random: &mut Random) -> u32 {
        match (self.maps.get(&key), self.directs.get(&key)) {
            (Some(map), _) => random.below(map.ended.len() as u32),
            (_, Some(direct)) => {
                let at = random.below(direct.ended.len() as u32) as usize;
                direct.ended.keys().nth(at).map_or(0, |engine| engine.0)
            }
            _ => 0,
        }
    }

    // At the engines.

    pub(super) fn function_arrived(&mut self, engine: EngineId, key: RequestKey) {
        self.functions.insert((engine, key));
    }

    pub(super) fn abort_arrived(&mut self, engine: EngineId, key: RequestKey) {
        self.told_to_abort.insert((engine, key));
    }

    pub(super) fn forgotten(&mut self, engine: EngineId, key: RequestKey) {
        self.functions.remove(&(engine, key));
        self.told_to_abort.remove(&(engine, key));
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

    /// It was answered without its turn having come.
    pub(super) fn direct_aborted(&mut self, engine: EngineId, key: RequestKey) {
        assert!(self.told_to_abort.contains(&(engine, key)), "nobody told engine {engine} to abort {key}");
        let number = self.directs[&key].number;
        let owed = self.owed.get_mut(&engine).and_then(|owed| owed.remove(&number));
        assert_eq!(owed, Some(key), "engine {engine} has run what it aborts");
    }

    pub(super) fn tasks_started(&self, engine: EngineId, key: RequestKey) {
        let map = &self.maps[&key];
        let before = self.owed.get(&engine).and_then(|owed| owed.range(..map.number).next());
        assert_eq!(before, None, "P1: engine {engine} starts a task of {key} before what was submitted before it");
        assert!(map.allows(engine), "{key} is not for engine {engine}");
        assert!(
            map.done || self.functions.contains(&(engine, key)),
            "engine {engine} has not got the function of {key}"
        );
        assert!(!self.told_to_abort.contains(&(engine, key)), "engine {engine} was told to abort {key}");
    }

    // At the client.

    pub(super) fn answered(&mut self, key: RequestKey, engine: EngineId, success: bool) {
        let direct = self.directs.get_mut(&key).expect("submitted");
        assert!(direct.open.remove(&engine), "{key} is answered twice for engine {engine}");
        direct.ended.insert(engine, Some((success, Some(engine))));
    }

    pub(super) fn answer_lost(&mut self, key: RequestKey, engine: EngineId, alive: &EngineSet) {
        assert!(!alive.contains(engine), "engine {engine} is alive");
        self.answered(key, engine, false);
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
        let counts = |at: &usize| match accepted {
            None => false,
            Some(Accepted::All) => true,
            Some(Accepted::Positions(positions)) => positions.binary_search(at).is_ok(),
        };
        let failures: BTreeMap<usize, Failure> = results.failed.iter().map(|failed| (failed.at, failed.how)).collect();
        for (at, &task) in results.tasks.iter().enumerate() {
            let how = failures.get(&at).copied();
            assert!(how != Some(Failure::Aborted) || map.aborted, "nobody aborted {}", results.key);
            let raised = map.raised.entry(task).or_default();
            if counts(&at) {
                assert!(!self.lost.contains(&engine), "a lost engine's results do not count");
                let gives_up = how != Some(Failure::Raised) || *raised == map.retries || map.aborted;
                assert!(gives_up, "task {task}: {raised} retries");
                assert!(how != Some(Failure::Unmet) || map.aborted, "task {task} may run elsewhere");
                end(results.key, map, task..task + 1, (how.is_none(), Some(engine)));
            } else if how == Some(Failure::Raised) && !self.lost.contains(&engine) && map.ended[task as usize].is_none()
            {
                *raised = (*raised + 1).min(map.retries);
            }
        }
    }

    pub(super) fn tasks_ended(&mut self, key: RequestKey, tasks: Vec<Range<TaskIndex>>, why: &Why, alive: &EngineSet) {
        let map = &self.maps[&key];
        match why {
            Why::Aborted => assert!(map.aborted, "nobody aborted {key}"),
            Why::NoEngine => {
                // Where it may follow was settled when it could start.
                let may_run = |engine| map.allows(engine) && map.follow.needs.is_empty();
                assert!(!alive.iter().any(may_run), "an engine is alive that may run {key}");
            }
            Why::Killed(engines) => {
                assert!(
                    engines.len() >= 2 && engines.iter().all(|engine| self.lost.contains(engine)),
                    "not two deaths"
                );
            }
            Why::Unmet => {
                let refuses = |engine| tasks.iter().cloned().flatten().all(|task| map.is_unmet(task, engine));
                let may = |engine: &EngineId| map.allows(*engine) && map.follow.needs.is_empty();
                assert!(alive.iter().filter(may).all(refuses), "an engine may run {key}");
            }
            Why::Impossible => assert!(self.is_impossible(map, alive), "{key} is possible"),
            Why::Unknown(needed) => panic!("{needed} is not remembered"),
            Why::TimedOut => assert!(map.timed_out, "{key} has time"),
        }
        let map = self.maps.get_mut(&key).expect("submitted");
        for range in tasks {
            end(key, map, range, (false, None));
        }
    }

    pub(super) fn map_done(&mut self, key: RequestKey) {
        let map = self.maps.get_mut(&key).expect("submitted");
        assert!(!map.done && map.ended.iter().all(Option::is_some), "{key} is done once, when all tasks have ended");
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

fn end(key: RequestKey, map: &mut MapRecord, tasks: Range<TaskIndex>, how: End) {
    for task in tasks {
        let before = map.ended[task as usize].replace(how);
        assert!(before.is_none(), "task {task} of {key} ends twice");
    }
}
