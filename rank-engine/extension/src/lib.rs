//! `pxcluster._engine._pxengine`: the interpreter's door to the rank program.
//!
//! The module has one function, `run(address)`, which the rank program calls by `python -c`. It wraps the program's
//! functions in a `Runtime` and hands that to `pxcluster._engine.main.main`. It never calls MPI.
#![allow(unsafe_code, reason = "the other side of a C interface, and the buffer protocol")]
#![allow(clippy::needless_pass_by_value, reason = "pyo3 hands arguments over by value")]

mod buffer;

use buffer::{Buffer, Owner};
use pxcluster_engine_abi::{self as abi, Part, Slice, Vtable, Work, kind};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::sync::Arc;

/// Items up to this size, bytes, are handed over as `bytes`: copying them is cheaper than a buffer object.
const COPY: usize = 64 << 10;

/// What an engine's Python may ask of the rank program.
#[pyclass(module = "pxcluster._engine._pxengine", frozen)]
struct Runtime {
    vtable: &'static Vtable,
}

#[pymethods]
impl Runtime {
    /// This engine's id.
    #[getter]
    fn engine_id(&self) -> u32 {
        self.vtable.engine_id
    }

    /// Number of engines at the start.
    #[getter]
    fn engine_count(&self) -> u32 {
        self.vtable.engine_count
    }

    /// Name of the cluster.
    #[getter]
    fn cluster_id(&self) -> String {
        // SAFETY: the program keeps its vtable and what it names for ever.
        String::from_utf8_lossy(unsafe { self.vtable.cluster_id.bytes() }).into_owned()
    }

    /// A name of this engine that no other has.
    #[getter]
    fn uuid(&self) -> String {
        // SAFETY: as above.
        String::from_utf8_lossy(unsafe { self.vtable.uuid.bytes() }).into_owned()
    }

    /// Whether user code may call MPI.
    #[getter]
    fn thread_multiple(&self) -> bool {
        self.vtable.thread_multiple != 0
    }

    /// Fortran handle of the engines communicator.
    #[getter]
    fn engines_comm(&self) -> i32 {
        self.vtable.engines_comm
    }

    /// Blocks, without the GIL, until there is work; `None` means: leave the main loop.
    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let vtable = self.vtable;
        let work = py.detach(|| {
            let mut work = std::mem::MaybeUninit::<Work>::zeroed();
            (vtable.next)(work.as_mut_ptr());
            // SAFETY: the program fills every field; all-zero is valid for the fields of kinds that do not use them.
            Piece(unsafe { work.assume_init() })
        });
        let work = work.0;
        // SAFETY: the program hands over `buffer_count` parts that live until `owner` is released.
        let (owner, parts) = unsafe { Owner::adopt(vtable, &work) };
        // SAFETY: each part once.
        let owner_of = |part: &Part| unsafe { Owner::of(part, &owner) };
        let whole = |part: &Part| wrap(py, part.slice, !part.owner.is_null(), owner_of(part));
        let item = |part: &Part| if part.owner.is_null() { hand_over(py, part.slice, &owner) } else { whole(part) };
        match work.kind {
            kind::SHUTDOWN => Ok(None),
            kind::DIRECT => {
                // SAFETY: names are static strings of the program.
                let name = PyString::new(py, &String::from_utf8_lossy(unsafe { work.name.bytes() }));
                let body: PyResult<Vec<Py<PyAny>>> = parts.iter().map(whole).collect();
                Ok(Some(("direct", work.token, name, body?).into_pyobject(py)?.into_any()))
            }
            kind::TASKS => {
                let first = work.has_function as usize;
                let function = if first == 1 { Some(whole(&parts[0])?) } else { None };
                let items: Vec<Py<PyAny>> = parts[first..].iter().map(item).collect::<PyResult<_>>()?;
                let tasks = ("tasks", work.token, work.map_key, function, items, work.first_task);
                Ok(Some(tasks.into_pyobject(py)?.into_any()))
            }
            kind::FORGET => Ok(Some(("forget", work.map_key).into_pyobject(py)?.into_any())),
            other => Err(PyRuntimeError::new_err(format!("the rank program hands over unknown work {other}"))),
        }
    }

    /// Answers a direct request. Times are Unix seconds; `buffers` are bytes-like.
    fn reply(
        &self,
        py: Python<'_>,
        token: u64,
        status: u8,
        started: f64,
        completed: f64,
        buffers: Vec<PyBuffer<u8>>,
    ) -> PyResult<()> {
        let slices: Vec<Slice> = buffers.iter().map(contiguous).collect::<PyResult<_>>()?;
        let (vtable, slices) = (self.vtable, Slices(slices));
        py.detach(move || {
            let slices = slices; // the whole wrapper is Send
            (vtable.reply)(token, status, started, completed, slices.0.as_ptr(), slices.0.len());
        });
        Ok(())
    }

    /// Answers the task at `position` of a piece of work; whether the next one is still to be run here.
    /// A payload in several pieces is a list of bytes-like objects.
    fn result(
        &self,
        py: Python<'_>,
        token: u64,
        position: usize,
        status: u8,
        payload: &Bound<'_, PyAny>,
    ) -> PyResult<bool> {
        let result = self.vtable.result;
        if let Ok(bytes) = payload.cast::<PyBytes>() {
            let slice = Slice::new(bytes.as_bytes());
            return Ok(result(token, position, status, &raw const slice, 1) != 0);
        }
        let pieces: Vec<PyBuffer<u8>> = payload.extract()?;
        let slices = Slices(pieces.iter().map(contiguous).collect::<PyResult<_>>()?);
        Ok(py.detach(move || {
            let slices = slices; // the whole wrapper is Send
            result(token, position, status, slices.0.as_ptr(), slices.0.len()) != 0
        }))
    }

    /// Queues output of user code; `name` is `stdout`, `stderr`, `display`, `data` or `comm`.
    fn output(&self, token: u64, task: Option<u32>, name: &str, data: &[u8]) -> PyResult<()> {
        let stream = ["stdout", "stderr", "display", "data", "comm"].iter().position(|known| *known == name);
        let stream = stream.ok_or_else(|| PyValueError::new_err(format!("unknown stream {name:?}")))?;
        (self.vtable.output)(token, task.map_or(-1, i64::from), stream as u32, Slice::new(data));
        Ok(())
    }

    /// Says that user code begins or has ended: SIGINT is sent only between the two.
    fn user_code(&self, on: bool) {
        (self.vtable.user_code)(u32::from(on));
    }
}

