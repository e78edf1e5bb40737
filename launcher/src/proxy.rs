//! `pxcluster proxy`: the end of a client's way through ssh. It tells the client the connection file, and then hands on
//! bytes between standard input and output and the controller, of which it understands none.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;

use nix::sys::socket::{Shutdown, shutdown};
use pxcluster_dial::{Bare, DialError, connect_bare};
use pxcluster_protocol::connection::ConnectionFile;
use serde::Serialize;

use crate::cli::ProxyFlags;
use crate::directory::{ClusterDirectory, DirectoryError};
use crate::link::socket_here;

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

/// Hands on until the controller has closed the connection, or the client does not read any more.
pub fn run(flags: &ProxyFlags) -> Result<(), ProxyError> {
    let connection = ClusterDirectory::locate(&flags.cluster_id)?.read_running()?;
    let Bare { descriptor, needs_tls } = connect_bare(socket_here(&connection), &connection.addresses)?;
    // Without the buffers of the standard streams.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut line =
        serde_json::to_vec(&Greeting { connection: &connection, tls: needs_tls }).map_err(io::Error::from)?;
    line.push(b'\n');
    output.write_all(&line)?;
    let mut from = File::from(descriptor);
    let mut to = from.try_clone()?;
    thread::spawn(move || {
        let _broken = copy(&mut input, &mut to);
        let _closed = shutdown(to.as_raw_fd(), Shutdown::Write);
    });
    let _broken = copy(&mut from, &mut output);
    Ok(())
}

/// [`io::copy`] would use splice(2) here, which waits for the socket's bytes with the pipe locked: whoever is to read from
/// the pipe what is there already waits as long.
fn copy(from: &mut File, to: &mut File) -> io::Result<()> {
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
