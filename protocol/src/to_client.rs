//! Controller → client: headers of the frames and what their buffers are.

use crate::from_client::DirectKind;
use crate::{ClientId, EngineId, RequestId, Status, TaskIndex};
use serde::{Deserialize, Serialize};

/// A frame's header, by its key `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToClient {
    /// The handshake succeeded.
    Welcome(Welcome),
    /// The handshake failed; the connection is closed after this frame.
    Refused {
        /// One sentence.
        reason: String,
    },
    /// One engine's answer to a direct request. Buffers: the body.
    Reply {
        /// The request.
        id: RequestId,
        /// Whose answer it is.
        engine: EngineId,
        /// How it ended.
        status: Status,
        /// Unix time in seconds, the engine's clock.
        started: f64,
        /// Unix time in seconds, the engine's clock.
        completed: f64,
    },
    /// Finished tasks of a map. Buffers: indices `u32[n]`, engines `u32[n]`, status `u8[n]`, started `f64[n]`,
    /// completed `f64[n]`, offsets `u64[n + 1]`, payload.
    Results {
        /// The map.
        id: RequestId,
    },
    /// What user code printed or displayed. One buffer: UTF-8 text, JSON for `display`, a pickle for the rest.
    Output {
        /// The request that ran.
        id: RequestId,
        /// Where it ran.
        engine: EngineId,
        /// The task, when the request is a map.
        task: Option<TaskIndex>,
        /// Which stream.
        name: OutputName,
    },
    /// The whole request is refused or lost.
    Failed {
        /// The request.
        id: RequestId,
        /// Name of the Python exception class.
        ename: String,
        /// One sentence.
        message: String,
    },
    /// The shared memory comes with this frame, as a descriptor.
    Memory,
    /// Places in the shared memory.
    Reserved {
        /// The client's number of the question.
        ticket: u64,
        /// Offset of each buffer, and whether it has its pages already; `None`: there is no room for all of them.
        places: Option<Vec<(u64, bool)>>,
        /// Whether the controller wants to know how far they are written.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        tell: bool,
    },
    /// A part of a reply to come. Buffers: its bytes, or none where client and controller share the memory.
    Ahead(Ahead),
    /// What came ahead from this place is not needed any more.
    Forget {
        /// Where the controller has it.
        place: u64,
    },
    /// Engines came or went, fell silent or are heard again.
    Engines {
        /// New engines.
        joined: Vec<EngineInfo>,
        /// Engines that are gone.
        lost: Vec<LostEngine>,
        /// Engines that have said nothing for a while, and why that is thought; an empty reason: heard again.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        silent: Vec<LostEngine>,
    },
    /// What a fetched request is; its answers come after this, with the id of the fetch.
    Request {
        /// The fetch.
        id: RequestId,
        /// What kind of request it is.
        kind: RequestKind,
        /// The user's name for it.
        label: Option<String>,
        /// Number of tasks of a map.
        tasks: u32,
        /// Targets of a direct request.
        targets: Vec<EngineId>,
    },
    /// Answer to a history request. Buffers: [`PastRequest`]s, oldest first, as JSON; engines `u32[n]`, status `u8[n]`,
    /// started `f64[n]`, completed `f64[n]` of their parts, those of the first request first. Of a part that has not
    /// ended the status is 255 and the times are NaN; of a task without an engine that is [`u32::MAX`].
    History {
        /// The request.
        id: RequestId,
    },
    /// A signal, abort, kill, purge or drain request has been carried out.
    Done {
        /// The request.
        id: RequestId,
    },
    /// Answer to a status request.
    Status(ClusterStatus),
    /// The cluster drains: load-balanced tasks that have not started will not, and it stops when those that run have ended.
    Draining {
        /// One sentence without a full stop.
        reason: String,
        /// How long what runs may take, seconds; `None`: as long as it takes.
        grace: Option<f64>,
    },
    /// The cluster stops; the connection is closed after this frame.
    Closing {
        /// One sentence.
        reason: String,
    },
    /// To an engine's nanny: end your engine.
    KillEngine,
}

impl ToClient {
    /// The request that it is an answer to, if it is kept until the client has confirmed it; `status` is not.
    pub fn answers(&self) -> Option<RequestId> {
        match self {
            Self::Reply { id, .. }
            | Self::Results { id }
            | Self::Output { id, .. }
            | Self::Failed { id, .. }
            | Self::Request { id, .. }
            | Self::Done { id } => Some(*id),
            _ => None,
        }
    }

    /// The same answer to another request.
    #[must_use]
    pub fn readdressed(mut self, to: RequestId) -> Self {
        if let Self::Reply { id, .. }
        | Self::Results { id }
        | Self::Output { id, .. }
        | Self::Failed { id, .. }
        | Self::Request { id, .. }
        | Self::Done { id } = &mut self
        {
            *id = to;
        }
        self
    }
}

/// Which part of which reply comes before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// The request.
    pub id: RequestId,
    /// Whose answer it will be.
    pub engine: EngineId,
    /// Bytes of all buffers of the reply.
    pub sizes: Vec<u64>,
    /// Which of them it is.
    pub buffer: u32,
    /// Where the controller has that buffer. The reply names this place instead of the buffer.
    pub place: u64,
    /// Where in the buffer the part begins and ends.
    pub at: u64,
    /// See `at`.
    pub upto: u64,
}

