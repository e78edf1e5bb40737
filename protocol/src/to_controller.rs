//! Engine → controller.

use crate::to_client::OutputName;
use crate::{EngineId, Epoch, RequestKey, Status, TaskIndex};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A message's header; buffers as said at each variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToController {
    /// Python has ended; the rank is about to leave MPI.
    Bye,
    /// The engine's interpreter is up.
    Ready {
        /// Its host.
        host: String,
        /// Its process id.
        pid: u32,
    },
    /// The engine is there. Sent from time to time by engines of other nodes than rank 0's.
    Beat {
        /// Bytes of its process in memory, if it knows.
        rss: Option<u64>,
    },
    /// The engine cannot start.
    Unfit {
        /// One sentence.
        reason: String,
    },
    /// A direct request is finished. Buffers: the body of the answer.
    DirectReply {
        /// The request.
        key: RequestKey,
        /// Its number among all direct requests.
        epoch: Epoch,
        /// How it ended.
        status: Status,
        /// Unix time in seconds.
        started: f64,
        /// Unix time in seconds.
        completed: f64,
    },
    /// Finished tasks of one map. Buffers: indices `u32[n]`, status `u8[n]`, started `f64[n]`, completed `f64[n]`,
    /// offsets `u64[n + 1]`, payload.
    Results {
        /// The map.
        key: RequestKey,
        /// Seconds of the main thread that these tasks took together.
        busy: f64,
    },
    /// The engine will have nothing to do soon.
    Ask {
        /// How often it has been sent tasks so far, by anybody.
        received: u64,
    },
    /// The engine has received tasks from another one. Precedes their results.
    Got {
        /// The map.
        key: RequestKey,
        /// From whom.
        victim: EngineId,
        /// Which tasks.
        ranges: Vec<Range<TaskIndex>>,
    },
    /// The engine has sent tasks to another one.
    Gave {
        /// The map.
        key: RequestKey,
        /// To whom.
        thief: EngineId,
        /// Which tasks; none if it had none to spare.
        ranges: Vec<Range<TaskIndex>>,
    },
    /// Asks for places in the shared memory of rank 0's node, to write an answer there.
    Reserve {
        /// The engine's number of this question.
        ticket: u64,
        /// Bytes of each buffer.
        sizes: Vec<u64>,
    },
    /// A buffer has been written to the shared memory of the engine's node so far.
    Filled {
        /// Number of the transfer.
        transfer: u64,
        /// How many bytes of it are there; `None`: there is no room for it.
        upto: Option<u64>,
    },
    /// Places in shared memory that the engine has let go of, once for each time that it was sent one.
    Released {
        /// Their offsets.
        places: Vec<u64>,
    },
    /// User code printed or displayed. One buffer: UTF-8 text, or JSON for `display`.
    Output {
        /// The request that ran.
        key: RequestKey,
        /// The task, when it is a map.
        task: Option<TaskIndex>,
        /// Which stream.
        name: OutputName,
    },
}
