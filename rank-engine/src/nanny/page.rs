//! The memory that an engine and its nanny share: a count of the turns of its communication, and the task that it runs.

use pxcluster_protocol::from_client::RunningTask;
use pxcluster_protocol::{RequestKey, TaskIndex};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Zeroed memory is one that says nothing.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Page {
    beats: AtomicU64,
    warned: AtomicU32,
    request: AtomicU64,
    client: AtomicU32,
    /// The index plus one; 0: no task runs. Written last and read by the nanny when the engine is dead.
    task: AtomicU32,
}

impl Page {
    /// The communication has taken a turn.
    pub(super) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// How many turns it has taken.
    pub(super) fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// The nanny has got a signal that says that the end of the job is near.
    pub(super) fn warn(&self) {
        self.warned.store(1, Ordering::Release);
    }

    /// Whether it has.
    pub(super) fn is_warned(&self) -> bool {
        self.warned.load(Ordering::Acquire) != 0
    }

    /// A batch of tasks begins with this one.
    pub(crate) fn begin(&self, key: RequestKey, first: TaskIndex) {
        self.end();
        self.request.store(key.request, Ordering::Release);
        self.client.store(key.client.0, Ordering::Release);
        self.go_on(first);
    }

    /// The next task of the batch runs.
    pub(crate) fn go_on(&self, task: TaskIndex) {
        self.task.store(task.wrapping_add(1), Ordering::Release);
    }

    /// No task runs.
    pub(crate) fn end(&self) {
        self.task.store(0, Ordering::Release);
    }

    /// The task that runs, or ran when the engine died.
    pub(super) fn running(&self) -> Option<RunningTask> {
        let task = self.task.load(Ordering::Acquire).checked_sub(1)?;
        let (client, request) = (self.client.load(Ordering::Acquire), self.request.load(Ordering::Acquire));
        Some(RunningTask { client, request, task })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxcluster_protocol::ClientId;

    #[test]
    fn it_says_which_task_runs_and_when_none_does() {
        let page = Page::default();
        assert_eq!(page.running(), None);
        page.begin(RequestKey { client: ClientId(3), request: 9 }, 0);
        assert_eq!(page.running(), Some(RunningTask { client: 3, request: 9, task: 0 }));
        page.go_on(7);
        assert_eq!(page.running().map(|running| running.task), Some(7));
        page.end();
        assert_eq!(page.running(), None);
    }
}
