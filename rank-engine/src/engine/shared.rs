//! What the comm thread and the main thread share: the scheduler's engine, the bodies, the outbox.
//!
//! One mutex, never held over a call into MPI or Python. The main thread takes tasks straight from the deque, so that
//! nobody need be woken for them.

mod state;

use super::outbox::{Message, Outbox, Payload};
use super::parcel::{MalformedTasks, Parcel};
use crate::nanny::Page;
use bytes::{Bytes, BytesMut};
use pxcluster_protocol::codec::offset;
use pxcluster_protocol::from_client::DirectKind;
use pxcluster_protocol::to_client::OutputName;
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::to_engine::Direct;
use pxcluster_protocol::{EngineId, Epoch, RequestKey, Status, TaskIndex};
use pxcluster_scheduler::EngineEvent;
use pxcluster_transport::doorbell::Sleeper;
use pxcluster_transport::mpi::Bell;
use state::{Running, State};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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

/// Who sends what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flusher {
    /// There is nothing, or it can wait for more.
    Nobody,
    /// The thread that asks.
    This,
    /// The comm thread.
    Comm,
}

/// Offsets in shared memory, and whether the pages are there already; `None`: there is no room.
pub(super) type Places = Option<Vec<(u64, bool)>>;

/// See the module's page.
pub(super) struct Shared {
    state: Mutex<State>,
    bell: Bell,
    user_code: AtomicBool,
    /// Batches of more than one task that have been handed out.
    batches: AtomicU64,
    /// The comm thread looks after the results of batches now and then.
    is_watched: AtomicBool,
}

impl Shared {
    pub(super) fn new(bell: Bell, page: &'static Page, engines: u32) -> Self {
        let outbox = Outbox::new(engines);
        Self {
            state: Mutex::new(State { page: Some(page), outbox, ..State::default() }),
            bell,
            user_code: AtomicBool::new(false),
            batches: AtomicU64::new(0),
            is_watched: AtomicBool::new(false),
        }
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
        state.answer_aborted();
    }

    /// Tasks have arrived. Buffers as at [`pxcluster_protocol::to_engine::ToEngine::Grant`].
    pub(super) fn put_tasks(
        &self,
        key: RequestKey,
        ranges: Vec<Range<TaskIndex>>,
        last_direct: Epoch,
        body: Vec<Bytes>,
    ) -> Result<(), MalformedTasks> {
        let [function, offsets, items] = <[Bytes; 3]>::try_from(body).map_err(|_| MalformedTasks)?;
        let count: usize = ranges.iter().map(ExactSizeIterator::len).sum();
        if offsets.len() != 8 * (count + 1) || offset(&offsets, count) != items.len() {
            return Err(MalformedTasks);
        }
        let mut state = self.lock();
        let state = &mut *state;
        if !function.is_empty() {
            state.functions.entry(key).or_default().bytes = function;
        }
        let (mut parcels, mut at) = (Vec::with_capacity(ranges.len()), 0);
        for range in ranges {
            state.last_parcel += 1;
            let (offsets, items) = (offsets.clone(), items.clone());
            let parcel = Parcel { first: range.start, at, offsets, items, left: range.len() };
            state.parcels.insert(state.last_parcel, parcel);
            at += range.len();
            parcels.push((state.last_parcel, range));
        }
        state.machine.handle(EngineEvent::Tasks { key, parcels, last_direct });
        state.answer_aborted();
        Ok(())
    }

    /// Gives the back half of the waiting tasks of a map away. Their ranges, and the buffers of a loot; `None`: there are
    /// none.
    pub(super) fn give(&self, key: RequestKey, function: bool) -> Option<(Vec<Range<TaskIndex>>, Vec<Bytes>)> {
        let mut state = self.lock();
        let started = state.started();
        let pieces = state.machine.give(key, started);
        let function = state.functions.get(&key).filter(|_| function).map(|function| function.bytes.clone());
        let (mut ranges, mut table, mut items) = (Vec::new(), BytesMut::from(&0u64.to_le_bytes()[..]), BytesMut::new());
        for piece in pieces {
            let Some(parcel) = state.parcels.get_mut(&piece.parcel) else { continue };
            for task in piece.range.clone() {
                items.extend_from_slice(&parcel.item(task));
                table.extend_from_slice(&(items.len() as u64).to_le_bytes());
            }
            parcel.left = parcel.left.saturating_sub(piece.range.len());
            if parcel.left == 0 {
                state.parcels.remove(&piece.parcel);
            }
            ranges.push(piece.range);
        }
        (!ranges.is_empty()).then(|| (ranges, vec![function.unwrap_or_default(), table.freeze(), items.freeze()]))
    }

    /// Nothing of these requests is to start any more.
    pub(super) fn abort(&self, keys: Vec<RequestKey>) {
        let mut state = self.lock();
        state.machine.handle(EngineEvent::Abort(keys));
        state.answer_aborted();
    }

