//! `pxcluster start`: runs mpirun in the background, and waits until the cluster is ready.

mod watch;

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use allocation::{Allocation, AllocationError};
use hostfile::{HostfileError, parse_hostfile, total_slots};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use pxcluster_protocol::connection::ConnectionFile;

use crate::cli::{LauncherName, StartFlags};
use crate::directory::{ClusterDirectory, Controller, DirectoryError, shown};
use crate::env::is_manager_variable;
use crate::link::Link;
use crate::machine::{Process, cores, variables, wait_until};
use crate::mpirun::{self, MpirunError};
use crate::plan::{Flavour, Launch, Node, PlanError, Room, Spread, Starter, binding_is_chosen, to_shell};
use crate::rank_program::{self, RankProgramError};

/// How much of the log is shown when the start fails.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 8 << 10;

/// How long the log's lock is waited for: whoever looks whether it is held, holds it for a moment.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// How long mpirun may take to end its ranks when the start is given up.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no cluster was started.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "transparent variants; the others have their message")]
pub enum StartError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    RankProgram(#[from] RankProgramError),
    #[error(transparent)]
    Mpirun(#[from] MpirunError),
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    #[error(transparent)]
    Hostfile(#[from] HostfileError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("cannot read the hostfile {path}: {cause}; name a file with --hostfile that has a host on each line")]
    NoHostfile { path: String, cause: io::Error },
    #[error("cannot {what} {path}: {cause}")]
    Io { what: &'static str, path: String, cause: io::Error },
    #[error(
        "cluster '{cluster_id}' is already running on host {host} (process {pid}): stop it with \
        `pxcluster stop`, or give this one another --cluster-id"
    )]
    Running { cluster_id: String, host: String, pid: u32 },
    #[error(
        "cluster '{cluster_id}' was started on host {host}, which does not answer; if it is gone, remove {path}, \
        otherwise give this one another --cluster-id"
    )]
    Unknown { cluster_id: String, host: String, path: String },
    #[error("cluster '{0}' is being started by somebody else right now; wait, or give this one another --cluster-id")]
    Starting(String),
    #[error("the cluster did not start: {reason} (all that was printed is in {log})")]
    Failed { reason: String, log: String },
    #[error("the cluster did not start, mpirun ended with {status}; {tail}")]
    Ended { status: ExitStatus, tail: String },
    #[error("the cluster was not ready after {seconds} seconds and is stopped (--timeout gives it longer); {tail}")]
    TooSlow { seconds: f64, tail: String },
    #[error("interrupted, the cluster is stopped")]
    Interrupted,
}

/// A cluster that this program has started, with the mpirun that it runs under.
#[derive(Debug)]
pub struct Started {
    /// Its connection file.
    pub connection: ConnectionFile,
    /// Ends when all ranks have ended.
    pub mpirun: Child,
    /// Whether this program has been told to end.
    pub interrupted: Arc<AtomicBool>,
}

/// Who ends a cluster that nobody stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Nobody: it outlives this program.
    OfItsOwn,
    /// The end of this program, however it comes.
    OfThisProgram,
}

/// Starts a cluster, and gives back what to print.
pub fn run(flags: &StartFlags) -> Result<String, StartError> {
    let directory = ClusterDirectory::locate(flags.rank.cluster_id())?;
    if flags.dry_run {
        return Ok(to_shell(&plan(flags)?.command_line()?));
    }
    if flags.foreground {
        return Err(become_mpirun(flags, &directory));
    }
    let Started { connection, .. } = start(flags, &directory, Lifetime::OfItsOwn)?;
    Ok(ready(&connection, &directory))
}

/// What is printed when a cluster is ready.
pub(crate) fn ready(connection: &ConnectionFile, directory: &ClusterDirectory) -> String {
    format!(
        "pxcluster: cluster '{}' is ready: {} engine{}, connection file {}",
        connection.cluster_id,
        connection.engines,
        if connection.engines == 1 { "" } else { "s" },
        shown(&directory.connection_file())
    )
}

/// Starts a cluster and waits until it is ready.
pub fn start(flags: &StartFlags, directory: &ClusterDirectory, lifetime: Lifetime) -> Result<Started, StartError> {
    let line = plan(flags)?.command_line()?;
    refuse_second(directory)?;
    directory.create()?;
    let log = directory.log_file();
    let _lock = lock(directory, &log)?;
    directory.remove_connection()?;
    let command = command_of(&line, directory);
    let interrupted = watch_signals();
    let mut mpirun = spawn(command, &log, lifetime)?;
    let connection = wait_ready(&mut mpirun, directory, flags.timeout, &interrupted)?;
    Ok(Started { connection, mpirun, interrupted })
}