/// Work on its way out of the code that runs without the GIL.
struct Piece(Work);
// SAFETY: the pointers in it belong to this thread; it only crosses a closure that runs on the same thread.
unsafe impl Send for Piece {}

/// Slices on their way into the code that runs without the GIL.
struct Slices(Vec<Slice>);
// SAFETY: the buffers they point to are held by the caller for the whole call.
unsafe impl Send for Slices {}

fn hand_over(py: Python<'_>, slice: Slice, owner: &Arc<Owner>) -> PyResult<Py<PyAny>> {
    if slice.len <= COPY {
        // SAFETY: `owner` keeps the bytes alive during the copy.
        return Ok(PyBytes::new(py, unsafe { slice.bytes() }).into_any().unbind());
    }
    wrap(py, slice, false, Arc::clone(owner))
}

fn wrap(py: Python<'_>, slice: Slice, is_writable: bool, owner: Arc<Owner>) -> PyResult<Py<PyAny>> {
    Ok(Py::new(py, Buffer::new(slice, is_writable, owner))?.into_any())
}

fn contiguous(buffer: &PyBuffer<u8>) -> PyResult<Slice> {
    if !buffer.is_c_contiguous() {
        return Err(PyValueError::new_err("buffers of an answer must be contiguous"));
    }
    Ok(Slice { data: buffer.buf_ptr().cast(), len: buffer.len_bytes() })
}

/// Runs the engine until the rank program ends it. `address` is that of its vtable.
#[pyfunction]
fn run(py: Python<'_>, address: usize) -> PyResult<()> {
    // SAFETY: only the rank program calls this, with the address of a vtable that it never frees.
    let vtable: &'static Vtable = unsafe { &*(address as *const Vtable) };
    if vtable.version != abi::VERSION {
        return Err(PyRuntimeError::new_err(format!(
            "this pxcluster package has engine interface {} and the rank program has {}: install pxcluster again in \
             this environment",
            abi::VERSION,
            vtable.version
        )));
    }
    let runtime = Py::new(py, Runtime { vtable })?;
    py.import("pxcluster._engine.main")?.call_method1("main", (runtime,))?;
    Ok(())
}

/// The interpreter's door to the rank program.
#[pymodule]
fn _pxengine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Runtime>()?;
    module.add_class::<Buffer>()?;
    module.add_function(wrap_pyfunction!(run, module)?)
}
