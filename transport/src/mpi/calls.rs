//! MPI's C calls, each behind a safe function that owns the memory it uses.

use crate::TransportError;
use bytes::Bytes;
use mpi::ffi;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

/// Fragments up to this size, bytes, have arrived whole when their probe matches (eager protocol of all MPIs).
const EAGER: usize = 4 << 10;

/// The control communicator.
#[derive(Clone, Copy)]
pub(super) struct Communicator(pub(super) ffi::MPI_Comm);

// SAFETY: MPI was initialised for use by several threads, or this handle is used by one thread at a time; see World.
unsafe impl Send for Communicator {}

/// A matched message that has not been received.
pub(super) struct Found {
    message: ffi::MPI_Message,
    pub(super) source: usize,
    tag: c_int,
    count: usize,
}

/// A send under way; it owns the bytes.
pub(super) struct Sending {
    request: ffi::MPI_Request,
    _bytes: Bytes,
}

/// A receive under way; it owns the buffer.
pub(super) struct Receiving {
    request: Option<ffi::MPI_Request>,
    buffer: Vec<u8>,
    tag: c_int,
}

/// A broadcast under way, with the bytes that are sent, or the buffer that is filled.
pub(super) struct Broadcasting {
    request: ffi::MPI_Request,
    sent: Option<Bytes>,
    buffer: Vec<u8>,
}

// SAFETY: requests belong to the transport, which is used by one thread at a time.
unsafe impl Send for Broadcasting {}
// SAFETY: as above.
unsafe impl Send for Sending {}
// SAFETY: as above.
unsafe impl Send for Receiving {}

impl Communicator {
    /// Looks for a message from anybody.
    pub(super) fn probe(self) -> Result<Option<Found>, TransportError> {
        let mut flag = 0;
        let mut message = MaybeUninit::<ffi::MPI_Message>::uninit();
        let mut status = MaybeUninit::<ffi::MPI_Status>::zeroed();
        // SAFETY: all pointers are to live locals of the right types.
        check("MPI_Improbe", unsafe {
            ffi::MPI_Improbe(
                ffi::RSMPI_ANY_SOURCE,
                ffi::RSMPI_ANY_TAG,
                self.0,
                &raw mut flag,
                message.as_mut_ptr(),
                status.as_mut_ptr(),
            )
        })?;
        if flag == 0 {
            return Ok(None);
        }
        let mut count = 0;
        // SAFETY: a set flag means that MPI has filled message and status.
        let (message, status) = unsafe { (message.assume_init(), status.assume_init()) };
        // SAFETY: the status was filled above.
        check("MPI_Get_count", unsafe { ffi::MPI_Get_count(&raw const status, ffi::RSMPI_UINT8_T, &raw mut count) })?;
        Ok(Some(Found { message, source: status.MPI_SOURCE as usize, tag: status.MPI_TAG, count: count as usize }))
    }

    /// Starts a send. The fragment is shorter than 2 GiB (see `link::SEGMENT`).
    pub(super) fn send(self, to: usize, tag: c_int, bytes: Bytes) -> Result<Sending, TransportError> {
        let mut request = MaybeUninit::uninit();
        // SAFETY: the bytes live in the returned value until the request is done.
        check("MPI_Isend", unsafe {
            ffi::MPI_Isend(
                bytes.as_ptr().cast::<c_void>(),
                bytes.len() as c_int,
                ffi::RSMPI_UINT8_T,
                to as c_int,
                tag,
                self.0,
                request.as_mut_ptr(),
            )
        })?;
        // SAFETY: a successful call has filled the request.
        Ok(Sending { request: unsafe { request.assume_init() }, _bytes: bytes })
    }
}

impl Communicator {
    /// Starts a broadcast from rank 0, which calls this.
    pub(super) fn broadcast(self, bytes: Bytes) -> Result<Broadcasting, TransportError> {
        let request = self.ibcast(bytes.as_ptr().cast_mut(), bytes.len())?; // the root's buffer is only read
        Ok(Broadcasting { request, sent: Some(bytes), buffer: vec![] })
    }

    /// Takes part in a broadcast from rank 0; all others call this.
    pub(super) fn join_broadcast(self, length: usize) -> Result<Broadcasting, TransportError> {
        let mut buffer = vec![0; length];
        let request = self.ibcast(buffer.as_mut_ptr(), length)?;
        Ok(Broadcasting { request, sent: None, buffer })
    }

