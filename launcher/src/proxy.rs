//! `pxcluster proxy`: the end of a client's way through ssh. It tells the client the connection file, and then hands on
//! bytes between standard input and output and the controller, of which it understands none.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use pxcluster_dial::{Bare, DialError, connect_bare};
use pxcluster_protocol::connection::ConnectionFile;
use serde::Serialize;

use crate::cli::ProxyFlags;
use crate::directory::{ClusterDirectory, Controller, DirectoryError, shown};
use crate::machine::host_name;

/// Bytes that are handed on at once.
const PORTION: usize = 256 << 10;

/// Why there is nobody to hand on to.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "transparent variants; the others have their message")]
pub enum ProxyError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("cluster '{cluster_id}' is gone: {path} names process {pid}, which does not run any more")]
    Gone { cluster_id: String, path: String, pid: u32 },
    #[error("cannot use standard input and output: {0}")]
    Streams(#[from] io::Error),
}

/// The first line, JSON.
#[derive(Serialize)]
struct Greeting<'a> {
    connection: &'a ConnectionFile,
    /// Whether the client is to speak TLS on what follows.
    tls: bool,
}

/// Hands on until one side ends.
pub fn run(flags: &ProxyFlags) -> Result<(), ProxyError> {
    let directory = ClusterDirectory::locate(&flags.cluster_id)?;
    let connection = directory.read_connection()?;
    if Controller::find(&connection) == Controller::Gone {
        let path = shown(&directory.connection_file());
        return Err(ProxyError::Gone { cluster_id: flags.cluster_id.clone(), path, pid: connection.pid });
    }
    let socket = Path::new(&connection.socket);
    let here = connection.host == host_name() && socket.exists();
    let bare = connect_bare(here.then_some(socket), &connection.addresses)?;
    // Without the buffers of the standard streams.
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let greeting = Greeting { connection: &connection, tls: matches!(bare, Bare::Tcp(_)) };
    let mut line = serde_json::to_vec(&greeting).map_err(io::Error::from)?;
    line.push(b'\n');
    output.write_all(&line)?;
    match bare {
        Bare::Unix(stream) => {
            let (writer, end) = (stream.try_clone()?, stream.try_clone()?);
            hand_on(input, output, stream, writer, move || end.shutdown(Shutdown::Write));
        }
        Bare::Tcp(stream) => {
            let (writer, end) = (stream.try_clone()?, stream.try_clone()?);
            hand_on(input, output, stream, writer, move || end.shutdown(Shutdown::Write));
        }
    }
    Ok(())
}

/// Returns when the controller has closed the connection, or the client does not read any more.
fn hand_on(
    mut input: File,
    mut output: File,
    mut from: impl Read,
    mut to: impl Write + Send + 'static,
    end: impl FnOnce() -> io::Result<()> + Send + 'static,
) {
    thread::spawn(move || {
        let _broken = copy(&mut input, &mut to);
        let _closed = end();
    });
    let _broken = copy(&mut from, &mut output);
}

/// [`io::copy`] would use splice(2) here, which waits for the socket's bytes with the pipe locked: whoever is to read from
/// the pipe what is there already waits as long.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; PORTION];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
