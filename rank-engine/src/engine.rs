//! Ranks ≥ 1. The main thread is Python's; the comm thread speaks MPI while user code runs and never touches the GIL.
#![allow(unsafe_code, reason = "_exit, mallopt")]

mod comm;
mod driver;
mod interpreter;
mod outbox;
mod parcel;
mod shared;
mod vtable;

use crate::keeper;
use crate::nanny::Nanny;
use anyhow::Context;
use bytes::Bytes;
use driver::Driver;
use interpreter::Embedded;
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::to_engine::{Cargo, Setup, ToEngine};
use pxcluster_protocol::{Rank, codec};
use pxcluster_transport::mpi::{MpiTransport, World};
use pxcluster_transport::{Transport, drain, relay, send};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How late the kernel may wake this process, nanoseconds. It allows itself 50 us unless told, by which every short sleep of
/// user code would be longer than asked for.
const TIMER_SLACK: u64 = 1_000;
/// What the allocator of an engine keeps of what user code has freed, bytes, and below which size it keeps anything. By
/// default arrays of a megabyte go back to the system each time, and a third of a map over such is page faults.
const KEPT: [libc::c_int; 2] = [32 << 20, 4 << 20];
/// How long the launcher may take to end the job under an engine that must not leave MPI.
const ABORT: Duration = Duration::from_secs(10);

/// Runs the engine until the cluster ends. An engine that fails dies, if it has a nanny, and the others go on.
pub(crate) fn run(world: &World, nanny: Nanny) -> anyhow::Result<ExitCode> {
    nix::sys::prctl::set_timerslack(TIMER_SLACK).context("prctl")?;
    keep_freed_memory();
    let nanny = Arc::new(nanny);
    let result = run_until_the_end(world, &nanny);
    if let Err(error) = &result
        && nanny.is_there()
    {
        crate::fail(error);
        // SAFETY: ends the process at once; leaving MPI would wait for the others.
        unsafe { libc::_exit(1) }
    }
    nanny.leaving();
    result
}

fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: two numbers; a value that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT[0]);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT[1]);
    }
}

fn run_until_the_end(world: &World, nanny: &Arc<Nanny>) -> anyhow::Result<ExitCode> {
    let mut transport = world.transport();
    let Some(setup) = wait_for_setup(&mut transport)? else { return Ok(ExitCode::SUCCESS) };
    nanny.keep_connections();
    let engine = transport.rank().engine().context("rank 0 is no engine")?;
    let embedded = match Embedded::load(&setup) {
        Ok(embedded) => embedded,
        Err(error) => {
            let unfit = ToController::Unfit { reason: error.to_string() };
            send(&mut transport, Rank::CONTROLLER, &unfit, vec![])?;
            leave(&mut transport)?;
            return Ok(ExitCode::SUCCESS); // rank 0 fails and says why
        }
    };
    let driver = Arc::new(Driver::new(transport, Arc::clone(nanny), world.arena(), setup.beat)?);
    let about = vtable::About {
        engine,
        engine_count: world.size() - 1,
        thread_multiple: world.is_thread_multiple(),
        engines_comm: world.engines_handle().unwrap_or_default(),
        cluster_id: setup.cluster_id,
        uuid: format!("{}-{}-{engine}", nix::unistd::gethostname()?.to_string_lossy(), std::process::id()),
    };
    let comm = {
        let driver = Arc::clone(&driver);
        let name = std::thread::Builder::new().name("px-comm".into());
        name.spawn(move || driver.run()).context("the comm thread cannot be started")?
    };
    let status = embedded.run(vtable::install(Arc::clone(&driver), about));
    driver.shared.python_has_ended(status);
    comm.join().map_err(|_| anyhow::anyhow!("the comm thread panicked"))??;
    if driver.someone_has_died() {
        // MPI's own end would wait for the dead. Under srun all ranks just leave; elsewhere rank 0 ends the job by an abort
        // when everybody has come here.
        if !nanny.is_of_step() {
            std::thread::sleep(ABORT);
        } else if keeper::say_goodbye() {
            nanny.leaving();
        } else {
            nanny.deserting();
        }
        // SAFETY: ends the process without that end.
        unsafe { libc::_exit(0) }
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits for the first message; `None` if the cluster ends before it begins.
fn wait_for_setup(transport: &mut MpiTransport) -> anyhow::Result<Option<Setup>> {
    loop {
        let Some((_, message)) = transport.receive()? else {
            transport.wait(Duration::from_millis(100));
            continue;
        };
        let (ToEngine::Relay { targets, cargo }, body) = codec::decode(&message)? else { continue };
        pass_on(transport, &targets, &cargo, &body)?;
        match cargo.unwrap_number().1 {
            Cargo::Setup(setup) => return Ok(Some(setup)),
            Cargo::Shutdown => {
                drain(transport)?;
                return Ok(None);
            }
            _ => {}
        }
    }
}

/// Relays a broadcast to the targets below this engine.
fn pass_on(
    transport: &mut MpiTransport,
    targets: &pxcluster_protocol::EngineSet,
    cargo: &Cargo,
    body: &[Bytes],
) -> anyhow::Result<()> {
    let below = transport.rank().engine().map_or_else(|| targets.clone(), |me| targets.without(me));
    Ok(relay(transport, &below, cargo, body)?)
}

/// For an engine that does not run: waits for the end of the cluster, relaying meanwhile.
fn leave(transport: &mut MpiTransport) -> anyhow::Result<()> {
    loop {
        if let Some((_, message)) = transport.receive()? {
            if let (ToEngine::Relay { targets, cargo }, body) = codec::decode(&message)? {
                pass_on(transport, &targets, &cargo, &body)?;
                if cargo.unwrap_number().1 == Cargo::Shutdown {
                    return Ok(drain(transport)?);
                }
            }
        } else {
            transport.wait(Duration::from_millis(100));
        }
    }
}
