//! One client's connection: bytes in, frames to the event loop; frames out, bytes to the client.

use crate::handshake::{self, Peer, Refusal};
use crate::inbox::{Inbox, Notice};
use bytes::{Bytes, BytesMut};
use pxcluster_protocol::PROTOCOL_VERSION;
use pxcluster_protocol::frame::{self, Frame, Limits};
use pxcluster_protocol::to_client::ToClient;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// A peer that has not shown the key by then is cut off.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a peer may go on speaking after it was sent the last frame.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Frames below this size, bytes, are joined before they are written.
const JOIN: usize = 64 << 10;

/// Serves a connection until either side ends it. `peer` is for the log.
pub(crate) async fn serve<S>(stream: S, peer: String, key: &str, inbox: &Inbox)
where
    S: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = BytesMut::with_capacity(8 << 10);
    let first = tokio::time::timeout(HANDSHAKE_TIME, read_frame(&mut reader, &mut buffer, Limits::STRANGER)).await;
    let introduced = match first {
        Err(_) => return tracing::warn!("{peer}: no handshake within {} s, cut off", HANDSHAKE_TIME.as_secs()),
        Ok(Err(ReadError::Io(error))) => return tracing::warn!("{peer}: gone during the handshake: {error}"),
        Ok(Err(ReadError::Frame(error))) => Err(Refusal::Frame(error)),
        Ok(Ok(None)) => return tracing::info!("{peer}: closed without a handshake"),
        Ok(Ok(Some(frame))) => handshake::judge(&frame, key),
    };
    let introduced = match introduced {
        Ok(introduced) => introduced,
        Err(refusal) => {
            tracing::warn!("{peer}: refused: {refusal}");
            let refused = ToClient::Refused { reason: refusal.to_string() };
            if let Ok(frame) = Frame::new(&refused, vec![]) {
                let _peer_may_be_gone = write_frames(&mut writer, vec![frame]).await;
                let _as_above = writer.shutdown().await;
            }
            return;
        }
    };
    match &introduced {
        Peer::Client(hello) => tracing::info!(
            "{peer}: client of pxcluster {} (protocol {PROTOCOL_VERSION}) on {} pid {}",
            hello.client_version,
            hello.host,
            hello.pid
        ),
        Peer::Nanny(report) => tracing::info!("{peer}: the nanny of engine {}", report.nanny().engine),
    }
    let (outbox, frames) = mpsc::unbounded_channel();
    let (connection, budget) = inbox.connect(introduced, outbox);
    let reading = async {
        loop {
            budget.room().await;
            match read_frame(&mut reader, &mut buffer, Limits::CLIENT).await {
                Ok(Some(frame)) => {
                    budget.take(frame.encoded_len());
                    inbox.put(Notice::Frame { connection, frame });
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
        result = write_all(&mut writer, frames) => Some(result),
    };
    match written {
        Some(Err(error)) => tracing::warn!("{peer}: {error}, cut off"),
        // Closed while it still speaks, a TCP connection would lose what the peer has not read yet.
        Some(Ok(())) => drop(tokio::time::timeout(LAST_WORDS, reading).await),
        None => {}
    }
    inbox.put(Notice::Disconnected { connection });
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the peer {0}")]
    Frame(#[from] frame::FrameError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The next frame; `None` at the end of the stream.
async fn read_frame<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
    limits: Limits,
) -> Result<Option<Frame>, ReadError> {
    loop {
        if let Some(frame) = frame::decode(buffer, limits)? {
            return Ok(Some(frame));
        }
        let missing = frame::missing(buffer, limits)?;
        buffer.reserve((missing as usize).clamp(4 << 10, 64 << 20));
        if reader.read_buf(buffer).await? == 0 {
            return match buffer.len() {
                0 => Ok(None),
                left => Err(io::Error::other(format!("the stream ends inside a frame ({left} bytes)")).into()),
            };
        }
    }
}

/// Writes frames until the event loop drops the sender.
async fn write_all<W: AsyncWrite + Unpin>(
    writer: &mut W,
    mut frames: mpsc::UnboundedReceiver<Frame>,
) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        let mut batch = vec![frame];
        while batch.len() < 256
            && let Ok(frame) = frames.try_recv()
        {
            batch.push(frame);
        }
        write_frames(writer, batch).await?;
    }
    writer.shutdown().await
}

/// Writes frames with few calls: small pieces are joined, large buffers written where they lie.
async fn write_frames<W: AsyncWrite + Unpin>(writer: &mut W, frames: Vec<Frame>) -> io::Result<()> {
    let mut joined = BytesMut::new();
    for frame in frames {
        let pieces = std::iter::once(frame.encode_head()).chain(frame.buffers);
        for piece in pieces.filter(|piece: &Bytes| !piece.is_empty()) {
            if joined.len() + piece.len() > JOIN && !joined.is_empty() {
                writer.write_all(&joined.split()).await?;
            }
            if piece.len() > JOIN {
                writer.write_all(&piece).await?;
            } else {
                joined.extend_from_slice(&piece);
            }
        }
    }
    if !joined.is_empty() {
        writer.write_all(&joined).await?;
    }
    writer.flush().await
}
