//! What goes in and out at the controller's door.

use super::dependencies::Dependency;
use pxcluster_protocol::{ClientId, EngineId, EngineSet, Epoch, RequestKey, TaskIndex};
use std::ops::Range;

/// What the controller is told.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// An engine is ready for work.
    EngineJoined(EngineId),
    /// An engine is gone with everything that it held.
    EngineLost {
        /// Which.
        engine: EngineId,
        /// What may have killed it.
        suspect: Suspect,
    },
    /// A client submits a direct request.
    Direct {
        /// The request.
        key: RequestKey,
        /// Its targets. Those that are not alive are answered with [`Action::DirectLost`].
        targets: EngineSet,
    },
    /// A client submits a map.
    Map(NewMap),
    /// An engine has answered a direct request.
    DirectFinished {
        /// The request.
        key: RequestKey,
        /// Who answered.
        engine: EngineId,
        /// Whether it succeeded.
        success: bool,
    },
    /// An engine has finished tasks (whatever their status).
    TasksFinished {
        /// The map.
        key: RequestKey,
        /// Who sends the results.
        engine: EngineId,
        /// Which tasks, in the order of the message.
        tasks: &'a [TaskIndex],
        /// Positions in `tasks` of those that did not succeed, ascending.
        failed: &'a [Failed],
        /// Seconds they took together.
        busy: f64,
    },
    /// An engine will have nothing to do soon.
    Asked {
        /// Which.
        engine: EngineId,
        /// How often it has been sent tasks so far.
        received: u64,
    },
    /// An engine has sent tasks to another one.
    Gave {
        /// The victim.
        engine: EngineId,
        /// The map.
        key: RequestKey,
        /// The receiver.
        thief: EngineId,
        /// Which tasks; none if it had none to spare.
        ranges: Vec<Range<TaskIndex>>,
    },
    /// An engine has received tasks from another one.
    Got {
        /// The receiver.
        engine: EngineId,
        /// The map.
        key: RequestKey,
        /// Who has sent them.
        victim: EngineId,
        /// Which tasks.
        ranges: Vec<Range<TaskIndex>>,
    },
    /// The time is up for tasks of this map that no engine has been given.
    TimedOut(RequestKey),
    /// Nothing of these requests is to start any more.
    Abort(Vec<RequestKey>),
    /// A client left for good: what it submitted and has not started is dropped.
    ClientGone(ClientId),
}

/// A map as it is submitted.
#[derive(Clone, Debug)]
pub struct NewMap {
    /// The request.
    pub key: RequestKey,
    /// Number of tasks.
    pub tasks: u32,
    /// Engines that may run them; `None` means any.
    pub targets: Option<EngineSet>,
    /// How many more times a task that raises is tried before its error counts.
    pub retries: u32,
    /// Its tasks start when this holds.
    pub after: Dependency,
    /// Its tasks start when this holds, on an engine for whose own requests alone it holds.
    pub follow: Dependency,
}

/// A task that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Position in the message.
    pub at: usize,
    /// How it failed.
    pub how: Failure,
}

/// How a task failed on its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It raised.
    Raised,
    /// It cannot run there; another engine may do.
    Unmet,
    /// It was aborted before it started.
    Aborted,
}

/// What may have killed an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// This task was running.
    Task(RequestKey, TaskIndex),
    /// No task was running.
    Nobody,
    /// It is not known what was running: any task that the engine held.
    Anything,
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
        /// Whether the receiver may not have the map's function.
        function: bool,
    },
    /// Have an engine give the back half of its waiting tasks of a map to another engine.
    Steal {
        /// Who gives.
        victim: EngineId,
        /// Who gets.
        thief: EngineId,
        /// The map.
        key: RequestKey,
        /// The thief's last direct request.
        last_direct: Epoch,
        /// Whether the thief may not have the map's function.
        function: bool,
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
        /// How often the tasks that count have been tried, where that is not once: position and number.
        tries: Vec<(usize, u32)>,
    },
    /// Tell the client that these tasks will not run.
    TasksEnded {
        /// The map.
        key: RequestKey,
        /// Which tasks.
        tasks: Vec<Range<TaskIndex>>,
        /// Why.
        why: Why,
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
    /// An engine may still have the function or tasks of a map that was finished long ago: it is to forget it.
    Forget {
        /// The map.
        key: RequestKey,
        /// The engine.
        engine: EngineId,
    },
}

/// Why tasks end without having run to their end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody aborted them.
    Aborted,
    /// No engine is left that may run them.
    NoEngine,
    /// They were running on these engines when those died.
    Killed(Vec<EngineId>),
    /// Every engine that may run them has said that it cannot.
    Unmet,
    /// Their dependencies can never hold.
    Impossible,
    /// Their dependencies name a request that nobody remembers.
    Unknown(RequestKey),
    /// Their time was up.
    TimedOut,
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
    /// Tasks that it has finished.
    pub finished: u64,
    /// Tasks that it has taken from other engines.
    pub stolen: u64,
}

/// What all engines have done, those that have died included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tasks that they have finished.
    pub finished: u64,
    /// Tasks that they have taken from one another.
    pub stolen: u64,
}
