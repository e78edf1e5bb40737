//! Frames as they go out: of buffers that the peer has, or has had before, only the places.

use crate::inbox::Outgoing;
use crate::store::Store;
use bytes::{Bytes, BytesMut};
use pxcluster_protocol::frame::Frame;
use pxcluster_protocol::to_client::{Ahead, ToClient};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Frames below this size, bytes, are joined before they are written.
const JOIN: usize = 64 << 10;

/// The sending half of a connection.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    stream: W,
    store: Option<Arc<Store>>,
    /// Whether the peer shares the store's memory: of buffers there only the places are sent.
    shares: bool,
    /// What the peer has been sent of buffers in the store before their frames, by place.
    ahead: BTreeMap<u64, Ahead>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(crate) fn new(stream: W, store: Option<Arc<Store>>, shares: bool) -> Self {
        Self { stream, store, shares, ahead: BTreeMap::new() }
    }

    /// Writes frames until the event loop drops the sender.
    pub(crate) async fn write_all(&mut self, mut frames: mpsc::UnboundedReceiver<Outgoing>) -> io::Result<()> {
        while let Some(outgoing) = frames.recv().await {
            let mut batch = vec![outgoing];
            while batch.len() < 256
                && let Ok(outgoing) = frames.try_recv()
            {
                batch.push(outgoing);
            }
            self.write(batch).await?;
        }
        self.stream.shutdown().await
    }

    /// The place of a buffer, if that is to be sent in its stead.
    fn place(&self, buffer: &Bytes) -> Option<u64> {
        if !self.shares && self.ahead.is_empty() {
            return None;
        }
        let place = self.store.as_ref()?.place_of(buffer)?;
        (self.shares || self.ahead.contains_key(&place)).then_some(place)
    }

    /// What is sent ahead is remembered.
    fn pieces_ahead(&mut self, ahead: Ahead, bytes: Bytes) -> Vec<Bytes> {
        let buffers = if self.shares { vec![] } else { vec![bytes] };
        let pieces = pieces_of(&ToClient::Ahead(ahead.clone()), buffers);
        self.ahead.insert(ahead.place, ahead);
        pieces
    }

    /// The pieces of a frame, behind what is missing of its buffers that have been sent ahead.
    fn pieces_naming(&mut self, frame: Frame) -> Vec<Bytes> {
        let places = frame.buffers.iter().map(|buffer| self.place(buffer)).collect::<Vec<_>>();
        let mut pieces = vec![];
        for (place, buffer) in places.iter().zip(&frame.buffers) {
            let begun = place.and_then(|place| self.ahead.remove(&place));
            if let Some(begun) = begun.filter(|begun| !self.shares && begun.upto < buffer.len() as u64) {
                let rest = buffer.slice(begun.upto as usize..);
                let ahead = Ahead { at: begun.upto, upto: buffer.len() as u64, ..begun };
                pieces.extend(pieces_of(&ToClient::Ahead(ahead), vec![rest]));
            }
        }
        pieces.push(frame.encode_head_with(&places));
        pieces.extend(places.into_iter().zip(frame.buffers).map(|(place, buffer)| match place {
            Some(offset) => Bytes::copy_from_slice(&offset.to_le_bytes()),
            None => buffer,
        }));
        pieces
    }

    /// The pieces of what goes out.
    fn pieces(&mut self, outgoing: Outgoing) -> Vec<Bytes> {
        match outgoing {
            Outgoing::Ahead(ahead, bytes) => self.pieces_ahead(ahead, bytes),
            Outgoing::Forget(place) => {
                self.ahead.remove(&place);
                pieces_of(&ToClient::Forget { place }, vec![])
            }
            Outgoing::Frame(frame) => self.pieces_naming(frame),
        }
    }

    /// Writes frames with few calls: small pieces are joined, large buffers written where they lie.
    pub(crate) async fn write(&mut self, batch: Vec<Outgoing>) -> io::Result<()> {
        let mut joined = BytesMut::new();
        for outgoing in batch {
            for piece in self.pieces(outgoing).into_iter().filter(|piece| !piece.is_empty()) {
                if joined.len() + piece.len() > JOIN && !joined.is_empty() {
                    self.stream.write_all(&joined.split()).await?;
                }
                if piece.len() > JOIN {
                    self.stream.write_all(&piece).await?;
                } else {
                    joined.extend_from_slice(&piece);
                }
            }
        }
        if !joined.is_empty() {
            self.stream.write_all(&joined).await?;
        }
        self.stream.flush().await
    }
}

/// The pieces of a frame of its own.
fn pieces_of(header: &ToClient, buffers: Vec<Bytes>) -> Vec<Bytes> {
    let pieces = |frame: Frame| std::iter::once(frame.encode_head()).chain(frame.buffers).collect();
    Frame::new(header, buffers).map_or_else(|_| vec![], pieces)
}
