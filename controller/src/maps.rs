//! Functions and items of maps, opaque, until their last result is in.

use bytes::{Bytes, BytesMut};
use pxcluster_protocol::codec::offset;
use pxcluster_protocol::{EngineId, RequestKey, Status, TaskIndex};
use pxcluster_scheduler::{Accepted, Failed, Failure};
use std::collections::BTreeMap;
use std::ops::Range;

#[derive(Debug)]
struct Map {
    function: Bytes,
    offsets: Bytes,
    items: Bytes,
}

/// What maps carry, by request.
#[derive(Debug, Default)]
pub(crate) struct Maps {
    by_key: BTreeMap<RequestKey, Map>,
}

/// A map whose buffers do not fit together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    #[error("a map has {0} buffers and needs three: function, offsets, items")]
    Buffers(usize),
    #[error("the offset table of {tasks} tasks must be {expected} bytes long and is {got}", expected = 8 * (u64::from(*tasks) + 1))]
    TableLength { tasks: u32, got: usize },
    #[error("the offset table does not rise from 0 to the {0} bytes of the items")]
    TableValues(usize),
}

impl Maps {
    /// Keeps what a map request carries.
    pub(crate) fn insert(&mut self, key: RequestKey, tasks: u32, buffers: Vec<Bytes>) -> Result<(), MapError> {
        let [function, offsets, items] =
            <[Bytes; 3]>::try_from(buffers).map_err(|buffers| MapError::Buffers(buffers.len()))?;
        if offsets.len() as u64 != 8 * (u64::from(tasks) + 1) {
            return Err(MapError::TableLength { tasks, got: offsets.len() });
        }
        let rises = (0..tasks).all(|task| offset(&offsets, task as usize) <= offset(&offsets, (task + 1) as usize));
        if !rises || offset(&offsets, 0) != 0 || offset(&offsets, tasks as usize) != items.len() {
            return Err(MapError::TableValues(items.len()));
        }
        self.by_key.insert(key, Map { function, offsets, items });
        Ok(())
    }

    /// Forgets a map; how many bytes it took.
    pub(crate) fn remove(&mut self, key: RequestKey) -> usize {
        let map = self.by_key.remove(&key);
        map.map_or(0, |map| map.function.len() + map.offsets.len() + map.items.len())
    }

    /// Buffers of a grant: function (if the receiver may not have it), offsets from 0, items.
    pub(crate) fn grant(&self, key: RequestKey, range: &Range<TaskIndex>, function: bool) -> Option<Vec<Bytes>> {
        let map = self.by_key.get(&key)?;
        let begin = offset(&map.offsets, range.start as usize);
        let end = offset(&map.offsets, range.end as usize);
        let mut table = BytesMut::with_capacity(8 * (range.len() + 1));
        for task in range.start..=range.end {
            table.extend_from_slice(&((offset(&map.offsets, task as usize) - begin) as u64).to_le_bytes());
        }
        let function = if function { map.function.clone() } else { Bytes::new() };
        Some(vec![function, table.freeze(), map.items.slice(begin..end)])
    }
}

/// Task indices of a results message.
pub(crate) fn indices(table: &[u8]) -> Vec<TaskIndex> {
    numbers(table).collect()
}

