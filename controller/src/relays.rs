//! Broadcasts that may have to be repeated, because an engine was lost that may not have passed them on.
//!
//! Direct requests are not among them: the scheduler knows who has answered, and repeats them itself. Of all others nobody
//! knows who has got them, so each has a number, receivers carry out a number once, and the recent ones are kept here.

use pxcluster_protocol::to_engine::Cargo;
use pxcluster_protocol::{EngineId, EngineSet};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// An engine passes a broadcast on within milliseconds. One that hangs is found to be silent before this time has passed,
/// and then nothing is forgotten.
const KEPT: Duration = Duration::from_secs(120);
/// Most broadcasts that are kept.
const MOST: usize = 4096;

struct Relayed {
    at: Instant,
    number: u64,
    targets: EngineSet,
    cargo: Cargo,
}

/// The recent broadcasts, oldest first.
#[derive(Default)]
pub(crate) struct Relays {
    last: u64,
    recent: VecDeque<Relayed>,
}

impl Relays {
    /// Gives a broadcast its number and keeps it. `some_hang`: an engine may have been asked to pass something on long ago.
    pub(crate) fn number(&mut self, targets: &EngineSet, cargo: &Cargo, some_hang: bool) -> Cargo {
        let now = Instant::now();
        let is_old = |relayed: &Relayed| !some_hang && now.duration_since(relayed.at) > KEPT;
        while self.recent.front().is_some_and(is_old) || self.recent.len() >= MOST {
            self.recent.pop_front();
        }
        self.last += 1;
        let number = self.last;
        if targets.len() > 1 {
            let (targets, cargo) = (targets.clone(), cargo.clone());
            self.recent.push_back(Relayed { at: now, number, targets, cargo });
        }
        Cargo::Numbered(number, Box::new(cargo.clone()))
    }

    /// What is to be sent again, and to whom, in the order of the first time.
    pub(crate) fn lose(&mut self, engine: EngineId) -> Vec<(EngineSet, Cargo)> {
        let mut again = Vec::new();
        for relayed in self.recent.iter_mut().filter(|relayed| relayed.targets.contains(engine)) {
            relayed.targets = relayed.targets.without(engine);
            again.push((relayed.targets.clone(), Cargo::Numbered(relayed.number, Box::new(relayed.cargo.clone()))));
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u32]) -> EngineSet {
        ids.iter().copied().map(EngineId).collect()
    }

    #[test]
    fn what_a_lost_engine_may_not_have_passed_on_is_sent_again_under_its_number() {
        let mut relays = Relays::default();
        let first = relays.number(&set(&[0, 1, 2]), &Cargo::Signal(2), false);
        relays.number(&set(&[0, 2]), &Cargo::Signal(3), false);
        relays.number(&set(&[1]), &Cargo::Signal(4), false);
        assert_eq!(relays.lose(EngineId(1)), vec![(set(&[0, 2]), first.clone())]);
        let again = relays.lose(EngineId(0));
        assert_eq!(again.len(), 2);
        assert_eq!(again[0], (set(&[2]), first));
    }

    #[test]
    fn only_so_many_are_kept() {
        let mut relays = Relays::default();
        for signal in 0..2 * MOST as i32 {
            relays.number(&set(&[0, 1]), &Cargo::Signal(signal), true);
        }
        assert_eq!(relays.lose(EngineId(0)).len(), MOST);
    }
}