/// What a client must know of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`crate::PROTOCOL_VERSION`] of the controller.
    pub protocol_version: u32,
    /// Name of the session, to resume it later.
    pub session: String,
    /// Number of the session.
    pub client_id: ClientId,
    /// Name of the cluster.
    pub cluster_id: String,
    /// Minor version of the engines' Python, such as `3.11`.
    pub python: String,
    /// The engines that are alive.
    pub engines: Vec<EngineInfo>,
    /// The controller's host.
    pub host: String,
    /// The controller's process id.
    pub pid: u32,
    /// The controller's version of pxcluster.
    pub version: String,
    /// Of a resumed session: the highest id of a request that has arrived.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub last_request: RequestId,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What kind of request was fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// Load-balanced tasks.
    Map,
    /// A direct request.
    #[serde(untagged)]
    Direct(DirectKind),
}

/// A request of any session that the controller remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PastRequest {
    /// Name of its session.
    pub session: String,
    /// The session's number of it.
    pub request: RequestId,
    /// What kind of request it was.
    pub kind: RequestKind,
    /// The user's name for it.
    pub label: Option<String>,
    /// When it came, Unix time in seconds, the controller's clock.
    pub submitted: f64,
    /// Number of tasks of a map.
    pub tasks: u32,
    /// Targets of a direct request.
    pub targets: Vec<EngineId>,
    /// Rows of the columns that are its own: one for each target or task, or none if those were too many.
    pub parts: u32,
}

/// An engine as clients see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineInfo {
    /// Its id.
    pub id: EngineId,
    /// Its host.
    pub host: String,
    /// Its process id.
    pub pid: u32,
}

/// An engine that is gone, or silent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LostEngine {
    /// Its id.
    pub id: EngineId,
    /// One sentence.
    pub reason: String,
}

/// Which stream of an engine an output belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputName {
    /// `sys.stdout`.
    Stdout,
    /// `sys.stderr`.
    Stderr,
    /// Rich display data.
    Display,
    /// What user code publishes by name, a pickled dictionary.
    Data,
    /// What a comm of Jupyter's sends, pickled.
    Comm,
}

/// State of the whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The request.
    pub id: RequestId,
    /// Name of the cluster.
    pub cluster_id: String,
    /// The controller's host.
    pub host: String,
    /// The controller's process id.
    pub pid: u32,
    /// The controller's version of pxcluster.
    pub version: String,
    /// Seconds since the cluster was ready.
    pub uptime: f64,
    /// Clients that are connected.
    pub clients: u32,
    /// Load-balanced tasks that no engine has yet.
    pub unassigned: u64,
    /// Why the cluster drains, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<String>,
    /// Direct requests that some engine has not answered.
    #[serde(default)]
    pub directs: u64,
    /// Load-balanced tasks that engines have finished, those that have died since included.
    #[serde(default)]
    pub finished: u64,
    /// Those of all tasks that engines have taken from one another.
    #[serde(default)]
    pub stolen: u64,
    /// Slurm job, if any.
    #[serde(default)]
    pub slurm_job_id: Option<String>,
    /// When its time limit ends it, in Unix seconds, where Slurm has told the controller.
    #[serde(default)]
    pub slurm_end_time: Option<u64>,
    /// Engines that have died.
    #[serde(default)]
    pub lost: Vec<LostEngine>,
    /// Engines that live and have said nothing for a while.
    #[serde(default)]
    pub silent: Vec<LostEngine>,
    /// Large buffers in shared memory; `None`: there is none.
    #[serde(default)]
    pub memory: Option<Memory>,
    /// One entry per engine.
    pub engines: Vec<EngineStatus>,
}

/// Large buffers in shared memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// How many there are.
    pub buffers: u64,
    /// Bytes of them, on the controller's node.
    pub used: u64,
    /// Bytes there that wait for the next buffers.
    pub pooled: u64,
    /// Most bytes of both.
    pub bound: u64,
    /// The other nodes.
    pub others: Vec<NodeMemory>,
}

/// Large buffers on a node that is not the controller's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// Name of the node.
    pub host: String,
    /// Bytes of buffers.
    pub used: u64,
}

/// State of one engine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineStatus {
    /// Its id.
    pub id: EngineId,
    /// Its host.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// Direct requests that it has not answered.
    pub queue: u64,
    /// Load-balanced tasks that it has and has not finished.
    pub tasks: u64,
    /// Requests and tasks that it has finished.
    pub completed: u64,
    /// Bytes of buffers in shared memory that it has, or is being sent.
    #[serde(default)]
    pub shared: u64,
    /// Whether it has anything to do.
    #[serde(default)]
    pub busy: bool,
    /// Load-balanced tasks that it has finished.
    #[serde(default)]
    pub finished: u64,
    /// Load-balanced tasks that it has taken from other engines.
    #[serde(default)]
    pub stolen: u64,
    /// Bytes of its process in memory, with what it has mapped of shared memory; `None`: not known.
    #[serde(default)]
    pub rss: Option<u64>,
}
