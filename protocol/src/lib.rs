//! Every message, id and byte layout of pxcluster.
//!
//! This crate never does I/O: it turns values into bytes and bytes into values, and refuses what it does not
//! understand. Two families of messages live here, one file for each direction:
//!
//! | link | to the left | to the right | bytes |
//! |---|---|---|---|
//! | client ↔ controller | [`to_client`] | [`from_client`] | [`frame`]: JSON header and raw buffers |
//! | controller ↔ engine | [`to_controller`] | [`to_engine`] | [`codec`]: compact header and raw buffers |
//!
//! Bodies (pickles and their out-of-band buffers) are opaque here and everywhere outside Python.

pub mod codec;
pub mod connection;
pub mod engine_set;
pub mod frame;
pub mod from_client;
pub mod ids;
pub mod ports;
pub mod to_client;
pub mod to_controller;
pub mod to_engine;

pub use engine_set::EngineSet;
pub use ids::{ClientId, EngineId, Epoch, Rank, RequestId, RequestKey, Status, TaskIndex};
pub use ports::PortRange;

/// Version of the client link. Peers of another version are refused at the handshake.
pub const PROTOCOL_VERSION: u32 = 1;

/// The version of pxcluster, the same for all its packages.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
