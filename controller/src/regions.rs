//! Which places of the arena are whose: bookkeeping without I/O.
//!
//! A place is given out once for all nodes, so that a buffer lies at the same offset on each. It is *kept* by rank 0 (a
//! request that is under way, an answer that a client has not confirmed, a reservation of who writes to it) and *held* by
//! engines that have mapped it, or will when they get the message that names it. When nobody does any more it goes to the
//! pool: its pages stay for the next buffer, which then costs a copy and no page faults, until the pool is too large or old.
//! A place that was not wholly written has not all its pages, or somebody may still write there: it is never given out again.

use pxcluster_protocol::EngineId;
use pxcluster_transport::arena::PAGE;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Most bytes that may wait in the pool.
const POOL: u64 = 1 << 30;
/// How long they wait.
const POOL_AGE: Duration = Duration::from_secs(10);

/// A range of the arena: offset and length, both multiples of a page.
pub(crate) type Range = (u64, u64);

#[derive(Debug, Default)]
struct Region {
    /// A number that no other region has or will have.
    id: u64,
    length: u64,
    is_written: bool,
    /// How many uses rank 0 has for it.
    kept: u32,
    /// How often each engine was sent it and has not let go.
    holds: BTreeMap<EngineId, u32>,
}

/// A place that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) offset: u64,
    /// Whether it has its pages already, on rank 0's node.
    pub(crate) is_warm: bool,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) buffers: u64,
    /// Bytes of buffers that somebody uses.
    pub(crate) used: u64,
    /// Bytes that wait for the next buffer.
    pub(crate) pooled: u64,
    /// Most bytes of both.
    pub(crate) bound: u64,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct Regions {
    live: BTreeMap<u64, Region>,
    /// By offset: length, and since when.
    pool: BTreeMap<u64, (u64, Instant)>,
    usage: Usage,
    /// Nothing was ever given out from here on.
    end: u64,
    /// Number of the last region.
    last: u64,
    /// To be given back to the system.
    surplus: Vec<Range>,
}

impl Regions {
    pub(crate) fn new(bound: u64) -> Self {
        let usage = Usage { bound, ..Usage::default() };
        Self { live: BTreeMap::new(), pool: BTreeMap::new(), usage, end: 0, last: 0, surplus: vec![] }
    }

