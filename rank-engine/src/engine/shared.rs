//! What the comm thread and the main thread share: the scheduler's engine, the bodies, the outbox.
//!
//! One mutex, never held over a call into MPI or Python. The main thread takes tasks straight from the deque, so that
//! nobody need be woken for them.

use super::outbox::{Message, Outbox};
use bytes::Bytes;
use pxcluster_protocol::codec::offset;
use pxcluster_protocol::from_client::DirectKind;
use pxcluster_protocol::to_client::OutputName;
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::to_engine::{Direct, Grant};
use pxcluster_protocol::{EngineId, Epoch, RequestKey, Status, TaskIndex};
use pxcluster_scheduler::{Engine, EngineEvent, Work};
use pxcluster_transport::doorbell::Sleeper;
use pxcluster_transport::mpi::Bell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Work for the main thread, with everything it needs.
pub(super) enum Piece {
    /// Leave the main loop.
    Shutdown,
    /// Run a direct request.
    Direct { token: u64, kind: DirectKind, body: Vec<Bytes> },
    /// Run tasks. The function is given with the first tasks of its map.
    Tasks { token: u64, key: RequestKey, function: Option<Bytes>, first: TaskIndex, items: Vec<Bytes> },
    /// Drop the function of a map.
    Forget(RequestKey),
}

/// What a token that was handed out stands for.
enum Running {
    Direct { key: RequestKey, epoch: Epoch },
    Tasks { key: RequestKey, range: Range<TaskIndex> },
}

/// A map of which this engine has tasks or the function.
#[derive(Default)]
struct Map {
    /// Until it has been handed to Python.
    function: Option<Bytes>,
    /// Granted slices by their first task: offsets and items.
    slices: BTreeMap<TaskIndex, (Range<TaskIndex>, Bytes, Bytes)>,
}

#[derive(Default)]
struct State {
    machine: Engine,
    bodies: BTreeMap<Epoch, (DirectKind, Vec<Bytes>)>,
    maps: BTreeMap<RequestKey, Map>,
    forgotten: Vec<RequestKey>,
    running: Option<(u64, Running)>,
    /// The token that was handed out last and its request: threads of user code may print after its end.
    last: Option<(u64, RequestKey)>,
    tokens: u64,
    outbox: Outbox,
    /// Python has come to its main loop.
    ready: bool,
    ending: bool,
    /// Exit status of Python, once it has ended.
    ended: Option<i32>,
}

/// See the module's page.
pub(super) struct Shared {
    state: Mutex<State>,
    bell: Bell,
    user_code: AtomicBool,
}

impl Shared {
    pub(super) fn new(bell: Bell) -> Self {
        Self { state: Mutex::default(), bell, user_code: AtomicBool::new(false) }
    }

