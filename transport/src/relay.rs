//! Broadcast to any set of engines: a tree of messages in which every receiver passes the broadcast on.
//!
//! Comm threads relay whether or not their engine's Python is busy. The tree spans exactly the targets, so a subset
//! costs what it is, and rank 0 sends each broadcast at most [`FANOUT`] times.

use crate::{Transport, send};
use bytes::Bytes;
use pxcluster_protocol::EngineSet;
use pxcluster_protocol::codec::CodecError;
use pxcluster_protocol::to_engine::{Cargo, Segment, ToEngine};

/// To how many peers a rank sends one broadcast.
const FANOUT: usize = 2;

/// Sends `cargo` to every engine of `targets`. Called by the controller with all targets, and by each receiver with
/// those that were given to it, less itself.
pub fn relay(
    transport: &mut dyn Transport,
    targets: &EngineSet,
    cargo: &Cargo,
    body: &[Bytes],
) -> Result<(), CodecError> {
    along_tree(transport, targets, body, |targets| ToEngine::Relay { targets, cargo: cargo.clone() })
}

/// Sends a segment of a buffer to the leaders of nodes, along the same kind of tree.
pub fn relay_fill(
    transport: &mut dyn Transport,
    leaders: &EngineSet,
    segment: Segment,
    body: &[Bytes],
) -> Result<(), CodecError> {
    along_tree(transport, leaders, body, |leaders| ToEngine::Fill { leaders, segment })
}

/// Sends to the next receivers what `message` makes of them and those below them.
fn along_tree(
    transport: &mut dyn Transport,
    receivers: &EngineSet,
    body: &[Bytes],
    message: impl Fn(EngineSet) -> ToEngine,
) -> Result<(), CodecError> {
    if receivers.is_empty() {
        return Ok(());
    }
    for part in receivers.split_for_relay(FANOUT) {
        let Some(first) = part.min() else { continue };
        send(transport, first.rank(), &message(part), body.to_vec())?;
    }
    Ok(())
}
