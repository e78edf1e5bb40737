//! Client → controller: headers of the frames and what their buffers are.

use crate::{EngineId, RequestId, TaskIndex};
use serde::{Deserialize, Serialize};

/// Which engines a request is for; `None` means all that are alive when it arrives.
pub type Targets = Option<Vec<EngineId>>;

/// A frame's header, by its key `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromClient {
    /// The first frame of a connection.
    Hello(Hello),
    /// The only frame of a local connection that asks for the shared memory; it comes with the answer, as a descriptor.
    Memory(Memory),
    /// Asks for places in the shared memory, to write buffers there that requests of this connection will name.
    Reserve {
        /// The client's number of this question.
        ticket: u64,
        /// Bytes of each buffer.
        sizes: Vec<u64>,
        /// Whether a direct request will name them, so that they may go to other nodes while they are written.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        direct: bool,
        /// Whom that request will be for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        targets: Targets,
    },
    /// How far the client has written at a place.
    Written {
        /// Its offset.
        place: u64,
        /// Bytes from there on.
        bytes: u64,
    },
    /// Places that the client was given and will not use, nor write to any more.
    Abandon {
        /// Their offsets.
        places: Vec<u64>,
    },
    /// Runs on every target, in order of submission. Buffers: the body, opaque.
    Direct {
        /// The client's number of this request.
        id: RequestId,
        /// What the engine does with the body.
        kind: DirectKind,
        /// Whom it is for.
        targets: Targets,
        /// The user's name for it, kept in records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        label: Option<String>,
        /// Whether records leave it out: the client's own upkeep.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unlisted: bool,
    },
    /// Load-balanced tasks. Buffers: function, offsets (`u64[tasks + 1]`, bytes), items back to back.
    Map {
        /// The client's number of this request.
        id: RequestId,
        /// Number of tasks.
        tasks: u32,
        /// Engines that may run them.
        targets: Targets,
        /// The user's name for it, kept in records.
        label: Option<String>,
        /// How often a task that raised is tried again.
        retries: u32,
        /// Its tasks start when this holds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Dependency>,
        /// Its tasks start when this holds, where what it names has run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        follow: Option<Dependency>,
        /// A task that has not been given to an engine by then fails, seconds; `None`: never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout: Option<f64>,
    },
    /// Sends a signal to user code. Overtakes requests.
    Signal {
        /// The client's number of this request.
        id: RequestId,
        /// POSIX signal number; 2 (SIGINT) interrupts user code.
        signum: i32,
        /// Whom it is for.
        targets: Targets,
    },
    /// Aborts what has not started.
    Abort {
        /// The client's number of this request.
        id: RequestId,
        /// Which requests; `None` means all of this session.
        requests: Option<Vec<RequestId>>,
        /// On which engines.
        targets: Targets,
    },
    /// Interrupts user code of these requests, wherever it runs now, and nothing else. Overtakes requests.
    Interrupt {
        /// The client's number of this request.
        id: RequestId,
        /// Which requests.
        requests: Vec<RequestId>,
    },
    /// Asks for the state of the cluster.
    Status {
        /// The client's number of this request.
        id: RequestId,
    },
    /// Asks for the most recent requests of all sessions.
    History {
        /// The client's number of this request.
        id: RequestId,
    },
    /// Lets the controller forget requests that have ended, as far as [`Self::History`] and [`Self::Fetch`] go.
    Purge {
        /// The client's number of this request.
        id: RequestId,
        /// Sessions and their numbers of requests; `None`: all.
        requests: Option<Vec<(String, RequestId)>>,
    },
    /// Lets what runs come to its end, and nothing new begin; then stops the cluster.
    Drain {
        /// The client's number of this request.
        id: RequestId,
        /// How long what runs may take, seconds; `None`: as long as it takes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace: Option<f64>,
    },
    /// Stops the cluster.
    Shutdown {
        /// The client's number of this request.
        id: RequestId,
    },
    /// Ends engines at once, as a death.
    Kill {
        /// The client's number of this request.
        id: RequestId,
        /// Which ones.
        targets: Targets,
    },
    /// How many frames of answers (`reply`, `results`, `output`, `failed`, `done`, `request`) the client has had in this
    /// session. The controller keeps them until then.
    Received {
        /// Since the session began.
        frames: u64,
    },
    /// Asks for the answers to a request of this or another session, those to come included, under an id of its own.
    Fetch {
        /// The client's number of this request, with which the answers come.
        id: RequestId,
        /// The session whose request it is; `None`: the sender's own.
        session: Option<String>,
        /// The request.
        request: RequestId,
    },
    /// The client leaves on purpose.
    Goodbye,
    /// From an engine's nanny, first or after `silent`: the engine has died. The connection stays open until the cluster
    /// ends.
    Death(Death),
    /// From an engine's nanny, first or again: the engine has said nothing for a while, or is heard again.
    Silent(Silent),
}

