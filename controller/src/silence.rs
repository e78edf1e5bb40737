//! Hosts that say nothing any more: their power or their cable is gone, and with them whoever would report that.

use pxcluster_protocol::{EngineId, Rank};
use pxcluster_transport::arena::Node;
use std::time::{Duration, Instant};

/// How often in the time after which a host is lost its engines say that they are there.
const BEATS: u32 = 4;
/// How often the clocks are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// When each rank was heard last. Engines on other hosts speak at least every [`beat`].
#[derive(Debug)]
pub(crate) struct Silence {
    nodes: Vec<Node>,
    heard: Vec<Instant>,
    /// Zero: for ever.
    patience: Duration,
    /// When it is worth looking again.
    due: Instant,
}

/// How often engines on other hosts are to speak; `None`: no host is ever lost.
pub fn beat(lost_after: Duration) -> Option<Duration> {
    (!lost_after.is_zero()).then(|| lost_after / BEATS)
}

impl Silence {
    pub(crate) fn new(nodes: Vec<Node>, patience: Duration, now: Instant) -> Self {
        Self { heard: vec![now; nodes.len()], nodes, patience, due: now }
    }

    /// Every rank has just been heard.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.heard.fill(now);
    }

    pub(crate) fn heard(&mut self, rank: Rank, now: Instant) {
        if let Some(last) = self.heard.get_mut(rank.0 as usize) {
            *last = now;
        }
    }

    /// The engines of hosts from which nobody has been heard for too long, but for those that are `gone` anyway.
    pub(crate) fn lost(&mut self, now: Instant, gone: impl Fn(EngineId) -> bool) -> Vec<EngineId> {
        if now < self.due || self.patience.is_zero() {
            return Vec::new();
        }
        self.due = now + (self.patience / 10).min(LOOK);
        let Some(own) = self.nodes.first() else { return Vec::new() };
        let silent = |rank: usize| now.saturating_duration_since(self.heard[rank]) >= self.patience;
        let ranks = || 1..self.nodes.len();
        let is_lost = |rank: &usize| {
            let first = self.nodes[*rank].first;
            first != own.first
                && silent(*rank)
                && ranks().all(|other| self.nodes[other].first != first || silent(other))
        };
        let engine = |rank: usize| Rank(rank as u32).engine();
        ranks().filter(is_lost).filter_map(engine).filter(|engine| !gone(*engine)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Two ranks on each of three nodes.
    fn silence(patience: Duration) -> (Silence, Instant) {
        let nodes = [0, 0, 2, 2, 4, 4].map(|first| Node { first: Rank(first), room: 0 });
        let now = Instant::now();
        (Silence::new(nodes.to_vec(), patience, now), now)
    }

    /// What it would say if it looked now.
    fn lost(silence: &mut Silence, now: Instant) -> Vec<u32> {
        silence.due = now;
        silence.lost(now, |_| false).into_iter().map(|engine| engine.0).collect()
    }

    #[test]
    fn a_host_is_lost_when_all_its_engines_are_silent() {
        let (mut silence, start) = silence(PATIENCE);
        silence.heard(Rank(3), start + Duration::from_secs(20));
        let later = start + PATIENCE;
        assert_eq!(lost(&mut silence, start + Duration::from_secs(29)), [0_u32; 0]);
        assert_eq!(lost(&mut silence, later), [3, 4]);
        assert_eq!(silence.lost(later, |_| false), [], "it has just looked");
        silence.due = later;
        assert_eq!(silence.lost(later, |engine| engine == EngineId(4)), [EngineId(3)]);
        assert_eq!(lost(&mut silence, start + Duration::from_secs(50)), [1, 2, 3, 4]);
        silence.begin(start + Duration::from_secs(50));
        assert_eq!(lost(&mut silence, start + Duration::from_secs(50)), [0_u32; 0]);
    }

    #[test]
    fn rank_0s_own_host_is_never_lost_and_no_host_without_patience() {
        let (mut patient, start) = silence(PATIENCE);
        let much_later = start + 100 * PATIENCE;
        assert!(!lost(&mut patient, much_later).contains(&0));
        assert_eq!(lost(&mut silence(Duration::ZERO).0, much_later), [0_u32; 0]);
        assert_eq!(beat(PATIENCE), Some(Duration::from_millis(7500)));
        assert_eq!(beat(Duration::ZERO), None);
    }
}
