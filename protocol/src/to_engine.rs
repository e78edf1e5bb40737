//! Controller → engine, and engine → engine when a broadcast is relayed.

use crate::from_client::DirectKind;
use crate::{EngineId, EngineSet, Epoch, RequestKey, TaskIndex};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::time::Duration;

/// A message's header; buffers as said at each variant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToEngine {
    /// A broadcast: carry out `cargo` if the receiver is in `targets`, and relay to the others in it.
    /// Buffers: the cargo's.
    Relay {
        /// The receiver and those below it in the tree.
        targets: EngineSet,
        /// What is broadcast.
        cargo: Cargo,
    },
    /// Tasks of one map. Buffers: function (empty when the receiver has it), item lengths `u64[n + 1]` offsets
    /// relative to the first item, items back to back.
    Grant(Grant),
    /// Give the back half of the waiting tasks of a map to another engine, and tell the controller.
    Steal(Steal),
    /// Places in shared memory.
    Reserved {
        /// The engine's number of the question.
        ticket: u64,
        /// Offset of each buffer, and whether it has its pages already; `None`: there is no room for all of them.
        places: Option<Vec<(u64, bool)>>,
    },
    /// A segment of a buffer for the shared memory of other nodes than rank 0's. Buffers: the segment.
    Fill {
        /// The receiver and those below it in the tree, one per node.
        leaders: EngineSet,
        /// Which segment.
        segment: Segment,
    },
    /// The same, by MPI's own broadcast, in which the receiver takes part now. No buffers.
    Join {
        /// Which segment.
        segment: Segment,
        /// Its bytes.
        length: u64,
    },
    /// Tasks that their engine has given away, engine → engine. Buffers as of a grant, items in the order of `ranges`.
    Loot(Loot),
}

/// Which part of which buffer is on its way to other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Number of this transfer of the buffer; no other transfer has it.
    pub transfer: u64,
    /// Where the buffer begins in shared memory.
    pub place: u64,
    /// Where in the buffer the segment begins.
    pub at: u64,
}

/// Contents of a broadcast.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Cargo {
    /// What every engine must know before it starts Python. Sent once, first.
    Setup(Setup),
    /// A direct request. Buffers: the body.
    Direct(Direct),
    /// A signal for user code.
    Signal(i32),
    /// SIGINT for user code, if it is of one of these requests.
    Interrupt(Vec<RequestKey>),
    /// Nothing of these requests is to start any more.
    Abort(Vec<RequestKey>),
    /// These maps are finished: their functions can be dropped.
    Forget(Vec<RequestKey>),
    /// The cluster stops.
    Shutdown,
    /// Where the engine's nanny reports its death.
    ReportTo(ReportTo),
    /// Ranges of shared memory, offset and length, whose pages the receiver's node gives back to the system.
    Punch(Vec<(u64, u64)>),
    /// An engine has died: nothing is sent to it any more.
    Lost(EngineId),
    /// The receiver ends its own process by SIGKILL.
    Kill,
    /// A cargo that may come twice, because an engine was lost that may not have relayed it. Passed on every time, carried
    /// out once.
    Numbered(u64, Box<Self>),
}

impl Cargo {
    /// Its number, if it has one, and what is to be carried out.
    pub fn unwrap_number(self) -> (Option<u64>, Self) {
        match self {
            Self::Numbered(number, cargo) => (Some(number), *cargo),
            cargo => (None, cargo),
        }
    }
}

/// Where and how an engine's nanny reaches rank 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportTo {
    /// Unix socket on rank 0's host.
    pub socket: String,
    /// `host:port` of every interface, to be tried in order.
    pub addresses: Vec<String>,
    /// The controller's certificate, PEM.
    pub certificate: String,
    /// Shared secret, 64 hexadecimal digits.
    pub key: String,
}

/// A direct request as it travels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Direct {
    /// Whose request it is.
    pub key: RequestKey,
    /// What to do with the body.
    pub kind: DirectKind,
    /// Its number among all direct requests.
    pub epoch: Epoch,
    /// The direct request that most targets run before this one.
    pub previous: Epoch,
    /// Targets whose previous direct request is another one.
    pub exceptions: Vec<(EngineId, Epoch)>,
}

impl Direct {
    /// The direct request that `engine` must have finished before this one.
    pub fn previous_of(&self, engine: EngineId) -> Epoch {
        self.exceptions.iter().find(|(other, _)| *other == engine).map_or(self.previous, |(_, epoch)| *epoch)
    }
}

/// A slice of a map for one engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The map.
    pub key: RequestKey,
    /// Which tasks.
    pub range: Range<TaskIndex>,
    /// Epoch at the map's submission.
    pub submitted: Epoch,
    /// Last direct request of the receiver when the grant was made (invariant I1).
    pub last_direct: Epoch,
}

/// Who is to get tasks of which map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Steal {
    /// The map.
    pub key: RequestKey,
    /// The engine that has nothing left to do.
    pub thief: EngineId,
    /// The thief's last direct request when this was decided (invariant I1).
    pub last_direct: Epoch,
    /// Whether the thief needs the map's function.
    pub function: bool,
}

/// Stolen tasks of one map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loot {
    /// The map.
    pub key: RequestKey,
    /// Which tasks.
    pub ranges: Vec<Range<TaskIndex>>,
    /// Last direct request of the receiver when the controller decided the theft (invariant I1).
    pub last_direct: Epoch,
}

/// What rank 0 found out once for everybody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Name of the cluster.
    pub cluster_id: String,
    /// The interpreter, absolute path; names the virtual environment.
    pub python: String,
    /// Its shared library, absolute path.
    pub libpython: String,
    /// How often an engine on another host than rank 0's is to say something; `None`: only what it has to.
    pub beat: Option<Duration>,
}