impl FromClient {
    /// The client's number of the request, if it is one.
    pub fn id(&self) -> Option<RequestId> {
        match self {
            Self::Direct { id, .. }
            | Self::Map { id, .. }
            | Self::Signal { id, .. }
            | Self::Abort { id, .. }
            | Self::Interrupt { id, .. }
            | Self::Status { id }
            | Self::History { id }
            | Self::Purge { id, .. }
            | Self::Drain { id, .. }
            | Self::Shutdown { id }
            | Self::Kill { id, .. }
            | Self::Fetch { id, .. } => Some(*id),
            Self::Hello(_)
            | Self::Memory(_)
            | Self::Reserve { .. }
            | Self::Written { .. }
            | Self::Abandon { .. }
            | Self::Received { .. }
            | Self::Goodbye
            | Self::Death(_)
            | Self::Silent(_) => None,
        }
    }
}

/// The end of an engine's process. Exactly one of signal and exit code is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Death {
    /// Who reports.
    #[serde(flatten)]
    pub nanny: Nanny,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its exit code.
    pub code: Option<i32>,
    /// The load-balanced task that it was running.
    #[serde(default)]
    pub running: Option<RunningTask>,
}

/// A task of a map, as engines name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTask {
    /// Number of the session.
    pub client: u32,
    /// The map.
    pub request: RequestId,
    /// Which of its tasks.
    pub task: TaskIndex,
}

/// An engine whose process lives and whose communication stands still, or moves again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silent {
    /// Who reports.
    #[serde(flatten)]
    pub nanny: Nanny,
    /// For how long; 0 when it moves again.
    pub seconds: f64,
}

/// What a nanny says of itself, with the proof that rank 0 has told it the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nanny {
    /// [`crate::PROTOCOL_VERSION`] of the engine.
    pub protocol_version: u32,
    /// The connection file's key, 64 hexadecimal digits.
    pub key: String,
    /// The engine.
    pub engine: EngineId,
    /// The engine's process id.
    pub pid: u32,
}

/// A condition on how other requests end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dependency {
    /// What must have ended; nothing: the condition holds.
    pub needs: Vec<Needed>,
    /// Whether all of them are needed, or one is enough.
    pub all: bool,
    /// Whether one that succeeded counts.
    pub success: bool,
    /// Whether one that failed counts.
    pub failure: bool,
}

/// A request, or a part of one, that a [`Dependency`] names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needed {
    /// The session whose request it is; `None`: the sender's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The request.
    pub request: RequestId,
    /// A task of a map, an engine of a direct request; `None`: all of them, each on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
}

/// Who asks for the shared memory, with the proof that it has read the connection file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// [`crate::PROTOCOL_VERSION`] of the client.
    pub protocol_version: u32,
    /// The connection file's key, 64 hexadecimal digits.
    pub key: String,
}

/// What a client says of itself, with the proof that it has read the connection file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the client.
    pub protocol_version: u32,
    /// The connection file's key, 64 hexadecimal digits.
    pub key: String,
    /// Version of the client's package.
    pub client_version: String,
    /// Minor version of its Python, such as `3.11`; empty for a client that is not Python.
    pub python: String,
    /// Name of its host.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// A session to resume; `None` begins a new one.
    pub session: Option<String>,
    /// Frames of answers that it has had in the resumed session; `None`: it knows nothing of it and will fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// Whether it has been handed the shared memory of the controller's host.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares: bool,
}

/// What an engine does with a direct request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectKind {
    /// Calls a function.
    Apply,
    /// Runs source code as an IPython cell.
    Execute,
    /// Binds names.
    Push,
    /// Evaluates expressions.
    Pull,
    /// Removes the user's names.
    Clear,
}

impl DirectKind {
    /// The name that Python uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Execute => "execute",
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Clear => "clear",
        }
    }
}
