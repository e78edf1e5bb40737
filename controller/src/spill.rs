//! A file for results that wait for slow or absent clients when memory must not hold them.
//!
//! It has no name (`O_TMPFILE`, or unlinked as soon as it is made), so that nothing is left behind however the process
//! ends, and nobody else can open it. Frames are appended; the file is emptied when none is left in it.

use bytes::{Bytes, BytesMut};
use nix::fcntl::OFlag;
use pxcluster_protocol::frame::{self, Frame, Limits};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// Where a frame is in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    offset: u64,
    length: u64,
}

/// The file cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{directory}: {source}")]
pub(crate) struct SpillError {
    directory: String,
    source: io::Error,
}

/// The file, made when it is first needed.
#[derive(Debug)]
pub(crate) struct Spill {
    directory: PathBuf,
    file: Option<File>,
    end: u64,
    /// Frames in the file.
    frames: u64,
}

impl Spill {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, file: None, end: 0, frames: 0 }
    }

    /// Writes a frame.
    pub(crate) fn write(&mut self, frame: &Frame) -> Result<Place, SpillError> {
        let offset = self.end;
        let written = self.open().and_then(|file| {
            let mut at = offset;
            for piece in std::iter::once(frame.encode_head()).chain(frame.buffers.iter().cloned()) {
                file.write_all_at(&piece, at)?;
                at += piece.len() as u64;
            }
            Ok(at)
        });
        let end = written.map_err(|source| self.failed(source))?;
        self.end = end;
        self.frames += 1;
        Ok(Place { offset, length: end - offset })
    }

    /// Reads a frame; it stays in the file.
    pub(crate) fn read(&self, place: Place) -> Result<Frame, SpillError> {
        let mut bytes = BytesMut::zeroed(place.length as usize);
        let gone = || io::Error::other("the file is not there any more");
        let read = self.file.as_ref().ok_or_else(gone).and_then(|file| file.read_exact_at(&mut bytes, place.offset));
        read.map_err(|source| self.failed(source))?;
        let frame = frame::decode(&mut bytes, Limits::CLIENT).map_err(|error| self.failed(io::Error::other(error)))?;
        let frame = frame.ok_or_else(|| self.failed(io::Error::other("a frame is cut short")))?;
        // Its buffers must not keep the whole of what was read alive longer than they are needed themselves.
        Ok(Frame { header: Bytes::copy_from_slice(&frame.header), buffers: frame.buffers })
    }

    /// A frame is not needed any more.
    pub(crate) fn release(&mut self, _place: Place) {
        self.frames -= 1;
        if self.frames == 0 {
            self.end = 0;
            if let Some(Err(error)) = self.file.as_ref().map(|file| file.set_len(0)) {
                tracing::warn!("cannot empty the file of waiting results: {}", self.failed(error));
            }
        }
    }

    fn failed(&self, source: io::Error) -> SpillError {
        SpillError { directory: self.directory.display().to_string(), source }
    }

    fn open(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            self.file = Some(self.nameless()?);
        }
        self.file.as_ref().ok_or_else(|| io::Error::other("no file"))
    }

    fn nameless(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        let nameless = options.clone().custom_flags(OFlag::O_TMPFILE.bits()).open(&self.directory);
        // A file system without O_TMPFILE says so in one of several ways; a full or missing one fails again below.
        nameless.or_else(|_| {
            let path = self.directory.join(format!(".pxcluster-{}", std::process::id()));
            let file = options.create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(text: &'static str) -> Frame {
        Frame { header: "{\"type\":\"x\"}".into(), buffers: vec![text.into(), Bytes::new()] }
    }

    #[test]
    fn frames_come_back_and_the_file_has_no_name_and_is_emptied() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spill = Spill::new(directory.path().to_owned());
        let first = spill.write(&frame("first")).expect("is written");
        let second = spill.write(&frame("second one")).expect("is written");
        assert_eq!(std::fs::read_dir(directory.path()).expect("exists").count(), 0);
        assert_eq!(spill.read(second).expect("is there"), frame("second one"));
        assert_eq!(spill.read(first).expect("is there"), frame("first"));
        spill.release(first);
        assert_eq!(spill.read(second).expect("is there"), frame("second one"));
        spill.release(second);
        let length = spill.file.as_ref().expect("open").metadata().expect("open").len();
        assert_eq!((length, spill.end), (0, 0));
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let mut spill = Spill::new("/nowhere/at/all".into());
        let error = spill.write(&frame("x")).expect_err("cannot be written").to_string();
        assert!(error.contains("/nowhere/at/all: No such file"), "{error}");
    }
}
