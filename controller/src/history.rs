//! What all clients have asked for lately, and how it went: where, when and with which end. No arguments, no results.

use crate::archive::Outline;
use crate::maps;
use bytes::Bytes;
use pxcluster_protocol::to_client::{PastRequest, ToClient};
use pxcluster_protocol::{EngineId, RequestKey, Status};
use std::collections::{BTreeMap, VecDeque};

/// Calls on engines and tasks that are kept, all together.
const KEPT: usize = 1 << 17;
/// Bytes of a label that count as one more.
const LABEL: usize = 32;
/// Instead of a status: not ended.
const PENDING: u8 = u8::MAX;

/// A call on one engine, or a task.
#[derive(Clone, Copy, Debug)]
struct Part {
    engine: u32,
    status: u8,
    started: f64,
    completed: f64,
}

#[derive(Debug)]
struct Record {
    session: String,
    outline: Outline,
    submitted: f64,
    ended: bool,
    /// None, if they are too many.
    parts: Vec<Part>,
}

/// The most recent requests of all sessions.
#[derive(Debug, Default)]
pub(crate) struct History {
    records: BTreeMap<RequestKey, Record>,
    /// Oldest first.
    order: VecDeque<RequestKey>,
    weight: usize,
}

impl History {
    /// A request begins.
    pub(crate) fn begin(&mut self, key: RequestKey, session: &str, outline: Outline, submitted: f64) {
        self.forget(key); // the client may have used the number twice
        if !outline.listed {
            return;
        }
        let blank = |engine| Part { engine, status: PENDING, started: f64::NAN, completed: f64::NAN };
        let parts: Vec<Part> = match outline.tasks as usize {
            0 => outline.targets.iter().map(|engine| blank(engine.0)).collect(),
            tasks if tasks <= KEPT => vec![blank(u32::MAX); tasks],
            _ => Vec::new(),
        };
        let record = Record { session: session.to_owned(), outline, submitted, ended: false, parts };
        self.weight += record.weight();
        self.records.insert(key, record);
        self.order.push_back(key);
        while self.weight > KEPT
            && let Some(oldest) = self.order.front().copied()
        {
            self.forget(oldest);
        }
    }

    /// An answer to a request is sent to its client.
    pub(crate) fn note(&mut self, key: RequestKey, answer: &ToClient, buffers: &[Bytes], now: fn() -> f64) {
        let Some(record) = self.records.get_mut(&key) else { return };
        match answer {
            ToClient::Reply { engine, status, started, completed, .. } => {
                if let Some(place) = record.place_of(*engine) {
                    record.parts[place] =
                        Part { engine: engine.0, status: (*status).into(), started: *started, completed: *completed };
                }
            }
            ToClient::Results { .. } if !record.parts.is_empty() => {
                if let [tasks, engines, statuses, started, completed, ..] = buffers {
                    let times = maps::times(started).zip(maps::times(completed));
                    let rows = maps::numbers(tasks).zip(maps::numbers(engines)).zip(statuses).zip(times);
                    for (((task, engine), status), (started, completed)) in rows {
                        if let Some(part) = record.parts.get_mut(task as usize) {
                            *part = Part { engine, status: *status, started, completed };
                        }
                    }
                }
            }
            ToClient::Failed { .. } => {
                let now = now();
                for part in record.parts.iter_mut().filter(|part| part.status == PENDING) {
                    (part.status, part.completed) = (Status::Error.into(), now);
                }
            }
            _ => {}
        }
    }

    /// A request has ended.
    pub(crate) fn end(&mut self, key: RequestKey) {
        if let Some(record) = self.records.get_mut(&key) {
            record.ended = true;
        }
    }

    /// Forgets requests if they have ended; `None`: all that have. Those that it has forgotten.
    pub(crate) fn purge(&mut self, keys: Option<Vec<RequestKey>>) -> Vec<RequestKey> {
        let mut keys = keys.unwrap_or_else(|| self.order.iter().copied().collect());
        keys.retain(|key| self.records.get(key).is_some_and(|record| record.ended));
        keys.iter().for_each(|key| self.forget(*key));
        keys
    }

    /// The buffers of a `history` frame: requests as JSON, oldest first, and the columns of their parts.
    pub(crate) fn buffers(&self) -> Result<Vec<Bytes>, serde_json::Error> {
        let (mut past, mut columns) = (Vec::new(), [const { Vec::new() }; 4]);
        let kept = self.order.iter().filter_map(|key| Some((key, self.records.get(key)?)));
        for (key, record) in kept {
            past.push(PastRequest {
                session: record.session.clone(),
                request: key.request,
                kind: record.outline.kind,
                label: record.outline.label.clone(),
                submitted: record.submitted,
                tasks: record.outline.tasks,
                targets: record.outline.targets.clone(),
                parts: record.parts.len() as u32,
            });
            for part in &record.parts {
                columns[0].extend(part.engine.to_le_bytes());
                columns[1].push(part.status);
                columns[2].extend(part.started.to_le_bytes());
                columns[3].extend(part.completed.to_le_bytes());
            }
        }
        let past = serde_json::to_vec(&past)?;
        Ok(std::iter::once(past).chain(columns).map(Bytes::from).collect())
    }

    fn forget(&mut self, key: RequestKey) {
        if let Some(record) = self.records.remove(&key) {
            self.weight -= record.weight();
            match self.order.front() {
                Some(oldest) if *oldest == key => drop(self.order.pop_front()),
                _ => self.order.retain(|other| *other != key),
            }
        }
    }
}

