//! A map as the controller keeps it.

use super::dependencies::Dependency;
use super::event::NewMap;
use crate::ranges::TaskSet;
use pxcluster_protocol::{EngineId, EngineSet, Epoch, TaskIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How much of the mean task duration is kept when one more task is measured. Many short tasks are measured at once, so
/// that their mean follows quickly; a single long one among others moves it little.
const KEPT: f64 = 0.97;
/// The last tasks come first when they take so many times as long as the first ones …
const LONGER: f64 = 2.0;
/// … and as long as this part of all the work that waits, shared by the engines.
const WEIGHTY: f64 = 0.25;
/// Engines that may die under one task.
const DEATHS: usize = 2;

/// What has happened to a task before.
#[derive(Debug, Default)]
struct History {
    raised: u32,
    /// Engines that died while it was, or may have been, running.
    killed: Vec<EngineId>,
    /// Engines that cannot run it.
    excluded: BTreeSet<EngineId>,
}

/// Mean duration of tasks in seconds, the newest weigh most.
#[derive(Debug, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn measure(&mut self, tasks: usize, seconds: f64) {
        let newest = seconds / tasks as f64;
        let weight = 1.0 - KEPT.powi(i32::try_from(tasks).unwrap_or(i32::MAX));
        self.0 = Some(self.0.map_or(newest, |mean| mean + weight * (newest - mean)));
    }
}

#[derive(Debug)]
pub(super) struct Map {
    pub(super) tasks: u32,
    pub(super) targets: Option<EngineSet>,
    target_count: usize,
    pub(super) submitted: Epoch,
    /// Place in the order of submission of all maps.
    pub(super) number: u64,
    /// Tasks that no engine holds and that wait for nothing. Changed by [`super::maps::Maps`] alone, which keeps the
    /// queues in step.
    pub(super) pool: TaskSet,
    /// Tasks that no engine holds and not every engine may take: see [`super::maps::Maps::special_for`].
    pub(super) specials: BTreeSet<TaskIndex>,
    pub(super) finished: u64,
    /// Engines that have the function.
    pub(super) served: BTreeSet<EngineId>,
    /// Nothing of it is to start any more.
    pub(super) aborted: bool,
    /// What all its tasks wait for: after, follow. The pool is empty meanwhile.
    pub(super) waits: Option<(Dependency, Dependency)>,
    retries: u32,
    /// Only tasks that have one.
    histories: BTreeMap<TaskIndex, History>,
    mean: Mean,
    front: Mean,
    back: Mean,
    /// Tasks from here on have been taken from the back.
    back_from: TaskIndex,
    is_begun: bool,
}

/// From where the next tasks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Front,
    Back,
}

