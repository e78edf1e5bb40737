//! The engines as the controller sees them: what each holds and owes, and which are idle.

use super::{EngineLoad, Totals};
use crate::ranges::TaskSet;
use pxcluster_protocol::{EngineId, EngineSet, Epoch, RequestKey, TaskIndex};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// An engine has been told to give tasks to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Theft {
    pub(super) victim: EngineId,
    pub(super) key: RequestKey,
    /// What the victim says that it has sent; it is in the victim's books until the thief has it.
    pub(super) given: Vec<Range<TaskIndex>>,
    /// The thief has it, and the victim has not said so yet.
    got: bool,
}

#[derive(Debug, Default)]
pub(super) struct EngineState {
    pub(super) last_direct: Epoch,
    /// Direct requests that it has not answered, with the one that it runs before each.
    pub(super) directs: BTreeMap<RequestKey, Epoch>,
    /// Tasks that it has been granted and has not reported, by map; no set is empty.
    pub(super) held: BTreeMap<RequestKey, TaskSet>,
    /// Sum of the sizes of `held`.
    tasks: u64,
    completed: u64,
    /// How many of `completed` were tasks.
    finished: u64,
    stolen: u64,
    /// How often it has been sent tasks.
    pub(super) delivered: u64,
    /// It will have nothing to do soon, as it says.
    asked: bool,
    /// Tasks of another engine that are on their way to it.
    pub(super) receiving: Option<Theft>,
    /// How many engines it has been told to give tasks to, and has not said that it did.
    giving: u32,
    /// It had nothing to give, and nothing has changed since.
    barren: bool,
    /// What it holds is to be alone there.
    pub(super) is_alone: bool,
}

impl EngineState {
    pub(super) fn load(&self) -> EngineLoad {
        let Self { tasks, completed, finished, stolen, .. } = *self;
        EngineLoad { queue: self.directs.len() as u64, tasks, completed, finished, stolen }
    }

    /// Its place among the idle: who has done least comes first. `None` if it is busy.
    fn idle_place(&self) -> Option<u64> {
        (self.tasks == 0 && self.directs.is_empty()).then_some(self.completed)
    }

    /// About how many tasks it could give away; those that it has been told to give away do not count. What is on its way
    /// to an engine is not given on, because the news of the two thefts might come in the wrong order.
    pub(super) fn spare(&self) -> u64 {
        let running = u64::from(self.directs.is_empty());
        let gives = !self.barren && !self.is_alone && self.receiving.is_none() && self.giving <= 32;
        if gives { self.tasks.saturating_sub(running) >> self.giving } else { 0 }
    }

    /// Whether it should be given tasks of others, idle or not.
    pub(super) fn is_thief(&self) -> bool {
        let is_free = self.receiving.is_none() && self.giving == 0 && !self.is_alone && self.directs.is_empty();
        is_free && (self.tasks == 0 || self.asked)
    }
}

impl Totals {
    fn with(self, state: &EngineState) -> Self {
        Self { finished: self.finished + state.finished, stolen: self.stolen + state.stolen }
    }
}

/// Where an engine stands in the indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    idle: Option<u64>,
    spare: u64,
    thief: Option<u64>,
}