    /// These maps are finished.
    pub(super) fn forget(&self, keys: Vec<RequestKey>) {
        let mut state = self.lock();
        for key in &keys {
            state.functions.remove(key);
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

    /// The request that the main thread runs.
    pub(super) fn running_request(&self) -> Option<RequestKey> {
        let state = self.lock();
        state.running.as_ref().map(|(_, Running::Direct { key, .. } | Running::Tasks { key, .. })| *key)
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

    /// For the comm thread, before it sleeps: how many batches have been handed out, while there may be results that nobody
    /// else sends, because a task of a batch takes longer than expected. `seen`: what this said the last time.
    pub(super) fn watched_batches(&self, seen: u64) -> Option<u64> {
        if !self.is_watched.load(Ordering::SeqCst) {
            return None;
        }
        let batches = self.batches.load(Ordering::SeqCst);
        if batches != seen || self.runs_user_code() {
            return Some(batches);
        }
        self.is_watched.store(false, Ordering::SeqCst);
        // The main thread counts first and looks afterwards: either this sees its count, or it sees the line above.
        (self.batches.load(Ordering::SeqCst) != seen)
            .then(|| self.is_watched.store(true, Ordering::SeqCst))
            .map(|()| seen)
    }

    /// Rank 0 has answered a question for places.
    pub(super) fn put_places(&self, ticket: u64, places: Places) {
        let mut state = self.lock();
        if state.places.0 == ticket {
            state.places.1 = Some(places);
        }
    }

    // ---- called by the main thread ----

    /// Asks rank 0 for places of these sizes in shared memory.
    pub(super) fn ask_for_places(&self, sizes: Vec<u64>) -> u64 {
        let mut state = self.lock();
        let ticket = state.places.0 + 1;
        state.places = (ticket, None);
        state.outbox.push((ToController::Reserve { ticket, sizes }, vec![]));
        ticket
    }

    /// The answer to that question, when it has come.
    pub(super) fn take_places(&self, ticket: u64) -> Option<Places> {
        let mut state = self.lock();
        if state.ended.is_some() || state.ending {
            return Some(None);
        }
        state.places.1.take().filter(|_| state.places.0 == ticket)
    }

    /// Places that will not be used.
    pub(super) fn release_places(&self, places: Vec<u64>) {
        self.lock().outbox.push((ToController::Released { places }, vec![]));
    }

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
                drop(state);
                if matches!(&piece, Piece::Tasks { items, .. } if items.len() > 1) {
                    self.batches.fetch_add(1, Ordering::SeqCst);
                    if !self.is_watched.swap(true, Ordering::SeqCst) {
                        self.wake_comm();
                    }
                }
                return Some(piece);
            }
        }
        state.outbox.flush(); // nothing will be added soon
        None
    }

    /// Who is to send, before this work begins, the results and output that wait and should leave by then.
    pub(super) fn flusher(&self, piece: &Piece) -> Flusher {
        let flusher = match piece {
            Piece::Direct { .. } => Flusher::This,
            // It may take long. The comm thread sends meanwhile, so that this one loses no time between two tasks.
            Piece::Tasks { items, .. } if items.len() == 1 => Flusher::Comm,
            Piece::Tasks { .. } | Piece::Shutdown | Piece::Forget(_) => Flusher::Nobody,
        };
        let mut state = self.lock();
        let Some(due) = state.outbox.due() else { return Flusher::Nobody };
        if flusher != Flusher::Nobody {
            state.outbox.flush();
            return flusher;
        }
        if due <= Instant::now() { Flusher::This } else { Flusher::Nobody }
    }

    /// The main thread goes back to Python with what it was given: tasks begin now.
    pub(super) fn begin(&self) {
        if let Some((_, Running::Tasks { clock, .. })) = &mut self.lock().running {
            *clock = unix_time();
        }
    }

    /// Answers a direct request. It leaves when the main thread asks for the next work, which it does at once.
    pub(super) fn reply(&self, token: u64, status: Status, started: f64, completed: f64, body: Vec<Bytes>) {
        let mut state = self.lock();
        let Some(Running::Direct { key, epoch }) = state.take_running(token) else { return };
        state.machine.handle(EngineEvent::DirectFinished(epoch));
        state.outbox.push((ToController::DirectReply { key, epoch, status, started, completed }, body));
    }

    /// The result of the task at `position` of the batch: status, payload. Whether the next one of the batch is
    /// still to be run here; where not, the batch is finished. A result that has been given before is ignored.
    pub(super) fn result(&self, token: u64, position: usize, status: Status, payload: Payload<'_>) -> bool {
        let mut state = self.lock();
        let state = &mut *state;
        let Some((_, Running::Tasks { key, first, done, clock, busy, .. })) =
            state.running.as_mut().filter(|(running, _)| *running == token)
        else {
            return false; // it was the last one, and an interrupt made Python give it again
        };
        if position == *done {
            let times = (*clock, unix_time());
            *clock = times.1;
            *busy += (times.1 - times.0).max(0.0);
            *done += 1;
            state.outbox.push_result(*key, *first + position as TaskIndex, status, times, payload);
        }
        if *done < state.machine.running_tasks().len() {
            let task = *first + *done as TaskIndex;
            state.page.into_iter().for_each(|page| page.go_on(task));
            return true;
        }
        state.page.into_iter().for_each(Page::end);
        state.finish_batch();
        false
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

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
