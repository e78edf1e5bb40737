//! What tasks wait for: how other requests ended, and where.
//!
//! The rules are ipyparallel's: a dependency names parts of requests; it says whether all of them are needed or one is
//! enough, and whether a part counts that succeeded, that failed, or both.

use pxcluster_protocol::{EngineId, EngineSet, RequestKey, TaskIndex};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// Requests whose outcome is remembered after their end, and parts of such requests. More are forgotten, oldest first.
const MOST_REQUESTS: usize = 1 << 16;
const MOST_PARTS: usize = 1 << 20;

/// A condition on how other requests end. Without needs it holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dependency {
    /// What must have ended.
    pub needs: Vec<Need>,
    /// Whether all of them are needed, or one is enough.
    pub all: bool,
    /// Whether one that succeeded counts.
    pub success: bool,
    /// Whether one that failed counts.
    pub failure: bool,
}

/// A request, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The request.
    pub key: RequestKey,
    /// A task of a map, an engine of a direct request; `None`: each of them.
    pub part: Option<u32>,
}

/// Whether a dependency holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does, on these engines; `None`: on any.
    Holds(Option<EngineSet>),
    /// It may later.
    Open,
    /// It never will.
    Impossible,
    /// It names a request that is not remembered.
    Unknown(RequestKey),
}

/// How a part of a request ended, in one word: 0 while it has not, else 1 + success + 2 · (engine + 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part(u32);

impl Part {
    fn ended(engine: Option<EngineId>, success: bool) -> Self {
        Self(1 + u32::from(success) + 2 * engine.map_or(0, |engine| (engine.0 + 1).min(u32::MAX >> 2)))
    }

    fn is_open(self) -> bool {
        self.0 == 0
    }

    fn is_success(self) -> bool {
        !self.is_open() && (self.0 - 1) % 2 == 1
    }

    fn engine(self) -> Option<EngineId> {
        (self.0.saturating_sub(1) / 2).checked_sub(1).map(EngineId)
    }
}

#[derive(Debug)]
enum Record {
    Map(Vec<Part>),
    Direct(BTreeMap<EngineId, Part>),
}

impl Record {
    fn parts(&self) -> Box<dyn Iterator<Item = Part> + '_> {
        match self {
            Self::Map(parts) => Box::new(parts.iter().copied()),
            Self::Direct(parts) => Box::new(parts.values().copied()),
        }
    }

    fn part(&self, part: u32) -> Option<Part> {
        match self {
            Self::Map(parts) => parts.get(part as usize).copied(),
            Self::Direct(parts) => parts.get(&EngineId(part)).copied(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Map(parts) => parts.len(),
            Self::Direct(parts) => parts.len(),
        }
    }
}

/// How requests ended: those under way, and the last ones.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    by_key: BTreeMap<RequestKey, Record>,
    ended: VecDeque<RequestKey>,
    ended_parts: usize,
}

impl Outcomes {
    pub(super) fn begin_map(&mut self, key: RequestKey, tasks: u32) {
        self.by_key.insert(key, Record::Map(vec![Part::default(); tasks as usize]));
    }

    pub(super) fn begin_direct(&mut self, key: RequestKey, targets: &EngineSet) {
        self.by_key.insert(key, Record::Direct(targets.iter().map(|engine| (engine, Part::default())).collect()));
    }

    pub(super) fn task_ended(&mut self, key: RequestKey, task: TaskIndex, engine: Option<EngineId>, success: bool) {
        if let Some(Record::Map(parts)) = self.by_key.get_mut(&key)
            && let Some(part) = parts.get_mut(task as usize)
        {
            *part = Part::ended(engine, success);
        }
    }

    pub(super) fn tasks_not_run(&mut self, key: RequestKey, tasks: &[Range<TaskIndex>]) {
        for task in tasks.iter().cloned().flatten() {
            self.task_ended(key, task, None, false);
        }
    }

    pub(super) fn direct_ended(&mut self, key: RequestKey, engine: EngineId, success: bool) {
        if let Some(Record::Direct(parts)) = self.by_key.get_mut(&key) {
            parts.insert(engine, Part::ended(Some(engine), success));
        }
    }

    /// Every part of it has ended.
    pub(super) fn end(&mut self, key: RequestKey) {
        let Some(record) = self.by_key.get(&key) else { return };
        self.ended_parts += record.len();
        self.ended.push_back(key);
        while self.ended.len() > MOST_REQUESTS || (self.ended_parts > MOST_PARTS && self.ended.len() > 1) {
            let Some(oldest) = self.ended.pop_front() else { return };
            self.ended_parts -= self.by_key.remove(&oldest).map_or(0, |record| record.len());
        }
    }

    /// Whether `dependency` holds, wherever the parts ran.
    pub(super) fn judge_after(&self, dependency: &Dependency) -> Verdict {
        if dependency.needs.is_empty() {
            return Verdict::Holds(None);
        }
        let (mut any, mut open, mut missed) = (false, false, false);
        for need in &dependency.needs {
            let Some(parts) = self.parts(need) else { return Verdict::Unknown(need.key) };
            for part in parts {
                open |= part.is_open();
                any |= dependency.counts(part);
                missed |= !part.is_open() && !dependency.counts(part);
            }
        }
        match dependency.all {
            true if missed => Verdict::Impossible,
            true if open => Verdict::Open,
            false if !any && open => Verdict::Open,
            false if !any => Verdict::Impossible,
            _ => Verdict::Holds(None),
        }
    }

