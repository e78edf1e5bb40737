//! CPython, loaded at run time: the one door to it in this program.
//!
//! The program is not linked to libpython, so that one build serves every CPython from 3.11. `Py_BytesMain` with the
//! environment's own program name makes the interpreter find its `pyvenv.cfg`, as if the user had started it.
#![allow(unsafe_code, reason = "dlopen and a call into C")]

use super::vtable::VtableAddress;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use nix::sys::signal::{SigHandler, Signal, signal};
use pxcluster_protocol::to_engine::Setup;
use std::ffi::{CString, c_char, c_int};

type BytesMain = unsafe extern "C" fn(c_int, *mut *mut c_char) -> c_int;

/// An interpreter that is loaded and has not run.
pub(super) struct Embedded {
    library: Library,
    executable: CString,
}

/// An interpreter that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(
        "{path} cannot be loaded on this host: {source}; install the same Python on every host, or start with --python naming one that all hosts have"
    )]
    Library {
        /// The shared library.
        path: String,
        /// What the loader says.
        source: libloading::Error,
    },
    #[error("the path of the interpreter contains a zero byte")]
    Path(#[from] std::ffi::NulError),
}

impl Embedded {
    /// Loads the library that rank 0 has found. Extension modules find its symbols (`RTLD_GLOBAL`).
    pub(super) fn load(setup: &Setup) -> Result<Self, LoadError> {
        let executable = CString::new(setup.python.as_str())?;
        // SAFETY: libpython runs no code of its own when it is loaded.
        let library = unsafe { Library::open(Some(&setup.libpython), RTLD_NOW | RTLD_GLOBAL) };
        let library = library.map_err(|source| LoadError::Library { path: setup.libpython.clone(), source })?;
        Ok(Self { library, executable })
    }

    /// Runs the engine's Python in the calling thread until its main loop ends; its exit status.
    pub(super) fn run(self, vtable: VtableAddress) -> i32 {
        super::comm::this_is_the_main_thread();
        default_crashes();
        let code = format!("from pxcluster._engine import _pxengine; _pxengine.run({})", vtable.0);
        let Ok(code) = CString::new(code) else { return 1 };
        let mut arguments = [self.executable.as_ptr().cast_mut(), c"-c".as_ptr().cast_mut(), code.as_ptr().cast_mut()];
        // SAFETY: the symbol has this type in every CPython from 3.8; it reads `argc` C strings that outlive the call.
        let status = unsafe {
            self.library
                .get::<BytesMain>(b"Py_BytesMain\0")
                .map_or(1, |main| main(arguments.len() as c_int, arguments.as_mut_ptr()))
        };
        // Never unloaded: threads that Python has started may still run its code.
        std::mem::forget(self.library);
        status
    }
}

/// Gives crashes their default action. Rust's own handlers would swallow the first of such signals that is sent by `kill`.
fn default_crashes() {
    for crash in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default action runs no code.
        let _never_fails = unsafe { signal(crash, SigHandler::SigDfl) };
    }
}
