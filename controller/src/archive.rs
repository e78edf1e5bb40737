//! Recent requests and their answers, for whoever asks by name: the client that came back, or another one.

use crate::mailbox::memory_of;
use pxcluster_protocol::frame::Frame;
use pxcluster_protocol::to_client::RequestKind;
use pxcluster_protocol::{ClientId, EngineId, RequestId, RequestKey};
use std::collections::{BTreeMap, VecDeque};

/// Bytes of answers that are kept, all together.
const KEPT: usize = 16 << 20;
/// What a record without frames takes, bytes.
const RECORD: usize = 256;

/// What a request was.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outline {
    pub(crate) kind: RequestKind,
    pub(crate) label: Option<String>,
    pub(crate) tasks: u32,
    pub(crate) targets: Vec<EngineId>,
    /// Whether the history has it.
    pub(crate) listed: bool,
}

#[derive(Debug)]
struct Record {
    outline: Outline,
    /// Frames that were made for it.
    count: u64,
    /// How many of them nobody else keeps any more.
    settled: u64,
    /// All of them, or none once that was too much.
    frames: Option<Vec<Frame>>,
    bytes: usize,
    ended: bool,
    /// Who wants what comes: client, and the id under which it wants it.
    subscribers: Vec<(ClientId, RequestId)>,
}

/// The requests that are under way, and the last ones.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    records: BTreeMap<RequestKey, Record>,
    /// Those whose frames are kept, oldest first.
    order: VecDeque<RequestKey>,
    bytes: usize,
}

/// What is known of a request.
pub(crate) struct Found<'a> {
    pub(crate) outline: &'a Outline,
    /// Frames that were made for it so far.
    pub(crate) count: u64,
    /// They, unless they were too much to be kept here.
    pub(crate) frames: Option<&'a [Frame]>,
    pub(crate) ended: bool,
}

impl Archive {
    /// A request begins.
    pub(crate) fn begin(&mut self, key: RequestKey, outline: Outline) {
        if self.forget(key) {
            self.order.retain(|other| *other != key); // the client has used the number twice
        }
        let frames = Some(Vec::new());
        let subscribers = Vec::new();
        self.records
            .insert(key, Record { outline, count: 0, settled: 0, frames, bytes: RECORD, ended: false, subscribers });
        self.order.push_back(key);
        self.bytes += RECORD;
        self.make_room();
    }

    /// Keeps a frame of an answer; who else wants it.
    pub(crate) fn add(&mut self, key: RequestKey, frame: &Frame) -> Vec<(ClientId, RequestId)> {
        let Some(record) = self.records.get_mut(&key) else { return Vec::new() };
        record.count += 1;
        if let Some(frames) = &mut record.frames {
            let size = memory_of(frame);
            frames.push(frame.clone());
            record.bytes += size;
            self.bytes += size;
        }
        let subscribers = record.subscribers.clone();
        self.make_room();
        subscribers
    }

    /// A request has ended; who wanted what came of it.
    pub(crate) fn end(&mut self, key: RequestKey) -> Vec<(ClientId, RequestId)> {
        let Some(record) = self.records.get_mut(&key) else { return Vec::new() };
        record.ended = true;
        let subscribers = std::mem::take(&mut record.subscribers);
        self.forget_if_over(key);
        subscribers
    }

    pub(crate) fn find(&self, key: RequestKey) -> Option<Found<'_>> {
        let record = self.records.get(&key)?;
        let frames = record.frames.as_deref();
        Some(Found { outline: &record.outline, count: record.count, frames, ended: record.ended })
    }

    /// From now on `client` gets what comes, too.
    pub(crate) fn subscribe(&mut self, key: RequestKey, client: ClientId, id: RequestId) {
        if let Some(record) = self.records.get_mut(&key) {
            record.subscribers.push((client, id));
        }
    }

    /// A frame has left its client's mailbox for good.
    pub(crate) fn settle(&mut self, key: RequestKey) {
        if let Some(record) = self.records.get_mut(&key) {
            record.settled += 1;
            self.forget_if_over(key);
        }
    }

    /// A request is forgotten when its frames are neither here nor in a mailbox.
    fn forget_if_over(&mut self, key: RequestKey) {
        let over = |record: &Record| record.ended && record.frames.is_none() && record.settled == record.count;
        if self.records.get(&key).is_some_and(over) {
            self.records.remove(&key);
        }
    }

    /// A client is not there any more for what it asked for.
    pub(crate) fn unsubscribe(&mut self, client: ClientId) {
        self.records.values_mut().for_each(|record| record.subscribers.retain(|(who, _)| *who != client));
    }

    fn make_room(&mut self) {
        while self.bytes > KEPT
            && let Some(key) = self.order.pop_front()
        {
            self.drop_frames(key);
        }
    }

    /// Knows nothing of a request any more; whether it did.
    pub(crate) fn forget(&mut self, key: RequestKey) -> bool {
        let old = self.records.remove(&key);
        self.bytes -= old.as_ref().map_or(0, |record| record.bytes);
        old.is_some()
    }

    fn drop_frames(&mut self, key: RequestKey) {
        if let Some(record) = self.records.get_mut(&key) {
            self.bytes -= std::mem::take(&mut record.bytes);
            record.frames = None;
            self.forget_if_over(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(request: RequestId) -> RequestKey {
        RequestKey { client: ClientId(1), request }
    }

    fn frame(size: usize) -> Frame {
        Frame { header: "{}".into(), buffers: vec![vec![0; size].into()] }
    }

    fn begun(requests: u64) -> Archive {
        let mut archive = Archive::default();
        let outline = Outline { kind: RequestKind::Map, label: None, tasks: 1, targets: vec![], listed: true };
        (1..=requests).for_each(|request| archive.begin(key(request), outline.clone()));
        archive
    }

    #[test]
    fn the_oldest_request_goes_first_and_is_remembered_while_a_mailbox_has_some_of_it() {
        let mut archive = begun(2);
        archive.add(key(1), &frame(KEPT / 2));
        archive.add(key(2), &frame(KEPT / 4));
        assert!(archive.find(key(1)).is_some_and(|found| found.frames.is_some_and(|frames| frames.len() == 1)));
        archive.add(key(2), &frame(KEPT / 2));
        assert!(archive.find(key(1)).is_some_and(|found| found.frames.is_none() && found.count == 1));
        assert!(archive.find(key(2)).is_some_and(|found| found.frames.is_some_and(|frames| frames.len() == 2)));
        archive.end(key(1));
        assert!(archive.find(key(1)).is_some());
        archive.settle(key(1));
        assert!(archive.find(key(1)).is_none());
    }

    #[test]
    fn a_request_that_is_too_much_alone_is_not_kept_in_part() {
        let mut archive = begun(1);
        (0..3).for_each(|_| drop(archive.add(key(1), &frame(KEPT / 2))));
        assert!(archive.find(key(1)).is_some_and(|found| found.frames.is_none() && found.count == 3));
        assert_eq!(archive.bytes, 0);
    }

    #[test]
    fn subscribers_are_told_until_the_end() {
        let mut archive = begun(1);
        archive.subscribe(key(1), ClientId(2), 9);
        assert_eq!(archive.add(key(1), &frame(1)), [(ClientId(2), 9)]);
        assert_eq!(archive.end(key(1)), [(ClientId(2), 9)]);
        assert!(archive.end(key(1)).is_empty());
    }
}
