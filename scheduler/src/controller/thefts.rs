//! Work stealing, as the controller sees it: who gives to whom.
//!
//! An engine that has nothing left to do, or soon will, is a *thief*; one that holds more than it is running is a
//! *victim*. When the pools have nothing for a thief, a victim is told to give it the back half of its waiting tasks
//! of one map. The tasks go from engine to engine. The victim tells the controller what it has sent, the thief what it
//! has received; the tasks are in the victim's books until the latter has come, so that none is lost when either dies.
//!
//! I1 holds for stolen tasks: their map was submitted before the theft was decided, and the order carries the thief's
//! last direct request at that time.

use super::engines::EngineState;
use super::{Action, Controller, Why};
use pxcluster_protocol::{EngineId, Epoch, RequestKey, TaskIndex};
use std::ops::Range;

/// Victims that are looked at before a thief is left alone until something changes: they may hold nothing that it may run.
const VICTIMS: usize = 8;
/// Tasks that a victim must have to spare for a thief that is still at work.
const BOTH_BUSY: u64 = 2;

impl Controller {
    /// Matches the engines that have become thieves or victims with the others.
    pub(super) fn match_thieves(&mut self, out: &mut Vec<Action>) {
        while let Some(engine) = self.engines.next_fresh() {
            while let Some((victim, thief, key)) = self.theft_by(engine).or_else(|| self.theft_from(engine)) {
                self.begin_theft(victim, thief, key, out);
            }
        }
    }

    fn begin_theft(&mut self, victim: EngineId, thief: EngineId, key: RequestKey, out: &mut Vec<Action>) {
        let function = self.maps.get(key).is_some_and(|map| !map.served.contains(&thief));
        let last_direct = self.engines.get(thief).map_or(Epoch::ZERO, |state| state.last_direct);
        self.engines.begin_theft(victim, thief, key);
        out.push(Action::Steal { victim, thief, key, last_direct, function });
    }

    /// From whom and of which map `thief` could be given tasks.
    fn theft_by(&self, thief: EngineId) -> Option<(EngineId, EngineId, RequestKey)> {
        let state = self.engines.get(thief).filter(|state| state.is_thief())?;
        let victims = self.engines.victims().filter(|victim| *victim != thief).take(VICTIMS);
        let worth = |victim: &EngineId| self.is_worth_it(*victim, state);
        victims.filter(worth).find_map(|victim| {
            let key =
                self.by_most(victim)?.into_iter().find(|key| self.maps.get(*key).is_some_and(|m| m.allows(thief)))?;
            Some((victim, thief, key))
        })
    }

    /// Whom `victim` could give tasks to, and of which map.
    fn theft_from(&self, victim: EngineId) -> Option<(EngineId, EngineId, RequestKey)> {
        self.by_most(victim)?.into_iter().find_map(|key| {
            let thief = self.engines.thief(self.maps.get(key)?.targets.as_ref()).filter(|thief| *thief != victim)?;
            let state = self.engines.get(thief)?;
            self.is_worth_it(victim, state).then_some((victim, thief, key))
        })
    }

    /// The maps of which an engine could give tasks away, the one of which it holds most first. `None` if it could not.
    fn by_most(&self, victim: EngineId) -> Option<Vec<RequestKey>> {
        let state = self.engines.get(victim).filter(|state| state.spare() > 0)?;
        let lives = |key: &RequestKey| self.maps.get(*key).is_some_and(|map| !map.aborted);
        let mut maps: Vec<_> =
            state.held.iter().filter(|(key, _)| lives(key)).map(|(k, held)| (held.len(), *k)).collect();
        maps.sort_unstable_by(|a, b| b.cmp(a));
        Some(maps.into_iter().map(|(_, key)| key).collect())
    }

    /// A single task would go to and fro between engines that have as much to do.
    fn is_worth_it(&self, victim: EngineId, thief: &EngineState) -> bool {
        let spare = self.engines.get(victim).map_or(0, EngineState::spare);
        spare >= if thief.held.is_empty() { 1 } else { BOTH_BUSY }
    }

    pub(super) fn handle_gave(
        &mut self,
        victim: EngineId,
        key: RequestKey,
        thief: EngineId,
        ranges: &[Range<TaskIndex>],
        out: &mut Vec<Action>,
    ) {
        if !self.engines.victim_gave(victim, thief, ranges) {
            self.take_back(victim, key, ranges, out);
        }
        self.grant(thief, out);
    }

    /// What `victim` has sent will not arrive: its receiver is gone.
    pub(super) fn take_back(
        &mut self,
        victim: EngineId,
        key: RequestKey,
        ranges: &[Range<TaskIndex>],
        out: &mut Vec<Action>,
    ) {
        let lost = self.engines.extract(victim, key, ranges);
        let Some(map) = self.maps.get(key).filter(|_| !lost.is_empty()) else { return };
        let aborted = map.aborted;
        for range in lost {
            self.maps.put_back(key, range);
        }
        if aborted {
            self.end_unheld(key, Why::Aborted, out);
        }
        self.end_orphans(out);
        self.feed_idle(key, out);
    }

    pub(super) fn handle_got(
        &mut self,
        thief: EngineId,
        key: RequestKey,
        victim: EngineId,
        ranges: &[Range<TaskIndex>],
        out: &mut Vec<Action>,
    ) {
        if !self.engines.thief_got(victim, thief) {
            return; // the victim died, and its tasks are in the pool again; whoever finishes first counts
        }
        let moved = self.engines.extract(victim, key, ranges);
        let Some(map) = self.maps.get_mut(key).filter(|_| !moved.is_empty()) else { return };
        map.served.insert(thief);
        if map.aborted {
            out.push(Action::AbortOn { key, engines: std::iter::once(thief).collect() });
        }
        for range in moved {
            self.engines.hold_stolen(thief, key, range);
        }
        self.grant(victim, out);
    }

    /// Checked while any engine may run any map: otherwise only some of the pairs are looked at.
    pub(super) fn check_thefts(&self) {
        let has_nothing = |id: &EngineId| self.engines.get(*id).is_some_and(|state| state.held.is_empty());
        if let Some(thief) = self.engines.thief(None).filter(has_nothing).filter(|_| self.maps.are_for_all()) {
            let theft = self.theft_by(thief);
            assert_eq!(theft, None, "an engine has nothing to do while another has tasks to spare");
        }
    }
}
