//! The functions that the extension module calls; see `pxcluster_engine_abi`.
#![allow(unsafe_code, reason = "this side of the C interface")]

use super::driver::Driver;
use super::outbox::Payload;
use super::shared::Piece;
use bytes::Bytes;
use pxcluster_engine_abi::{self as abi, Part, Slice, Vtable, Work, kind};
use pxcluster_protocol::to_client::OutputName;
use pxcluster_protocol::{EngineId, RequestKey, Status};
use pxcluster_transport::arena::LARGE;
use std::ffi::c_void;
use std::sync::{Arc, OnceLock};

/// What Python may know of its engine.
pub(super) struct About {
    pub(super) engine: EngineId,
    pub(super) engine_count: u32,
    pub(super) thread_multiple: bool,
    pub(super) engines_comm: i32,
    pub(super) cluster_id: String,
    pub(super) uuid: String,
}

/// Address of the vtable, for the extension's `run`.
#[derive(Clone, Copy)]
pub(super) struct VtableAddress(pub(super) usize);

static DRIVER: OnceLock<Arc<Driver>> = OnceLock::new();

/// Makes the vtable of this process. Called once.
pub(super) fn install(driver: Arc<Driver>, about: About) -> VtableAddress {
    let _set_once = DRIVER.set(driver);
    let about: &'static About = Box::leak(Box::new(about));
    let vtable: &'static Vtable = Box::leak(Box::new(Vtable {
        version: abi::VERSION,
        engine_id: about.engine.0,
        engine_count: about.engine_count,
        thread_multiple: u32::from(about.thread_multiple),
        engines_comm: about.engines_comm,
        cluster_id: Slice::new(about.cluster_id.as_bytes()),
        uuid: Slice::new(about.uuid.as_bytes()),
        next,
        release,
        reply,
        result,
        output,
        user_code,
    }));
    VtableAddress(std::ptr::from_ref(vtable) as usize)
}

/// Keeps the memory of one piece of work, or of one buffer of it, alive.
struct Owner {
    _bytes: Vec<Bytes>,
    _parts: Vec<Part>,
}

impl Owner {
    /// The owner of these buffers, as the extension gets it.
    fn of(bytes: Vec<Bytes>, parts: Vec<Part>) -> *mut c_void {
        Box::into_raw(Box::new(Self { _bytes: bytes, _parts: parts })).cast()
    }
}

extern "C" fn next(out: *mut Work) {
    let piece = DRIVER.get().map_or(Piece::Shutdown, |driver| driver.next());
    let mut work = Work {
        kind: kind::SHUTDOWN,
        has_function: 0,
        token: 0,
        map_key: 0,
        first_task: 0,
        name: Slice::new(b""),
        buffers: std::ptr::null(),
        buffer_count: 0,
        owner: std::ptr::null_mut(),
    };
    // A buffer in shared memory is given up when nobody needs it, whatever becomes of the others.
    let is_shared = |buffer: &Bytes| DRIVER.get().is_some_and(|driver| driver.is_shared(buffer));
    let own = |work: &mut Work, kept: Option<Bytes>, bytes: Vec<Bytes>| {
        let is_kept = usize::from(kept.is_some());
        let bytes: Vec<Bytes> = kept.into_iter().chain(bytes).collect();
        let part = |(at, buffer): (usize, &Bytes)| {
            let alone = at >= is_kept && is_shared(buffer);
            let owner = if alone { Owner::of(vec![buffer.clone()], vec![]) } else { std::ptr::null_mut() };
            Part { slice: Slice::new(buffer), owner }
        };
        let parts: Vec<Part> = bytes.iter().enumerate().map(part).collect();
        let others = bytes.into_iter().zip(&parts).filter(|(_, part)| part.owner.is_null()).map(|(buffer, _)| buffer);
        let others = others.collect();
        (work.buffers, work.buffer_count) = (parts.as_ptr(), parts.len());
        work.owner = Owner::of(others, parts);
    };
    match piece {
        Piece::Shutdown => {}
        Piece::Direct { token, kind: direct, body } => {
            work.kind = kind::DIRECT;
            work.token = token;
            work.name = Slice::new(direct.name().as_bytes());
            own(&mut work, None, body);
        }
        Piece::Tasks { token, key, function, first, items } => {
            work.kind = kind::TASKS;
            work.token = token;
            work.map_key = map_key(key);
            work.first_task = first;
            work.has_function = u32::from(function.is_some());
            own(&mut work, function, items); // the function may still be given to other engines
        }
        Piece::Forget(key) => {
            work.kind = kind::FORGET;
            work.map_key = map_key(key);
        }
    }
    // SAFETY: the extension passes a place for one `Work`.
    unsafe { out.write(work) };
}

