//! What the main thread has for rank 0, joined into few messages.

use bytes::Bytes;
use pxcluster_protocol::to_client::OutputName;
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::{RequestKey, Status, TaskIndex};
use std::time::{Duration, Instant};

/// Results wait for others at most this long, or this long for each engine of the cluster if that is more: all engines
/// together must not flood the controller.
const RESULTS_AGE: Duration = Duration::from_millis(1);
const RESULTS_AGE_PER_ENGINE: Duration = Duration::from_micros(5);
/// Output waits at most this long for more of it.
const OUTPUT_AGE: Duration = Duration::from_millis(10);
/// A message of results or output is sent when it is this long, bytes.
const FULL: usize = 256 << 10;

/// A message for rank 0.
pub(super) type Message = (ToController, Vec<Bytes>);

/// What a task gave.
pub(super) enum Payload<'a> {
    /// It is copied.
    Here(&'a [u8]),
    /// It lies in memory shared with rank 0.
    Shared(Bytes),
}

/// Finished tasks of one map, as columns.
#[derive(Debug)]
struct Results {
    key: RequestKey,
    indices: Vec<u8>,
    statuses: Vec<u8>,
    started: Vec<u8>,
    completed: Vec<u8>,
    offsets: Vec<u8>,
    payload: Vec<u8>,
    busy: f64,
}

impl Results {
    fn new(key: RequestKey) -> Self {
        Self {
            key,
            indices: Vec::new(),
            statuses: Vec::new(),
            started: Vec::new(),
            completed: Vec::new(),
            offsets: 0u64.to_le_bytes().to_vec(),
            payload: Vec::new(),
            busy: 0.0,
        }
    }

    /// One task more, whose payload ends there.
    fn add(&mut self, task: TaskIndex, status: Status, times: (f64, f64), end: usize) {
        self.indices.extend_from_slice(&task.to_le_bytes());
        self.statuses.push(status.into());
        self.started.extend_from_slice(&times.0.to_le_bytes());
        self.completed.extend_from_slice(&times.1.to_le_bytes());
        self.offsets.extend_from_slice(&(end as u64).to_le_bytes());
        self.busy += (times.1 - times.0).max(0.0);
    }

    fn into_message(self) -> Message {
        let columns =
            [self.indices, self.statuses, self.started, self.completed, self.offsets, self.payload].map(Bytes::from);
        (ToController::Results { key: self.key, busy: self.busy }, columns.into())
    }
}

#[derive(Debug)]
struct Output {
    key: RequestKey,
    task: Option<TaskIndex>,
    name: OutputName,
    data: Vec<u8>,
}

/// Collects; [`Outbox::take`] says what is to be sent and when to ask again.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Messages that nothing may be joined to any more, in order.
    closed: Vec<Message>,
    results: Option<Results>,
    output: Option<Output>,
    /// When what is open must be sent at the latest.
    due: Option<Instant>,
    /// How long results wait for others.
    results_age: Duration,
}

impl Outbox {
    /// That of an engine among so many.
    pub(super) fn new(engines: u32) -> Self {
        let results_age = RESULTS_AGE.max(RESULTS_AGE_PER_ENGINE * engines);
        Self { results_age, ..Self::default() }
    }

    /// Queues a message behind everything that is there.
    pub(super) fn push(&mut self, message: Message) {
        self.close();
        self.closed.push(message);
        self.due = Some(Instant::now());
    }

    /// Adds the result of one task.
    pub(super) fn push_result(
        &mut self,
        key: RequestKey,
        task: TaskIndex,
        status: Status,
        times: (f64, f64),
        payload: Payload<'_>,
    ) {
        let payload = match payload {
            Payload::Here(payload) => payload,
            Payload::Shared(payload) => {
                let mut alone = Results::new(key);
                alone.add(task, status, times, payload.len());
                let (header, mut columns) = alone.into_message();
                columns.pop();
                columns.push(payload);
                return self.push((header, columns));
            }
        };
        self.close_output();
        if self.results.as_ref().is_some_and(|open| open.key != key || open.payload.len() >= FULL) {
            self.close();
        }
        if self.results.is_none() {
            self.hurry(self.results_age);
        }
        let results = self.results.get_or_insert_with(|| Results::new(key));
        results.payload.extend_from_slice(payload);
        results.add(task, status, times, results.payload.len());
        if results.payload.len() >= FULL {
            self.hurry(Duration::ZERO);
        }
    }