/// The values of a column of `u32`.
pub(crate) fn numbers(column: &[u8]) -> impl Iterator<Item = u32> {
    column.chunks_exact(4).filter_map(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
}

/// The values of a column of `f64`.
pub(crate) fn times(column: &[u8]) -> impl Iterator<Item = f64> {
    column.chunks_exact(8).filter_map(|bytes| Some(f64::from_le_bytes(bytes.try_into().ok()?)))
}

/// The tasks that did not succeed.
pub(crate) fn failed(statuses: &[u8]) -> Vec<Failed> {
    let how = |status: u8| match Status::try_from(status) {
        Ok(Status::Ok) => None,
        Ok(Status::Aborted) => Some(Failure::Aborted),
        Ok(Status::Unmet) => Some(Failure::Unmet),
        Ok(Status::Error) | Err(_) => Some(Failure::Raised),
    };
    let all = statuses.iter().enumerate();
    all.filter_map(|(at, status)| Some(Failed { at, how: how(*status)? })).collect()
}

/// Buffers of a client's `results` frame from an engine's results message, or `None` if that is malformed.
///
/// The engine's columns are passed on as they are; the column of engine ids is added. If only some results count,
/// the others are cut out. `tries`: positions of the tasks that were tried more than once, and how often; the frame has a
/// column of it if there are any.
pub(crate) fn results_frame(
    engine: EngineId,
    buffers: &[Bytes],
    accepted: &Accepted,
    tries: &[(usize, u32)],
) -> Option<Vec<Bytes>> {
    let mut frame = result_columns(engine, buffers, accepted)?;
    if !tries.is_empty() {
        let count = |at: usize| tries.binary_search_by_key(&at, |(at, _)| *at).map_or(1, |found| tries[found].1);
        let all = 0..buffers.get(1)?.len();
        let column: Vec<u8> = match accepted {
            Accepted::All => all.flat_map(|at| count(at).to_le_bytes()).collect(),
            Accepted::Positions(positions) => positions.iter().flat_map(|at| count(*at).to_le_bytes()).collect(),
        };
        frame.push(column.into());
    }
    Some(frame)
}

fn result_columns(engine: EngineId, buffers: &[Bytes], accepted: &Accepted) -> Option<Vec<Bytes>> {
    let [indices, status, started, completed, offsets, payload] = buffers else { return None };
    let engines = |count: usize| Bytes::from(engine.0.to_le_bytes().repeat(count));
    let Accepted::Positions(positions) = accepted else {
        let columns = [indices.clone(), engines(status.len()), status.clone(), started.clone(), completed.clone()];
        return Some(columns.into_iter().chain([offsets.clone(), payload.clone()]).collect());
    };
    let column = |table: &Bytes, width: usize| -> Option<Bytes> {
        let mut kept = BytesMut::with_capacity(width * positions.len());
        for &at in positions {
            kept.extend_from_slice(table.get(width * at..width * (at + 1))?);
        }
        Some(kept.freeze())
    };
    let (mut table, mut kept) = (BytesMut::from(&0u64.to_le_bytes()[..]), BytesMut::new());
    for &at in positions {
        let (begin, end) = (offset(offsets, at), offset(offsets, at + 1));
        kept.extend_from_slice(payload.get(begin..end)?);
        table.extend_from_slice(&(kept.len() as u64).to_le_bytes());
    }
    Some(vec![
        column(indices, 4)?,
        engines(positions.len()),
        column(status, 1)?,
        column(started, 8)?,
        column(completed, 8)?,
        table.freeze(),
        kept.freeze(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxcluster_protocol::ClientId;

    fn table<const N: usize>(values: [u64; N]) -> Bytes {
        values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into()
    }

    const KEY: RequestKey = RequestKey { client: ClientId(1), request: 1 };

    #[test]
    fn a_grant_is_a_slice_of_the_map() {
        let mut maps = Maps::default();
        let items = Bytes::from_static(b"aabbbc");
        maps.insert(KEY, 3, vec!["f".into(), table([0, 2, 5, 6]), items]).expect("fits");
        let grant = maps.grant(KEY, &(1..3), false).expect("is there");
        assert_eq!(grant, vec![Bytes::new(), table([0, 3, 4]), Bytes::from_static(b"bbbc")]);
    }

    #[test]
    fn tables_that_do_not_fit_are_refused() {
        let mut maps = Maps::default();
        let mut insert = |offsets: Bytes| maps.insert(KEY, 2, vec!["f".into(), offsets, "abc".into()]);
        assert!(insert(table([0, 1, 3])).is_ok());
        assert!(matches!(insert(table([0, 3])), Err(MapError::TableLength { .. })));
        for bad in [[0, 2, 1], [0, 1, 4], [1, 1, 3]] {
            assert!(matches!(insert(table(bad)), Err(MapError::TableValues(3))), "{bad:?}");
        }
    }

    #[test]
    fn results_that_do_not_count_are_cut_out() {
        let indices: Bytes = [7u32, 8, 9].iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>().into();
        let message =
            [indices, vec![0u8, 1, 0].into(), table([1, 2, 3]), table([4, 5, 6]), table([0, 1, 3, 6]), "abbccc".into()];
        let frame =
            results_frame(EngineId(5), &message, &Accepted::Positions(vec![0, 2]), &[(2, 3)]).expect("well formed");
        assert_eq!(super::indices(&frame[0]), vec![7, 9]);
        assert_eq!(super::indices(&frame[1]), vec![5, 5]);
        assert_eq!(frame[2], vec![0u8, 0]);
        assert_eq!((&frame[5], &frame[6]), (&table([0, 1, 4]), &Bytes::from_static(b"accc")));
        assert_eq!(super::indices(&frame[7]), vec![1, 3]);
        let whole = results_frame(EngineId(5), &message, &Accepted::All, &[]).expect("well formed");
        assert_eq!(whole[6], Bytes::from_static(b"abbccc"));
    }
}