/// Returns only the reason why this failed.
fn become_mpirun(flags: &StartFlags, directory: &ClusterDirectory) -> StartError {
    let prepared = || {
        let line = plan(flags)?.command_line()?;
        refuse_second(directory)?;
        directory.create()?;
        directory.remove_connection()?;
        Ok(line)
    };
    let line = match prepared() {
        Ok(line) => line,
        Err(error) => return error,
    };
    let mut command = command_of(&line, directory);
    without_manager(&mut command);
    io_error("run", Path::new(&line[0]), command.exec())
}

/// Open MPI's mpirun ends a job when a connection to a host has been dead for eight minutes; who is lost, rank 0 decides.
const MPIRUN_KEEPALIVE: &str = "OMPI_MCA_oob_tcp_keepalive_time";

fn command_of(line: &[std::ffi::OsString], directory: &ClusterDirectory) -> Command {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).env("PXCLUSTER_DIR", directory.base());
    if std::env::var_os(MPIRUN_KEEPALIVE).is_none() {
        command.env(MPIRUN_KEEPALIVE, "0");
    }
    command
}

/// An MPI job that this program may be a part of is not that of the command.
pub(crate) fn without_manager(command: &mut Command) {
    for (name, _) in variables().filter(|(name, _)| is_manager_variable(name)) {
        command.env_remove(name);
    }
}

/// Gathers what the command line depends on.
fn plan(flags: &StartFlags) -> Result<Launch, StartError> {
    let rank_program = rank_program::locate()?;
    let description = rank_program::describe(&rank_program)?;
    let search_path = std::env::var_os("PATH");
    let cpus_per_task = slurm_env::Allocation::from_vars(variables()).ok().flatten().map(|job| job.cpus_per_task);
    let srun = Starter::Srun { cpus_per_task: cpus_per_task.flatten() };
    let by_mpirun = || -> Result<(Flavour, Starter), MpirunError> {
        let mpirun = mpirun::find(flags.mpirun.as_deref(), &description, search_path.as_deref())?;
        Ok((mpirun::flavour(&mpirun, &description)?, Starter::Mpirun(mpirun)))
    };
    let (flavour, starter) = match flags.launcher {
        LauncherName::Mpirun => by_mpirun()?,
        LauncherName::Srun => (description.flavour(), srun),
        // An allocation without an mpirun, as on systems where srun alone starts MPI programs.
        LauncherName::Auto => match by_mpirun() {
            Err(MpirunError::Missing) if cpus_per_task.is_some() => (description.flavour(), srun),
            found => found?,
        },
    };
    let (nodes, room) = nodes_and_room(flags.hostfile.as_deref(), flavour)?;
    let spread = flags.engines_per_node.map(|most| Spread::new(flags.engines, most, &nodes, room.slots)).transpose()?;
    let engines = spread.as_ref().map(Spread::engines).or(flags.engines);
    let more = flags.launcher_args.0.clone();
    Ok(Launch {
        flavour,
        starter,
        rank_program,
        rank_args: flags.rank.to_args(),
        engines: engines.unwrap_or_else(|| room.default_engines()),
        room,
        spread,
        binding_is_chosen: binding_is_chosen(&more, variables()),
        more,
        as_root: nix::unistd::geteuid().is_root(),
        hostfile: flags.hostfile.clone(),
        forward: forwarded(),
    })
}

/// Which nodes there are, and how many processes fit: on the hosts of the hostfile, in the batch system's allocation,
/// on this machine.
fn nodes_and_room(hostfile: Option<&Path>, flavour: Flavour) -> Result<(Vec<Node>, Room), StartError> {
    if let Some(path) = hostfile {
        let text =
            std::fs::read_to_string(path).map_err(|cause| StartError::NoHostfile { path: shown(path), cause })?;
        let hosts = parse_hostfile(flavour.into(), &path.display().to_string(), &text)?;
        let max_slots = hosts.iter().map(|host| host.max_slots.map(|max| max as usize)).sum();
        let room = Room { slots: total_slots(&hosts), max_slots };
        return Ok((hosts.into_iter().map(|host| node(host.name, host.slots)).collect(), room));
    }
    let allocation = Allocation::find(variables(), |path| std::fs::read_to_string(path))?;
    let room = Room::of_job(allocation.as_ref(), cores);
    let hosts = allocation.into_iter().flat_map(|job| job.hosts);
    Ok((hosts.map(|host| node(host.name, host.slots)).collect(), room))
}

fn node(name: String, slots: u32) -> Node {
    Node { name, slots: slots as usize }
}

/// The variables that Open MPI must be told to take to other hosts.
fn forwarded() -> Vec<String> {
    let environment = ["PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "OMP_NUM_THREADS"];
    let mut names: Vec<String> = variables()
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("PXCLUSTER_") || environment.contains(&name.as_str()))
        .collect();
    names.extend(["PXCLUSTER_DIR".to_owned()]);
    names.sort();
    names.dedup();
    names
}