    fn wake_comm(&self) {
        self.bell.wake(Sleeper::Second);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- called by the thread whose turn it is ----

    /// A direct request has arrived.
    pub(super) fn put_direct(&self, me: EngineId, direct: &Direct, body: Vec<Bytes>) {
        let mut state = self.lock();
        if !state.machine.expects(direct.epoch) {
            return;
        }
        state.bodies.insert(direct.epoch, (direct.kind, body));
        let previous = direct.previous_of(me);
        state.machine.handle(EngineEvent::Direct { key: direct.key, epoch: direct.epoch, previous });
    }

    /// Tasks have arrived. Buffers as at [`pxcluster_protocol::to_engine::ToEngine::Grant`].
    pub(super) fn put_grant(&self, grant: Grant, body: Vec<Bytes>) -> Result<(), MalformedGrant> {
        let [function, offsets, items] = <[Bytes; 3]>::try_from(body).map_err(|_| MalformedGrant)?;
        if offsets.len() != 8 * (grant.range.len() + 1) || offset(&offsets, grant.range.len()) != items.len() {
            return Err(MalformedGrant);
        }
        let mut state = self.lock();
        let map = state.maps.entry(grant.key).or_default();
        if !function.is_empty() {
            map.function = Some(function);
        }
        map.slices.insert(grant.range.start, (grant.range.clone(), offsets, items));
        let Grant { key, range, last_direct, .. } = grant;
        state.machine.handle(EngineEvent::Grant { key, range, last_direct });
        Ok(())
    }

    /// Nothing of these requests is to start any more.
    pub(super) fn abort(&self, keys: Vec<RequestKey>) {
        self.lock().machine.handle(EngineEvent::Abort(keys));
    }

    /// These maps are finished.
    pub(super) fn forget(&self, keys: Vec<RequestKey>) {
        let mut state = self.lock();
        for key in &keys {
            state.maps.remove(key);
        }
        state.forgotten.extend(&keys);
        state.machine.handle(EngineEvent::Forget(keys));
    }

    /// The main loop is to end.
    pub(super) fn shut_down(&self) {
        self.lock().ending = true;
    }

    /// Whether Python runs user code, so that it may be interrupted.
    pub(super) fn runs_user_code(&self) -> bool {
        self.user_code.load(Ordering::SeqCst)
    }

    /// Exit status of Python, once it has ended.
    pub(super) fn ended(&self) -> Option<i32> {
        self.lock().ended
    }

    /// Whether Python has come to its main loop.
    pub(super) fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// What is to be sent now, and when to ask again.
    pub(super) fn take_messages(&self) -> (Vec<Message>, Option<Instant>) {
        let mut state = self.lock();
        let messages = state.outbox.take(Instant::now());
        (messages, state.outbox.due())
    }

    // ---- called by the main thread ----

    /// What the main thread is to run now, if there is anything.
    pub(super) fn try_next(&self) -> Option<Piece> {
        let mut state = self.lock();
        state.ready = true;
        if state.ending {
            return Some(Piece::Shutdown);
        }
        if let Some(key) = state.forgotten.pop() {
            return Some(Piece::Forget(key));
        }
        while let Some(work) = state.machine.next_work() {
            if let Some(piece) = state.prepare(work) {
                return Some(piece);
            }
        }
        state.outbox.flush(); // nothing will be added soon
        None
    }

    /// Whether results or output wait that should leave before work begins of which nobody knows how long it takes.
    pub(super) fn should_flush_before(&self, piece: &Piece) -> bool {
        let takes_long = match piece {
            Piece::Direct { .. } => true,
            Piece::Tasks { items, .. } => items.len() == 1,
            Piece::Shutdown | Piece::Forget(_) => false,
        };
        let mut state = self.lock();
        let now = Instant::now();
        let waits = state.outbox.due().is_some_and(|due| takes_long || due <= now);
        if waits {
            state.outbox.flush();
        }
        waits
    }

    /// Answers a direct request. It leaves when the main thread asks for the next work, which it does at once.
    pub(super) fn reply(&self, token: u64, status: Status, started: f64, completed: f64, body: Vec<Bytes>) {
        let mut state = self.lock();
        let Some(Running::Direct { key, epoch }) = state.take_running(token) else { return };
        state.machine.handle(EngineEvent::DirectFinished(epoch));
        state.outbox.push((ToController::DirectReply { key, epoch, status, started, completed }, body));
    }

    /// Answers tasks: status, start, end and payload of each.
    pub(super) fn results<'a>(&self, token: u64, results: impl ExactSizeIterator<Item = (Status, f64, f64, &'a [u8])>) {
        let mut state = self.lock();
        let Some(Running::Tasks { key, range }) = state.take_running(token) else { return };
        let (tasks, mut busy) = (results.len(), 0.0);
        for (task, (status, started, completed, payload)) in range.zip(results) {
            busy += (completed - started).max(0.0);
            state.outbox.push_result(key, task, status, (started, completed), payload);
        }
        state.machine.handle(EngineEvent::TasksFinished { key, tasks, busy });
    }

    /// Queues output of user code. Any thread may call it.
    pub(super) fn output(&self, token: u64, task: Option<TaskIndex>, name: OutputName, data: &[u8]) {
        let mut state = self.lock();
        let Some((_, key)) = state.last.filter(|(last, _)| *last == token) else { return };
        let was_due = state.outbox.due();
        state.outbox.push_output(key, task, name, data);
        let ring = was_due.is_none() || state.outbox.due().is_some_and(|due| due <= Instant::now());
        drop(state);
        if ring {
            self.wake_comm();
        }
    }

    /// User code begins or has ended.
    pub(super) fn set_user_code(&self, on: bool) {
        self.user_code.store(on, Ordering::SeqCst);
    }

    /// The interpreter has ended with this status.
    pub(super) fn python_has_ended(&self, status: i32) {
        self.set_user_code(false);
        let mut state = self.lock();
        state.ended = Some(status);
        state.outbox.flush();
        drop(state);
        self.wake_comm();
    }
}

