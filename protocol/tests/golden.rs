//! The golden frames: written down once, read by this crate and by the Python client's tests, byte for byte.

use bytes::{Bytes, BytesMut};
use pxcluster_protocol::frame::{self, Frame, Limits};
use pxcluster_protocol::from_client::FromClient;
use pxcluster_protocol::to_client::{PastRequest, ToClient};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::path::Path;

const FROM_CLIENT: [&str; 26] = [
    "memory_request",
    "hello_sharing",
    "reserve",
    "reserve_direct",
    "written",
    "abandon",
    "hello",
    "hello_again",
    "direct",
    "direct_labelled",
    "direct_unlisted",
    "map",
    "signal",
    "abort",
    "interrupt",
    "status_request",
    "history_request",
    "purge",
    "drain",
    "shutdown",
    "kill",
    "received",
    "fetch",
    "goodbye",
    "death",
    "silent",
];
const TO_CLIENT: [&str; 23] = [
    "memory",
    "ahead",
    "forget",
    "reserved",
    "reserved_told",
    "reserved_nothing",
    "welcome",
    "welcome_again",
    "request_map",
    "request_direct",
    "refused",
    "reply",
    "results",
    "output",
    "failed",
    "engines",
    "engines_silent",
    "done",
    "history",
    "status",
    "draining",
    "closing",
    "kill_engine",
];

/// Reads a golden frame, understands it, and writes it again.
fn round_trip<T: DeserializeOwned + Serialize + Debug>(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let bytes = std::fs::read(folder.join(format!("{name}.bin"))).expect(name);
    let told = std::fs::read_to_string(folder.join(format!("{name}.json"))).expect(name);
    let told: serde_json::Value = serde_json::from_str(&told).expect(name);

    let mut stream = BytesMut::from(&bytes[..]);
    let frame = frame::decode(&mut stream, Limits::CLIENT).expect(name).expect("is whole");
    assert!(stream.is_empty(), "{name}: bytes behind the frame");
    let header: serde_json::Value = serde_json::from_slice(&frame.header).expect(name);
    assert_eq!(header, told["header"], "{name}: not the header that is told beside it");
    let buffers: Vec<String> = frame.buffers.iter().map(|buffer| hexadecimal(buffer)).collect();
    assert_eq!(serde_json::json!(buffers), told["buffers"], "{name}: not the buffers that are told beside it");

    let message: T = frame.parse().expect(name);
    let again = Frame::new(&message, frame.buffers.clone()).expect(name);
    assert_eq!(again.encode(), Bytes::from(bytes), "{name}: {message:?} is written otherwise");
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

#[test]
fn requests_are_read_and_written_as_the_client_does() {
    FROM_CLIENT.into_iter().for_each(round_trip::<FromClient>);
}

#[test]
fn answers_are_read_and_written_as_the_client_does() {
    TO_CLIENT.into_iter().for_each(round_trip::<ToClient>);
}

#[test]
fn no_golden_frame_is_forgotten() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(folder).expect("exists").filter_map(Result::ok);
    let frames = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "bin")).count();
    assert_eq!(frames, FROM_CLIENT.len() + TO_CLIENT.len());
}

#[test]
fn past_requests_are_written_as_the_golden_frame_has_them() {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/history.bin")).expect("exists");
    let frame = frame::decode(&mut BytesMut::from(&bytes[..]), Limits::CLIENT).expect("well formed").expect("is whole");
    let past: Vec<PastRequest> = serde_json::from_slice(&frame.buffers[0]).expect("is JSON");
    assert_eq!(past.iter().map(|past| past.parts).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(serde_json::to_vec(&past).expect("encodes"), frame.buffers[0]);
}