/// One number for a map: sessions are few, and no session makes 2^40 requests.
fn map_key(key: RequestKey) -> u64 {
    u64::from(key.client.0) << 40 | key.request
}

extern "C" fn release(owner: *mut c_void) {
    // SAFETY: `next` made it from a box, and the extension gives it back once.
    drop(unsafe { Box::from_raw(owner.cast::<Owner>()) });
}

extern "C" fn reply(token: u64, status: u8, started: f64, completed: f64, buffers: *const Slice, count: usize) {
    let Some(driver) = DRIVER.get() else { return };
    // SAFETY: the extension passes `count` slices that live during the call.
    let slices = if count == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(buffers, count) } };
    // SAFETY: as above.
    let slices: Vec<&[u8]> = slices.iter().map(|slice| unsafe { slice.bytes() }).collect();
    let large: Vec<&[&[u8]]> = slices.iter().filter(|slice| slice.len() >= LARGE).map(std::slice::from_ref).collect();
    let mut shared = driver.share(&large).unwrap_or_default().into_iter();
    let mut place = |slice: &&[u8]| if slice.len() >= LARGE { shared.next() } else { None };
    let body = slices.iter().map(|slice| place(slice).unwrap_or_else(|| Bytes::copy_from_slice(slice))).collect();
    driver.shared.reply(token, status_of(status), started, completed, body);
}

extern "C" fn result(token: u64, position: usize, status: u8, pieces: *const Slice, count: usize) -> u32 {
    let Some(driver) = DRIVER.get() else { return 0 };
    // SAFETY: the extension passes `count` slices, at least one, that live during the call, with their bytes.
    let pieces: Vec<&[u8]> =
        unsafe { std::slice::from_raw_parts(pieces, count) }.iter().map(|slice| unsafe { slice.bytes() }).collect();
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let shared = if length < LARGE { None } else { driver.share(&[&pieces]) };
    let shared = shared.and_then(|mut buffers| buffers.pop());
    let (joined, alone);
    let payload = match (shared, &pieces[..]) {
        (Some(shared), _) => Payload::Shared(shared),
        (None, [piece]) => {
            alone = *piece;
            Payload::Here(alone)
        }
        (None, pieces) => {
            joined = pieces.concat();
            Payload::Here(&joined)
        }
    };
    u32::from(driver.shared.result(token, position, status_of(status), payload))
}

extern "C" fn output(token: u64, task: i64, stream: u32, data: Slice) {
    let Some(Driver { shared, .. }) = DRIVER.get().map(Arc::as_ref) else { return };
    let name = match stream {
        0 => OutputName::Stdout,
        1 => OutputName::Stderr,
        2 => OutputName::Display,
        3 => OutputName::Data,
        _ => OutputName::Comm,
    };
    // SAFETY: the bytes live during the call.
    shared.output(token, u32::try_from(task).ok(), name, unsafe { data.bytes() });
}

extern "C" fn user_code(on: u32) {
    if let Some(driver) = DRIVER.get() {
        driver.shared.set_user_code(on != 0);
    }
}

fn status_of(byte: u8) -> Status {
    Status::try_from(byte).unwrap_or(Status::Error)
}
