//! What the mutex of [`super::Shared`] guards.

use super::{Piece, Places, unix_time};
use crate::engine::outbox::{Outbox, Payload};
use crate::engine::parcel::Parcel;
use crate::nanny::Page;
use bytes::Bytes;
use pxcluster_protocol::from_client::DirectKind;
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::{Epoch, RequestKey, Status, TaskIndex};
use pxcluster_scheduler::{Engine, EngineEvent, ParcelId, Work};
use std::collections::BTreeMap;
use std::ops::Range;

/// What a token that was handed out stands for.
pub(super) enum Running {
    Direct {
        key: RequestKey,
        epoch: Epoch,
    },
    /// `done`: how many of the batch have their result; the next one runs, since `clock` (Unix seconds). `busy`: seconds
    /// they took.
    Tasks {
        key: RequestKey,
        parcel: ParcelId,
        first: TaskIndex,
        done: usize,
        clock: f64,
        busy: f64,
    },
}

/// The function of a map, and whether Python has it.
#[derive(Default)]
pub(super) struct Function {
    pub(super) bytes: Bytes,
    pub(super) is_known: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) machine: Engine,
    pub(super) bodies: BTreeMap<Epoch, (DirectKind, Vec<Bytes>)>,
    pub(super) functions: BTreeMap<RequestKey, Function>,
    pub(super) parcels: BTreeMap<ParcelId, Parcel>,
    pub(super) last_parcel: ParcelId,
    pub(super) forgotten: Vec<RequestKey>,
    pub(super) running: Option<(u64, Running)>,
    /// The token that was handed out last and its request: threads of user code may print after its end.
    pub(super) last: Option<(u64, RequestKey)>,
    pub(super) tokens: u64,
    pub(super) outbox: Outbox,
    /// The last question for places in shared memory, and its answer when it has come.
    pub(super) places: (u64, Option<Places>),
    /// Where the nanny reads which task runs.
    pub(super) page: Option<&'static Page>,
    /// Python has come to its main loop.
    pub(super) ready: bool,
    pub(super) ending: bool,
    /// Exit status of Python, once it has ended.
    pub(super) ended: Option<i32>,
}

impl State {
    pub(super) fn take_running(&mut self, token: u64) -> Option<Running> {
        if self.running.as_ref().is_none_or(|(running, _)| *running != token) {
            tracing::error!("Python answers request {token}, which is not running");
            return None;
        }
        self.running.take().map(|(_, running)| running)
    }

    pub(super) fn start(&mut self, running: Running) -> u64 {
        self.tokens += 1;
        let (Running::Direct { key, .. } | Running::Tasks { key, .. }) = &running;
        self.last = Some((self.tokens, *key));
        self.running = Some((self.tokens, running));
        self.tokens
    }

    /// Finds what `work` needs; `None` if it has been answered here.
    pub(super) fn prepare(&mut self, work: Work) -> Option<Piece> {
        match work {
            Work::Direct { key, epoch } => {
                let (kind, body) = self.bodies.remove(&epoch)?;
                Some(Piece::Direct { token: self.start(Running::Direct { key, epoch }), kind, body })
            }
            Work::Tasks { key, parcel, range } => {
                let Some(items) = self.items(parcel, &range) else {
                    // The machine knows no task whose items have not arrived; keep the promise of an answer all the same.
                    tracing::error!("tasks {range:?} of {key} have no items");
                    self.machine.handle(EngineEvent::TasksFinished { key, tasks: 0, busy: 0.0 });
                    self.answer_as_aborted(key, parcel, range);
                    return None;
                };
                let function = self.functions.get_mut(&key).filter(|function| !function.is_known).map(|function| {
                    function.is_known = true;
                    function.bytes.clone()
                });
                let first = range.start;
                if let Some(received) = self.machine.take_ask() {
                    self.outbox.push((ToController::Ask { received }, vec![]));
                }
                self.page.into_iter().for_each(|page| page.begin(key, first));
                let token = self.start(Running::Tasks { key, parcel, first, done: 0, clock: 0.0, busy: 0.0 });
                Some(Piece::Tasks { token, key, function, first, items })
            }
        }
    }

    /// How many tasks of the running batch have started.
    pub(super) fn started(&self) -> usize {
        match &self.running {
            Some((_, Running::Tasks { done, .. })) => done + 1,
            _ => 0,
        }
    }

    /// Answers what of aborted requests has not started.
    pub(super) fn answer_aborted(&mut self) {
        let aborted = self.machine.take_aborted(self.started());
        for (key, epoch) in aborted.directs {
            self.bodies.remove(&epoch);
            let (status, now) = (Status::Aborted, unix_time());
            let reply = ToController::DirectReply { key, epoch, status, started: now, completed: now };
            self.outbox.push((reply, vec![]));
        }
        for (key, piece) in aborted.tasks {
            self.answer_as_aborted(key, piece.parcel, piece.range);
        }
    }

    pub(super) fn answer_as_aborted(&mut self, key: RequestKey, parcel: ParcelId, range: Range<TaskIndex>) {
        let now = unix_time();
        let count = range.len();
        for task in range {
            self.outbox.push_result(key, task, Status::Aborted, (now, now), Payload::Here(&[]));
        }
        self.outbox.flush();
        self.settle(parcel, count);
    }

    /// Items of tasks that start now.
    pub(super) fn items(&self, parcel: ParcelId, range: &Range<TaskIndex>) -> Option<Vec<Bytes>> {
        let parcel = self.parcels.get(&parcel)?;
        Some(range.clone().map(|task| parcel.item(task)).collect())
    }

    /// So many tasks of a parcel are finished; the last ones free it.
    pub(super) fn settle(&mut self, parcel: ParcelId, tasks: usize) {
        if let Some(known) = self.parcels.get_mut(&parcel) {
            known.left = known.left.saturating_sub(tasks);
            if known.left == 0 {
                self.parcels.remove(&parcel);
            }
        }
    }

    /// The main thread has run what was left to it of its batch.
    pub(super) fn finish_batch(&mut self) {
        if let Some((_, Running::Tasks { key, parcel, done, busy, .. })) = self.running.take() {
            self.machine.handle(EngineEvent::TasksFinished { key, tasks: done, busy });
            self.settle(parcel, done);
        }
    }
}