    /// A place for so many bytes, kept once; `None`: there is no room.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<Taken> {
        let length = bytes.max(1).next_multiple_of(PAGE);
        if self.usage.used.saturating_add(length) > self.usage.bound {
            return None;
        }
        let fits = self.pool.iter().filter(|(_, (pooled, _))| *pooled >= length);
        let best =
            fits.min_by_key(|(_, (pooled, _))| *pooled).map(|(offset, (pooled, since))| (*offset, *pooled, *since));
        let taken = if let Some((offset, pooled, since)) = best {
            self.pool.remove(&offset);
            if pooled > length {
                self.pool.insert(offset + length, (pooled - length, since));
            }
            self.usage.pooled -= length;
            Taken { offset, is_warm: true }
        } else {
            let allowed = self.usage.bound - self.usage.used - length;
            self.shrink(|pooled, _| pooled > allowed);
            let offset = self.end;
            self.end += length;
            Taken { offset, is_warm: false }
        };
        self.usage.used += length;
        self.usage.buffers += 1;
        self.last += 1;
        self.live.insert(taken.offset, Region { id: self.last, length, kept: 1, ..Region::default() });
        Some(taken)
    }

    /// A place has been written, all of it, and by nobody any more.
    pub(crate) fn written(&mut self, place: u64) {
        if let Some((_, region)) = self.at(place) {
            region.is_written = true;
        }
    }

    /// Somebody may write to a place long after this: it is not to be used again.
    pub(crate) fn taint(&mut self, place: u64) {
        if let Some((_, region)) = self.at(place) {
            region.is_written = false;
        }
    }

    /// The number of the region that a place is in.
    pub(crate) fn id_of(&mut self, place: u64) -> Option<u64> {
        self.at(place).map(|(_, region)| region.id)
    }

    /// Bytes of all regions in use, by number.
    pub(crate) fn lengths(&self) -> BTreeMap<u64, u64> {
        self.live.values().map(|region| (region.id, region.length)).collect()
    }

    /// What is to be given back to the system now.
    pub(crate) fn take_surplus(&mut self) -> Vec<Range> {
        std::mem::take(&mut self.surplus)
    }

    /// One use of rank 0's more, of the region that this place is in.
    pub(crate) fn keep(&mut self, place: u64) {
        if let Some((_, region)) = self.at(place) {
            region.kept += 1;
        }
    }

    /// One less.
    pub(crate) fn let_go(&mut self, place: u64, now: Instant) {
        if let Some((offset, region)) = self.at(place) {
            region.kept = region.kept.saturating_sub(1);
            self.free_if_unused(offset, now);
        }
    }

    /// An engine is sent a place.
    pub(crate) fn hold(&mut self, place: u64, engine: EngineId) {
        if let Some((_, region)) = self.at(place) {
            *region.holds.entry(engine).or_default() += 1;
        }
    }

    /// An engine has let go of a place that it was sent.
    pub(crate) fn release(&mut self, place: u64, engine: EngineId, now: Instant) {
        let Some((offset, region)) = self.at(place) else { return };
        if let Some(count) = region.holds.get_mut(&engine) {
            *count -= 1;
            if *count == 0 {
                region.holds.remove(&engine);
                self.free_if_unused(offset, now);
            }
        }
    }

    /// An engine is gone, and with it what it had mapped.
    pub(crate) fn lose(&mut self, engine: EngineId, now: Instant) {
        let held = self.live.iter_mut().filter_map(|(offset, region)| region.holds.remove(&engine).map(|_| *offset));
        for offset in held.collect::<Vec<_>>() {
            self.free_if_unused(offset, now);
        }
    }

    /// What has waited too long, or is too much, becomes surplus.
    pub(crate) fn tidy(&mut self, now: Instant) {
        self.shrink(|pooled, since| pooled > POOL || now.saturating_duration_since(since) >= POOL_AGE);
    }

    /// When [`Self::tidy`] will have something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pool.values().map(|(_, since)| *since + POOL_AGE).min()
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Bytes that an engine has mapped or is about to.
    pub(crate) fn held_by(&self, engine: EngineId) -> u64 {
        let held = self.live.values().filter(|region| region.holds.contains_key(&engine));
        held.map(|region| region.length).sum()
    }

    /// The region that a place is in.
    fn at(&mut self, place: u64) -> Option<(u64, &mut Region)> {
        let (offset, region) = self.live.range_mut(..=place).next_back()?;
        (place < offset + region.length).then_some((*offset, region))
    }

    fn free_if_unused(&mut self, offset: u64, now: Instant) {
        if self.live.get(&offset).is_none_or(|region| region.kept > 0 || !region.holds.is_empty()) {
            return;
        }
        let Some(Region { mut length, is_written, .. }) = self.live.remove(&offset) else { return };
        self.usage.used -= length;
        self.usage.buffers -= 1;
        if !is_written {
            self.surplus.push((offset, length));
            return;
        }
        self.usage.pooled += length;
        // Neighbours are joined, so that the pool serves larger buffers, too.
        let mut start = offset;
        if let Some((&after, &(more, _))) = self.pool.range(offset..).next()
            && after == offset + length
        {
            self.pool.remove(&after);
            length += more;
        }
        if let Some((&before, &(more, _))) = self.pool.range(..offset).next_back()
            && before + more == offset
        {
            self.pool.remove(&before);
            (start, length) = (before, length + more);
        }
        self.pool.insert(start, (length, now));
    }

    /// Takes ranges from the pool, the oldest first, while `too_much` (bytes in the pool, since when the oldest waits).
    fn shrink(&mut self, too_much: impl Fn(u64, Instant) -> bool) {
        while let Some((&offset, &(length, since))) = self.pool.iter().min_by_key(|(_, (_, since))| *since)
            && too_much(self.usage.pooled, since)
        {
            self.pool.remove(&offset);
            self.usage.pooled -= length;
            self.surplus.push((offset, length));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: u64 = 16 * PAGE;

    fn engine(id: u32) -> EngineId {
        EngineId(id)
    }

    /// Every range is live or pooled, none is both, and the sums are right.
    fn check(regions: &Regions) {
        let live = regions.live.iter().map(|(offset, region)| (*offset, region.length));
        let pool = regions.pool.iter().map(|(offset, (length, _))| (*offset, *length));
        let mut all: Vec<Range> = live.chain(pool).collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|two| two[0].0 + two[0].1 <= two[1].0), "{all:?}");
        assert_eq!(regions.usage.used, regions.live.values().map(|region| region.length).sum::<u64>());
        assert_eq!(regions.usage.pooled, regions.pool.values().map(|(length, _)| *length).sum::<u64>());
        assert_eq!(regions.usage.buffers as usize, regions.live.len());
        assert!(regions.usage.used + regions.usage.pooled <= regions.usage.bound);
        let unused = |region: &Region| region.kept == 0 && region.holds.is_empty();
        assert!(!regions.live.values().any(unused), "a region that nobody uses is live");
    }

    /// A place that has been written.
    fn written(regions: &mut Regions, bytes: u64) -> u64 {
        let place = regions.take(bytes).expect("there is room").offset;
        regions.written(place);
        place
    }

    #[test]
    fn a_place_is_free_when_nobody_keeps_or_holds_it() {
        let (mut regions, now) = (Regions::new(BOUND), Instant::now());
        let first = written(&mut regions, PAGE + 1);
        regions.hold(first + 5, engine(1));
        regions.hold(first, engine(1));
        regions.hold(first, engine(2));
        regions.let_go(first, now);
        regions.release(first, engine(1), now);
        assert_eq!(regions.held_by(engine(1)), 2 * PAGE);
        regions.release(first + 9, engine(1), now);
        assert_eq!(regions.usage().used, 2 * PAGE);
        regions.lose(engine(2), now);
        assert_eq!(regions.usage(), Usage { pooled: 2 * PAGE, bound: BOUND, ..Usage::default() });
        assert_eq!(regions.take(PAGE), Some(Taken { offset: first, is_warm: true }));
        assert_eq!(regions.take(2 * PAGE), Some(Taken { offset: 2 * PAGE, is_warm: false }));
    }

    #[test]
    fn the_pool_gives_way_to_buffers_and_to_time() {
        let (mut regions, now) = (Regions::new(BOUND), Instant::now());
        let old = written(&mut regions, 10 * PAGE);
        regions.let_go(old, now);
        assert_eq!(regions.take(17 * PAGE), None);
        assert_eq!(regions.take(12 * PAGE), Some(Taken { offset: 10 * PAGE, is_warm: false }));
        assert_eq!(regions.take_surplus(), vec![(0, 10 * PAGE)]);
        let small = written(&mut regions, PAGE);
        regions.let_go(small, now);
        regions.tidy(now);
        assert_eq!((regions.take_surplus(), regions.due()), (vec![], Some(now + POOL_AGE)));
        regions.tidy(now + POOL_AGE);
        assert_eq!(regions.take_surplus(), vec![(small, PAGE)]);
    }

    #[test]
    fn where_somebody_may_still_write_nobody_else_is_sent() {
        let mut regions = Regions::new(BOUND);
        let left = regions.take(PAGE).expect("there is room").offset;
        regions.let_go(left, Instant::now());
        assert_eq!(regions.take_surplus(), vec![(left, PAGE)]);
        assert_eq!(regions.take(PAGE), Some(Taken { offset: PAGE, is_warm: false }));
        check(&regions);
    }

    #[test]
    fn sums_hold_whatever_happens() {
        let now = Instant::now();
        for seed in 0..200u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut random = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut regions = Regions::new(BOUND);
            for _ in 0..200 {
                let known: Vec<u64> = regions.live.keys().copied().collect();
                let some = (!known.is_empty()).then(|| known[random(known.len() as u64) as usize]);
                let who = engine(random(3) as u32);
                match (random(8), some) {
                    (0 | 1, _) => drop(regions.take(random(6 * PAGE))),
                    (2, Some(place)) => regions.let_go(place, now),
                    (3, Some(place)) => regions.hold(place, who),
                    (4, Some(place)) => regions.release(place, who, now),
                    (5, Some(place)) => regions.written(place),
                    (6, _) => regions.lose(who, now),
                    (7, _) if random(5) == 0 => regions.tidy(now + POOL_AGE),
                    _ => {}
                }
                check(&regions);
            }
        }
    }
}
