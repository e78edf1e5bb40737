//! Whole messages between ranks, over MPI or, in tests, over nothing.
//!
//! No call of this crate blocks on a peer: [`Transport::send`] queues, [`Transport::receive`] makes progress in both
//! directions, and [`Transport::wait`] sleeps on the rank's own doorbell with a time-out. No message is ever dropped,
//! doubled or reordered between two ranks; between three, nothing is promised about order. A rank that has died is
//! [lost](Transport::lose): what was meant for it is dropped, and nobody waits for it.
//!
//! **Invariant I2.** At most four MPI messages from one rank to another are unanswered, fragments and
//! acknowledgements included. MPI implementations take unread messages from a pool that the sender shares among
//! all its peers, so that without this bound one silent rank would mute the others. [`link`] keeps it.

#[allow(unsafe_code, reason = "shared memory")]
pub mod arena;
#[cfg(feature = "mpi")]
#[allow(unsafe_code, reason = "futex and shared memory")]
pub mod doorbell;
pub mod link;
pub mod loopback;
#[cfg(feature = "mpi")]
#[allow(unsafe_code, reason = "the only door to MPI: matched probes and requests are C calls")]
pub mod mpi;
mod relay;

pub use relay::{relay, relay_fill};

use bytes::Bytes;
use link::Depot;
use pxcluster_protocol::codec::{self, CodecError, Span};
use pxcluster_protocol::{EngineSet, Rank};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Messages between this rank and all others.
pub trait Transport {
    /// This rank.
    fn rank(&self) -> Rank;

    /// Number of ranks, the controller included.
    fn size(&self) -> u32;

    /// Queues a message; never blocks. The message is `head` followed by `body`.
    fn send(&mut self, to: Rank, head: Bytes, body: Vec<Bytes>);

    /// Moves bytes in both directions and returns the next whole message, if there is one.
    fn receive(&mut self) -> Result<Option<(Rank, Bytes)>, TransportError>;

    /// Sleeps until something may have arrived or `timeout` has passed.
    fn wait(&mut self, timeout: Duration);

    /// Readable when the bell has been rung since [`Transport::arm`]; `None` where it cannot be.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;

    /// From now on a message makes the descriptor readable. To be followed by one more `receive`.
    fn arm(&mut self);

    /// Ends [`Transport::arm`].
    fn disarm(&mut self);

    /// How long may at most pass until the next `receive`, because something is under way that only moves then.
    fn nap(&mut self) -> Option<Duration>;

    /// Whether everything that was sent to living ranks has left this one.
    fn is_drained(&self) -> bool;

    /// A peer has died: what waits for it is dropped, as is what is sent to it later; what it has sent and has not been
    /// taken by [`Transport::receive`] is ignored; what is under way is leaked with its buffers, because MPI may still
    /// use them and nothing ends for the dead.
    fn lose(&mut self, peer: Rank);

    /// Large messages are put together where `depot` says, from now on.
    fn set_depot(&mut self, _depot: Box<dyn Depot>) {}

    /// The engines that take part in the network's own broadcast, one per node; `None` where that is not to be used, as when
    /// anybody has died.
    fn broadcast_members(&self) -> Option<&EngineSet> {
        None
    }

    /// Rank 0 sends a segment by that broadcast. It has told every member to join, in the same order as before others.
    fn broadcast(&mut self, _segment: Bytes) -> Result<(), TransportError> {
        Ok(())
    }

    /// A member takes part in the next broadcast.
    fn join_broadcast(&mut self, _length: usize) -> Result<(), TransportError> {
        Ok(())
    }

    /// The next segment that has come by it.
    fn take_broadcast(&mut self) -> Option<Bytes> {
        None
    }

    /// Peers to or from which MPI can move nothing, each told once and with the library's words. They are probably dead,
    /// and have been lost here.
    fn take_suspects(&mut self) -> Vec<(Rank, String)>;
}

/// Encodes a header and queues the message; see [`codec`].
pub fn send<T: serde::Serialize>(
    transport: &mut dyn Transport,
    to: Rank,
    header: &T,
    body: Vec<Bytes>,
) -> Result<(), CodecError> {
    let head = codec::encode_head(header, &body)?;
    transport.send(to, head, body);
    Ok(())
}

/// The same to a rank that shares an [`arena`]: of the buffers that `place_of` knows only the places travel.
pub fn send_places<T: serde::Serialize>(
    transport: &mut dyn Transport,
    to: Rank,
    header: &T,
    body: Vec<Bytes>,
    place_of: &dyn Fn(&Bytes) -> Option<u64>,
) -> Result<(), CodecError> {
    let spans: Vec<Span> = body.iter().map(|buffer| Span::of(buffer, place_of(buffer))).collect();
    let head = codec::encode_spans(header, &spans)?;
    let inline = body.into_iter().zip(spans).filter(|(_, span)| span.place.is_none()).map(|(buffer, _)| buffer);
    transport.send(to, head, inline.collect());
    Ok(())
}

/// Waits until everything that was sent has left.
pub fn drain(transport: &mut dyn Transport) -> Result<(), TransportError> {
    while !transport.is_drained() {
        transport.receive()?;
        transport.wait(Duration::from_millis(1));
    }
    Ok(())
}

/// A transport that can no longer be used, or bytes that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// An MPI call failed that concerns no engine alone. The job is lost.
    #[error("MPI call {call} failed: {message}")]
    Mpi {
        /// Name of the C function.
        call: &'static str,
        /// The library's own words.
        message: String,
    },
    /// A peer sends fragments that are not of this build.
    #[error("{from} sends what is not a fragment of a message; are all ranks of the same pxcluster build?")]
    Foreign {
        /// The peer.
        from: Rank,
    },
    /// The node's shared memory file cannot be made or mapped.
    #[error(
        "cannot make the doorbells in {path}: {source}; make room there or set PXCLUSTER_SHM_DIR to another directory in memory"
    )]
    SharedMemory {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}
