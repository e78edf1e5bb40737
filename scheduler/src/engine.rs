//! An engine's machine: what its one main thread does next.

use pxcluster_protocol::{Epoch, RequestKey, TaskIndex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Work that is handed to the main thread at once, seconds. Longer batches could not be stolen, aborted or overtaken
/// by a direct request; shorter ones cost more hand-overs.
const BATCH_SECONDS: f64 = 0.5e-3;

/// What an engine is told.
#[derive(Clone, Debug)]
pub enum EngineEvent {
    /// A direct request has arrived, perhaps out of order, perhaps again (see [`Engine::expects`]).
    Direct {
        /// The request.
        key: RequestKey,
        /// Its number.
        epoch: Epoch,
        /// This engine's direct request before it.
        previous: Epoch,
    },
    /// Tasks have arrived.
    Grant {
        /// The map.
        key: RequestKey,
        /// Which tasks.
        range: Range<TaskIndex>,
        /// This engine's last direct request when the tasks were granted.
        last_direct: Epoch,
    },
    /// The main thread has finished a direct request.
    DirectFinished(Epoch),
    /// The main thread has finished a batch of tasks.
    TasksFinished {
        /// The map.
        key: RequestKey,
        /// How many.
        tasks: usize,
        /// Seconds they took together.
        busy: f64,
    },
    /// Nothing of these requests is to start any more.
    Abort(Vec<RequestKey>),
    /// These maps are finished.
    Forget(Vec<RequestKey>),
}

/// What the main thread does next, or what is answered in its stead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Run a direct request.
    Direct {
        /// The request.
        key: RequestKey,
        /// Its number.
        epoch: Epoch,
    },
    /// Answer a direct request as aborted, then report [`EngineEvent::DirectFinished`].
    AbortedDirect {
        /// The request.
        key: RequestKey,
        /// Its number.
        epoch: Epoch,
    },
    /// Run a batch of tasks.
    Tasks {
        /// The map.
        key: RequestKey,
        /// Which tasks.
        range: Range<TaskIndex>,
    },
    /// Answer tasks as aborted, and ask for the next work at once.
    AbortedTasks {
        /// The map.
        key: RequestKey,
        /// Which tasks.
        range: Range<TaskIndex>,
    },
}

/// What the main thread is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Running {
    Direct(Epoch),
    Tasks,
}

/// A grant, or what is left of it.
#[derive(Debug)]
struct Slice {
    key: RequestKey,
    range: Range<TaskIndex>,
    last_direct: Epoch,
}

/// An engine's machine. See the crate's page for its invariants.
#[derive(Debug, Default)]
pub struct Engine {
    /// The last direct request that is finished here.
    finished: Epoch,
    running: Option<Running>,
    /// Direct requests that have arrived, by the request that must be finished before them.
    directs: BTreeMap<Epoch, (RequestKey, Epoch)>,
    /// The main thread takes from the front; the back is the part to give away.
    deque: VecDeque<Slice>,
    aborted: BTreeSet<RequestKey>,
    task_seconds: BTreeMap<RequestKey, f64>,
}

impl Engine {
    /// An engine that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tasks that have not started.
    pub fn depth(&self) -> usize {
        self.deque.iter().map(|slice| slice.range.len()).sum()
    }

    /// Whether a direct request is new here. One that is not has been sent again, because an engine was lost that may
    /// not have relayed it; its body can be dropped.
    pub fn expects(&self, epoch: Epoch) -> bool {
        let arrived = self.directs.values().any(|(_, arrived)| *arrived == epoch);
        epoch > self.finished && self.running != Some(Running::Direct(epoch)) && !arrived
    }

    /// Takes an event.
    pub fn handle(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Direct { key, epoch, previous } => {
                if self.expects(epoch) {
                    self.directs.insert(previous, (key, epoch));
                }
            }
            EngineEvent::Grant { range, .. } if range.is_empty() => {}
            EngineEvent::Grant { key, range, last_direct } => {
                self.deque.push_back(Slice { key, range, last_direct });
            }
            EngineEvent::DirectFinished(epoch) => {
                debug_assert!(self.running == Some(Running::Direct(epoch)), "only what runs can finish");
                self.running = None;
                self.finished = epoch;
            }
            EngineEvent::TasksFinished { key, tasks, busy } => {
                debug_assert!(self.running == Some(Running::Tasks), "only what runs can finish");
                self.running = None;
                let newest = busy / tasks.max(1) as f64;
                let mean = self.task_seconds.entry(key).or_insert(newest);
                *mean += 0.3 * (newest - *mean);
            }
            EngineEvent::Abort(keys) => self.aborted.extend(keys),
            EngineEvent::Forget(keys) => {
                for key in keys {
                    self.task_seconds.remove(&key);
                    self.aborted.remove(&key);
                }
            }
        }
    }

    /// What the main thread is to do now; `None`: it is at work, or waits for the next event.
    ///
    /// Direct requests come first and in order; a task only after the direct requests that its grant names (I1).
    pub fn next_work(&mut self) -> Option<Work> {
        if self.running.is_some() {
            return None;
        }
        if let Some((key, epoch)) = self.directs.remove(&self.finished) {
            self.running = Some(Running::Direct(epoch));
            let aborted = self.aborted.remove(&key);
            return Some(if aborted { Work::AbortedDirect { key, epoch } } else { Work::Direct { key, epoch } });
        }
        let slice = self.deque.front_mut().filter(|slice| slice.last_direct <= self.finished)?;
        let key = slice.key;
        if self.aborted.contains(&key) {
            let range = slice.range.clone();
            self.deque.pop_front();
            return Some(Work::AbortedTasks { key, range });
        }
        let batch = self.task_seconds.get(&key).map_or(1, |mean| ((BATCH_SECONDS / mean.max(1e-9)) as u32).max(1));
        let end = slice.range.end.min(slice.range.start.saturating_add(batch));
        let range = slice.range.start..end;
        slice.range.start = end;
        if slice.range.is_empty() {
            self.deque.pop_front();
        }
        self.running = Some(Running::Tasks);
        Some(Work::Tasks { key, range })
    }

    /// Checks what must hold between any two events.
    ///
    /// # Panics
    /// If it does not hold; the message names the invariant.
    pub fn check_invariants(&self) {
        assert!(self.deque.iter().all(|slice| !slice.range.is_empty()), "an empty slice is never kept");
        for (previous, (key, epoch)) in &self.directs {
            assert!(previous < epoch, "direct request {key} comes before itself");
            let floor = if let Some(Running::Direct(running)) = self.running { running } else { self.finished };
            assert!(*previous >= floor, "direct request {key} has been overtaken");
        }
    }
}

#[cfg(test)]
mod tests;
