//! The sockets: one task per connection, notices to the event loop.

use crate::certificate::Identity;
use crate::inbox::{Inbox, Notice, Terminate};
use crate::session::{self, HANDSHAKE_TIME};
use pxcluster_protocol::PortRange;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

/// How long connections have to write their last frames when the cluster ends.
pub(crate) const LAST_FRAMES: Duration = Duration::from_millis(20);

/// TLS handshakes under way; more wait in the system's queue.
const STRANGERS: usize = 64;

/// Sockets that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The TCP port, or every one of several.
    #[error("cannot listen on TCP port {ports}: {cause}; choose another with --port, a range, or 0 for any free one")]
    Port {
        /// What was asked for.
        ports: PortRange,
        /// What the system says of the last one.
        cause: io::Error,
    },
    /// The Unix socket.
    #[error("cannot make the socket {path}: {cause}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The socket thread.
    #[error("cannot start the socket thread: {0}")]
    Thread(#[source] io::Error),
}

/// Serves the Unix socket and the process's signals on the event loop's own runtime: a local client's request then costs
/// no change of thread. To be called inside that runtime.
pub(crate) fn serve_local(socket: &Path, identity: &Identity, inbox: &Inbox) -> Result<(), ListenError> {
    let failed = |cause| ListenError::Socket { path: socket.to_owned(), cause };
    let unix = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    tokio::spawn(accept_unix(unix, identity.key.as_str().into(), inbox.clone()));
    for (kind, what) in [
        (SignalKind::terminate(), Terminate::Soon("SIGTERM")),
        (SignalKind::user_defined2(), Terminate::Soon("SIGUSR2")),
        (SignalKind::interrupt(), Terminate::Now("SIGINT")),
        (SignalKind::hangup(), Terminate::Now("SIGHUP")),
    ] {
        tokio::spawn(watch_signal(kind, what, inbox.clone()));
    }
    Ok(())
}

/// The thread that serves the TCP port, so that ciphers do not hold up the event loop. Dropping it ends the connections
/// after what is queued has been written, or half a second.
pub(crate) struct RemoteListener {
    pub(crate) port: u16,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl RemoteListener {
    /// Opens the first of these TCP ports that is free, and serves it.
    pub(crate) fn open(ports: PortRange, identity: &Identity, inbox: Inbox) -> Result<Self, ListenError> {
        let (port, tcp) = bind_first(ports).map_err(|cause| ListenError::Port { ports, cause })?;
        let acceptor = TlsAcceptor::from(Arc::clone(&identity.tls));
        let key: Arc<str> = identity.key.as_str().into();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!("no client on another host can connect: {error}"),
            };
            runtime.block_on(async {
                match TcpListener::from_std(tcp) {
                    Ok(tcp) => tokio::select! { () = accept_tcp(tcp, acceptor, key, inbox) => {}, _ = stopped => {} },
                    Err(error) => tracing::error!("no client on another host can connect: {error}"),
                }
                // Tasks that still write their last frames get a moment.
                tokio::time::sleep(LAST_FRAMES).await;
            });
            runtime.shutdown_timeout(Duration::from_millis(500));
        };
        let thread = std::thread::Builder::new().name("px-tls".into()).spawn(run).map_err(ListenError::Thread)?;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }
}

/// A listener on the first port that the system gives.
fn bind_first(ports: PortRange) -> io::Result<(u16, std::net::TcpListener)> {
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for port in ports.ports() {
        match std::net::TcpListener::bind(("0.0.0.0", port)) {
            Ok(tcp) => {
                tcp.set_nonblocking(true)?;
                return Ok((tcp.local_addr()?.port(), tcp));
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

impl Drop for RemoteListener {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _a_panic_was_logged = thread.join();
        }
    }
}

async fn accept_tcp(tcp: TcpListener, acceptor: TlsAcceptor, key: Arc<str>, inbox: Inbox) {
    let places = Arc::new(tokio::sync::Semaphore::new(STRANGERS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, peer) = match tcp.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                out_of_descriptors(&error).await;
                continue;
            }
        };
        let (acceptor, key, inbox) = (acceptor.clone(), Arc::clone(&key), inbox.clone());
        tokio::spawn(async move {
            let _not_vital = stream.set_nodelay(true);
            let secured = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await;
            drop(place);
            match secured {
                Ok(Ok(stream)) => session::serve(stream, peer.to_string(), &key, &inbox, None).await,
                Ok(Err(error)) => tracing::warn!("{peer}: refused: no TLS 1.3 handshake: {error}"),
                Err(_) => tracing::warn!("{peer}: refused: no TLS handshake within {} s", HANDSHAKE_TIME.as_secs()),
            }
        });
    }
}

async fn accept_unix(unix: UnixListener, key: Arc<str>, inbox: Inbox) {
    let mut number = 0u64;
    loop {
        match unix.accept().await {
            Ok((stream, _)) => {
                number += 1;
                let (key, inbox) = (Arc::clone(&key), inbox.clone());
                let peer = format!("local connection {number}");
                let socket = stream.as_raw_fd();
                tokio::spawn(async move { session::serve(stream, peer, &key, &inbox, Some(socket)).await });
            }
            Err(error) => out_of_descriptors(&error).await,
        }
    }
}

/// Accepting fails when the process has no file descriptor left; there may be one later.
async fn out_of_descriptors(error: &io::Error) {
    tracing::warn!("cannot accept a connection: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn watch_signal(kind: SignalKind, what: Terminate, inbox: Inbox) {
    match signal(kind) {
        Ok(mut arrivals) => {
            while arrivals.recv().await.is_some() {
                inbox.put(Notice::Terminate(what));
            }
        }
        Err(error) => tracing::warn!("cannot watch for {what:?}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_port_of_a_range_is_taken() {
        // Ports that the system has just given, and whose neighbour it would give, too.
        let (taken, next) = std::iter::repeat_with(|| bind_first(0.into()).expect("a port"))
            .take(100)
            .find_map(|(port, held)| Some((held, bind_first(port.checked_add(1)?.into()).ok()?.0)))
            .expect("two ports in a row");
        let first = next - 1;
        let range = |first: u16, last: u16| format!("{first}-{last}").parse::<PortRange>().expect("a range");
        assert_eq!(bind_first(range(first, next)).expect("the second").0, next);
        let refused = bind_first(range(first, first)).expect_err("it is taken");
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        assert_eq!(bind_first(range(first, next)).expect("the first").0, first);
    }
}