impl State {
    fn take_running(&mut self, token: u64) -> Option<Running> {
        if self.running.as_ref().is_none_or(|(running, _)| *running != token) {
            tracing::error!("Python answers request {token}, which is not running");
            return None;
        }
        self.running.take().map(|(_, running)| running)
    }

    fn start(&mut self, running: Running) -> u64 {
        self.tokens += 1;
        let (Running::Direct { key, .. } | Running::Tasks { key, .. }) = &running;
        self.last = Some((self.tokens, *key));
        self.running = Some((self.tokens, running));
        self.tokens
    }

    /// Finds what `work` needs; `None` if it has been answered here.
    fn prepare(&mut self, work: Work) -> Option<Piece> {
        match work {
            Work::Direct { key, epoch } => {
                let (kind, body) = self.bodies.remove(&epoch)?;
                Some(Piece::Direct { token: self.start(Running::Direct { key, epoch }), kind, body })
            }
            Work::AbortedDirect { key, epoch } => {
                self.bodies.remove(&epoch);
                self.machine.handle(EngineEvent::DirectFinished(epoch));
                let (status, now) = (Status::Aborted, unix_time());
                let reply = ToController::DirectReply { key, epoch, status, started: now, completed: now };
                self.outbox.push((reply, vec![]));
                None
            }
            Work::Tasks { key, range } => {
                let Some(items) = self.items(key, &range) else {
                    // The machine knows no task whose items have not arrived; keep the promise of an answer all the same.
                    tracing::error!("tasks {range:?} of {key} have no items");
                    let event = EngineEvent::TasksFinished { key, tasks: range.len(), busy: 0.0 };
                    self.machine.handle(event);
                    return self.prepare(Work::AbortedTasks { key, range });
                };
                let function = self.maps.get_mut(&key).and_then(|map| map.function.take());
                let first = range.start;
                Some(Piece::Tasks { token: self.start(Running::Tasks { key, range }), key, function, first, items })
            }
            Work::AbortedTasks { key, range } => {
                let now = unix_time();
                for task in range.clone() {
                    self.outbox.push_result(key, task, Status::Aborted, (now, now), &[]);
                }
                self.outbox.flush();
                self.items(key, &range);
                None
            }
        }
    }

    /// Items of tasks that start now; the last ones of a slice free it.
    fn items(&mut self, key: RequestKey, range: &Range<TaskIndex>) -> Option<Vec<Bytes>> {
        let map = self.maps.get_mut(&key)?;
        let (&start, (slice, offsets, items)) = map.slices.range(..=range.start).next_back()?;
        let item = |task: TaskIndex| {
            let at = (task - slice.start) as usize;
            items.slice(offset(offsets, at)..offset(offsets, at + 1))
        };
        let found = range.clone().map(item).collect();
        if range.end >= slice.end {
            map.slices.remove(&start);
        }
        Some(found)
    }
}

/// A grant whose buffers do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("a grant's buffers do not fit together; are all ranks of the same pxcluster build?")]
pub(super) struct MalformedGrant;

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
