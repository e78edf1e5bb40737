//! Bytes of a client's requests that are under way. Past a bound its socket is not read until some of them have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Shared {
    used: AtomicUsize,
    freed: Notify,
}

/// Between a connection's reader, which takes, and the event loop, which gives back.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    bound: usize,
    shared: Arc<Shared>,
}

impl Budget {
    pub(crate) fn new(bound: usize) -> Self {
        Self { bound, shared: Arc::default() }
    }

    /// Waits until less than the bound is used. A request that alone is more than the bound passes.
    pub(crate) async fn room(&self) {
        while self.shared.used.load(Ordering::Acquire) >= self.bound {
            self.shared.freed.notified().await; // keeps a notice of what was freed meanwhile
        }
    }

    pub(crate) fn take(&self, bytes: usize) {
        self.shared.used.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        let used = self.shared.used.fetch_sub(bytes, Ordering::AcqRel);
        if used >= self.bound {
            self.shared.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readers_wait_until_requests_have_ended() {
        let budget = Budget::new(100);
        budget.take(99);
        budget.room().await;
        budget.take(500);
        let reader = tokio::spawn({
            let budget = budget.clone();
            async move { budget.room().await }
        });
        budget.give_back(400);
        tokio::task::yield_now().await;
        assert!(!reader.is_finished());
        budget.give_back(199);
        reader.await.expect("goes on");
    }
}
