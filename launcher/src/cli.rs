//! The command line. Flags win over `PXCLUSTER_*` variables, those over defaults.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use pxcluster_protocol::PortRange;
use pxcluster_protocol::connection::parse_cluster_id;

use crate::words::Words;

/// Run cells of a notebook on many processes: `mpirun -n 5 pxcluster` makes a controller and four engines.
#[derive(Debug, Parser)]
#[command(name = "pxcluster", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "Under mpirun or srun, and without a command, pxcluster is a rank of the cluster: \
    rank 0 is the controller, the others are engines 0, 1, 2 …")]
pub struct Cli {
    /// Flags of a rank; they matter only under mpirun or srun.
    #[command(flatten)]
    pub rank: RankFlags,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the program does when it is no rank.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster and leave it running
    Start(StartFlags),
    /// Run a Python program as the client of a cluster of its own: started before it, gone after it
    Run(RunFlags),
    /// Submit a batch job to Slurm that has a cluster, for a script or until it is stopped
    Submit(SubmitFlags),
    /// Show the engines of a running cluster and what they have to do
    Status(StatusFlags),
    /// Watch the engines of a running cluster: busy, tasks a second, memory, deaths
    Top(TopFlags),
    /// Show all clusters of this user, those that left their files included
    List(ListFlags),
    /// Print what mpirun and the ranks of a cluster have printed
    Logs(LogsFlags),
    /// Hand a client at the other end of standard input and output on to a cluster, as for ssh
    Proxy(ProxyFlags),
    /// Stop a running cluster
    Stop(StopFlags),
    /// Look at what clusters need here: MPI, Python, memory, limits, network, Slurm
    Doctor(DoctorFlags),
}

/// Flags that `pxcluster` takes as a rank.
#[derive(Debug, Clone, Args)]
pub struct RankFlags {
    /// Name of the cluster [default: default]
    #[arg(long, value_name = "ID", env = "PXCLUSTER_CLUSTER_ID", value_parser = parse_cluster_id)]
    pub cluster_id: Option<String>,
    /// Python of the engines [default: the active environment's]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// TCP port for clients on other hosts, or a range whose first free one is taken [default: any free one]
    #[arg(long, value_name = "N[-M]")]
    pub port: Option<PortRange>,
    /// Interface whose addresses they are told, such as ib0 [default: all]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Names or addresses of rank 0's host that they are told instead, with a port if it is another one, in order
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    pub advertise: Vec<String>,
    /// How much the ranks log
    #[arg(long, value_name = "LEVEL", env = "PXCLUSTER_LOG", value_enum)]
    pub log: Option<LogLevel>,
    /// Let an engine's death end the whole cluster
    #[arg(long)]
    pub no_nanny: bool,
    /// Give the engines no cores, threads and GPUs of their own
    #[arg(long)]
    pub no_bind: bool,
    /// Report an engine as hung when it says nothing for so long; 0: never [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub hung_after: Option<Duration>,
    /// How long tasks may run on after SIGTERM; less than a job has from there to SIGKILL [default: 20]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub grace: Option<Duration>,
    /// Lose all engines of a host from which nothing is heard for so long; 0: never [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub lost_after: Option<Duration>,
}

/// How much the ranks log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it, and --help shows them bare")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// What starts the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it, and --help shows them bare")]
pub enum LauncherName {
    Auto,
    Mpirun,
    Srun,
}

/// Flags of `pxcluster start`.
#[derive(Debug, Clone, Args)]
pub struct StartFlags {
    /// Number of engines [default: what the hostfile, the batch job or this machine has room for]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub engines: Option<u32>,
    /// Flags for the ranks.
    #[command(flatten)]
    pub rank: RankFlags,
    /// The mpirun to use [default: the one of the MPI that pxcluster was built with]
    #[arg(long, value_name = "PATH", env = "PXCLUSTER_MPIRUN")]
    pub mpirun: Option<PathBuf>,
    /// What starts the ranks: auto is mpirun, or srun where an allocation has no mpirun
    #[arg(long, value_name = "NAME", value_enum, default_value = "auto")]
    pub launcher: LauncherName,
    /// Hosts to start on, one a line, in mpirun's own form
    #[arg(long, value_name = "FILE")]
    pub hostfile: Option<PathBuf>,
    /// At most so many engines on each host; without -n so many on every host of the hostfile or the batch job
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub engines_per_node: Option<u32>,
    /// More flags for mpirun or srun, in quotes as for a shell
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true, default_value = "")]
    pub launcher_args: Words,
    /// Seconds to wait until every engine is ready
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = parse_seconds)]
    pub timeout: Duration,
    /// Print the command line of mpirun and start nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Become mpirun: the cluster ends with this process, and prints what it prints
    #[arg(long)]
    pub foreground: bool,
}

