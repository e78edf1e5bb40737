//! Rank 0: the clients' one address, and the owner of the queue.
//!
//! The controller never unpickles anything, never runs user code and never waits for one engine or one client. One
//! thread, the [event loop](Controller), owns the transport and the scheduler and runs the sessions of clients on its
//! own host; it sleeps on their sockets and the doorbell together. Another runs the TLS sessions of clients elsewhere.
//! This crate has the only listening sockets and the only server side of TLS.

mod archive;
mod bounds;
mod budget;
mod certificate;
mod clients;
mod descriptors;
mod event_loop;
mod files;
mod fills;
mod handshake;
mod history;
mod inbox;
mod incoming;
mod interfaces;
mod listener;
mod mailbox;
mod maps;
mod nannies;
mod reading;
mod regions;
mod relays;
mod rss;
mod session;
mod silence;
mod spill;
mod store;
mod timeouts;
mod writing;

use pxcluster_protocol::PortRange;
use pxcluster_transport::arena::{Arena, Node};
use std::sync::Arc;
use std::time::Duration;

pub use bounds::Bounds;
pub use certificate::IdentityError;
pub use event_loop::{Controller, ControllerError, Ended};
pub use files::{ClusterFiles, ClusterLock, FilesError};
pub use interfaces::{Advertise, NoInterface};
pub use listener::ListenError;
pub use nannies::cause as cause_of_death;
pub use rss::rss_of;
pub use silence::beat;

/// What the controller is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the cluster.
    pub cluster_id: String,
    /// TCP port for clients: the first of these that is free.
    pub port: PortRange,
    /// Which addresses clients are told.
    pub advertise: Advertise,
    /// Full version of the engines' Python, such as `3.11.7`.
    pub python: String,
    /// Slurm job, if any.
    pub slurm_job_id: Option<String>,
    /// When its time limit ends it, in Unix seconds, if Slurm says so.
    pub slurm_end_time: Option<u64>,
    /// Whether every engine has a nanny, so that an engine may die.
    pub nannies: bool,
    /// How long tasks may run on after SIGTERM.
    pub grace: Duration,
    /// After how much silence all engines of another host are lost; zero: never.
    pub lost_after: Duration,
    /// What clients may make rank 0 keep.
    pub bounds: Bounds,
    /// Gives memory that is not used any more back to the system.
    pub release_memory: fn(),
    /// The memory that rank 0 shares with the ranks of its node.
    pub arena: Option<Arc<Arena>>,
    /// The node of each rank.
    pub nodes: Vec<Node>,
}
