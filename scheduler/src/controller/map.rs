//! A map as the controller keeps it.

use crate::ranges::TaskSet;
use pxcluster_protocol::{EngineId, EngineSet, Epoch, TaskIndex};
use std::collections::{BTreeMap, BTreeSet};

/// Weight of the newest measurement in the mean task duration.
const NEWEST: f64 = 0.3;

#[derive(Debug)]
pub(super) struct Map {
    pub(super) tasks: u32,
    pub(super) targets: Option<EngineSet>,
    pub(super) submitted: Epoch,
    /// Place in the order of submission of all maps.
    pub(super) number: u64,
    /// Tasks that no engine holds. Changed by [`super::maps::Maps`] alone, which keeps the queues in step.
    pub(super) pool: TaskSet,
    pub(super) finished: u64,
    /// Engines that have the function.
    pub(super) served: BTreeSet<EngineId>,
    /// Nothing of it is to start any more.
    pub(super) aborted: bool,
    retries: u32,
    /// How often a task has been tried again; only tasks that have raised are here.
    tried_again: BTreeMap<TaskIndex, u32>,
    task_seconds: Option<f64>,
}

impl Map {
    pub(super) fn new(tasks: u32, targets: Option<EngineSet>, retries: u32, submitted: Epoch, number: u64) -> Self {
        Self {
            tasks,
            targets,
            submitted,
            number,
            pool: TaskSet::default(),
            finished: 0,
            served: BTreeSet::new(),
            aborted: false,
            retries,
            tried_again: BTreeMap::new(),
            task_seconds: None,
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished == u64::from(self.tasks)
    }

    /// How many engines share this map when `alive` are alive.
    pub(super) fn width(&self, alive: usize) -> usize {
        self.targets.as_ref().map_or(alive, |targets| targets.len().min(alive))
    }

    /// Mean duration of its tasks in seconds, newest first; `None` before the first result.
    pub(super) fn task_seconds(&self) -> Option<f64> {
        self.task_seconds
    }

    pub(super) fn measure(&mut self, tasks: usize, busy: f64) {
        if tasks == 0 || !busy.is_finite() {
            return;
        }
        let newest = busy / tasks as f64;
        self.task_seconds = Some(self.task_seconds.map_or(newest, |mean| mean + NEWEST * (newest - mean)));
    }

    /// Whether a task that has raised is to be tried again; counts the attempt.
    pub(super) fn try_again(&mut self, task: TaskIndex) -> bool {
        if self.aborted || self.retries == 0 {
            return false;
        }
        let tried = self.tried_again.entry(task).or_default();
        *tried += 1;
        *tried <= self.retries
    }
}
