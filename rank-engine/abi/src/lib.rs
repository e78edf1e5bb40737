//! The C interface between the rank program, which owns MPI, and the extension module, which lives in the interpreter.
//!
//! The program passes the address of a [`Vtable`] to `_pxengine.run`. Both sides are built from the same sources, but the
//! extension is found through `sys.path`, so [`Vtable::version`] is checked before anything else is read. Only plain data
//! crosses: one build of the extension serves every MPI and every CPython from 3.11.
#![allow(unsafe_code, reason = "the types of a C interface; what each pointer means is said where it is")]

use std::ffi::c_void;

/// Version of this interface.
pub const VERSION: u32 = 4;

/// Bytes that somebody else owns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    /// First byte; never null.
    pub data: *const u8,
    /// Number of bytes.
    pub len: usize,
}

impl Slice {
    /// Borrows `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self { data: bytes.as_ptr(), len: bytes.len() }
    }

    /// The bytes.
    ///
    /// # Safety
    /// Their owner must keep them alive and unchanged for `'a`.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        // SAFETY: the caller's promise; `data` is never null.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

/// What the main thread is to do; [`Work::kind`].
pub mod kind {
    /// Leave the main loop.
    pub const SHUTDOWN: u32 = 0;
    /// Run a direct request.
    pub const DIRECT: u32 = 1;
    /// Run tasks of a map.
    pub const TASKS: u32 = 2;
    /// Drop the function of a map.
    pub const FORGET: u32 = 3;
}

/// One buffer of a piece of work.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its bytes.
    pub slice: Slice,
    /// Its own owner, which goes back through [`Vtable::release`] exactly once; the bytes may be written to. Null: the owner of
    /// the work owns them, too, and they are read-only.
    pub owner: *mut c_void,
}

/// One piece of work.
#[repr(C)]
#[derive(Debug)]
pub struct Work {
    /// One of [`kind`].
    pub kind: u32,
    /// Tasks: 1 if the first buffer is the function.
    pub has_function: u32,
    /// Direct request or tasks: to be given back with the answer.
    pub token: u64,
    /// Tasks, forget: the map.
    pub map_key: u64,
    /// Tasks: index of the first; they are consecutive.
    pub first_task: u32,
    /// Direct request: its name (`apply`, `execute` …), static.
    pub name: Slice,
    /// Direct request: its body. Tasks: the function if there is one, then one item per task.
    pub buffers: *const Part,
    /// Number of buffers.
    pub buffer_count: usize,
    /// Owner of the table, and of the buffers that have none of their own; goes back through [`Vtable::release`] exactly once.
    pub owner: *mut c_void,
}

/// What the program does for the extension. All functions may be called without the GIL, from the main thread only,
/// except `output` and `release`, which any thread may call.
#[repr(C)]
pub struct Vtable {
    /// [`VERSION`] of the program.
    pub version: u32,
    /// This engine.
    pub engine_id: u32,
    /// Number of engines at the start.
    pub engine_count: u32,
    /// 1 if user code may call MPI.
    pub thread_multiple: u32,
    /// Fortran handle of the engines communicator.
    pub engines_comm: i32,
    /// Name of the cluster, UTF-8.
    pub cluster_id: Slice,
    /// A name of this engine that no other has, UTF-8.
    pub uuid: Slice,
    /// Blocks until there is work.
    pub next: extern "C" fn(*mut Work),
    /// Gives back the owner of a piece of work.
    pub release: extern "C" fn(*mut c_void),
    /// Answers a direct request: token, status, started, completed, buffers, their number.
    pub reply: extern "C" fn(u64, u8, f64, f64, *const Slice, usize),
    /// Answers one task of a piece of work: token, position, status, payload in so many pieces. 1: go on with the next one; 0:
    /// there is none, or it runs elsewhere. The task is taken to have run since the one before it was answered, or the piece
    /// was handed over.
    pub result: extern "C" fn(u64, usize, u8, *const Slice, usize) -> u32,
    /// Output of user code: token, task or -1, stream (0 stdout, 1 stderr, 2 display), bytes.
    pub output: extern "C" fn(u64, i64, u32, Slice),
    /// User code begins (1) or has ended (0): SIGINT is sent only between the two.
    pub user_code: extern "C" fn(u32),
}

// SAFETY: nothing in it changes after it was made, and what it points to lives for ever.
unsafe impl Send for Vtable {}
// SAFETY: as above.
unsafe impl Sync for Vtable {}
