//! An engine's machine: what its one main thread does next.

use pxcluster_protocol::{Epoch, RequestKey, TaskIndex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

/// Work that is handed to the main thread at once, seconds. Longer batches could not be stolen, aborted or overtaken
/// by a direct request; shorter ones cost more hand-overs.
const BATCH_SECONDS: f64 = 0.5e-3;
/// The last batch is announced as such if it takes no longer than this, seconds: what is stolen behind a long task would
/// have to be stolen back.
const ASK_SECONDS: f64 = 2e-3;

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
    /// Tasks have arrived, from the controller or stolen from another engine.
    Tasks {
        /// The map.
        key: RequestKey,
        /// Which tasks, and under which name this engine keeps what belongs to them.
        parcels: Vec<(ParcelId, Range<TaskIndex>)>,
        /// This engine's last direct request when the tasks were granted.
        last_direct: Epoch,
    },
    /// The main thread has finished a direct request.
    DirectFinished(Epoch),
    /// The main thread has finished a batch of tasks, or as much of it as was left to it.
    TasksFinished {
        /// The map.
        key: RequestKey,
        /// How many it has run.
        tasks: usize,
        /// Seconds they took together.
        busy: f64,
    },
    /// Nothing of these requests is to start any more.
    Abort(Vec<RequestKey>),
    /// These maps are finished.
    Forget(Vec<RequestKey>),
}

/// A number for tasks that arrived together and in a row, given by the engine.
pub type ParcelId = u64;

/// Tasks that are given away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Of what they were a part.
    pub parcel: ParcelId,
    /// Which tasks.
    pub range: Range<TaskIndex>,
}

/// What is answered as aborted, because it has not started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aborted {
    /// Direct requests.
    pub directs: Vec<(RequestKey, Epoch)>,
    /// Tasks.
    pub tasks: Vec<(RequestKey, Piece)>,
}

/// What the main thread does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Run a direct request.
    Direct {
        /// The request.
        key: RequestKey,
        /// Its number.
        epoch: Epoch,
    },
    /// Run a batch of tasks.
    Tasks {
        /// The map.
        key: RequestKey,
        /// Where what belongs to them is.
        parcel: ParcelId,
        /// Which tasks.
        range: Range<TaskIndex>,
    },
}

/// What the main thread is at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Running {
    Direct(Epoch),
    Tasks { key: RequestKey, parcel: ParcelId, range: Range<TaskIndex> },
}

/// A direct request that has arrived and is not at its turn.
#[derive(Debug)]
struct Waiting {
    key: RequestKey,
    epoch: Epoch,
    /// It has been answered as aborted, and its turn is passed over.
    answered: bool,
}

