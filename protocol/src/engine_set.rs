//! A set of engines as sorted runs, so that "all 4,096" costs eight bytes on the wire.

use crate::EngineId;
use serde::{Deserialize, Serialize};

/// A set of engine ids, kept as sorted, disjoint, non-adjacent half-open runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineSet {
    runs: Vec<(u32, u32)>,
}

impl EngineSet {
    /// Engines `0..count`.
    pub fn first(count: u32) -> Self {
        Self { runs: if count == 0 { Vec::new() } else { vec![(0, count)] } }
    }

    /// How many engines are in the set.
    pub fn len(&self) -> usize {
        self.runs.iter().map(|(start, end)| (end - start) as usize).sum()
    }

    /// Whether no engine is in the set.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether `engine` is in the set.
    pub fn contains(&self, engine: EngineId) -> bool {
        let at = self.runs.partition_point(|&(_, end)| end <= engine.0);
        self.runs.get(at).is_some_and(|&(start, _)| start <= engine.0)
    }

    /// The engines in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = EngineId> + '_ {
        self.runs.iter().flat_map(|&(start, end)| (start..end).map(EngineId))
    }

    /// The smallest engine id of the set.
    pub fn min(&self) -> Option<EngineId> {
        self.runs.first().map(|run| EngineId(run.0))
    }

    /// Parts the set for a relay tree. The receiver keeps its smallest engine; the rest is cut in at most
    /// `fanout` slices of nearly equal size, each of which goes to its own smallest engine.
    ///
    /// With `fanout` 2 a broadcast to n engines is log2(n) hops deep, and no rank sends it more than twice.
    pub fn split_for_relay(&self, fanout: usize) -> Vec<Self> {
        let total = self.len();
        let slices = fanout.min(total).max(1);
        let mut parts = Vec::with_capacity(slices);
        let mut rest = self.clone();
        for left in (1..=slices).rev() {
            let size = rest.len().div_ceil(left);
            let (part, tail) = rest.split_at(size);
            if !part.is_empty() {
                parts.push(part);
            }
            rest = tail;
        }
        parts
    }

    /// The set without `engine`.
    #[must_use]
    pub fn without(&self, engine: EngineId) -> Self {
        self.iter().filter(|&member| member != engine).collect()
    }

    /// The first `count` engines, and the others.
    fn split_at(&self, count: usize) -> (Self, Self) {
        let (mut head, mut tail) = (Self::default(), Self::default());
        let mut left = count as u32;
        for &(start, end) in &self.runs {
            let middle = end.min(start + left);
            left -= middle - start;
            if start < middle {
                head.runs.push((start, middle));
            }
            if middle < end {
                tail.runs.push((middle, end));
            }
        }
        (head, tail)
    }
}

impl FromIterator<EngineId> for EngineSet {
    fn from_iter<I: IntoIterator<Item = EngineId>>(engines: I) -> Self {
        let mut ids: Vec<u32> = engines.into_iter().map(|engine| engine.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for id in ids {
            match runs.last_mut() {
                Some(run) if run.1 == id => run.1 = id + 1,
                _ => runs.push((id, id + 1)),
            }
        }
        Self { runs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn set(ids: &[u32]) -> EngineSet {
        ids.iter().copied().map(EngineId).collect()
    }

    #[test]
    fn adjacent_ids_become_one_run() {
        assert_eq!(set(&[3, 1, 2, 7]).runs, vec![(1, 4), (7, 8)]);
        assert_eq!(EngineSet::first(4), set(&[0, 1, 2, 3]));
        assert!(EngineSet::first(0).is_empty());
    }

    proptest! {
        #[test]
        fn a_relay_reaches_every_engine_once(ids in prop::collection::btree_set(0u32..500, 1..200), fanout in 1usize..5) {
            let all: EngineSet = ids.iter().copied().map(EngineId).collect();
            let mut reached = BTreeSet::new();
            let mut open = all.split_for_relay(fanout);
            while let Some(part) = open.pop() {
                let leader = part.min().expect("parts are not empty");
                prop_assert!(reached.insert(leader.0), "{leader} reached twice");
                let below = part.without(leader);
                if !below.is_empty() {
                    open.extend(below.split_for_relay(fanout));
                }
            }
            prop_assert_eq!(reached, ids);
        }
    }
}