    fn ibcast(self, address: *mut u8, length: usize) -> Result<ffi::MPI_Request, TransportError> {
        let mut request = MaybeUninit::uninit();
        // SAFETY: heap memory of that length, which the callers keep in place until the request is done.
        check("MPI_Ibcast", unsafe {
            let bytes = address.cast::<c_void>();
            ffi::MPI_Ibcast(bytes, length as c_int, ffi::RSMPI_UINT8_T, 0, self.0, request.as_mut_ptr())
        })?;
        // SAFETY: a successful call has filled the request.
        Ok(unsafe { request.assume_init() })
    }
}

impl Broadcasting {
    /// What was sent or has come, once it is done.
    pub(super) fn take_if_done(&mut self) -> Result<Option<Bytes>, TransportError> {
        if !test(&mut self.request)? {
            return Ok(None);
        }
        Ok(Some(self.sent.take().unwrap_or_else(|| Bytes::from(std::mem::take(&mut self.buffer)))))
    }
}

impl Found {
    /// Receives it: at once if it has arrived whole, else in the background.
    pub(super) fn receive(mut self) -> Result<Receiving, TransportError> {
        let mut buffer = vec![0; self.count];
        let (address, count) = (buffer.as_mut_ptr().cast::<c_void>(), self.count as c_int);
        if self.count <= EAGER {
            // SAFETY: the buffer has `count` bytes; the message was matched and not yet received.
            check("MPI_Mrecv", unsafe {
                let ignored = ffi::RSMPI_STATUS_IGNORE.cast();
                ffi::MPI_Mrecv(address, count, ffi::RSMPI_UINT8_T, &raw mut self.message, ignored)
            })?;
            return Ok(Receiving { request: None, buffer, tag: self.tag });
        }
        let mut request = MaybeUninit::uninit();
        // SAFETY: the buffer's heap memory does not move and lives in the returned value until the request is done.
        check("MPI_Imrecv", unsafe {
            ffi::MPI_Imrecv(address, count, ffi::RSMPI_UINT8_T, &raw mut self.message, request.as_mut_ptr())
        })?;
        // SAFETY: a successful call has filled the request.
        Ok(Receiving { request: Some(unsafe { request.assume_init() }), buffer, tag: self.tag })
    }
}

impl Found {
    /// Throws it away: it is from a rank that has died. One that has not arrived whole never will, and stays with MPI.
    pub(super) fn ignore(self) {
        if self.count <= EAGER {
            let _it_is_thrown_away_anyway = self.receive();
        }
    }
}

impl Sending {
    /// Whether the bytes may be dropped.
    pub(super) fn is_done(&mut self) -> Result<bool, TransportError> {
        test(&mut self.request)
    }
}

impl Receiving {
    /// The fragment, once it is whole.
    pub(super) fn take_if_done(&mut self) -> Result<Option<Bytes>, TransportError> {
        if let Some(request) = &mut self.request
            && !test(request)?
        {
            return Ok(None);
        }
        self.request = None;
        Ok(Some(Bytes::from(std::mem::take(&mut self.buffer))))
    }

    pub(super) fn tag(&self) -> c_int {
        self.tag
    }
}

pub(super) fn test(request: &mut ffi::MPI_Request) -> Result<bool, TransportError> {
    let mut flag = 0;
    // SAFETY: a request that was made by MPI and is owned by the caller; done requests become null ones.
    check("MPI_Test", unsafe { ffi::MPI_Test(request, &raw mut flag, ffi::RSMPI_STATUS_IGNORE.cast()) })?;
    Ok(flag != 0)
}

/// Turns an MPI return code into an error with the library's words.
pub(super) fn check(call: &'static str, code: c_int) -> Result<(), TransportError> {
    if code == 0 {
        return Ok(());
    }
    let mut text = vec![0u8; 1024];
    let mut length = 0;
    // SAFETY: the buffer is longer than MPI_MAX_ERROR_STRING of the implementations in use (256 … 1024).
    unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &raw mut length) };
    text.truncate(length.max(0) as usize);
    Err(TransportError::Mpi { call, message: String::from_utf8_lossy(&text).replace('\n', " ") })
}