    /// Adds output of user code.
    pub(super) fn push_output(&mut self, key: RequestKey, task: Option<TaskIndex>, name: OutputName, data: &[u8]) {
        let is_stream = matches!(name, OutputName::Stdout | OutputName::Stderr);
        let joins = |open: &Output| (open.key, open.task, open.name) == (key, task, name) && open.data.len() < FULL;
        match &mut self.output {
            Some(open) if is_stream && joins(open) => open.data.extend_from_slice(data),
            _ => {
                // Results that are open belong to tasks that ended before this output began.
                self.close();
                self.output = Some(Output { key, task, name, data: data.to_vec() });
            }
        }
        let full = self.output.as_ref().is_some_and(|open| open.data.len() >= FULL);
        self.hurry(if full { Duration::ZERO } else { OUTPUT_AGE });
    }

    /// Makes everything due now: nothing will be added soon.
    pub(super) fn flush(&mut self) {
        if self.due.is_some() {
            self.due = Some(Instant::now());
        }
    }

    /// When something must be sent; `None` if there is nothing.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be sent now, in order; nothing if it may still grow.
    pub(super) fn take(&mut self, now: Instant) -> Vec<Message> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.close();
        self.due = None;
        std::mem::take(&mut self.closed)
    }

    fn hurry(&mut self, age: Duration) {
        let due = Instant::now() + age;
        self.due = Some(self.due.map_or(due, |known| known.min(due)));
    }

    fn close(&mut self) {
        self.close_output();
        self.closed.extend(self.results.take().map(Results::into_message));
    }

    fn close_output(&mut self) {
        let message = |open: Output| {
            (ToController::Output { key: open.key, task: open.task, name: open.name }, vec![Bytes::from(open.data)])
        };
        self.closed.extend(self.output.take().map(message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxcluster_protocol::ClientId;

    const KEY: RequestKey = RequestKey { client: ClientId(1), request: 1 };

    #[test]
    fn results_are_joined_and_wait_for_each_other() {
        let mut outbox = Outbox::new(4);
        outbox.push_result(KEY, 4, Status::Ok, (1.0, 1.5), Payload::Here(b"ab"));
        outbox.push_result(KEY, 5, Status::Error, (1.5, 1.75), Payload::Here(b"c"));
        let due = outbox.due().expect("something is open");
        assert!(outbox.take(Instant::now()).is_empty() || due <= Instant::now());
        let sent = outbox.take(due);
        let [(ToController::Results { busy, .. }, columns)] = &sent[..] else { panic!("{sent:?}") };
        assert!((busy - 0.75).abs() < 1e-9);
        assert_eq!(columns[1], vec![0u8, 1]);
        assert_eq!(columns[5], Bytes::from_static(b"abc"));
        assert!(outbox.due().is_none());
    }

    #[test]
    fn a_payload_in_shared_memory_is_a_message_of_its_own() {
        let mut outbox = Outbox::new(4);
        outbox.push_result(KEY, 4, Status::Ok, (1.0, 1.5), Payload::Here(b"ab"));
        let large = Bytes::from(vec![1; 100]);
        outbox.push_result(KEY, 5, Status::Ok, (1.5, 1.75), Payload::Shared(large.clone()));
        let sent = outbox.take(Instant::now());
        let [(_, first), (ToController::Results { .. }, second)] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!(first[5], Bytes::from_static(b"ab"));
        assert_eq!((second[5].as_ptr(), &second[0][..]), (large.as_ptr(), &5u32.to_le_bytes()[..]));
        assert_eq!(second[4][8..], 100u64.to_le_bytes());
    }

    #[test]
    fn output_precedes_the_answer_that_follows_it() {
        let mut outbox = Outbox::new(4);
        outbox.push_output(KEY, None, OutputName::Stdout, b"one ");
        outbox.push_output(KEY, None, OutputName::Stdout, b"two");
        outbox.push_output(KEY, None, OutputName::Stderr, b"three");
        outbox.push((ToController::Bye, vec![]));
        let sent = outbox.take(Instant::now());
        let texts: Vec<_> = sent.iter().filter_map(|(_, body)| body.first()).collect();
        assert_eq!(texts, [&b"one two"[..], &b"three"[..]]);
        assert_eq!(sent.last().map(|(header, _)| header), Some(&ToController::Bye));
    }
}
