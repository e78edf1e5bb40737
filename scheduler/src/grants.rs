//! How much to grant: guided self-scheduling, bounded by measured time.
//!
//! Guided self-scheduling hands out `remaining / (k · engines)`, so that slices shrink towards the end and the engines
//! finish together (Polychronopoulos & Kuck, IEEE Trans. Comput. C-36, 1987). A slice is further bounded to a few
//! milliseconds of measured task time: more would not make messages cheaper, and would be lost with an engine.

/// From so many engines on a grant may be an engine's whole share: stealing evens out what is wrong with that, and costs the
/// controller less than ever smaller grants to everybody.
const MANY: usize = 512;

/// Tunable bounds; times in seconds.
///
/// The defaults suit a round trip of up to about 1 ms; simulated at 200 µs (`sim::efficiency`), halving or doubling any
/// of them changes the makespan of 1 ms tasks by less than 3 %.
#[derive(Clone, Copy, Debug)]
pub struct GrantPolicy {
    /// Work in one grant. 4 ms costs one grant for four tasks of 1 ms, and a lost engine at most twice that.
    pub grant_seconds: f64,
    /// An engine holding less work than this gets more: several round trips, so that it does not run dry meanwhile.
    pub refill_seconds: f64,
    /// Both grow to so much for each engine that shares the map, so that a controller with thousands of them is not flooded;
    /// what then waits on busy engines can be stolen.
    pub seconds_per_engine: f64,
    /// Tasks longer than this are held one at a time: nothing queues behind them, and the round trip between two costs
    /// 1 % or less.
    pub long_seconds: f64,
    /// Tasks of unknown duration that an engine may hold. A second would hide one round trip, and might wait behind a long
    /// first one while another engine is idle.
    pub unknown_tasks: u32,
}

impl Default for GrantPolicy {
    fn default() -> Self {
        Self {
            grant_seconds: 4e-3,
            refill_seconds: 4e-3,
            seconds_per_engine: 20e-6,
            long_seconds: 20e-3,
            unknown_tasks: 1,
        }
    }
}

/// What an engine holds, finished or not, of all maps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// Tasks.
    pub tasks: u64,
    /// Seconds they are expected to take together.
    pub seconds: f64,
}

impl GrantPolicy {
    /// Size of the next grant to an engine; 0 if it has enough. An engine that holds nothing always gets something.
    ///
    /// `task_seconds` is the measured mean duration of the map's tasks, `remaining` how many tasks wait (not 0), `engines`
    /// how many engines share them. The result may be more than the map has left.
    pub fn size(&self, held: Held, task_seconds: Option<f64>, remaining: u64, engines: usize) -> u32 {
        let parts = if engines < MANY { 2 } else { 1 };
        let share = remaining.div_ceil(parts * engines.max(1) as u64).max(1);
        let Some(mean) = task_seconds else {
            return u64::from(self.unknown_tasks.max(1)).min(share).saturating_sub(held.tasks) as u32;
        };
        if mean >= self.long_seconds {
            return u32::from(held.tasks == 0);
        }
        let least = self.seconds_per_engine * engines as f64;
        let enough = if held.tasks > 1 { self.refill_seconds.max(least) } else { self.long_seconds };
        if held.tasks > 0 && (held.seconds >= enough || remaining < engines as u64) {
            return 0;
        }
        ((self.grant_seconds.max(least) / mean.max(1e-9)) as u64).max(1).min(share).min(u64::from(u32::MAX)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_shrink_towards_the_end_and_long_tasks_go_one_by_one() {
        let policy = GrantPolicy { unknown_tasks: 2, ..GrantPolicy::default() };
        let nothing = Held::default();
        let one = |seconds| Held { tasks: 1, seconds };
        assert_eq!(policy.size(nothing, Some(1e-6), 20_000, 4), 2_500);
        assert_eq!(policy.size(nothing, Some(1e-6), 1_000_000, 4), 4_000);
        assert_eq!(policy.size(nothing, Some(1e-6), 8, 4), 1);
        assert_eq!(policy.size(nothing, Some(1.0), 1_000, 4), 1);
        assert_eq!(policy.size(one(1.0), Some(1.0), 1_000, 4), 0);
        assert_eq!(policy.size(nothing, None, 20_000, 4), 2);
        assert_eq!(policy.size(nothing, None, 4, 4), 1);
        assert_eq!(GrantPolicy::default().size(nothing, None, 20_000, 4), 1);
    }

    #[test]
    fn nothing_queues_behind_a_long_task_and_the_last_tasks_go_to_who_is_idle() {
        let policy = GrantPolicy { unknown_tasks: 2, ..GrantPolicy::default() };
        let held = |tasks, seconds| Held { tasks, seconds };
        assert_eq!(policy.size(held(1, policy.long_seconds), Some(1e-6), 20_000, 4), 0);
        assert_eq!(policy.size(held(1, 1e-3), Some(1e-3), 20_000, 4), 4);
        assert_eq!(policy.size(held(5, 5e-3), Some(1e-3), 20_000, 4), 0);
        assert_eq!(policy.size(held(1, 1e-3), Some(1e-3), 3, 4), 0);
        assert_eq!(policy.size(held(1, 1e-3), None, 20_000, 4), 1);
    }
}
