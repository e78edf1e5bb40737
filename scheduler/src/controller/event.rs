//! What goes in and out at the controller's door.

use pxcluster_protocol::{ClientId, EngineId, EngineSet, Epoch, RequestKey, TaskIndex};
use std::ops::Range;

/// What the controller is told.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// An engine is ready for work.
    EngineJoined(EngineId),
    /// An engine is gone with everything that it held.
    EngineLost(EngineId),
    /// A client submits a direct request.
    Direct {
        /// The request.
        key: RequestKey,
        /// Its targets. Those that are not alive are answered with [`Action::DirectLost`].
        targets: EngineSet,
    },
    /// A client submits a map.
    Map {
        /// The request.
        key: RequestKey,
        /// Number of tasks.
        tasks: u32,
        /// Engines that may run them; `None` means any.
        targets: Option<EngineSet>,
        /// How many more times a task that raises is tried before its error counts.
        retries: u32,
    },
    /// An engine has answered a direct request.
    DirectFinished {
        /// The request.
        key: RequestKey,
        /// Who answered.
        engine: EngineId,
    },
    /// An engine has finished tasks (whatever their status).
    TasksFinished {
        /// The map.
        key: RequestKey,
        /// Who sends the results.
        engine: EngineId,
        /// Which tasks, in the order of the message.
        tasks: &'a [TaskIndex],
        /// Positions in `tasks` of those that raised, ascending.
        failed: &'a [usize],
        /// Seconds they took together.
        busy: f64,
    },
    /// Nothing of these requests is to start any more.
    Abort(Vec<RequestKey>),
    /// A client left for good: what it submitted and has not started is dropped.
    ClientGone(ClientId),
}

/// What the controller is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send a direct request to its targets; again, when an engine is lost that may not have relayed it.
    /// Keep the body until [`Action::DirectDone`].
    Broadcast {
        /// The request.
        key: RequestKey,
        /// Its targets; of a repeated one those that have not answered.
        targets: EngineSet,
        /// Its number.
        epoch: Epoch,
        /// The direct request before it, of most targets.
        previous: Epoch,
        /// Targets whose previous direct request is another one.
        exceptions: Vec<(EngineId, Epoch)>,
    },
    /// Send tasks to an engine.
    Grant {
        /// The receiver.
        engine: EngineId,
        /// The map.
        key: RequestKey,
        /// Which tasks.
        range: Range<TaskIndex>,
        /// Epoch at the map's submission.
        submitted: Epoch,
        /// The receiver's last direct request.
        last_direct: Epoch,
        /// Whether this is the first grant of this map to this engine, so that it needs the function.
        first: bool,
    },
    /// Hand the answer to a direct request to the client. Without this action it does not count.
    Reply {
        /// The request.
        key: RequestKey,
        /// Who answered.
        engine: EngineId,
    },
    /// Hand results to the client: all of the message, or only those at these positions.
    Deliver {
        /// The map.
        key: RequestKey,
        /// Which results of the message count.
        accepted: Accepted,
    },
    /// Tell the client that these tasks will not run: they were aborted.
    TasksAborted {
        /// The map.
        key: RequestKey,
        /// Which tasks.
        tasks: Vec<Range<TaskIndex>>,
    },
    /// Tell the client that these tasks will not run: no engine is left that may run them.
    TasksLost {
        /// The map.
        key: RequestKey,
        /// Which tasks.
        tasks: Vec<Range<TaskIndex>>,
    },
    /// Tell these engines not to start anything more of a request.
    AbortOn {
        /// The request.
        key: RequestKey,
        /// Who may still have some of it.
        engines: EngineSet,
    },
    /// Tell the client that an engine will not answer a direct request.
    DirectLost {
        /// The request.
        key: RequestKey,
        /// The engine that is gone.
        engine: EngineId,
    },
    /// Every target of a direct request has answered or is lost: its body can be dropped here.
    DirectDone {
        /// The request.
        key: RequestKey,
        /// Engines that were told to abort it and may remember that: they are to forget it.
        engines: EngineSet,
    },
    /// A map is finished: its items can be dropped here, its function on these engines.
    MapDone {
        /// The map.
        key: RequestKey,
        /// Engines that have its function.
        engines: EngineSet,
    },
}

/// Which results of a message count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Every one.
    All,
    /// Those at these positions.
    Positions(Vec<usize>),
}

/// How busy an engine is, as the controller knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Direct requests that it has not answered.
    pub queue: u64,
    /// Tasks that it holds.
    pub tasks: u64,
    /// Requests and tasks that it has finished.
    pub completed: u64,
}
