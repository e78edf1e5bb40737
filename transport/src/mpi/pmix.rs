//! The process manager's library below MPI, for one call that MPI has no name for.

use std::ffi::{CStr, c_int, c_void};

/// As in PMIx's own header: additional information, which is not given here, and its length.
type Finalize = unsafe extern "C" fn(*const c_void, usize) -> c_int;

const LIBRARY: &CStr = c"libpmix.so.2";
const FINALIZE: &CStr = c"PMIx_Finalize";

/// Says goodbye to the PMIx server in MPI's stead, if MPI has loaded that library; whether it did. A rank that may not
/// end MPI, because others have died, is not taken for dead itself then. Nothing of MPI's may be called afterwards.
pub fn say_goodbye() -> bool {
    // SAFETY: only looks whether the library is there.
    let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if library.is_null() {
        return false;
    }
    // SAFETY: a live handle and a C string.
    let symbol = unsafe { libc::dlsym(library, FINALIZE.as_ptr()) };
    if symbol.is_null() {
        return false;
    }
    // SAFETY: the function has had this type since PMIx 2.0.
    let finalize = unsafe { std::mem::transmute::<*mut c_void, Finalize>(symbol) };
    // SAFETY: no information is allowed.
    unsafe { finalize(std::ptr::null(), 0) == 0 }
}
