//! File descriptors over a Unix socket.

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use pxcluster_protocol::frame::Frame;
use pxcluster_protocol::to_client::ToClient;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Sends the shared memory, with the frame that says so. Nothing else has been sent over this socket, so that there is room.
pub(crate) fn hand_over(socket: RawFd, memory: BorrowedFd<'_>) -> io::Result<()> {
    let frame = Frame::new(&ToClient::Memory, vec![]).map_err(io::Error::other)?.encode();
    let descriptors = [memory.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(socket, &[IoSlice::new(&frame)], &control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}