/// Flags of `pxcluster run`.
#[derive(Debug, Args)]
pub struct RunFlags {
    /// Flags of the start; as a rank of an MPI job only those of the ranks matter.
    #[command(flatten)]
    pub start: StartFlags,
    /// In a batch job of Slurm's: end in good time on SIGUSR2, SIGUSR1 or SIGTERM, and put the job back into the queue
    #[arg(long)]
    pub requeue: bool,
    /// The script and its arguments, as after `python`; behind `--` also `-m module`
    #[arg(value_name = "SCRIPT", required = true, trailing_var_arg = true)]
    pub script: Vec<OsString>,
}

/// Flags of `pxcluster submit`.
#[derive(Debug, Args)]
#[command(after_help = "-n, --engines N: one task more is asked for, for the controller. --cluster-id ID [default: \
    job-<id of the job>]. --python PATH, --port, --interface, --advertise, --log, --no-nanny, --no-bind, \
    --hung-after, --grace, --lost-after, --engines-per-node, --launcher-args: as of start. --print: show the batch \
    script, submit nothing. --wait: return when the cluster is \
    ready, at most --timeout SECONDS after the job has begun to run [300]. All other flags are sbatch's. Without a \
    script the cluster waits for clients until `pxcluster stop`, `scancel` or the time limit.")]
pub struct SubmitFlags {
    /// [-n N] [--cluster-id ID] [--python PATH] [--print] [--wait] [any flags of sbatch] [-- SCRIPT ARGUMENTS]
    #[arg(value_name = "FLAGS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// Flags of `pxcluster status`.
#[derive(Debug, Args)]
pub struct StatusFlags {
    /// Name of the cluster
    #[arg(long, value_name = "ID", env = "PXCLUSTER_CLUSTER_ID", default_value = "default", value_parser = parse_cluster_id)]
    pub cluster_id: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `pxcluster top`.
#[derive(Debug, Args)]
#[command(after_help = "Keys: q, Esc or Ctrl-C leaves; arrows, PgUp, PgDn, Home and End move; Left, Right or Enter \
    folds a host; h shows hosts or engines.")]
pub struct TopFlags {
    /// Name of the cluster
    #[arg(long, value_name = "ID", env = "PXCLUSTER_CLUSTER_ID", default_value = "default", value_parser = parse_cluster_id)]
    pub cluster_id: String,
    /// Seconds between two answers of the controller
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_interval)]
    pub interval: Duration,
    /// Print one table, of two answers, as where standard output is no terminal
    #[arg(long)]
    pub once: bool,
}

/// Flags of `pxcluster list`.
#[derive(Debug, Args)]
pub struct ListFlags {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `pxcluster logs`.
#[derive(Debug, Args)]
pub struct LogsFlags {
    /// Name of the cluster
    #[arg(long, value_name = "ID", env = "PXCLUSTER_CLUSTER_ID", default_value = "default", value_parser = parse_cluster_id)]
    pub cluster_id: String,
    /// Go on until the cluster has ended
    #[arg(short, long)]
    pub follow: bool,
}

/// Flags of `pxcluster proxy`.
#[derive(Debug, Args)]
pub struct ProxyFlags {
    /// Name of the cluster
    #[arg(long, value_name = "ID", env = "PXCLUSTER_CLUSTER_ID", default_value = "default", value_parser = parse_cluster_id)]
    pub cluster_id: String,
}

/// Flags of `pxcluster stop`.
#[derive(Debug, Args)]
pub struct StopFlags {
    /// Name of the cluster
    #[arg(long, value_name = "ID", env = "PXCLUSTER_CLUSTER_ID", default_value = "default", value_parser = parse_cluster_id)]
    pub cluster_id: String,
    /// Let tasks that run end first, for so many seconds at most; nothing new begins
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    pub drain: Option<Duration>,
    /// Seconds to let it end by itself before its processes are killed
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = parse_seconds)]
    pub timeout: Duration,
}

