//! Frames of the client link: `u32 header length · u32 buffer count · u64 length per buffer · JSON header · buffers`.
//!
//! A length with its highest bit set is that of a buffer in memory that both ends share: in its place the frame has eight
//! bytes, the offset there. Only a client on the controller's host that has been handed that memory sends or gets such.
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

/// Marks the length of a buffer in shared memory.
const SHARED: u64 = 1 << 63;

/// A buffer's entry in a frame's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Of the buffer, bytes.
    pub bytes: u64,
    /// Whether it lies in shared memory, and eight bytes of offset in the frame.
    pub is_shared: bool,
}

/// What precedes the buffers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// UTF-8 JSON object.
    pub header: Bytes,
    /// One entry per buffer.
    pub lengths: Vec<Length>,
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
    /// The peer shares no memory with this process, or not these bytes.
    #[error("sends a buffer by its place in shared memory that it was not given")]
    NotShared,
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
        self.encode_head_with(&[])
    }

    /// The same; of the buffers that have a place in shared memory that offset follows, `u64`, in place of the bytes.
    pub fn encode_head_with(&self, places: &[Option<u64>]) -> Bytes {
        let mut bytes = BytesMut::with_capacity(8 + 8 * self.buffers.len() + self.header.len());
        bytes.put_u32_le(self.header.len() as u32);
        bytes.put_u32_le(self.buffers.len() as u32);
        for (at, buffer) in self.buffers.iter().enumerate() {
            let is_shared = places.get(at).is_some_and(Option::is_some);
            bytes.put_u64_le(buffer.len() as u64 | if is_shared { SHARED } else { 0 });
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
    if lengths.iter().any(|length| length.is_shared) {
        return Err(FrameError::NotShared);
    }
    if (stream.len() as u64) < total {
        return Ok(None);
    }
    let Head { header, lengths } = cut_head(stream, header, lengths);
    let buffers = lengths.into_iter().map(|length| stream.split_to(length.bytes as usize).freeze()).collect();
    Ok(Some(Frame { header, buffers }))
}

/// Cuts what precedes the buffers out of a stream, when it is there; the buffers are to be cut out by the caller.
pub fn decode_head(stream: &mut BytesMut, limits: Limits) -> Result<Option<Head>, FrameError> {
    let Some((_, header, lengths)) = measure(stream, limits)? else { return Ok(None) };
    if stream.len() < 8 + 8 * lengths.len() + header {
        return Ok(None);
    }
    Ok(Some(cut_head(stream, header, lengths)))
}

fn cut_head(stream: &mut BytesMut, header: usize, lengths: Vec<Length>) -> Head {
    stream.advance(8 + 8 * lengths.len());
    Head { header: stream.split_to(header).freeze(), lengths }
}

/// How many more bytes the frame at the front of `stream` needs (at least 1).
pub fn missing(stream: &[u8], limits: Limits) -> Result<u64, FrameError> {
    let total = measure(stream, limits)?.map_or(8, |(total, ..)| total);
    Ok(total.saturating_sub(stream.len() as u64).max(1))
}

/// Total bytes, header bytes and buffer lengths of the frame at the front, once its prefix is there.
fn measure(stream: &[u8], limits: Limits) -> Result<Option<(u64, usize, Vec<Length>)>, FrameError> {
    let Some(mut prefix) = stream.get(..8) else { return Ok(None) };
    let (header, count) = (prefix.get_u32_le() as usize, prefix.get_u32_le() as usize);
    if header > limits.header {
        return Err(FrameError::HeaderTooLong(header, limits.header));
    }
    if count > limits.buffers {
        return Err(FrameError::TooManyBuffers(count, limits.buffers));
    }
    let Some(mut table) = stream.get(8..8 + 8 * count) else { return Ok(None) };
    let entry = |word: u64| Length { bytes: word & !SHARED, is_shared: word & SHARED != 0 };
    let lengths: Vec<Length> = (0..count).map(|_| entry(table.get_u64_le())).collect();
    let in_frame = |length: &Length| if length.is_shared { 8 } else { length.bytes };
    let body = lengths.iter().fold(0u64, |sum, length| sum.saturating_add(in_frame(length)));
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
    fn a_buffer_in_shared_memory_is_a_length_and_a_place() {
        let buffers = vec![Bytes::from_static(b"ab"), Bytes::from(vec![0; 5000])];
        let frame = Frame { header: Bytes::from_static(b"{}"), buffers };
        let mut stream = BytesMut::from(&frame.encode_head_with(&[None, Some(4096)])[..]);
        assert!(matches!(decode(&mut stream.clone(), Limits::CLIENT), Err(FrameError::NotShared)));
        let head = decode_head(&mut stream, Limits::CLIENT).expect("is well formed").expect("is whole");
        let lengths = [Length { bytes: 2, is_shared: false }, Length { bytes: 5000, is_shared: true }];
        assert_eq!((&head.header[..], &head.lengths[..], stream.len()), (&b"{}"[..], &lengths[..], 0));
    }

    #[test]
    fn a_web_browser_is_refused() {
        let mut stream = BytesMut::from(&b"GET / HTTP/1.1\r\n\r\n"[..]);
        assert!(matches!(decode(&mut stream, Limits::STRANGER), Err(FrameError::HeaderTooLong(..))));
    }
}