/// Refuses to start beside a cluster of the same name; what a dead one left does not matter.
fn refuse_second(directory: &ClusterDirectory) -> Result<(), StartError> {
    let connection = match directory.read_connection() {
        Ok(connection) => connection,
        Err(DirectoryError::NoCluster { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let cluster_id = directory.cluster_id().to_owned();
    let ConnectionFile { host, pid, .. } = connection.clone();
    match Controller::find(&connection) {
        Controller::Gone => Ok(()),
        Controller::Here(_) => Err(StartError::Running { cluster_id, host, pid }),
        Controller::Elsewhere if Link::open(&connection).is_ok() => Err(StartError::Running { cluster_id, host, pid }),
        Controller::Elsewhere => {
            Err(StartError::Unknown { cluster_id, host, path: shown(&directory.connection_file()) })
        }
    }
}

/// Holds the log while the start lasts, so that two starts of one cluster do not mix.
fn lock(directory: &ClusterDirectory, log: &Path) -> Result<Option<Flock<File>>, StartError> {
    let mut attempt = None;
    wait_until(LOCK_TIMEOUT, || {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(log);
        attempt = Some(file.map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)));
        !matches!(attempt, Some(Ok(Err((_, Errno::EWOULDBLOCK)))))
    });
    match attempt {
        Some(Ok(Ok(lock))) => Ok(Some(lock)),
        Some(Ok(Err((_, Errno::EWOULDBLOCK)))) => Err(StartError::Starting(directory.cluster_id().to_owned())),
        Some(Ok(Err(_))) | None => Ok(None), // a file system without locks
        Some(Err(error)) => Err(io_error("open", log, error)),
    }
}

/// Whether a start that uses this log is under way.
pub(crate) fn is_locked(log: &Path) -> bool {
    let lock = |file| Flock::lock(file, FlockArg::LockSharedNonblock);
    matches!(File::open(log).map(lock), Ok(Err((_, Errno::EWOULDBLOCK))))
}

/// Starts mpirun in a session of its own, so that it outlives this program and its terminal.
fn spawn(mut command: Command, log: &Path, lifetime: Lifetime) -> Result<Child, StartError> {
    let open = || OpenOptions::new().create(true).append(true).mode(0o600).open(log);
    let [out, err] =
        File::create(log).and_then(|_emptied| Ok([open()?, open()?])).map_err(|error| io_error("open", log, error))?;
    without_manager(&mut command);
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    #[expect(unsafe_code, reason = "system calls that allocate nothing, as code after fork() must be")]
    unsafe {
        command.pre_exec(move || {
            if lifetime == Lifetime::OfThisProgram {
                nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            }
            nix::unistd::setsid().map(drop).map_err(io::Error::from)
        });
    }
    let program = PathBuf::from(command.get_program());
    command.spawn().map_err(|error| io_error("run", &program, error))
}

/// Whether this program has been told to end; before there is anything that it would leave behind.
pub(crate) fn watch_signals() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // Without the handler a signal ends this program alone; nothing worse.
        let _ = signal_hook::flag::register(signal as i32, Arc::clone(&interrupted));
    }
    interrupted
}

/// Waits for the connection file. The cluster never outlives a start that failed.
fn wait_ready(
    mpirun: &mut Child,
    directory: &ClusterDirectory,
    timeout: Duration,
    interrupted: &AtomicBool,
) -> Result<ConnectionFile, StartError> {
    let log = directory.log_file();
    let mut watch = watch::Watch::new(&log, std::env::var("SLURM_JOB_ID").ok());
    let mut outcome = None;
    wait_until(timeout, || {
        outcome = match directory.read_connection() {
            Ok(connection) => Some(Ok(connection)),
            Err(DirectoryError::NoCluster { .. }) => match mpirun.try_wait() {
                Ok(Some(status)) => Some(Err(watch.ended(status))),
                _ if interrupted.load(Ordering::Relaxed) => Some(Err(StartError::Interrupted)),
                _ => watch.failure().map(Err),
            },
            Err(error) => Some(Err(error.into())),
        };
        outcome.is_some()
    });
    let outcome =
        outcome.unwrap_or_else(|| Err(StartError::TooSlow { seconds: timeout.as_secs_f64(), tail: tail(&log) }));
    if outcome.is_err() {
        give_up(mpirun);
    }
    outcome
}

/// Ends mpirun, which ends its ranks; both at once if it does not.
fn give_up(mpirun: &mut Child) {
    if let Some(process) = Process::find(mpirun.id()) {
        process.signal(Signal::SIGTERM);
        if !wait_until(GIVE_UP_TIMEOUT, || !process.is_alive()) {
            let _ = nix::sys::signal::killpg(nix::unistd::Pid::from_raw(mpirun.id().cast_signed()), Signal::SIGKILL);
        }
    }
    let _ = mpirun.wait();
}

/// The end of the log, as the last part of a message.
pub(crate) fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return format!("its log {} is empty", shown(log));
    }
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    format!("the end of its log {}:\n  {}", shown(log), last.join("\n  "))
}

fn io_error(what: &'static str, path: &Path, cause: io::Error) -> StartError {
    StartError::Io { what, path: shown(path), cause }
}
