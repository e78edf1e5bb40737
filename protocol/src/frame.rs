//! Frames of the client link: `u32 header length · u32 buffer count · u64 length per buffer · JSON header · buffers`.
//!
//! All integers are little endian; nothing is padded. The golden files in `tests/golden` hold one frame of every
//! type and are read by this crate and by the Python client.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

/// A frame: a JSON header and the buffers that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// UTF-8 JSON object with a key `type`.
    pub header: Bytes,
    /// Raw buffers; what they mean is told by the header's type.
    pub buffers: Vec<Bytes>,
}

/// Bounds that a reader enforces before it allocates anything.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest header, bytes.
    pub header: usize,
    /// Most buffers.
    pub buffers: usize,
    /// Longest body (all buffers together), bytes.
    pub body: u64,
}

impl Limits {
    /// For a peer that has not yet shown the key.
    pub const STRANGER: Self = Self { header: 64 << 10, buffers: 0, body: 0 };
    /// For a peer that has shown the key.
    pub const CLIENT: Self = Self { header: 16 << 20, buffers: 1 << 16, body: 1 << 40 };
}

/// A frame that is refused.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The peer is no pxcluster client, or wants too much before the handshake.
    #[error("announces a header of {0} bytes, more than the {1} allowed here; it is probably not a pxcluster client")]
    HeaderTooLong(usize, usize),
    /// Too many buffers for this state of the link.
    #[error("announces {0} buffers, more than the {1} allowed here")]
    TooManyBuffers(usize, usize),
    /// Too many bytes for this state of the link.
    #[error("announces {0} bytes of buffers, more than the {1} allowed here")]
    BodyTooLong(u64, u64),
    /// The header is not JSON of a known message.
    #[error("frame header cannot be understood: {0}")]
    Header(#[from] serde_json::Error),
}

impl Frame {
    /// Makes a frame of a serialisable header and buffers.
    pub fn new<T: Serialize>(header: &T, buffers: Vec<Bytes>) -> Result<Self, FrameError> {
        Ok(Self { header: Bytes::from(serde_json::to_vec(header)?), buffers })
    }

    /// Parses the header.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        Ok(serde_json::from_slice(&self.header)?)
    }

    /// The bytes before the buffers: prefix and header.
    pub fn encode_head(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(8 + 8 * self.buffers.len() + self.header.len());
        bytes.put_u32_le(self.header.len() as u32);
        bytes.put_u32_le(self.buffers.len() as u32);
        for buffer in &self.buffers {
            bytes.put_u64_le(buffer.len() as u64);
        }
        bytes.extend_from_slice(&self.header);
        bytes.freeze()
    }

    /// The whole frame in one buffer.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::from(&self.encode_head()[..]);
        for buffer in &self.buffers {
            bytes.extend_from_slice(buffer);
        }
        bytes.freeze()
    }

    /// How many bytes the frame takes on the wire.
    pub fn encoded_len(&self) -> usize {
        8 + self.header.len() + self.buffers.iter().map(|buffer| 8 + buffer.len()).sum::<usize>()
    }
}

/// Cuts frames out of a stream of bytes: `while let Some(frame) = decode(&mut buffer, limits)? { … }`.
///
/// `Ok(None)` means that more bytes are needed; [`missing`] tells how many at least.
pub fn decode(stream: &mut BytesMut, limits: Limits) -> Result<Option<Frame>, FrameError> {
    let Some((total, header, lengths)) = measure(stream, limits)? else { return Ok(None) };
    if (stream.len() as u64) < total {
        return Ok(None);
    }
    stream.advance(8 + 8 * lengths.len());
    let header = stream.split_to(header).freeze();
    let buffers = lengths.into_iter().map(|length| stream.split_to(length as usize).freeze()).collect();
    Ok(Some(Frame { header, buffers }))
}

/// How many more bytes the frame at the front of `stream` needs (at least 1).
pub fn missing(stream: &[u8], limits: Limits) -> Result<u64, FrameError> {
    let total = measure(stream, limits)?.map_or(8, |(total, ..)| total);
    Ok(total.saturating_sub(stream.len() as u64).max(1))
}

/// Total bytes, header bytes and buffer lengths of the frame at the front, once its prefix is there.
fn measure(stream: &[u8], limits: Limits) -> Result<Option<(u64, usize, Vec<u64>)>, FrameError> {
    let Some(mut prefix) = stream.get(..8) else { return Ok(None) };
    let (header, count) = (prefix.get_u32_le() as usize, prefix.get_u32_le() as usize);
    if header > limits.header {
        return Err(FrameError::HeaderTooLong(header, limits.header));
    }
    if count > limits.buffers {
        return Err(FrameError::TooManyBuffers(count, limits.buffers));
    }
    let Some(mut table) = stream.get(8..8 + 8 * count) else { return Ok(None) };
    let lengths: Vec<u64> = (0..count).map(|_| table.get_u64_le()).collect();
    let body = lengths.iter().fold(0u64, |sum, &length| sum.saturating_add(length));
    if body > limits.body {
        return Err(FrameError::BodyTooLong(body, limits.body));
    }
    Ok(Some((8 + 8 * count as u64 + header as u64 + body, header, lengths)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_frames(
            sizes in prop::collection::vec(prop::collection::vec(0usize..40, 0..4), 1..5), cut in 1usize..23
        ) {
            let frames: Vec<Frame> = sizes.iter().map(|buffers| Frame {
                header: Bytes::from_static(b"{\"type\":\"x\"}"),
                buffers: buffers.iter().map(|&n| Bytes::from(vec![n as u8; n])).collect(),
            }).collect();
            let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().to_vec()).collect();
            let (mut stream, mut got) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(cut) {
                stream.extend_from_slice(piece);
                while let Some(frame) = decode(&mut stream, Limits::CLIENT).expect("is well formed") {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(stream.is_empty());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut stream = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut stream, Limits::CLIENT) {}
            let _ = missing(&stream, Limits::STRANGER);
        }
    }

    #[test]
    fn a_web_browser_is_refused() {
        let mut stream = BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]);
        assert!(matches!(decode(&mut stream, Limits::STRANGER), Err(FrameError::HeaderTooLong(..))));
    }
}
