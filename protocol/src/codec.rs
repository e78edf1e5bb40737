//! Bytes of the messages between ranks: `u32 header length · header · buffers back to back`.
//!
//! The header holds the lengths of the buffers, so a receiver cuts them out of the message without a copy. Of a buffer
//! that lies in memory that both ranks share, only its place travels.
//! This is the only file that names the encoding of the headers.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

/// Opaque buffers that travel behind a header.
pub type Body = Vec<Bytes>;

/// One buffer of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its length, bytes.
    pub length: u64,
    /// Where it lies in shared memory; `None`: in the message.
    pub place: Option<u64>,
}

impl Span {
    /// The span of a buffer.
    pub fn of(buffer: &[u8], place: Option<u64>) -> Self {
        Self { length: buffer.len() as u64, place }
    }
}

/// A message between ranks that cannot be understood.
#[derive(Debug, Error)]
pub enum CodecError {
    /// Fewer bytes than the header announces: the sender is of another build, or the bytes are damaged.
    #[error("message ends after {got} bytes, {need} were announced; are all ranks of the same pxcluster build?")]
    Truncated {
        /// Bytes that are there.
        got: usize,
        /// Bytes that should be there.
        need: usize,
    },
    /// Bytes behind the last buffer.
    #[error("message has {0} bytes behind its last buffer; are all ranks of the same pxcluster build?")]
    Surplus(usize),
    /// The header is not a value of the expected type.
    #[error("message header cannot be decoded ({0}); are all ranks of the same pxcluster build?")]
    Header(String),
    /// A buffer in shared memory that cannot be had.
    #[error("{length} bytes at {place} of the node's shared memory cannot be read: {why}")]
    Shared {
        /// Where they lie.
        place: u64,
        /// How many.
        length: u64,
        /// What the system says.
        why: String,
    },
}

/// Encodes `header` and the length table of `body`; the body's buffers follow it on the wire as they are.
pub fn encode_head<T: Serialize>(header: &T, body: &[Bytes]) -> Result<Bytes, CodecError> {
    encode_spans(header, &body.iter().map(|buffer| Span::of(buffer, None)).collect::<Vec<_>>())
}

/// The same; the buffers that have no place follow on the wire.
pub fn encode_spans<T: Serialize>(header: &T, spans: &[Span]) -> Result<Bytes, CodecError> {
    let mut bytes = vec![0; 4];
    bincode::serde::encode_into_std_write((header, spans), &mut bytes, bincode::config::standard())
        .map_err(|error| CodecError::Header(error.to_string()))?;
    let length = (bytes.len() - 4) as u32;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(Bytes::from(bytes))
}

/// Decodes a whole message; the buffers of the body share its memory.
pub fn decode<T: DeserializeOwned>(message: &Bytes) -> Result<(T, Body), CodecError> {
    decode_places(message, &|_, _| Err("this rank shares none".to_owned()))
}

/// The same; `shared` gives the bytes of a place: offset, length.
pub fn decode_places<T: DeserializeOwned>(
    message: &Bytes,
    shared: &dyn Fn(u64, usize) -> Result<Bytes, String>,
) -> Result<(T, Body), CodecError> {
    let need = |need: usize| CodecError::Truncated { got: message.len(), need };
    let Head { header, spans, end: mut at } = decode_head(message)?;
    let mut body = Vec::with_capacity(spans.len());
    for Span { length, place } in spans {
        if let Some(place) = place {
            let bytes = shared(place, length as usize);
            body.push(bytes.map_err(|why| CodecError::Shared { place, length, why })?);
            continue;
        }
        let end = at.saturating_add(length as usize);
        if end > message.len() {
            return Err(need(end));
        }
        body.push(message.slice(at..end));
        at = end;
    }
    if at == message.len() { Ok((header, body)) } else { Err(CodecError::Surplus(message.len() - at)) }
}

/// What stands before the buffers.
#[derive(Debug)]
pub struct Head<T> {
    /// The header.
    pub header: T,
    /// The buffers.
    pub spans: Vec<Span>,
    /// Where the first buffer in the message begins.
    pub end: usize,
}

/// Decodes the head of a message of which there may be only the beginning.
pub fn decode_head<T: DeserializeOwned>(message: &[u8]) -> Result<Head<T>, CodecError> {
    let need = |need: usize| CodecError::Truncated { got: message.len(), need };
    let length = message.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes) as usize).ok_or(need(4))?;
    let head = message.get(4..4 + length).ok_or(need(4 + length))?;
    let ((header, spans), _) = bincode::serde::decode_from_slice(head, bincode::config::standard())
        .map_err(|error| CodecError::Header(error.to_string()))?;
    Ok(Head { header, spans, end: 4 + length })
}

/// Entry `at` of an offset table (`u64`, little endian); 0 where the table has none.
pub fn offset(table: &[u8], at: usize) -> usize {
    table.get(8 * at..8 * at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Bytes {
        let body = [Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defgh")];
        let head = encode_head(&(7u32, "x".to_owned()), &body).expect("encodes");
        let mut all = head.to_vec();
        body.iter().for_each(|buffer| all.extend_from_slice(buffer));
        Bytes::from(all)
    }

    #[test]
    fn buffers_come_back() {
        let (header, body): ((u32, String), Body) = decode(&message()).expect("decodes");
        assert_eq!(header, (7, "x".to_owned()));
        assert_eq!(body, vec![&b"abc"[..], &b""[..], &b"defgh"[..]]);
    }

    #[test]
    fn of_a_buffer_in_shared_memory_the_place_travels() {
        let spans = [Span { length: 2, place: None }, Span { length: 3, place: Some(4096) }];
        let mut message = encode_spans(&"x".to_owned(), &spans).expect("encodes").to_vec();
        message.extend_from_slice(b"ab");
        let shared = |place, length| Ok(Bytes::from(format!("{place}")[..length].to_owned()));
        let (_, body): (String, Body) = decode_places(&message.clone().into(), &shared).expect("decodes");
        assert_eq!(body, vec![&b"ab"[..], &b"409"[..]]);
        assert!(matches!(decode::<String>(&message.into()), Err(CodecError::Shared { place: 4096, .. })));
    }

    #[test]
    fn every_truncation_is_refused() {
        let whole = message();
        for length in 0..whole.len() {
            assert!(decode::<(u32, String)>(&whole.slice(..length)).is_err(), "{length} bytes were accepted");
        }
    }

    #[test]
    fn a_head_is_there_before_its_buffers() {
        let whole = message();
        let Head { header, spans, end } = decode_head::<(u32, String)>(&whole[..whole.len() - 8]).expect("decodes");
        assert_eq!((header, end), ((7, "x".to_owned()), whole.len() - 8));
        assert_eq!(spans.iter().map(|span| span.length).collect::<Vec<_>>(), [3, 0, 5]);
        let early = decode_head::<(u32, String)>(&whole[..whole.len() - 9]);
        assert!(matches!(early, Err(CodecError::Truncated { .. })));
    }

    #[test]
    fn surplus_is_refused() {
        let mut bytes = message().to_vec();
        bytes.push(0);
        assert!(matches!(decode::<(u32, String)>(&Bytes::from(bytes)), Err(CodecError::Surplus(1))));
    }
}
