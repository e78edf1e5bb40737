//! Flags of a rank, the same on all ranks.

use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// One rank of a pxcluster: rank 0 runs the controller, every other rank a Python engine.
#[derive(Clone, Debug, Parser)]
#[command(name = "pxcluster", version)]
pub(crate) struct Flags {
    /// Name of the cluster; clients find it by this name
    #[arg(long, env = "PXCLUSTER_CLUSTER_ID", default_value = "default",
          value_parser = pxcluster_protocol::connection::parse_cluster_id)]
    pub(crate) cluster_id: String,
    /// Python interpreter of the engines [default: the active environment's, else python3 on PATH]
    #[arg(long, env = "PXCLUSTER_PYTHON", value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
    /// TCP port for clients on other hosts, or a range of which the first free one is taken; 0: any free one
    #[arg(long, env = "PXCLUSTER_PORT", default_value = "0", value_name = "N[-M]")]
    pub(crate) port: pxcluster_protocol::PortRange,
    /// Interface whose addresses clients on other hosts are told, such as ib0 [default: all]
    #[arg(long, env = "PXCLUSTER_INTERFACE", value_name = "NAME")]
    pub(crate) interface: Option<String>,
    /// Names or addresses of this host that they are told instead, with a port if it is another one, in order
    #[arg(long, env = "PXCLUSTER_ADVERTISE", value_name = "HOST,…", value_delimiter = ',')]
    pub(crate) advertise: Vec<String>,
    /// Least severe messages to log: error, warn, info or debug
    #[arg(long, env = "PXCLUSTER_LOG", default_value = "warn", value_name = "LEVEL")]
    pub(crate) log: tracing::Level,
    /// Let an engine's death end the whole cluster, and save its second process
    #[arg(long)]
    pub(crate) no_nanny: bool,
    /// Leave cores, threads and GPUs of the engines as the launcher has set them
    #[arg(long)]
    pub(crate) no_bind: bool,
    /// Report an engine as hung when its communication stands still for so long; 0: never
    #[arg(long, env = "PXCLUSTER_HUNG_AFTER", default_value = "30", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) hung_after: Duration,
    /// How long tasks may run on after SIGTERM; less than a job has from there to SIGKILL
    #[arg(long, env = "PXCLUSTER_GRACE", default_value = "20", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) grace: Duration,
    /// Lose all engines of a host from which nothing is heard for so long; 0: never
    #[arg(long, env = "PXCLUSTER_LOST_AFTER", default_value = "30", value_name = "SECONDS", value_parser = parse_seconds)]
    pub(crate) lost_after: Duration,
    /// Print which MPI this program was built with, as JSON, and end
    #[arg(long, hide = true)]
    pub(crate) describe: bool,
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "expected a number of seconds such as 30 or 0.5".to_owned())
}
