//! A cluster's directory: where the connection file and the log of `pxcluster start` are.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use pxcluster_protocol::PROTOCOL_VERSION;
use pxcluster_protocol::connection::ConnectionFile;
use serde::Deserialize;

use crate::machine::{Process, host_name};

/// The directory of one cluster.
#[derive(Debug, Clone)]
pub struct ClusterDirectory {
    cluster_id: String,
    path: PathBuf,
}

/// Where the controller of a connection file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Controller {
    /// It runs on this host.
    Here(Process),
    /// It ran on this host and is gone.
    Gone,
    /// It is, or was, on another host.
    Elsewhere,
}

/// Why a cluster's directory or connection file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Nobody has said where directories of clusters are.
    #[error("neither PXCLUSTER_DIR nor HOME is set; set PXCLUSTER_DIR to a directory that all hosts share")]
    NoHome,
    /// There is no connection file.
    #[error(
        "no cluster '{cluster_id}' is running (there is no {path}); start one with `pxcluster start` or mpirun, \
         or name another with --cluster-id or PXCLUSTER_DIR"
    )]
    NoCluster {
        /// The cluster asked for.
        cluster_id: String,
        /// Where its connection file would be.
        path: String,
    },
    /// The controller ended without removing its connection file.
    #[error("cluster '{cluster_id}' is gone: {path} names process {pid}, which does not run any more")]
    Gone {
        /// The cluster asked for.
        cluster_id: String,
        /// Its connection file.
        path: String,
        /// The process in it.
        pid: u32,
    },
    /// Others can read the key.
    #[error("{0} can be read by others, so its key may be known; stop that cluster, remove the file and start again")]
    Exposed(String),
    /// The file is not what it should be.
    #[error("{path} is not a connection file ({source}); if no cluster uses it, remove it")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A pxcluster of another version wrote it.
    #[error(
        "{path} is of protocol version {found}, this pxcluster speaks {PROTOCOL_VERSION}; use the pxcluster that \
         started the cluster"
    )]
    Version {
        /// The file.
        path: String,
        /// The version in it.
        found: u32,
    },
    /// The file system refuses.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// The directory of all clusters: `PXCLUSTER_DIR`, which is `~/.pxcluster` by default.
pub fn base() -> Result<PathBuf, DirectoryError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("PXCLUSTER_DIR")
        .or_else(|| set("HOME").map(|home| home.join(".pxcluster")))
        .ok_or(DirectoryError::NoHome)?;
    std::path::absolute(&base).map_err(|error| io_error("find", &base, error))
}

impl ClusterDirectory {
    /// The directory of a cluster. Creates nothing.
    pub fn locate(cluster_id: &str) -> Result<Self, DirectoryError> {
        Ok(Self { cluster_id: cluster_id.to_owned(), path: base()?.join(cluster_id) })
    }

    /// Those of all clusters that have a connection file, by name.
    pub fn all() -> Result<Vec<Self>, DirectoryError> {
        let base = base()?;
        let entries = match fs::read_dir(&base) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| io_error("read", &base, error))?,
        };
        let named = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut all: Vec<Self> = named
            .map(|cluster_id| Self { path: base.join(&cluster_id), cluster_id })
            .filter(|directory| directory.connection_file().exists())
            .collect();
        all.sort_by(|a, b| a.cluster_id.cmp(&b.cluster_id));
        Ok(all)
    }

    /// The cluster's name.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The directory above, as ranks should find it in `PXCLUSTER_DIR`.
    pub fn base(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// The connection file.
    pub fn connection_file(&self) -> PathBuf {
        self.path.join(ConnectionFile::NAME)
    }

    /// What mpirun and the ranks print.
    pub fn log_file(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Makes the directory, for the user alone.
    pub fn create(&self) -> Result<(), DirectoryError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .map_err(|error| io_error("create", &self.path, error))
    }

    /// Removes it unless there is something in it.
    pub fn remove_if_empty(&self) {
        let _in_use = fs::remove_dir(&self.path);
    }

    /// Removes it with all that is in it, the log included.
    pub fn remove(&self) -> Result<(), DirectoryError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &self.path, error)),
            _ => Ok(()),
        }
    }

    /// Reads the connection file, and refuses one that is not private or not of this version.
    pub fn read_connection(&self) -> Result<ConnectionFile, DirectoryError> {
        #[derive(Deserialize)]
        struct Version {
            protocol_version: u32,
        }
        let path = self.connection_file();
        let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                DirectoryError::NoCluster { cluster_id: self.cluster_id.clone(), path: shown(&path) }
            }
            _ => io_error("read", &path, error),
        })?;
        let mode = fs::metadata(&path).map_err(|error| io_error("read", &path, error))?.mode();
        if mode & 0o077 != 0 {
            return Err(DirectoryError::Exposed(shown(&path)));
        }
        let malformed = |source| DirectoryError::Malformed { path: shown(&path), source };
        let Version { protocol_version } = serde_json::from_str(&text).map_err(malformed)?;
        if protocol_version != PROTOCOL_VERSION {
            return Err(DirectoryError::Version { path: shown(&path), found: protocol_version });
        }
        serde_json::from_str(&text).map_err(malformed)
    }

    /// Reads the connection file of a cluster whose controller runs, as far as that can be seen from here.
    pub fn read_running(&self) -> Result<ConnectionFile, DirectoryError> {
        let connection = self.read_connection()?;
        if Controller::find(&connection) == Controller::Gone {
            let (cluster_id, path) = (self.cluster_id.clone(), shown(&self.connection_file()));
            return Err(DirectoryError::Gone { cluster_id, path, pid: connection.pid });
        }
        Ok(connection)
    }

    /// Removes the connection file and the socket that it names, if they are there.
    pub fn remove_connection(&self) -> Result<(), DirectoryError> {
        let path = self.connection_file();
        let socket = self.read_connection().ok().map(|connection| PathBuf::from(connection.socket));
        for file in socket.into_iter().chain([path]) {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &file, error)),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Controller {
    /// Looks for the controller that wrote a connection file.
    #[must_use]
    pub fn find(connection: &ConnectionFile) -> Self {
        if connection.host != host_name() {
            return Self::Elsewhere;
        }
        // Another program may have got the process id since.
        Process::find(connection.pid)
            .filter(|process| !process.is_younger_than(connection.started))
            .map_or(Self::Gone, Self::Here)
    }
}

/// A path as people write it, with `~` for the home directory.
#[must_use]
pub fn shown(path: &Path) -> String {
    let home = std::env::var_os("HOME").filter(|home| home.len() > 1);
    match home.and_then(|home| path.strip_prefix(home).ok().map(Path::to_path_buf)) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> DirectoryError {
    DirectoryError::Io { what, path: shown(path), source }
}
