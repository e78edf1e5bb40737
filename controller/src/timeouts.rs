//! When maps must have been given to engines.

use pxcluster_protocol::RequestKey;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Deadlines, the next one first. One whose map has ended meanwhile does no harm.
#[derive(Debug, Default)]
pub(crate) struct Timeouts {
    due: BinaryHeap<Reverse<(Instant, RequestKey)>>,
}

impl Timeouts {
    /// The time of this map is up in so many seconds.
    pub(crate) fn add(&mut self, key: RequestKey, seconds: f64) {
        let wait = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
        if let Some(deadline) = Instant::now().checked_add(wait) {
            self.due.push(Reverse((deadline, key)));
        }
    }

    /// A map whose time is up.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<RequestKey> {
        let Reverse((deadline, _)) = self.due.peek()?;
        if *deadline > now {
            return None;
        }
        self.due.pop().map(|Reverse((_, key))| key)
    }

    /// How long until the next one.
    pub(crate) fn nap(&self, now: Instant) -> Option<Duration> {
        self.due.peek().map(|Reverse((deadline, _))| deadline.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxcluster_protocol::ClientId;

    #[test]
    fn the_earliest_comes_first_and_none_too_early() {
        let mut timeouts = Timeouts::default();
        let key = |request| RequestKey { client: ClientId(1), request };
        timeouts.add(key(1), 1000.0);
        timeouts.add(key(2), f64::INFINITY);
        timeouts.add(key(3), 0.0);
        let now = Instant::now();
        assert_eq!(timeouts.next_due(now), Some(key(3)));
        assert_eq!(timeouts.next_due(now), None);
        assert!(timeouts.nap(now).is_some_and(|nap| nap > Duration::from_secs(900)));
        assert_eq!(timeouts.next_due(now + Duration::from_secs(1001)), Some(key(1)));
    }
}
