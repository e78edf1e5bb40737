//! Whether an engine's communication moves: a count that grows, looked at now and then. Without a clock of its own.

use std::time::{Duration, Instant};

/// Between two looks: a silence is reported so much too late at most. An idle engine's count grows once a second.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// What a look has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Finding {
    /// Nothing new.
    Nothing,
    /// It stands still, for so long.
    Silent(Duration),
    /// It moves again.
    Recovered,
}

/// The engine's pulse as its nanny feels it.
#[derive(Debug)]
pub(super) struct Pulse {
    limit: Duration,
    beats: u64,
    /// When the count was last seen to grow.
    since: Instant,
    looked: Instant,
    silent: bool,
}

impl Pulse {
    /// Begins to feel it. An engine is silent when its count stands still for `limit`.
    pub(super) fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, beats: 0, since: now, looked: now, silent: false }
    }

    /// Looks at the count.
    pub(super) fn look(&mut self, beats: u64, now: Instant) -> Finding {
        let own_pause = now.duration_since(self.looked) > 3 * INTERVAL;
        self.looked = now;
        if beats != self.beats {
            self.beats = beats;
            self.since = now;
            return if std::mem::take(&mut self.silent) { Finding::Recovered } else { Finding::Nothing };
        }
        if own_pause && !self.silent {
            // The nanny itself has stood still, and so, perhaps, had everything here.
            self.since = now;
        }
        let still = now.duration_since(self.since);
        if self.silent || still < self.limit {
            return Finding::Nothing;
        }
        self.silent = true;
        Finding::Silent(still)
    }

    /// It could not be told that the engine is silent: the next look finds it again.
    pub(super) fn forget_silence(&mut self) {
        self.silent = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_engine_that_stands_still_is_silent_once_and_then_heard_again() {
        let begin = Instant::now();
        let mut pulse = Pulse::new(seconds(3), begin);
        assert_eq!(pulse.look(7, begin + seconds(1)), Finding::Nothing);
        assert_eq!(pulse.look(7, begin + seconds(2)), Finding::Nothing);
        assert_eq!(pulse.look(7, begin + seconds(4)), Finding::Silent(seconds(3)));
        assert_eq!(pulse.look(7, begin + seconds(5)), Finding::Nothing);
        assert_eq!(pulse.look(8, begin + seconds(6)), Finding::Recovered);
        assert_eq!(pulse.look(9, begin + seconds(7)), Finding::Nothing);
    }

    #[test]
    fn a_nanny_that_was_stopped_itself_blames_nobody_at_once() {
        let begin = Instant::now();
        let mut pulse = Pulse::new(seconds(3), begin);
        assert_eq!(pulse.look(1, begin + seconds(1)), Finding::Nothing);
        assert_eq!(pulse.look(1, begin + seconds(100)), Finding::Nothing);
        assert_eq!(pulse.look(1, begin + seconds(102)), Finding::Nothing);
        assert_eq!(pulse.look(1, begin + seconds(103)), Finding::Silent(seconds(3)));
    }
}
