//! Maps that wait for other requests.

use super::dependencies::Verdict;
use super::{Action, Controller, Why};
use pxcluster_protocol::{EngineSet, RequestKey};
use std::collections::{BTreeMap, BTreeSet};

/// Who waits for which request.
#[derive(Debug, Default)]
pub(super) struct Waits {
    waiting: BTreeMap<RequestKey, BTreeSet<RequestKey>>,
}

impl Waits {
    fn add(&mut self, waiting: RequestKey, needed: RequestKey) {
        self.waiting.entry(needed).or_default().insert(waiting);
    }

    /// Nothing of `needed` will end any more.
    pub(super) fn forget(&mut self, needed: RequestKey) {
        self.waiting.remove(&needed);
    }

    fn on(&self, needed: RequestKey) -> Vec<RequestKey> {
        self.waiting.get(&needed).into_iter().flatten().copied().collect()
    }
}

impl Controller {
    /// A new map: its tasks go to the pool, unless it waits for other requests.
    pub(super) fn begin_waiting(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        let Some((after, follow)) = self.maps.waits(key) else { return };
        for need in after.needs.iter().chain(&follow.needs) {
            self.waits.add(key, need.key);
        }
        self.judge(key, out);
    }

    /// Something of `needed` has ended: looks again at who waits for it.
    pub(super) fn judge_waiting_for(&mut self, needed: RequestKey, out: &mut Vec<Action>) {
        for key in self.waits.on(needed) {
            self.judge(key, out);
        }
    }

    fn judge(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        if self.maps.get(key).is_some_and(|map| map.aborted) {
            return; // it is about to be ended
        }
        let Some((after, follow)) = self.maps.waits(key) else { return };
        let verdicts = [self.outcomes.judge_after(after), self.outcomes.judge_follow(follow)];
        let why = match verdicts {
            [Verdict::Unknown(needed), _] | [_, Verdict::Unknown(needed)] => Why::Unknown(needed),
            [Verdict::Impossible, _] | [_, Verdict::Impossible] => Why::Impossible,
            [Verdict::Open, _] | [_, Verdict::Open] => return,
            [Verdict::Holds(_), Verdict::Holds(engines)] => {
                if self.is_possible_on(key, engines.as_ref()) {
                    self.maps.release(key, engines);
                    self.end_orphans(out);
                    self.feed_idle(key, out);
                    return;
                }
                Why::Impossible
            }
        };
        self.end_unheld(key, why, out);
    }

    /// Whether any of `engines` is alive and may run the map.
    fn is_possible_on(&self, key: RequestKey, engines: Option<&EngineSet>) -> bool {
        let allows = |engine| self.maps.get(key).is_some_and(|map| map.allows(engine));
        engines.is_none_or(|engines| engines.iter().any(|engine| self.engines.is_alive(engine) && allows(engine)))
    }

    /// Notes the ends of direct requests among the actions from `from` on.
    pub(super) fn note_directs(&mut self, from: usize, out: &mut Vec<Action>) {
        let mut ended = Vec::new();
        for action in &out[from..] {
            match action {
                Action::DirectLost { key, engine } => {
                    self.outcomes.direct_ended(*key, *engine, false);
                }
                Action::DirectDone { key, .. } => ended.push(*key),
                _ => {}
            }
        }
        for key in ended {
            self.outcomes.end(key);
            self.judge_waiting_for(key, out);
            self.waits.forget(key);
        }
    }
}
