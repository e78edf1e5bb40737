//! Rank 0: tells the engines what to embed, then runs the controller.
#![allow(unsafe_code, reason = "_exit, malloc_trim")]

use crate::cli::Flags;
use crate::environment::Place;
use crate::keeper;
use crate::python::Probe;
use pxcluster_controller::{Advertise, Bounds, ClusterFiles, Controller, ControllerError, Ended, Settings};
use pxcluster_protocol::EngineSet;
use pxcluster_protocol::to_engine::{Cargo, Setup};
use pxcluster_transport::mpi::World;
use pxcluster_transport::{drain, relay};
use std::process::ExitCode;

/// Runs the cluster until it is stopped.
pub(crate) fn run(world: &World, place: Place, flags: &Flags, probe: Probe) -> anyhow::Result<ExitCode> {
    let mut transport = world.transport();
    if !world.is_thread_multiple() {
        tracing::warn!("MPI grants no MPI_THREAD_MULTIPLE: user code on the engines cannot import mpi4py");
    }
    let everybody = EngineSet::first(world.size() - 1);
    let prepared = prepare(flags, probe);
    let (files, lock, version, bounds) = match prepared {
        Ok((files, lock, setup, version, bounds)) => {
            relay(&mut transport, &everybody, &Cargo::Setup(setup), &[])?;
            (files, lock, version, bounds)
        }
        Err(error) => {
            relay(&mut transport, &everybody, &Cargo::Shutdown, &[])?;
            drain(&mut transport)?;
            return Err(error);
        }
    };
    let settings = Settings {
        cluster_id: flags.cluster_id.clone(),
        port: flags.port,
        advertise: Advertise { addresses: flags.advertise.clone(), interface: flags.interface.clone() },
        python: version,
        slurm_job_id: std::env::var("SLURM_JOB_ID").ok(),
        slurm_end_time: std::env::var("SLURM_JOB_END_TIME").ok().and_then(|time| time.parse().ok()),
        nannies: !flags.no_nanny,
        grace: flags.grace,
        lost_after: flags.lost_after,
        bounds,
        release_memory,
        arena: world.arena(),
        nodes: world.nodes().to_vec(),
    };
    match Controller::new(transport, settings, files).run(lock) {
        Ok(Ended::Together) => Ok(ExitCode::SUCCESS),
        // An abort would end the step with the status of a killed one.
        // SAFETY: ends the process without MPI_Finalize, which would wait for ranks that are gone.
        Ok(Ended::WithoutTheDead) if place.by_srun && keeper::say_goodbye() => unsafe { libc::_exit(0) },
        Ok(Ended::WithoutTheDead) if place.by_srun => keeper::exit_keeping_connections(0),
        Ok(Ended::Alone | Ended::WithoutTheDead) => world.abort(0),
        // SAFETY: as above.
        Ok(Ended::Orphaned) => unsafe { libc::_exit(1) },
        Err(error @ ControllerError::Died(_)) => {
            crate::fail(&error.into());
            world.abort(1) // as above
        }
        Err(error) => Err(error.into()),
    }
}

type Prepared = (ClusterFiles, pxcluster_controller::ClusterLock, Setup, String, Bounds);

fn prepare(flags: &Flags, probe: Probe) -> anyhow::Result<Prepared> {
    let bounds = Bounds::from_variables(|name| std::env::var(name).ok())?;
    let files = ClusterFiles::locate(&flags.cluster_id)?;
    let lock = files.claim()?;
    let python = probe.wait()?;
    let (cluster_id, beat) = (flags.cluster_id.clone(), pxcluster_controller::beat(flags.lost_after));
    let setup = Setup { cluster_id, python: python.executable, libpython: python.libpython, beat };
    Ok((files, lock, setup, python.version, bounds))
}

/// What a large map took stays with the allocator otherwise: 65 MB after a million tasks, 19 MB with this.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; glibc locks what it looks at.
    unsafe {
        libc::malloc_trim(0);
    }
}
