//! Sets of task indices as ranges: a million tasks in a row cost one entry.

use pxcluster_protocol::TaskIndex;
use std::collections::BTreeMap;
use std::ops::Range;

/// A set of task indices, kept as disjoint, non-adjacent ranges in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskSet {
    ranges: BTreeMap<TaskIndex, TaskIndex>,
    len: u64,
}

impl TaskSet {
    /// All tasks of `range`.
    pub fn from_range(range: Range<TaskIndex>) -> Self {
        let mut set = Self::default();
        set.insert(range);
        set
    }

    /// How many tasks are in the set.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no task is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `task` is in the set.
    pub fn contains(&self, task: TaskIndex) -> bool {
        self.ranges.range(..=task).next_back().is_some_and(|(_, &end)| task < end)
    }

    /// Adds a range that has no task in common with the set.
    ///
    /// # Panics
    /// In debug builds, if it has.
    pub fn insert(&mut self, range: Range<TaskIndex>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        self.len += u64::from(end - start);
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back() {
            debug_assert!(before_end <= start, "{range:?} overlaps {before}..{before_end}");
            if before_end == start {
                start = before;
            }
        }
        if let Some((&after, &after_end)) = self.ranges.range(range.start..).next() {
            debug_assert!(end <= after, "{range:?} overlaps {after}..{after_end}");
            if after == end {
                self.ranges.remove(&after);
                end = after_end;
            }
        }
        self.ranges.insert(start, end);
    }

    /// Removes one task; `false` if it is not in the set.
    pub fn remove(&mut self, task: TaskIndex) -> bool {
        let Some((&start, &end)) = self.ranges.range(..=task).next_back() else { return false };
        if task >= end {
            return false;
        }
        self.len -= 1;
        if start == task {
            self.ranges.remove(&start);
        } else {
            self.ranges.insert(start, task);
        }
        if task + 1 < end {
            self.ranges.insert(task + 1, end);
        }
        true
    }

    /// Takes at most `most` tasks in a row from the front.
    pub fn take_front(&mut self, most: u32) -> Option<Range<TaskIndex>> {
        let (start, end) = self.ranges.pop_first()?;
        let cut = end.min(start.saturating_add(most));
        if cut < end {
            self.ranges.insert(cut, end);
        }
        self.len -= u64::from(cut - start);
        (start < cut).then_some(start..cut)
    }

    /// Takes at most `most` tasks in a row from the back.
    pub fn take_back(&mut self, most: u32) -> Option<Range<TaskIndex>> {
        let (start, end) = self.ranges.pop_last()?;
        let cut = start.max(end.saturating_sub(most));
        if start < cut {
            self.ranges.insert(start, cut);
        }
        self.len -= u64::from(end - cut);
        (cut < end).then_some(cut..end)
    }

    /// Removes what the set has in common with `range`; returns that.
    pub fn extract(&mut self, range: Range<TaskIndex>) -> Vec<Range<TaskIndex>> {
        let before = self.ranges.range(..range.start).next_back().map(|(&start, _)| start);
        let touched = self.ranges.range(range.clone()).map(|(&start, _)| start);
        let starts: Vec<TaskIndex> = before.into_iter().chain(touched).collect();
        let mut found = Vec::new();
        for start in starts {
            let Some(&end) = self.ranges.get(&start) else { continue };
            let common = start.max(range.start)..end.min(range.end);
            if common.is_empty() {
                continue;
            }
            self.ranges.remove(&start);
            if start < common.start {
                self.ranges.insert(start, common.start);
            }
            if common.end < end {
                self.ranges.insert(common.end, end);
            }
            self.len -= u64::from(common.end - common.start);
            found.push(common);
        }
        found
    }

    /// The ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Range<TaskIndex>> + '_ {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_plain_set(steps in prop::collection::vec((0u8..5, 0u32..60, 1u32..9), 0..120)) {
            let (mut set, mut model) = (TaskSet::default(), BTreeSet::new());
            for (step, at, size) in steps {
                match step {
                    0 if (at..at + size).all(|task| !model.contains(&task)) => {
                        set.insert(at..at + size);
                        model.extend(at..at + size);
                    }
                    1 => prop_assert_eq!(set.remove(at), model.remove(&at)),
                    2 => if let Some(range) = set.take_front(size) {
                        prop_assert!(range.len() as u32 <= size && Some(&range.start) == model.first());
                        for task in range { prop_assert!(model.remove(&task)); }
                    },
                    3 => if let Some(range) = set.take_back(size) {
                        prop_assert!(range.len() as u32 <= size && model.last() == Some(&(range.end - 1)));
                        for task in range { prop_assert!(model.remove(&task)); }
                    },
                    4 => {
                        let found = set.extract(at..at + size);
                        let common: Vec<u32> = (at..at + size).filter(|task| model.remove(task)).collect();
                        prop_assert!(found.into_iter().flatten().eq(common));
                    }
                    _ => {}
                }
                prop_assert_eq!(set.len(), model.len() as u64);
                prop_assert!(set.iter().flatten().eq(model.iter().copied()));
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start), "adjacent ranges: {:?}", ranges);
            }
        }
    }
}
