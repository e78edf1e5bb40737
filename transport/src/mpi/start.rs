//! Collective calls for the start and the end of a job, which leave the core to others while they wait.
//!
//! MPICH's blocking calls poll without a pause: where ranks are more than cores, each round of each call costs a time
//! slice of every rank on the core. The calls here are started, and asked for between pauses.
#![allow(unsafe_code, reason = "MPI's C interface")]

use super::calls::{self, Communicator};
use crate::TransportError;
use mpi::ffi;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{AsRaw, FromRaw};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::time::Duration;

/// Questions with nothing but a change of process between them, before the longer pauses.
const SHORT_PAUSES: u32 = 200;
/// A longer pause.
const PAUSE: Duration = Duration::from_micros(200);

/// Waits until all ranks have come here. Collective.
pub(super) fn barrier(everybody: Communicator) -> Result<(), TransportError> {
    let mut request = MaybeUninit::uninit();
    // SAFETY: a live communicator; a successful call fills the request.
    let request = unsafe {
        calls::check("MPI_Ibarrier", ffi::MPI_Ibarrier(everybody.0, request.as_mut_ptr()))?;
        request.assume_init()
    };
    wait(request)
}

/// What every rank says, in the order of the ranks. Collective.
pub(super) fn all_gather<const N: usize>(
    everybody: Communicator,
    mine: [u64; N],
) -> Result<Vec<[u64; N]>, TransportError> {
    let mut size = 0;
    // SAFETY: a live communicator, and a live local.
    calls::check("MPI_Comm_size", unsafe { ffi::MPI_Comm_size(everybody.0, &raw mut size) })?;
    let mut all = vec![[0; N]; size as usize];
    let (words, mut request) = (N as c_int, MaybeUninit::uninit());
    // SAFETY: both buffers have room for what is named, and stay in place until the request is done; or MPI is broken,
    // and the error ends the process.
    let request = unsafe {
        calls::check(
            "MPI_Iallgather",
            ffi::MPI_Iallgather(
                mine.as_ptr().cast::<c_void>(),
                words,
                ffi::RSMPI_UINT64_T,
                all.as_mut_ptr().cast::<c_void>(),
                words,
                ffi::RSMPI_UINT64_T,
                everybody.0,
                request.as_mut_ptr(),
            ),
        )?;
        request.assume_init()
    };
    wait(request)?;
    Ok(all)
}

/// A communicator of the same ranks whose errors are returned, and not fatal. Collective.
pub(super) fn duplicate(everybody: Communicator) -> Result<SimpleCommunicator, TransportError> {
    let (mut made, mut request) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: both locals stay in place until the request is done, which fills the handle.
    let made = unsafe {
        calls::check("MPI_Comm_idup", ffi::MPI_Comm_idup(everybody.0, made.as_mut_ptr(), request.as_mut_ptr()))?;
        wait(request.assume_init())?;
        made.assume_init()
    };
    // SAFETY: a live communicator; nobody else frees it.
    let made = unsafe { SimpleCommunicator::from_raw(made) };
    return_errors(&made)?;
    Ok(made)
}

/// From here on errors are returned by the calls of a communicator, and not fatal.
pub(super) fn return_errors(communicator: &SimpleCommunicator) -> Result<(), TransportError> {
    // SAFETY: a live communicator.
    calls::check("MPI_Comm_set_errhandler", unsafe {
        ffi::MPI_Comm_set_errhandler(communicator.as_raw(), ffi::RSMPI_ERRORS_RETURN)
    })
}

fn wait(mut request: ffi::MPI_Request) -> Result<(), TransportError> {
    let mut pauses = 0;
    while !calls::test(&mut request)? {
        if pauses < SHORT_PAUSES {
            pauses += 1;
            std::thread::yield_now();
        } else {
            std::thread::sleep(PAUSE);
        }
    }
    Ok(())
}