    /// On which engines `dependency` holds, for what ran there.
    pub(super) fn judge_follow(&self, dependency: &Dependency) -> Verdict {
        if dependency.needs.is_empty() {
            return Verdict::Holds(None);
        }
        let (mut counted, mut total, mut open) = (BTreeMap::<EngineId, usize>::new(), 0, false);
        let mut missed = false;
        for need in &dependency.needs {
            let Some(parts) = self.parts(need) else { return Verdict::Unknown(need.key) };
            for part in parts {
                total += 1;
                open |= part.is_open();
                missed |= !part.is_open() && !dependency.counts(part);
                if dependency.counts(part)
                    && let Some(engine) = part.engine()
                {
                    *counted.entry(engine).or_default() += 1;
                }
            }
        }
        let enough = if dependency.all { total } else { 1 };
        let engines: EngineSet = counted.iter().filter(|(_, count)| **count >= enough).map(|(id, _)| *id).collect();
        match dependency.all {
            _ if !engines.is_empty() => Verdict::Holds(Some(engines)),
            true if missed || counted.len() > 1 => Verdict::Impossible,
            _ if open => Verdict::Open,
            _ => Verdict::Impossible,
        }
    }

    /// The parts that a need names; `None` if the request is not remembered or has no such part.
    fn parts(&self, need: &Need) -> Option<Box<dyn Iterator<Item = Part> + '_>> {
        let record = self.by_key.get(&need.key)?;
        match need.part {
            None => Some(record.parts()),
            Some(part) => {
                record.part(part).map(|part| Box::new(std::iter::once(part)) as Box<dyn Iterator<Item = Part>>)
            }
        }
    }
}

impl Dependency {
    /// Whether a part that has ended counts.
    fn counts(&self, part: Part) -> bool {
        !part.is_open() && if part.is_success() { self.success } else { self.failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxcluster_protocol::ClientId;

    const MAP: RequestKey = RequestKey { client: ClientId(1), request: 1 };

    fn need(part: Option<u32>) -> Vec<Need> {
        vec![Need { key: MAP, part }]
    }

    fn on(ids: &[u32]) -> Verdict {
        Verdict::Holds(Some(ids.iter().copied().map(EngineId).collect()))
    }

    #[test]
    fn a_part_keeps_engine_and_success() {
        for (engine, success) in [(None, false), (None, true), (Some(EngineId(0)), false), (Some(EngineId(9)), true)] {
            let part = Part::ended(engine, success);
            assert_eq!((part.engine(), part.is_success(), part.is_open()), (engine, success, false));
        }
        assert!(Part::default().is_open());
    }

    #[test]
    fn all_and_any_success_and_failure_are_judged_as_by_ipyparallel() {
        let mut outcomes = Outcomes::default();
        outcomes.begin_map(MAP, 2);
        let dependency = |all, success, failure| Dependency { needs: need(None), all, success, failure };
        assert_eq!(outcomes.judge_after(&dependency(true, true, false)), Verdict::Open);
        outcomes.task_ended(MAP, 0, Some(EngineId(3)), false);
        assert_eq!(outcomes.judge_after(&dependency(true, true, false)), Verdict::Impossible);
        assert_eq!(outcomes.judge_after(&dependency(false, true, false)), Verdict::Open);
        assert_eq!(outcomes.judge_after(&dependency(false, false, true)), Verdict::Holds(None));
        assert_eq!(outcomes.judge_after(&dependency(true, true, true)), Verdict::Open);
        outcomes.task_ended(MAP, 1, Some(EngineId(4)), true);
        assert_eq!(outcomes.judge_after(&dependency(true, true, true)), Verdict::Holds(None));
        assert_eq!(outcomes.judge_after(&dependency(false, true, false)), Verdict::Holds(None));
        assert_eq!(outcomes.judge_follow(&dependency(false, true, true)), on(&[3, 4]));
        assert_eq!(outcomes.judge_follow(&dependency(false, true, false)), on(&[4]));
        assert_eq!(outcomes.judge_follow(&dependency(true, true, true)), Verdict::Impossible);
        let one = Dependency { needs: need(Some(1)), all: true, success: true, failure: false };
        assert_eq!(outcomes.judge_follow(&one), on(&[4]));
        let none = Dependency { needs: need(Some(2)), ..one };
        assert_eq!(outcomes.judge_after(&none), Verdict::Unknown(MAP));
    }

    #[test]
    fn old_outcomes_are_forgotten() {
        let mut outcomes = Outcomes::default();
        let key = |request| RequestKey { client: ClientId(1), request };
        for request in 0..MOST_REQUESTS as u64 + 10 {
            outcomes.begin_map(key(request), 1);
            outcomes.end(key(request));
        }
        assert_eq!(outcomes.by_key.len(), MOST_REQUESTS);
        let wants =
            |request| Dependency { needs: vec![Need { key: key(request), part: None }], ..Dependency::default() };
        assert_eq!(outcomes.judge_after(&wants(3)), Verdict::Unknown(key(3)));
    }
}
