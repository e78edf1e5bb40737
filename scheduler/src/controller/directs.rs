//! Direct requests that are under way.

use super::Action;
use super::engines::Engines;
use pxcluster_protocol::{ClientId, EngineId, EngineSet, Epoch, RequestKey};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
struct Direct {
    epoch: Epoch,
    /// Engines that were sent it, and so may have had to relay it.
    targets: EngineSet,
    /// Targets that have not answered.
    open: BTreeSet<EngineId>,
    /// Engines that were told to abort it.
    aborted_on: Option<EngineSet>,
}

/// Direct requests that somebody has not answered.
#[derive(Debug, Default)]
pub(super) struct Directs {
    by_key: BTreeMap<RequestKey, Direct>,
}

impl Directs {
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn len(&self) -> u64 {
        self.by_key.len() as u64
    }

    pub(super) fn of_client(&self, client: ClientId) -> impl Iterator<Item = RequestKey> + '_ {
        self.by_key.range(super::keys_of(client)).map(|(key, _)| *key)
    }

    pub(super) fn submit(
        &mut self,
        key: RequestKey,
        targets: EngineSet,
        epoch: Epoch,
        engines: &mut Engines,
        out: &mut Vec<Action>,
    ) {
        let open: BTreeSet<EngineId> =
            targets.iter().filter(|&engine| engines.owe(engine, key, epoch).is_some()).collect();
        for engine in targets.iter().filter(|engine| !open.contains(engine)) {
            out.push(Action::DirectLost { key, engine });
        }
        let targets = if open.len() == targets.len() { targets } else { open.iter().copied().collect() };
        let direct = Direct { epoch, targets, open, aborted_on: None };
        if !direct.open.is_empty() {
            out.push(direct.broadcast(key, engines));
        }
        self.by_key.insert(key, direct);
        self.end_if_done(key, engines, out);
    }

    /// An engine has answered, or never will.
    pub(super) fn close(&mut self, key: RequestKey, engine: EngineId, engines: &Engines, out: &mut Vec<Action>) {
        if let Some(direct) = self.by_key.get_mut(&key) {
            direct.open.remove(&engine);
        }
        self.end_if_done(key, engines, out);
    }

    pub(super) fn abort(&mut self, key: RequestKey, out: &mut Vec<Action>) {
        let Some(direct) = self.by_key.get_mut(&key) else { return };
        let engines: EngineSet = direct.open.iter().copied().collect();
        direct.aborted_on.get_or_insert_with(|| engines.clone());
        out.push(Action::AbortOn { key, engines });
    }

    /// Sends again what a lost engine may not have relayed.
    pub(super) fn repeat_relayed_by(&self, lost: EngineId, engines: &Engines, out: &mut Vec<Action>) {
        let mut relayed: Vec<_> = self.by_key.iter().filter(|(_, direct)| direct.targets.contains(lost)).collect();
        relayed.sort_unstable_by_key(|(_, direct)| direct.epoch);
        for (&key, direct) in relayed {
            if direct.aborted_on.is_some() {
                out.push(Action::AbortOn { key, engines: direct.open.iter().copied().collect() });
            }
            out.push(direct.broadcast(key, engines));
        }
    }

    fn end_if_done(&mut self, key: RequestKey, engines: &Engines, out: &mut Vec<Action>) {
        if self.by_key.get(&key).is_some_and(|direct| direct.open.is_empty()) {
            let told = self.by_key.remove(&key).and_then(|direct| direct.aborted_on).unwrap_or_default();
            let engines = told.iter().filter(|&engine| engines.is_alive(engine)).collect();
            out.push(Action::DirectDone { key, engines });
        }
    }

    pub(super) fn check_invariants(&self, engines: &Engines) {
        for (key, direct) in &self.by_key {
            assert!(!direct.open.is_empty(), "direct request {key} is open for nobody");
            for engine in &direct.open {
                let owes = engines.get(*engine).is_some_and(|state| state.directs.contains_key(key));
                assert!(owes, "engine {engine} has forgotten {key}");
            }
        }
    }
}

impl Direct {
    /// To every target that has not answered, with the direct request that each runs before it.
    fn broadcast(&self, key: RequestKey, engines: &Engines) -> Action {
        let mut before: BTreeMap<Epoch, Vec<EngineId>> = BTreeMap::new();
        for &engine in &self.open {
            let previous = engines.get(engine).and_then(|state| state.directs.get(&key)).copied();
            before.entry(previous.unwrap_or_default()).or_default().push(engine);
        }
        let previous = before.iter().max_by_key(|(_, engines)| engines.len()).map_or(Epoch::ZERO, |(&epoch, _)| epoch);
        before.remove(&previous);
        let exceptions = before
            .into_iter()
            .flat_map(|(epoch, engines)| engines.into_iter().map(move |engine| (engine, epoch)))
            .collect();
        let targets = self.open.iter().copied().collect();
        Action::Broadcast { key, targets, epoch: self.epoch, previous, exceptions }
    }
}
