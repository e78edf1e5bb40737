//! Bytes of the rank program as Python sees them.

use pxcluster_engine_abi::{Slice, Vtable, Work};
use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// Memory of one piece of work; given back when the last buffer that points into it is gone.
pub(crate) struct Owner {
    vtable: &'static Vtable,
    owner: *mut c_void,
}

// SAFETY: the program's owner is a plain heap object without thread affinity, and only `release` touches it.
unsafe impl Send for Owner {}
// SAFETY: as above.
unsafe impl Sync for Owner {}

impl Owner {
    /// Takes over what `work` owns.
    ///
    /// # Safety
    /// `work` must come from `vtable.next` and not have been adopted before; the slices live as long as the owner.
    pub(crate) unsafe fn adopt<'a>(vtable: &'static Vtable, work: &Work) -> (Arc<Self>, &'a [Slice]) {
        let slices = if work.buffer_count == 0 {
            &[]
        } else {
            // SAFETY: the caller's promise.
            unsafe { std::slice::from_raw_parts(work.buffers, work.buffer_count) }
        };
        (Arc::new(Self { vtable, owner: work.owner }), slices)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.owner.is_null() {
            (self.vtable.release)(self.owner);
        }
    }
}

/// A read-only buffer that a direct request or task came with; `memoryview(buffer)` shows it without a copy.
#[pyclass(module = "pxcluster._engine._pxengine", frozen)]
pub(crate) struct Buffer {
    slice: Slice,
    _owner: Arc<Owner>,
}

// SAFETY: the bytes are never changed, and `_owner` keeps them alive.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn new(slice: Slice, owner: Arc<Owner>) -> Self {
        Self { slice, _owner: owner }
    }
}

#[pymethods]
impl Buffer {
    fn __len__(&self) -> usize {
        self.slice.len
    }

    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view given"));
        }
        let slice = slf.get().slice;
        let (data, len) = (slice.data.cast_mut().cast::<c_void>(), slice.len as isize);
        // SAFETY: the interpreter passes a valid view; the exporter is kept alive by it; 1 means read-only.
        let result = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), data, len, 1, flags) };
        if result == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