/// Flags of `pxcluster doctor`.
#[derive(Debug, Args)]
pub struct DoctorFlags {
    /// Python of the engines [default: the active environment's]
    #[arg(long, value_name = "PATH", env = "PXCLUSTER_PYTHON")]
    pub python: Option<PathBuf>,
    /// The mpirun to look at [default: the one of the MPI that pxcluster was built with]
    #[arg(long, value_name = "PATH", env = "PXCLUSTER_MPIRUN")]
    pub mpirun: Option<PathBuf>,
    /// Seconds to wait for each program that is asked
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = parse_seconds)]
    pub timeout: Duration,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Whether an argument is one of the commands, so that `pxcluster status` is one in an MPI job, too.
pub fn is_command(argument: &OsString) -> bool {
    let names = Cli::command();
    let is = |name: &str| argument == OsStr::new(name);
    is("help") || names.get_subcommands().any(|command| is(command.get_name()))
}

impl RankFlags {
    /// The cluster's name, given or not.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        self.cluster_id.as_deref().unwrap_or("default")
    }

    /// The same flags again, as arguments for the rank program.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["--cluster-id".into(), self.cluster_id().into()];
        if let Some(python) = &self.python {
            args.extend(["--python".into(), python.into()]);
        }
        if let Some(port) = self.port {
            args.extend(["--port".into(), port.to_string().into()]);
        }
        if let Some(name) = &self.interface {
            args.extend(["--interface".into(), name.into()]);
        }
        if !self.advertise.is_empty() {
            args.extend(["--advertise".into(), self.advertise.join(",").into()]);
        }
        if let Some(name) = self.log.and_then(|level| level.to_possible_value()) {
            args.extend(["--log".into(), name.get_name().into()]);
        }
        if self.no_nanny {
            args.push("--no-nanny".into());
        }
        if self.no_bind {
            args.push("--no-bind".into());
        }
        if let Some(time) = self.hung_after {
            args.extend(["--hung-after".into(), time.as_secs_f64().to_string().into()]);
        }
        if let Some(time) = self.grace {
            args.extend(["--grace".into(), time.as_secs_f64().to_string().into()]);
        }
        if let Some(time) = self.lost_after {
            args.extend(["--lost-after".into(), time.as_secs_f64().to_string().into()]);
        }
        args
    }
}

pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected a number of seconds such as 30 or 0.5".to_owned())
}

/// Often enough for anybody, and not so often that the controller would notice.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_seconds(text)?;
    let is_sane = (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&interval);
    is_sane.then_some(interval).ok_or_else(|| "expected 0.1 to 3600 seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rank_flags_survive_the_way_through_mpirun() {
        let given = "pxcluster --cluster-id a.b --python /p --port 80-90 --interface ib0 --advertise a,b:1 --log debug \
            --no-nanny --no-bind --hung-after 2.5 --grace 7 --lost-after 9";
        let given: Vec<&str> = given.split(' ').collect();
        let flags = Cli::try_parse_from(&given).unwrap().rank;
        assert_eq!(flags.to_args(), given[1..].iter().map(OsString::from).collect::<Vec<_>>());
    }

    #[test]
    fn commands_are_known_by_name() {
        for (argument, known) in [
            ("start", true),
            ("run", true),
            ("status", true),
            ("stop", true),
            ("doctor", true),
            ("help", true),
            ("--port", false),
        ] {
            assert_eq!(is_command(&argument.into()), known, "{argument}");
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            "top --interval 0",
            "start -n 0",
            "start --timeout -1",
            "status --cluster-id ../x",
            "start --port 70000",
            "start --port 9-7",
            "start --engines-per-node 0",
            "start --launcher-args 'open",
            "stop 3",
        ] {
            let args = ["pxcluster"].into_iter().chain(bad.split(' '));
            assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
