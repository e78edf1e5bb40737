//! One client's connection: bytes in, frames to the event loop; frames out, bytes to the client.

use crate::budget::Budget;
use crate::descriptors;
use crate::handshake::{self, Peer, Refusal};
use crate::inbox::{ConnectionId, Inbox, Notice};
use crate::reading::{ReadError, Reader};
use crate::store::Store;
use bytes::{Bytes, BytesMut};
use pxcluster_protocol::PROTOCOL_VERSION;
use pxcluster_protocol::frame::{Frame, Limits};
use pxcluster_protocol::to_client::ToClient;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// A peer that has not shown the key by then is cut off.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a peer may go on speaking after it was sent the last frame.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Frames below this size, bytes, are joined before they are written.
const JOIN: usize = 64 << 10;

/// Serves a connection until either side ends it. `peer` is for the log; `socket` is the connection's own, if the peer can
/// be handed descriptors over it.
pub(crate) async fn serve<S>(stream: S, peer: String, key: &str, inbox: &Inbox, socket: Option<RawFd>)
where
    S: AsyncRead + AsyncWrite,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = Reader::new(reader, inbox.store.clone());
    let first = tokio::time::timeout(HANDSHAKE_TIME, reader.next(Limits::STRANGER, &|_| ())).await;
    let introduced = match first {
        Err(_) => return tracing::warn!("{peer}: no handshake within {} s, cut off", HANDSHAKE_TIME.as_secs()),
        Ok(Err(ReadError::Io(error))) => return tracing::warn!("{peer}: gone during the handshake: {error}"),
        Ok(Err(ReadError::Frame(error))) => Err(Refusal::Frame(error)),
        Ok(Ok(None)) => return tracing::info!("{peer}: closed without a handshake"),
        Ok(Ok(Some(arrived))) => handshake::judge(&arrived.frame, key),
    };
    let refusal = match introduced {
        Ok(Peer::Client(hello)) => {
            let (version, host, pid) = (&hello.client_version, &hello.host, hello.pid);
            tracing::info!("{peer}: client of pxcluster {version} (protocol {PROTOCOL_VERSION}) on {host} pid {pid}");
            let store = inbox.store.clone().filter(|_| hello.shares && socket.is_some());
            let (outbox, frames) = mpsc::unbounded_channel();
            let (connection, budget) = inbox.connect(hello, outbox);
            return converse(reader, Writer { stream: writer, store }, &peer, inbox, frames, connection, &budget).await;
        }
        Ok(Peer::Nanny(report)) => {
            tracing::info!("{peer}: the nanny of engine {}", report.nanny().engine);
            let (outbox, frames) = mpsc::unbounded_channel();
            let (connection, budget) = inbox.connect_nanny(report, outbox);
            let writer = Writer { stream: writer, store: None };
            return converse(reader, writer, &peer, inbox, frames, connection, &budget).await;
        }
        Ok(Peer::Memory) => match (socket, &inbox.store) {
            (Some(socket), Some(store)) => {
                if let Err(error) = descriptors::hand_over(socket, store.descriptor()) {
                    tracing::warn!("{peer}: cannot be handed the shared memory: {error}");
                }
                return;
            }
            _ => "this cluster shares no memory with this client".to_owned(),
        },
        Err(refusal) => refusal.to_string(),
    };
    tracing::warn!("{peer}: refused: {refusal}");
    if let Ok(frame) = Frame::new(&ToClient::Refused { reason: refusal }, vec![]) {
        let _peer_may_be_gone = Writer { stream: &mut writer, store: None }.write(vec![frame]).await;
        let _as_above = writer.shutdown().await;
    }
}

/// Hands what the peer says to the event loop, and what the event loop says to the peer.
async fn converse<R, W>(
    mut reader: Reader<R>,
    mut writer: Writer<W>,
    peer: &str,
    inbox: &Inbox,
    frames: mpsc::UnboundedReceiver<Frame>,
    connection: ConnectionId,
    budget: &Budget,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let tell = |arriving| inbox.put(Notice::Arriving { connection, arriving });
    let reading = async {
        loop {
            budget.room().await;
            match reader.next(Limits::CLIENT, &tell).await {
                Ok(Some(arrived)) => {
                    budget.take(arrived.bytes);
                    inbox.put(Notice::Frame { connection, arrived });
                }
                Ok(None) => return tracing::info!("{peer}: disconnected"),
                Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return tracing::info!("{peer}: disconnected without a goodbye of TLS's");
                }
                Err(error) => return tracing::warn!("{peer}: {error}, cut off"),
            }
        }
    };
    tokio::pin!(reading);
    let written = tokio::select! {
        () = &mut reading => None,
        result = writer.write_all(frames) => Some(result),
    };
    match written {
        Some(Err(error)) => tracing::warn!("{peer}: {error}, cut off"),
        // Closed while it still speaks, a TCP connection would lose what the peer has not read yet.
        Some(Ok(())) => drop(tokio::time::timeout(LAST_WORDS, reading).await),
        None => {}
    }
    inbox.put(Notice::Disconnected { connection });
}

/// The sending half of a connection.
struct Writer<W> {
    stream: W,
    /// The store, if the peer shares its memory: of buffers there only the places are sent.
    store: Option<Arc<Store>>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes frames until the event loop drops the sender.
    async fn write_all(&mut self, mut frames: mpsc::UnboundedReceiver<Frame>) -> io::Result<()> {
        while let Some(frame) = frames.recv().await {
            let mut batch = vec![frame];
            while batch.len() < 256
                && let Ok(frame) = frames.try_recv()
            {
                batch.push(frame);
            }
            self.write(batch).await?;
        }
        self.stream.shutdown().await
    }

    /// Writes frames with few calls: small pieces are joined, large buffers written where they lie.
    async fn write(&mut self, frames: Vec<Frame>) -> io::Result<()> {
        let store = self.store.clone();
        let place = |buffer: &Bytes| store.as_ref().and_then(|store| store.place_of(buffer));
        let mut joined = BytesMut::new();
        for frame in frames {
            let head = frame.encode_head_with(|buffer| place(buffer).is_some());
            let in_frame = |buffer| match place(&buffer) {
                Some(offset) => Bytes::copy_from_slice(&offset.to_le_bytes()),
                None => buffer,
            };
            let pieces = std::iter::once(head).chain(frame.buffers.into_iter().map(in_frame));
            for piece in pieces.filter(|piece: &Bytes| !piece.is_empty()) {
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
