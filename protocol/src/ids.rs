//! Identifiers. Each is a type of its own, so that a rank is never taken for an engine id.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Index of a task in its map, `0..tasks`.
pub type TaskIndex = u32;

/// Number that a client gives to its requests: 1, 2, 3 … within its session.
pub type RequestId = u64;

/// Number that the controller gives to direct requests, in the order of their submission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Before the first direct request.
    pub const ZERO: Self = Self(0);

    /// The epoch of the direct request that comes after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Index of a process in the MPI world: 0 is the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rank(pub u32);

impl Rank {
    /// Rank 0, which runs the controller.
    pub const CONTROLLER: Self = Self(0);

    /// The engine that this rank runs; `None` for the controller.
    pub fn engine(self) -> Option<EngineId> {
        self.0.checked_sub(1).map(EngineId)
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {}", self.0)
    }
}

/// What users call an engine: `0..n`, never used again after a death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EngineId(pub u32);

impl EngineId {
    /// The MPI rank that runs this engine.
    pub fn rank(self) -> Rank {
        Rank(self.0 + 1)
    }
}

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One session of one client, numbered by the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(pub u32);

/// A request, named uniquely in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestKey {
    /// Whose request it is.
    pub client: ClientId,
    /// Its number in that session.
    pub request: RequestId,
}

impl fmt::Display for RequestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.client.0, self.request)
    }
}

/// How a task or direct request ended. On the wire it is one byte (or JSON number).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
#[repr(u8)]
pub enum Status {
    /// It returned; the body is the pickled value.
    Ok = 0,
    /// It raised; the body is the error as JSON.
    Error = 1,
    /// It was aborted before it started; there is no body.
    Aborted = 2,
    /// It cannot run on this engine, another may do; the body is the error as JSON. Never sent to clients.
    Unmet = 3,
}

impl From<Status> for u8 {
    fn from(status: Status) -> Self {
        status as Self
    }
}

impl TryFrom<u8> for Status {
    type Error = UnknownStatus;

    fn try_from(byte: u8) -> Result<Self, UnknownStatus> {
        match byte {
            0 => Ok(Self::Ok),
            1 => Ok(Self::Error),
            2 => Ok(Self::Aborted),
            3 => Ok(Self::Unmet),
            other => Err(UnknownStatus(other)),
        }
    }
}

/// A status byte that no version of the protocol defines.
#[derive(Debug, thiserror::Error)]
#[error("status {0} is not one of 0 (ok), 1 (error), 2 (aborted), 3 (unmet)")]
pub struct UnknownStatus(u8);
