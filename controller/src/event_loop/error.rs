//! Why a controller ends before it is asked to.

use crate::certificate::IdentityError;
use crate::files::FilesError;
use crate::interfaces::NoInterface;
use crate::listener::ListenError;
use pxcluster_protocol::codec::CodecError;
use pxcluster_protocol::{EngineId, Rank};
use pxcluster_transport::TransportError;

/// Why the controller could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Directory, lock or connection file.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Sockets.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What clients are to be told.
    #[error(transparent)]
    Interface(#[from] NoInterface),
    /// Messages between ranks.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Bytes between ranks.
    #[error("{from} sends what cannot be understood: {source}")]
    Codec {
        /// The sender.
        from: Rank,
        /// What is wrong.
        source: CodecError,
    },
    /// A message that cannot be encoded.
    #[error("a message cannot be encoded: {0}")]
    Encode(#[from] CodecError),
    /// The system has no randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] rand::rand_core::OsError),
    /// The node's shared memory cannot be mapped.
    #[error("a buffer in shared memory cannot be mapped: {0}")]
    SharedMemory(#[source] std::io::Error),
    /// An engine cannot start.
    #[error("engine {engine} cannot start: {reason}")]
    Unfit {
        /// The engine.
        engine: EngineId,
        /// One sentence.
        reason: String,
    },
    /// An engine has died before all were ready.
    #[error("{0}, before the cluster was ready")]
    Died(String),
}
