//! The connection file: how a client finds a cluster and proves that it may use it.

use serde::{Deserialize, Serialize};

/// Contents of `connection.json`. Whoever can read it can run code as its owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionFile {
    /// [`crate::PROTOCOL_VERSION`] of the controller.
    pub protocol_version: u32,
    /// The controller's version of pxcluster.
    pub version: String,
    /// Name of the cluster.
    pub cluster_id: String,
    /// Shared secret, 64 hexadecimal digits.
    pub key: String,
    /// The controller's certificate, PEM; clients accept this one and no other.
    pub certificate: String,
    /// `host:port` of every interface, to be tried in order.
    pub addresses: Vec<String>,
    /// Unix socket on `host`, absolute path.
    pub socket: String,
    /// The controller's host name.
    pub host: String,
    /// The controller's process id.
    pub pid: u32,
    /// Number of engines at the start.
    pub engines: u32,
    /// Full version of the engines' Python.
    pub python: String,
    /// Slurm job, if any.
    pub slurm_job_id: Option<String>,
    /// Unix time in seconds when the cluster was ready.
    pub started: f64,
}

impl ConnectionFile {
    /// Name of the file in the cluster's directory.
    pub const NAME: &str = "connection.json";
}

/// A cluster id that cannot be a directory's name.
#[derive(Debug, thiserror::Error)]
#[error("cluster id {0:?} is not usable: take letters, digits, '-', '_' and '.', at most 64, not starting with '.'")]
pub struct BadClusterId(String);

/// Checks that `id` is a harmless name of a directory.
pub fn parse_cluster_id(id: &str) -> Result<String, BadClusterId> {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > 64 || id.starts_with('.') || !id.chars().all(harmless) {
        return Err(BadClusterId(id.to_owned()));
    }
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_stay_inside_their_directory() {
        for good in ["default", "job-12.b", "A_1"] {
            assert!(parse_cluster_id(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "a/b", ".hidden", "a b", &"x".repeat(65)] {
            assert!(parse_cluster_id(bad).is_err(), "{bad}");
        }
    }
}