impl Map {
    pub(super) fn new(new: NewMap, submitted: Epoch, number: u64) -> Self {
        Self {
            tasks: new.tasks,
            target_count: new.targets.as_ref().map_or(usize::MAX, EngineSet::len),
            targets: new.targets,
            submitted,
            number,
            pool: TaskSet::default(),
            specials: BTreeSet::new(),
            finished: 0,
            served: BTreeSet::new(),
            aborted: false,
            waits: Some((new.after, new.follow)),
            retries: new.retries,
            histories: BTreeMap::new(),
            mean: Mean::default(),
            front: Mean::default(),
            back: Mean::default(),
            back_from: new.tasks,
            is_begun: false,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished == u64::from(self.tasks)
    }

    pub(super) fn allows(&self, engine: EngineId) -> bool {
        self.targets.as_ref().is_none_or(|targets| targets.contains(engine))
    }

    /// How many engines share this map when `alive` are alive.
    pub(super) fn width(&self, alive: usize) -> usize {
        self.target_count.min(alive)
    }

    /// From now on only these engines may run it.
    pub(super) fn restrict(&mut self, targets: EngineSet) {
        self.target_count = targets.len();
        self.targets = Some(targets);
    }

    /// Mean duration of its tasks in seconds, newest first; `None` before the first result.
    pub(super) fn task_seconds(&self) -> Option<f64> {
        self.mean.0
    }

    pub(super) fn measure(&mut self, tasks: &[TaskIndex], busy: f64) {
        let Some(&first) = tasks.first().filter(|_| busy.is_finite() && busy > 0.0) else { return };
        self.mean.measure(tasks.len(), busy);
        let end = if first >= self.back_from { &mut self.back } else { &mut self.front };
        end.measure(tasks.len(), busy);
    }

    /// From where the next grant is taken when `width` engines share the map, and the mean duration there.
    ///
    /// Nobody tells how long tasks take, but people often sort them, and a long one that starts last delays everything.
    /// So one of the first grants is the last task. When such tasks turn out to be long for what is left of the map,
    /// they go first (longest processing time first: Graham, SIAM J. Appl. Math. 17, 1969).
    pub(super) fn next_end(&self, width: usize) -> (End, Option<f64>) {
        let unprobed = self.back_from == self.tasks;
        if self.is_begun && unprobed && width > 1 && self.pool.len() >= 2 * width as u64 {
            return (End::Back, None);
        }
        let left = self.pool.len() as f64 * self.mean.0.unwrap_or_default() / width.max(1) as f64;
        match (self.front.0, self.back.0) {
            (Some(front), Some(back)) if back > LONGER * front && back > WEIGHTY * left => (End::Back, Some(back)),
            _ => (End::Front, self.mean.0),
        }
    }

    pub(super) fn take(&mut self, end: End, most: u32) -> Option<Range<TaskIndex>> {
        match end {
            End::Front => {
                self.is_begun = true;
                self.pool.take_front(most)
            }
            End::Back => {
                let range = self.pool.take_back(most)?;
                self.back_from = self.back_from.min(range.start);
                Some(range)
            }
        }
    }

    /// Whether a task that has raised is to be tried again; counts the attempt.
    pub(super) fn try_again(&mut self, task: TaskIndex) -> bool {
        if self.aborted || self.retries == 0 {
            return false;
        }
        let history = self.histories.entry(task).or_default();
        history.raised += 1;
        history.raised <= self.retries
    }

    /// `engine` cannot run this task.
    pub(super) fn exclude(&mut self, task: TaskIndex, engine: EngineId) {
        self.histories.entry(task).or_default().excluded.insert(engine);
    }

    /// `engine` has died while this task was running. The engines that it has killed, if it must not run again.
    pub(super) fn killed(&mut self, task: TaskIndex, engine: EngineId) -> Option<Vec<EngineId>> {
        let killed = &mut self.histories.entry(task).or_default().killed;
        killed.push(engine);
        (killed.len() >= DEATHS).then(|| killed.clone())
    }

    /// Whether the task may kill engines, and so must be alone on one.
    pub(super) fn is_suspect(&self, task: TaskIndex) -> bool {
        self.histories.get(&task).is_some_and(|history| !history.killed.is_empty())
    }

    pub(super) fn is_excluded(&self, task: TaskIndex, engine: EngineId) -> bool {
        self.histories.get(&task).is_some_and(|history| history.excluded.contains(&engine))
    }

    /// Whether not every engine may take this task at any time.
    pub(super) fn is_special(&self, task: TaskIndex) -> bool {
        let special = |history: &History| !history.killed.is_empty() || !history.excluded.is_empty();
        !self.histories.is_empty() && self.histories.get(&task).is_some_and(special)
    }

    /// Whether any task of a range has a history.
    pub(super) fn has_histories(&self, range: &Range<TaskIndex>) -> bool {
        !self.histories.is_empty() && self.histories.range(range.clone()).next().is_some()
    }

    /// How often the task has been tried, if that is not once.
    pub(super) fn tries(&self, task: TaskIndex) -> Option<u32> {
        let history = self.histories.get(&task)?;
        let again = history.raised.min(self.retries) + history.killed.len() as u32 + history.excluded.len() as u32;
        (again > 0).then_some(again + 1)
    }
}
