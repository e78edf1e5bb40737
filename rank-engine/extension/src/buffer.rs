//! Bytes of the rank program as Python sees them.

use pxcluster_engine_abi::{Part, Slice, Vtable, Work};
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
    pub(crate) unsafe fn adopt<'a>(vtable: &'static Vtable, work: &Work) -> (Arc<Self>, &'a [Part]) {
        let parts = if work.buffer_count == 0 {
            &[]
        } else {
            // SAFETY: the caller's promise.
            unsafe { std::slice::from_raw_parts(work.buffers, work.buffer_count) }
        };
        (Arc::new(Self { vtable, owner: work.owner }), parts)
    }

    /// The owner of a part: its own, or that of the work.
    ///
    /// # Safety
    /// To be called once for each part of a piece of work.
    pub(crate) unsafe fn of(part: &Part, work: &Arc<Self>) -> Arc<Self> {
        if part.owner.is_null() {
            return Arc::clone(work);
        }
        Arc::new(Self { vtable: work.vtable, owner: part.owner })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if !self.owner.is_null() {
            (self.vtable.release)(self.owner);
        }
    }
}

/// A buffer that a direct request or task came with; `memoryview(buffer)` shows it without a copy. It may be written to if it
/// has an owner of its own.
#[pyclass(module = "pxcluster._engine._pxengine", frozen)]
pub(crate) struct Buffer {
    slice: Slice,
    is_writable: bool,
    _owner: Arc<Owner>,
}

// SAFETY: the bytes are changed by Python alone, under its own rules, and `_owner` keeps them alive.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    pub(crate) fn new(slice: Slice, is_writable: bool, owner: Arc<Owner>) -> Self {
        Self { slice, is_writable, _owner: owner }
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
        let Self { slice, is_writable, .. } = slf.get();
        let (data, len) = (slice.data.cast_mut().cast::<c_void>(), slice.len as isize);
        // SAFETY: the interpreter passes a valid view; the exporter is kept alive by it.
        let result = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), data, len, (!is_writable).into(), flags) };
        if result == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
