//! Frames as they come in: small buffers into memory, large ones into the store while they arrive.

use crate::store::{Keeper, Reservation, Store};
use bytes::{Buf, Bytes, BytesMut};
use pxcluster_protocol::frame::{self, Frame, FrameError, Head, Length, Limits};
use pxcluster_transport::arena::LARGE;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read at a time on the way into the store.
const PORTION: usize = 1 << 20;
/// Bytes after which it is told how far a buffer has come.
const TELL: u64 = 4 << 20;

/// Why reading ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("the peer {0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A frame that has arrived.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) frame: Frame,
    /// Bytes of it that are in rank 0's own memory.
    pub(crate) bytes: usize,
    /// Buffers that the peer has written to shared memory: which ones, where, how long.
    pub(crate) places: Vec<(usize, u64, u64)>,
}

/// What can be told of a frame before all of it is there.
#[derive(Debug)]
pub(crate) enum Arriving {
    /// A buffer of the frame with this header is written to the store.
    Begins { header: Bytes, place: Keeper, length: u64 },
    /// So many bytes of the buffer at a place are there.
    Has { place: u64, upto: u64 },
    /// It goes on in memory, for want of room.
    Ends { place: u64 },
}

/// The receiving half of a connection.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    stream: R,
    buffer: BytesMut,
    store: Option<Arc<Store>>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(stream: R, store: Option<Arc<Store>>) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(8 << 10), store }
    }

    /// The next frame; `None` at the end of the stream. `tell` hears of large buffers meanwhile.
    pub(crate) async fn next(
        &mut self,
        limits: Limits,
        tell: &impl Fn(Arriving),
    ) -> Result<Option<Arrived>, ReadError> {
        let Head { header, lengths } = loop {
            if let Some(head) = frame::decode_head(&mut self.buffer, limits)? {
                break head;
            }
            if self.read(frame::missing(&self.buffer, limits)?.min(64 << 10) as usize).await? == 0 {
                return match self.buffer.len() {
                    0 => Ok(None),
                    left => Err(io::Error::other(format!("the stream ends inside a frame ({left} bytes)")).into()),
                };
            }
        };
        let mut arrived = Arrived { bytes: header.len(), frame: Frame { header, buffers: vec![] }, places: vec![] };
        for (at, Length { bytes, is_shared }) in lengths.into_iter().enumerate() {
            let buffer = if is_shared {
                let offset = self.memory(8).await?.get_u64_le();
                arrived.places.push((at, offset, bytes));
                Bytes::new()
            } else if let Some(place) = self.place(bytes) {
                tell(Arriving::Begins { header: arrived.frame.header.clone(), place: place.keeper(), length: bytes });
                self.stored(place, &mut arrived.bytes, tell).await?
            } else {
                arrived.bytes += bytes as usize;
                self.memory(bytes as usize).await?
            };
            arrived.frame.buffers.push(buffer);
        }
        Ok(Some(arrived))
    }

    fn place(&self, bytes: u64) -> Option<Reservation> {
        if bytes < LARGE as u64 { None } else { self.store.as_ref()?.take(bytes) }
    }

    /// Reads what there is, for which room is made for so many bytes; how many came.
    async fn read(&mut self, room: usize) -> io::Result<usize> {
        self.buffer.reserve(room.max(4 << 10));
        self.stream.read_buf(&mut self.buffer).await
    }

    /// The next bytes, in memory.
    async fn memory(&mut self, bytes: usize) -> io::Result<Bytes> {
        while self.buffer.len() < bytes {
            if self.read((bytes - self.buffer.len()).min(64 << 20)).await? == 0 {
                return Err(ends_early());
            }
        }
        Ok(self.buffer.split_to(bytes).freeze())
    }

    /// The next bytes, in the store: each portion is written there as it comes. If the system has no pages left, in memory.
    async fn stored(
        &mut self,
        place: Reservation,
        in_memory: &mut usize,
        tell: &impl Fn(Arriving),
    ) -> io::Result<Bytes> {
        let mut at = 0;
        while at < place.length {
            if self.buffer.is_empty() {
                self.buffer.clear();
                if self.read(PORTION).await? == 0 {
                    return Err(ends_early());
                }
            }
            let portion = (place.length - at).min(self.buffer.len() as u64);
            if let Err(error) = place.write(at, &self.buffer[..portion as usize]) {
                tracing::warn!("no room for {} bytes in shared memory ({error}): copied instead", place.length);
                *in_memory += place.length as usize;
                tell(Arriving::Ends { place: place.offset });
                let mut whole = BytesMut::with_capacity(place.length as usize);
                whole.extend_from_slice(&place.written(at as usize)?);
                whole.unsplit(std::mem::take(&mut self.buffer));
                self.buffer = whole;
                return self.memory(place.length as usize).await;
            }
            self.buffer.advance(portion as usize);
            if at / TELL < (at + portion) / TELL || at + portion == place.length {
                tell(Arriving::Has { place: place.offset, upto: at + portion });
            }
            at += portion;
        }
        place.finish()
    }
}

fn ends_early() -> io::Error {
    io::Error::other("the stream ends inside a frame")
}