/// A parcel, or what is left of it.
#[derive(Debug)]
struct Slice {
    key: RequestKey,
    parcel: ParcelId,
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
    directs: BTreeMap<Epoch, Waiting>,
    /// The main thread takes from the front; the back is the part to give away.
    deque: VecDeque<Slice>,
    aborted: BTreeSet<RequestKey>,
    task_seconds: BTreeMap<RequestKey, f64>,
    /// How often tasks have arrived.
    received: u64,
    /// The controller is to be told that there will be nothing to do soon.
    asks: bool,
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
        let arrived = self.directs.values().any(|waiting| waiting.epoch == epoch);
        epoch > self.finished && self.running != Some(Running::Direct(epoch)) && !arrived
    }

    /// Takes an event.
    pub fn handle(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Direct { key, epoch, previous } => {
                if self.expects(epoch) {
                    self.directs.insert(previous, Waiting { key, epoch, answered: false });
                }
            }
            EngineEvent::Tasks { key, parcels, last_direct } => {
                self.received += 1;
                self.asks = false;
                let slices = parcels.into_iter().filter(|(_, range)| !range.is_empty());
                self.deque.extend(slices.map(|(parcel, range)| Slice { key, parcel, range, last_direct }));
            }
            EngineEvent::DirectFinished(epoch) => {
                debug_assert!(self.running == Some(Running::Direct(epoch)), "only what runs can finish");
                self.running = None;
                self.finished = epoch;
            }
            EngineEvent::TasksFinished { key, tasks, busy } => {
                debug_assert!(matches!(self.running, Some(Running::Tasks { .. })), "only what runs can finish");
                self.running = None;
                if tasks == 0 {
                    return;
                }
                let newest = busy / tasks as f64;
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
        while let Some(Waiting { key, epoch, answered }) = self.directs.remove(&self.finished) {
            if !answered {
                self.running = Some(Running::Direct(epoch));
                return Some(Work::Direct { key, epoch });
            }
            self.finished = epoch;
        }
        let slice = self.deque.front_mut().filter(|slice| slice.last_direct <= self.finished)?;
        let (key, parcel) = (slice.key, slice.parcel);
        let mean = self.task_seconds.get(&key).copied();
        let batch = mean.map_or(1, |mean| ((BATCH_SECONDS / mean.max(1e-9)) as u32).max(1));
        let end = slice.range.end.min(slice.range.start.saturating_add(batch));
        let range = slice.range.start..end;
        slice.range.start = end;
        if slice.range.is_empty() {
            self.deque.pop_front();
        }
        self.asks = self.deque.is_empty() && mean.is_some_and(|mean| mean * range.len() as f64 <= ASK_SECONDS);
        self.running = Some(Running::Tasks { key, parcel, range: range.clone() });
        Some(Work::Tasks { key, parcel, range })
    }

    /// Gives away the back half of the tasks of a map that have not started, those of the running batch included, of
    /// which `started` have. They belong to another engine from here on; a cut batch ends where its piece begins.
    pub fn give(&mut self, key: RequestKey, started: usize) -> Vec<Piece> {
        let running_left = match &self.running {
            Some(Running::Tasks { key: running, range, .. }) if *running == key => range.len().saturating_sub(started),
            _ => 0,
        };
        let waiting = self.deque.iter().filter(|slice| slice.key == key).map(|slice| slice.range.len());
        let mut left = (running_left + waiting.sum::<usize>()).div_ceil(2) as u32;
        let mut pieces = Vec::new();
        let mut cut = |parcel: ParcelId, range: &mut Range<TaskIndex>, most: u32, left: &mut u32| {
            let start = range.end - most.min(*left);
            if start < range.end {
                *left -= range.end - start;
                pieces.push(Piece { parcel, range: start..range.end });
                range.end = start;
            }
        };
        for slice in self.deque.iter_mut().rev().filter(|slice| slice.key == key) {
            let most = slice.range.len() as u32;
            cut(slice.parcel, &mut slice.range, most, &mut left);
        }
        self.deque.retain(|slice| !slice.range.is_empty());
        if let Some(Running::Tasks { key: running, parcel, range }) = &mut self.running
            && *running == key
        {
            cut(*parcel, range, running_left as u32, &mut left);
        }
        pieces
    }

    /// What of aborted requests has not started, that of the running batch included, of which `started` tasks have. It is
    /// gone from here, and to be answered. To be asked after every event that may have brought some.
    pub fn take_aborted(&mut self, started: usize) -> Aborted {
        let mut taken = Aborted::default();
        if self.aborted.is_empty() {
            return taken;
        }
        for waiting in self.directs.values_mut().filter(|waiting| !waiting.answered) {
            waiting.answered = self.aborted.contains(&waiting.key);
            if waiting.answered {
                taken.directs.push((waiting.key, waiting.epoch));
            }
        }
        if let Some(Running::Tasks { key, parcel, range }) = &mut self.running
            && self.aborted.contains(key)
        {
            let start = range.end.min(range.start + started as TaskIndex);
            if start < range.end {
                taken.tasks.push((*key, Piece { parcel: *parcel, range: start..range.end }));
                range.end = start;
            }
        }
        self.deque.retain(|slice| {
            let stays = !self.aborted.contains(&slice.key);
            if !stays {
                taken.tasks.push((slice.key, Piece { parcel: slice.parcel, range: slice.range.clone() }));
            }
            stays
        });
        taken
    }

    /// What is left to the main thread of the batch that it runs.
    pub fn running_tasks(&self) -> Range<TaskIndex> {
        match &self.running {
            Some(Running::Tasks { range, .. }) => range.clone(),
            _ => 0..0,
        }
    }

    /// Whether the controller is to be told now that there will be nothing to do soon, and how often tasks have arrived.
    pub fn take_ask(&mut self) -> Option<u64> {
        std::mem::take(&mut self.asks).then_some(self.received)
    }

    /// Checks what must hold between any two events.
    ///
    /// # Panics
    /// If it does not hold; the message names the invariant.
    pub fn check_invariants(&self) {
        assert!(self.deque.iter().all(|slice| !slice.range.is_empty()), "an empty slice is never kept");
        for (previous, Waiting { key, epoch, .. }) in &self.directs {
            assert!(previous < epoch, "direct request {key} comes before itself");
            let floor = if let Some(Running::Direct(running)) = &self.running { *running } else { self.finished };
            assert!(*previous >= floor, "direct request {key} has been overtaken");
        }
    }
}

#[cfg(test)]
mod tests;
