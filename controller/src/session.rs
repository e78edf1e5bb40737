//! One client's connection: bytes in, frames to the event loop; frames out, bytes to the client.

use crate::budget::Budget;
use crate::descriptors;
use crate::handshake::{self, Peer, Refusal};
use crate::inbox::{ConnectionId, Inbox, Notice, Outgoing};
use crate::reading::{ReadError, Reader};
use crate::writing::Writer;
use pxcluster_protocol::PROTOCOL_VERSION;
use pxcluster_protocol::frame::{Frame, Limits};
use pxcluster_protocol::to_client::ToClient;
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// A peer that has not shown the key by then is cut off.
pub(crate) const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a peer may go on speaking after it was sent the last frame.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
            let shares = hello.shares && socket.is_some();
            let writer = Writer::new(writer, inbox.store.clone(), shares);
            let (outbox, frames) = mpsc::unbounded_channel();
            let (connection, budget) = inbox.connect(hello, outbox);
            return converse(reader, writer, &peer, inbox, frames, connection, &budget).await;
        }
        Ok(Peer::Nanny(report)) => {
            tracing::info!("{peer}: the nanny of engine {}", report.nanny().engine);
            let (outbox, frames) = mpsc::unbounded_channel();
            let (connection, budget) = inbox.connect_nanny(report, outbox);
            let writer = Writer::new(writer, None, false);
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
        let _peer_may_be_gone = Writer::new(&mut writer, None, false).write(vec![Outgoing::Frame(frame)]).await;
        let _as_above = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
    }
}

/// Hands what the peer says to the event loop, and what the event loop says to the peer.
async fn converse<R, W>(
    mut reader: Reader<R>,
    mut writer: Writer<W>,
    peer: &str,
    inbox: &Inbox,
    frames: mpsc::UnboundedReceiver<Outgoing>,
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
