//! The comm thread: everything that this rank says and hears. It never touches the GIL.
#![allow(unsafe_code, reason = "pthread_kill of the main thread")]

use super::pass_on;
use super::shared::Shared;
use anyhow::Context;
use bytes::Bytes;
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::to_engine::{Cargo, ToEngine};
use pxcluster_protocol::{EngineId, Rank, codec};
use pxcluster_transport::mpi::MpiTransport;
use pxcluster_transport::{Transport, send};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longest sleep of an idle engine; it is woken when there is something to do.
const IDLE: Duration = Duration::from_secs(1);
/// User code that does not let Python end is interrupted this often.
const NAG: Duration = Duration::from_millis(200);

/// The thread that runs Python, as the kernel's signal calls name it.
static MAIN: OnceLock<libc::pthread_t> = OnceLock::new();

/// Says that the calling thread is Python's.
pub(super) fn this_is_the_main_thread() {
    // SAFETY: no arguments, always succeeds.
    let _set_once = MAIN.set(unsafe { libc::pthread_self() });
}

/// Runs until Python has ended and everything has been said.
pub(super) fn run(mut transport: MpiTransport, shared: &Shared) -> anyhow::Result<()> {
    let me = transport.rank().engine().context("rank 0 is no engine")?;
    let (mut announced, mut ending) = (false, None);
    loop {
        let mut idle = true;
        while let Some((_, message)) = transport.receive().context("MPI fails")? {
            idle = false;
            if handle(&mut transport, shared, me, &message)? {
                ending = Some(Instant::now());
            }
        }
        if !announced && shared.is_ready() {
            announced = true;
            let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
            send(&mut transport, Rank::CONTROLLER, &ToController::Ready { host, pid: std::process::id() }, vec![])?;
        }
        let (messages, due) = shared.take_messages();
        for (header, body) in messages {
            idle = false;
            send(&mut transport, Rank::CONTROLLER, &header, body)?;
        }
        if due.is_none()
            && idle
            && let Some(status) = shared.ended()
        {
            return say_goodbye(transport, announced, ending.is_some(), status);
        }
        if let Some(since) = &mut ending
            && since.elapsed() >= NAG
        {
            *since = Instant::now();
            interrupt(shared, libc::SIGINT);
        }
        if idle {
            let until_due = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
            transport.wait(until_due.min(if ending.is_some() { NAG } else { IDLE }));
        }
    }
}

/// Carries out one message; `true` if the cluster is to end.
fn handle(transport: &mut MpiTransport, shared: &Shared, me: EngineId, message: &Bytes) -> anyhow::Result<bool> {
    let (header, body) = codec::decode::<ToEngine>(message)?;
    let (targets, cargo) = match header {
        ToEngine::Grant(grant) => {
            shared.put_grant(grant, body)?;
            return Ok(false);
        }
        ToEngine::Relay { targets, cargo } => (targets, cargo),
    };
    pass_on(transport, &targets, &cargo, &body)?;
    match cargo {
        Cargo::Setup(_) => {}
        Cargo::Direct(direct) => shared.put_direct(me, &direct, body),
        Cargo::Signal(signal) => interrupt(shared, signal),
        Cargo::Abort(keys) => shared.abort(keys),
        Cargo::Forget(keys) => shared.forget(keys),
        Cargo::Shutdown => {
            shared.shut_down();
            interrupt(shared, libc::SIGINT);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends a signal to the main thread. SIGINT is for user code only: Python's own waiting is not to be interrupted.
fn interrupt(shared: &Shared, signal: i32) {
    if signal == libc::SIGINT && !shared.runs_user_code() {
        return;
    }
    if let Some(main) = MAIN.get() {
        // SAFETY: the main thread outlives the comm thread.
        let code = unsafe { libc::pthread_kill(*main, signal) };
        if code != 0 {
            tracing::warn!("signal {signal} cannot be sent to user code (error {code})");
        }
    }
}

/// The last message, and its delivery.
fn say_goodbye(mut transport: MpiTransport, announced: bool, expected: bool, status: i32) -> anyhow::Result<()> {
    let last = if announced && expected {
        ToController::Bye
    } else if announced {
        ToController::Unfit { reason: format!("its Python ended with status {status} although nobody asked it to") }
    } else {
        let reason = format!("its Python ended with status {status} before it was ready; its own message is above");
        ToController::Unfit { reason }
    };
    let unfit = last != ToController::Bye;
    send(&mut transport, Rank::CONTROLLER, &last, vec![])?;
    super::drain(&mut transport)?;
    if unfit && !expected {
        super::leave(transport)?;
    }
    Ok(())
}