impl Record {
    fn weight(&self) -> usize {
        1 + self.parts.len() + self.outline.label.as_ref().map_or(0, String::len) / LABEL
    }

    fn place_of(&self, engine: EngineId) -> Option<usize> {
        let targets = &self.outline.targets;
        targets.binary_search(&engine).ok().or_else(|| targets.iter().position(|other| *other == engine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxcluster_protocol::from_client::DirectKind;
    use pxcluster_protocol::to_client::RequestKind;
    use pxcluster_protocol::{ClientId, RequestId};

    fn key(request: RequestId) -> RequestKey {
        RequestKey { client: ClientId(1), request }
    }

    fn map(tasks: u32) -> Outline {
        Outline { kind: RequestKind::Map, label: Some("mine".to_owned()), tasks, targets: vec![], listed: true }
    }

    fn direct(targets: &[u32]) -> Outline {
        let targets = targets.iter().copied().map(EngineId).collect();
        Outline { kind: RequestKind::Direct(DirectKind::Apply), label: None, tasks: 0, targets, listed: true }
    }

    fn reply(engine: u32, status: Status) -> ToClient {
        ToClient::Reply { id: 1, engine: EngineId(engine), status, started: 1.0, completed: 2.0 }
    }

    /// Requests, engines, statuses and ends that a client would be told.
    fn told(history: &History) -> (Vec<PastRequest>, Vec<u32>, Vec<u8>, Vec<f64>) {
        let buffers = history.buffers().expect("encodes");
        let past = serde_json::from_slice(&buffers[0]).expect("is JSON");
        (past, maps::numbers(&buffers[1]).collect(), buffers[2].to_vec(), maps::times(&buffers[4]).collect())
    }

    #[test]
    fn answers_of_engines_are_noted_where_their_targets_stand() {
        let mut history = History::default();
        history.begin(key(1), "s", direct(&[3, 1, 2]), 0.5);
        history.note(key(1), &reply(1, Status::Ok), &[], || 9.0);
        history.note(key(1), &reply(7, Status::Ok), &[], || 9.0);
        history.begin(key(2), "s", Outline { listed: false, ..direct(&[1]) }, 0.5);
        let (past, engines, statuses, ends) = told(&history);
        assert_eq!(past.len(), 1);
        assert_eq!((past[0].session.as_str(), past[0].submitted, past[0].parts), ("s", 0.5, 3));
        assert_eq!((engines, statuses), (vec![3, 1, 2], vec![PENDING, 0, PENDING]));
        assert_eq!((ends[1], ends[0].is_nan()), (2.0, true));
        let failed = ToClient::Failed { id: 1, ename: "EngineError".to_owned(), message: String::new() };
        history.note(key(1), &failed, &[], || 9.0);
        let (_, _, statuses, ends) = told(&history);
        assert_eq!((statuses, ends), (vec![1, 0, 1], vec![9.0, 2.0, 9.0]));
    }

    #[test]
    fn results_are_noted_by_their_tasks() {
        let mut history = History::default();
        history.begin(key(1), "s", map(3), 0.5);
        let numbers = |values: [u32; 2]| Bytes::from(values.map(u32::to_le_bytes).concat());
        let times = Bytes::from([4.0_f64, 5.0].map(f64::to_le_bytes).concat());
        let columns = [numbers([2, 0]), numbers([7, u32::MAX]), Bytes::from(vec![0, 2]), times.clone(), times];
        history.note(key(1), &ToClient::Results { id: 1 }, &columns, || 9.0);
        history.note(key(2), &ToClient::Results { id: 2 }, &columns, || 9.0);
        let (past, engines, statuses, ends) = told(&history);
        assert_eq!((past[0].tasks, past[0].label.as_deref()), (3, Some("mine")));
        assert_eq!((engines, statuses), (vec![u32::MAX, u32::MAX, 7], vec![2, PENDING, 0]));
        assert_eq!((ends[0], ends[2]), (5.0, 4.0));
    }

    #[test]
    fn the_oldest_go_first_and_a_huge_map_is_kept_without_its_tasks() {
        let mut history = History::default();
        history.begin(key(1), "s", map(10), 0.0);
        history.begin(key(2), "s", map(KEPT as u32 + 1), 0.0);
        let (past, engines, ..) = told(&history);
        assert_eq!((past.len(), past[1].parts, engines.len()), (2, 0, 10));
        history.begin(key(3), "s", map(KEPT as u32 - 10), 0.0);
        assert_eq!(told(&history).0.iter().map(|past| past.request).collect::<Vec<_>>(), [2, 3]);
        history.begin(key(3), "s", map(1), 0.0);
        assert_eq!((history.weight, history.order.len()), (3, 2));
    }

    #[test]
    fn what_has_ended_can_be_purged() {
        let mut history = History::default();
        (1..=4).for_each(|request| history.begin(key(request), "s", map(1), 0.0));
        [1, 2, 4].into_iter().for_each(|request| history.end(key(request)));
        assert_eq!(history.purge(Some(vec![key(2), key(3), key(9)])), [key(2)]);
        assert_eq!(history.purge(None), [key(1), key(4)]);
        assert_eq!((history.weight, told(&history).0[0].request), (2, 3));
    }
}