impl EngineState {
    fn places(&self) -> Places {
        Places { idle: self.idle_place(), spare: self.spare(), thief: self.is_thief().then_some(self.tasks) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Engines {
    alive: BTreeMap<EngineId, EngineState>,
    /// Exactly the engines that hold no task and owe no answer.
    idle: BTreeSet<(u64, EngineId)>,
    /// Exactly the engines that could give tasks away, by how many.
    victims: BTreeSet<(u64, EngineId)>,
    /// Exactly the engines that should be given tasks of others, by how many they hold.
    thieves: BTreeSet<(u64, EngineId)>,
    /// Engines that have become a thief or a victim, and have not been looked at since.
    fresh: Vec<EngineId>,
    /// What those have done that are not alive any more.
    past: Totals,
}

/// Thieves or targets that are looked at to find one that is both.
const LOOKED_AT: usize = 64;

impl Engines {
    pub(super) fn len(&self) -> usize {
        self.alive.len()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = EngineId> + '_ {
        self.alive.keys().copied()
    }

    pub(super) fn is_alive(&self, engine: EngineId) -> bool {
        self.alive.contains_key(&engine)
    }

    pub(super) fn get(&self, engine: EngineId) -> Option<&EngineState> {
        self.alive.get(&engine)
    }

    pub(super) fn join(&mut self, engine: EngineId) {
        let places = self.alive.entry(engine).or_default().places();
        self.enter(engine, places);
        self.fresh.push(engine);
    }

    pub(super) fn lose(&mut self, engine: EngineId) -> Option<EngineState> {
        let state = self.alive.remove(&engine)?;
        self.leave(engine, state.places());
        self.past = self.past.with(&state);
        Some(state)
    }

    pub(super) fn totals(&self) -> Totals {
        self.alive.values().fold(self.past, Totals::with)
    }

    fn enter(&mut self, engine: EngineId, places: Places) {
        self.idle.extend(places.idle.map(|place| (place, engine)));
        self.thieves.extend(places.thief.map(|place| (place, engine)));
        if places.spare > 0 {
            self.victims.insert((places.spare, engine));
        }
    }

    fn leave(&mut self, engine: EngineId, places: Places) {
        places.idle.map(|place| self.idle.remove(&(place, engine)));
        places.thief.map(|place| self.thieves.remove(&(place, engine)));
        self.victims.remove(&(places.spare, engine));
    }

    /// Changes an engine and keeps the indices true. `None` if it is not alive.
    fn change<R>(&mut self, engine: EngineId, change: impl FnOnce(&mut EngineState) -> R) -> Option<R> {
        let state = self.alive.get_mut(&engine)?;
        let before = state.places();
        let result = change(state);
        let after = state.places();
        if before != after {
            self.leave(engine, before);
            self.enter(engine, after);
            if (before.spare == 0 && after.spare > 0) || (before.thief != after.thief && after.thief.is_some()) {
                self.fresh.push(engine);
            }
        }
        Some(result)
    }

    /// `engine` will have to answer a direct request; returns the one that it runs before. `None` if it is not alive.
    pub(super) fn owe(&mut self, engine: EngineId, key: RequestKey, epoch: Epoch) -> Option<Epoch> {
        self.change(engine, |state| {
            let previous = std::mem::replace(&mut state.last_direct, epoch);
            state.directs.insert(key, previous);
            previous
        })
    }

    /// Whether `engine` still owed this answer.
    pub(super) fn answer(&mut self, engine: EngineId, key: RequestKey) -> bool {
        self.change(engine, |state| {
            let owed = state.directs.remove(&key).is_some();
            state.completed += u64::from(owed);
            owed
        })
        .unwrap_or(false)
    }

    /// Adds tasks to the holdings of a living engine.
    pub(super) fn hold(&mut self, engine: EngineId, key: RequestKey, range: Range<TaskIndex>) {
        self.change(engine, |state| {
            state.tasks += range.len() as u64;
            state.held.entry(key).or_default().insert(range);
            state.asked = false;
            state.barren = false;
        });
    }

    /// Adds tasks of another engine to the holdings of a living one.
    pub(super) fn hold_stolen(&mut self, engine: EngineId, key: RequestKey, range: Range<TaskIndex>) {
        self.change(engine, |state| state.stolen += range.len() as u64);
        self.hold(engine, key, range);
    }

    /// Takes tasks out of an engine's holdings; returns the positions in `tasks` of those that were in them.
    pub(super) fn release(&mut self, engine: EngineId, key: RequestKey, tasks: &[TaskIndex]) -> Vec<usize> {
        let release = |state: &mut EngineState| {
            state.barren = false;
            let held = state.held.get_mut(&key)?;
            let is_held = |(at, task): (usize, &TaskIndex)| held.remove(*task).then_some(at);
            let positions: Vec<usize> = tasks.iter().enumerate().filter_map(is_held).collect();
            if held.is_empty() {
                state.held.remove(&key);
            }
            state.tasks -= positions.len() as u64;
            state.completed += positions.len() as u64;
            state.finished += positions.len() as u64;
            state.is_alone &= state.tasks > 0;
            Some(positions)
        };
        self.change(engine, release).flatten().unwrap_or_default()
    }

    /// Takes what there is of `ranges` out of an engine's holdings.
    pub(super) fn extract(
        &mut self,
        engine: EngineId,
        key: RequestKey,
        ranges: &[Range<TaskIndex>],
    ) -> Vec<Range<TaskIndex>> {
        let extract = |state: &mut EngineState| {
            let held = state.held.get_mut(&key)?;
            let found: Vec<_> = ranges.iter().flat_map(|range| held.extract(range.clone())).collect();
            if held.is_empty() {
                state.held.remove(&key);
            }
            state.tasks -= found.iter().map(|range| range.len() as u64).sum::<u64>();
            Some(found)
        };
        self.change(engine, extract).flatten().unwrap_or_default()
    }

    // Stealing.

    /// Engines that could give tasks away, those with the most first.
    pub(super) fn victims(&self) -> impl Iterator<Item = EngineId> + '_ {
        self.victims.iter().rev().map(|(_, engine)| *engine)
    }

    /// An engine that has become a thief or a victim since this was asked last.
    pub(super) fn next_fresh(&mut self) -> Option<EngineId> {
        self.fresh.pop()
    }

    /// An engine of `targets` (`None`: of all) that should be given tasks of others: who holds least, of those looked at.
    pub(super) fn thief(&self, targets: Option<&EngineSet>) -> Option<EngineId> {
        let mut all = self.thieves.iter().map(|(_, engine)| *engine);
        let Some(targets) = targets else { return all.next() };
        if self.thieves.len() <= targets.len() {
            return all.take(LOOKED_AT).find(|engine| targets.contains(*engine));
        }
        let place = |engine: EngineId| Some((self.get(engine)?.places().thief?, engine));
        targets.iter().filter_map(place).take(LOOKED_AT).min().map(|(_, engine)| engine)
    }

    /// `engine` will have nothing to do soon; it has been sent tasks `received` times. Whether that is news.
    pub(super) fn ask(&mut self, engine: EngineId, received: u64) -> bool {
        let ask = |state: &mut EngineState| {
            let is_news = received >= state.delivered && state.receiving.is_none();
            state.asked |= is_news;
            is_news
        };
        self.change(engine, ask).unwrap_or(false)
    }

    /// `victim` is told to give tasks to `thief`.
    pub(super) fn begin_theft(&mut self, victim: EngineId, thief: EngineId, key: RequestKey) {
        self.change(victim, |state| state.giving += 1);
        self.change(thief, |state| state.receiving = Some(Theft { victim, key, given: Vec::new(), got: false }));
    }

    /// `victim` has sent tasks to `thief`, or none. Whether `thief` lives to receive them.
    pub(super) fn victim_gave(&mut self, victim: EngineId, thief: EngineId, ranges: &[Range<TaskIndex>]) -> bool {
        self.change(victim, |state| {
            state.giving = state.giving.saturating_sub(1);
            state.barren = ranges.is_empty();
        });
        let note = |state: &mut EngineState| {
            let Some(theft) = state.receiving.as_mut().filter(|theft| theft.victim == victim) else { return };
            theft.given = ranges.to_vec();
            if theft.got || ranges.is_empty() {
                state.receiving = None;
            }
        };
        self.change(thief, note).is_some()
    }

    /// `thief` has received tasks from `victim`. Whether they are in the books of `victim`.
    pub(super) fn thief_got(&mut self, victim: EngineId, thief: EngineId) -> bool {
        let note = |state: &mut EngineState| {
            state.delivered += 1;
            let Some(theft) = state.receiving.as_mut().filter(|theft| theft.victim == victim) else { return false };
            theft.got = true;
            if !theft.given.is_empty() {
                state.receiving = None;
            }
            true
        };
        self.change(thief, note).unwrap_or(false)
    }

    /// Nobody gets anything from `victim` any more.
    pub(super) fn forget_thefts_from(&mut self, victim: EngineId) {
        let thieves = self
            .alive
            .iter()
            .filter(|(_, state)| state.receiving.as_ref().is_some_and(|theft| theft.victim == victim))
            .map(|(id, _)| *id);
        for thief in thieves.collect::<Vec<_>>() {
            self.change(thief, |state| state.receiving = None);
        }
    }

    /// A grant is sent to `engine`; `alone`: nothing else is to be there with it.
    pub(super) fn deliver(&mut self, engine: EngineId, alone: bool) {
        self.change(engine, |state| {
            state.delivered += 1;
            state.is_alone = alone;
        });
    }

    /// At most `most` idle engines of `targets` (`None`: of all), who has done least first.
    pub(super) fn idle(&self, targets: Option<&EngineSet>, most: usize) -> Vec<EngineId> {
        let all = self.idle.iter();
        let Some(targets) = targets else { return all.take(most).map(|&(_, engine)| engine).collect() };
        if self.idle.len() <= targets.len() {
            return all.map(|&(_, engine)| engine).filter(|&engine| targets.contains(engine)).take(most).collect();
        }
        let place = |engine| Some((self.get(engine)?.idle_place()?, engine));
        let mut places: Vec<(u64, EngineId)> = targets.iter().filter_map(place).collect();
        places.sort_unstable();
        places.into_iter().take(most).map(|(_, engine)| engine).collect()
    }

    pub(super) fn check_invariants(&self, epoch: Epoch) {
        for (id, state) in &self.alive {
            assert!(state.last_direct <= epoch, "engine {id} is ahead of the controller's epoch");
            assert!(state.held.values().all(|held| !held.is_empty()), "engine {id} holds nothing of a map");
            let held: u64 = state.held.values().map(TaskSet::len).sum();
            assert_eq!(state.tasks, held, "engine {id}: the count of held tasks is wrong");
        }
        let place = |(id, state): (&EngineId, &EngineState)| Some((state.idle_place()?, *id));
        let idle: BTreeSet<(u64, EngineId)> = self.alive.iter().filter_map(place).collect();
        assert_eq!(self.idle, idle, "the index of idle engines is wrong");
        let place = |(id, state): (&EngineId, &EngineState)| Some((state.places().thief?, *id));
        let thieves: BTreeSet<(u64, EngineId)> = self.alive.iter().filter_map(place).collect();
        assert_eq!(self.thieves, thieves, "the index of thieves is wrong");
        let place = |(id, state): (&EngineId, &EngineState)| (state.spare() > 0).then_some((state.spare(), *id));
        let victims: BTreeSet<(u64, EngineId)> = self.alive.iter().filter_map(place).collect();
        assert_eq!(self.victims, victims, "the index of victims is wrong");
    }
}
