//! Tasks as they arrive: consecutive, their pickles back to back.

use bytes::Bytes;
use pxcluster_protocol::TaskIndex;
use pxcluster_protocol::codec::offset;

/// Tasks that arrived together and in a row.
pub(super) struct Parcel {
    pub(super) first: TaskIndex,
    /// The place of the first one in the offset table.
    pub(super) at: usize,
    pub(super) offsets: Bytes,
    pub(super) items: Bytes,
    /// How many of its tasks are neither finished nor given away.
    pub(super) left: usize,
}

impl Parcel {
    /// The pickle of one of them.
    pub(super) fn item(&self, task: TaskIndex) -> Bytes {
        let at = self.at + (task - self.first) as usize;
        let base = offset(&self.offsets, 0);
        self.items.slice(offset(&self.offsets, at) - base..offset(&self.offsets, at + 1) - base)
    }
}

/// Tasks whose buffers do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("the buffers of some tasks do not fit together; are all ranks of the same pxcluster build?")]
pub(super) struct MalformedTasks;
