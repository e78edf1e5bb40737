//! What an engine's loss costs: nothing but its own work in progress.
//!
//! What it held is granted again. A task that was running when it died, or that may have been, is *suspect* from then on:
//! it is granted only to an engine that holds nothing else, so that a second death proves it guilty, and then it ends.

use super::{Action, Controller, Suspect, Why};
use crate::TaskSet;
use pxcluster_protocol::{EngineId, EngineSet, RequestKey};

impl Controller {
    pub(super) fn handle_engine_lost(&mut self, engine: EngineId, suspect: Suspect, out: &mut Vec<Action>) {
        let Some(state) = self.engines.lose(engine) else { return };
        self.draining.remove(&engine);
        self.engines.forget_thefts_from(engine);
        let on_their_way = state.receiving.filter(|theft| !theft.given.is_empty());
        for key in state.directs.into_keys() {
            out.push(Action::DirectLost { key, engine });
            let from = out.len();
            self.outcomes.direct_ended(key, engine, false);
            self.directs.close(key, engine, &self.engines, out);
            self.note_directs(from, out);
            self.judge_waiting_for(key, out);
        }
        self.directs.repeat_relayed_by(engine, &self.engines, out);
        if let Suspect::Task(key, task) = suspect
            && !state.held.get(&key).is_some_and(|held| held.contains(task))
            && let Some(map) = self.maps.get_mut(key)
        {
            // It is in the books of another: stolen just now, or granted again after an earlier death.
            map.killed(task, engine);
            self.maps.refile(key, task);
        }
        let mut grown = Vec::new();
        for (key, held) in state.held {
            self.put_back_held(key, held, engine, suspect, out);
            if let Some(map) = self.maps.get(key) {
                grown.push((map.number, key));
                if map.aborted {
                    self.end_unheld(key, Why::Aborted, out);
                }
            }
        }
        if let Some(theft) = on_their_way {
            self.take_back(theft.victim, theft.key, &theft.given, out);
        }
        self.end_orphans(out);
        grown.sort_unstable();
        for (_, key) in grown {
            self.feed_idle(key, out);
        }
    }

    /// Puts back what a lost engine held, less the tasks that have now killed too many engines.
    fn put_back_held(
        &mut self,
        key: RequestKey,
        mut held: TaskSet,
        engine: EngineId,
        suspect: Suspect,
        out: &mut Vec<Action>,
    ) {
        let Some(map) = self.maps.get_mut(key) else { return };
        let suspects: Vec<_> = match suspect {
            Suspect::Anything => held.iter().flatten().collect(),
            Suspect::Task(of, task) if of == key && held.contains(task) => vec![task],
            _ => Vec::new(),
        };
        let mut guilty = Vec::new();
        for task in suspects {
            if let Some(killed) = map.killed(task, engine).filter(|_| !map.aborted) {
                held.remove(task);
                guilty.push((task, killed));
            }
        }
        for range in held.iter() {
            self.maps.put_back(key, range);
        }
        for (task, killed) in guilty {
            let tasks = std::iter::once(task..task + 1).collect();
            self.end_tasks(key, tasks, Why::Killed(killed), out);
        }
    }

    /// Ends the tasks that no living engine may run.
    pub(super) fn end_orphans(&mut self, out: &mut Vec<Action>) {
        let engines = &self.engines;
        let is_alive = |targets: Option<&EngineSet>| match targets {
            None => engines.len() > 0,
            Some(targets) => targets.iter().any(|engine| engines.is_alive(engine)),
        };
        for key in self.maps.orphans(is_alive) {
            self.end_unheld(key, Why::NoEngine, out);
        }
        let alive: Vec<EngineId> = if self.maps.has_specials() { self.engines.ids().collect() } else { Vec::new() };
        for (key, task) in self.maps.special_orphans(&alive) {
            let has_engine = self.maps.get(key).is_some_and(|map| self.engines.ids().any(|engine| map.allows(engine)));
            if !self.maps.take_special(key, task) {
                continue; // the end of another one has led here before
            }
            let why = if has_engine { Why::Unmet } else { Why::NoEngine };
            self.end_tasks(key, std::iter::once(task..task + 1).collect(), why, out);
        }
    }
}
