//! What a cluster has on disk: its directory with lock and connection file, and its Unix socket.

use nix::fcntl::{Flock, FlockArg};
use pxcluster_protocol::connection::ConnectionFile;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The files of one cluster.
#[derive(Debug)]
pub struct ClusterFiles {
    cluster_id: String,
    directory: PathBuf,
    sockets: PathBuf,
}

/// Held as long as the controller lives; the system gives it back even after `kill -9`.
#[derive(Debug)]
pub struct ClusterLock {
    _lock: Option<Flock<File>>,
    path: PathBuf,
}

/// Files that cannot be made or may not be used.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Another controller holds the lock.
    #[error(
        "a cluster named '{0}' is running already: stop it with `pxcluster stop --cluster-id {0}`, or choose another name with --cluster-id"
    )]
    Taken(String),
    /// A directory that others could tamper with.
    #[error("{path} belongs to user {owner} and not to you; remove it, or set {variable} to a directory of your own")]
    NotYours {
        /// The directory.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// How to choose another one.
        variable: &'static str,
    },
    /// Neither `PXCLUSTER_DIR` nor `HOME` is set.
    #[error("cannot tell where to keep the connection file: set HOME or PXCLUSTER_DIR")]
    NoHome,
    /// The path of the socket is longer than the system allows.
    #[error(
        "the socket path {0} is too long for a Unix socket; set XDG_RUNTIME_DIR to a shorter directory or choose a shorter --cluster-id"
    )]
    SocketPathTooLong(PathBuf),
    /// Anything else that the system refuses.
    #[error("cannot use {path}: {source}")]
    System {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> FilesError + '_ {
    |source| FilesError::System { path: path.to_owned(), source }
}

impl ClusterFiles {
    /// Says where the files of `cluster_id` are; touches nothing.
    pub fn locate(cluster_id: &str) -> Result<Self, FilesError> {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pxcluster"));
        let base = std::env::var_os("PXCLUSTER_DIR")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .or_else(home)
            .ok_or(FilesError::NoHome)?;
        let base = std::path::absolute(&base).map_err(failed(&base))?;
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let sockets = runtime.map_or_else(
            || PathBuf::from(format!("/tmp/pxcluster-{}", nix::unistd::getuid())),
            |path| path.join("pxcluster"),
        );
        Ok(Self::below(&base, sockets, cluster_id))
    }

    /// The files of `cluster_id` in a directory of clusters and a directory of sockets.
    pub fn below(base: &Path, sockets: PathBuf, cluster_id: &str) -> Self {
        Self { cluster_id: cluster_id.to_owned(), directory: base.join(cluster_id), sockets }
    }

    /// The connection file.
    pub fn connection(&self) -> PathBuf {
        self.directory.join(ConnectionFile::NAME)
    }

    /// The Unix socket of the controller with this process id.
    pub fn socket(&self, pid: u32) -> PathBuf {
        self.sockets.join(format!("{}-{pid}.sock", self.cluster_id))
    }

    /// Makes the directories, takes the lock, and removes what a killed controller has left.
    pub fn claim(&self) -> Result<ClusterLock, FilesError> {
        private_directory(&self.directory, "PXCLUSTER_DIR")?;
        private_directory(&self.sockets, "XDG_RUNTIME_DIR")?;
        let socket = self.socket(std::process::id());
        if socket.as_os_str().len() > 107 {
            return Err(FilesError::SocketPathTooLong(socket));
        }
        let lock = self.lock()?;
        let connection = self.connection();
        if let Ok(text) = fs::read(&connection) {
            tracing::warn!("removing the connection file of a cluster that is gone: {}", connection.display());
            if let Ok(stale) = serde_json::from_slice::<ConnectionFile>(&text) {
                remove(&self.socket(stale.pid));
            }
            remove(&connection);
        }
        Ok(lock)
    }

    fn lock(&self) -> Result<ClusterLock, FilesError> {
        let path = self.directory.join("lock");
        loop {
            let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
            let file = opened.map_err(failed(&path))?;
            let inode = file.metadata().map_err(failed(&path))?.ino();
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Some(lock),
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(FilesError::Taken(self.cluster_id.clone())),
                Err((_, error)) => {
                    tracing::warn!(
                        "{} cannot be locked ({error}): two clusters of one name will not be noticed",
                        path.display()
                    );
                    None
                }
            };
            // The file may have been unlinked by its last owner between our open and our lock.
            if fs::metadata(&path).is_ok_and(|now| now.ino() == inode) {
                return Ok(ClusterLock { _lock: lock, path });
            }
        }
    }

    /// Writes the connection file: whole or not at all, readable by its owner only.
    pub(crate) fn publish(&self, connection: &ConnectionFile) -> Result<PathBuf, FilesError> {
        let (path, draft) = (self.connection(), self.directory.join(".connection.json.new"));
        let write = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&serde_json::to_vec_pretty(connection)?)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        };
        write().map_err(failed(&path))?;
        Ok(path)
    }

    /// Removes what the controller with this process id has made. Harmless when it is gone already.
    pub fn remove(&self, pid: u32) {
        let connection = self.connection();
        let ours = fs::read(&connection).ok().and_then(|text| serde_json::from_slice::<ConnectionFile>(&text).ok());
        if ours.is_some_and(|file| file.pid == pid) {
            remove(&connection);
            remove(&self.directory.join("lock"));
        }
        remove(&self.socket(pid));
        let _kept_if_not_empty = fs::remove_dir(&self.directory);
    }
}

impl Drop for ClusterLock {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

/// Makes `path` a directory that only its owner can enter, and checks that the owner is the user.
fn private_directory(path: &Path, variable: &'static str) -> Result<(), FilesError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
    let found = fs::symlink_metadata(path).map_err(failed(path))?;
    if found.uid() != nix::unistd::getuid().as_raw() || !found.is_dir() {
        return Err(FilesError::NotYours { path: path.to_owned(), owner: found.uid(), variable });
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(base: &Path) -> ClusterFiles {
        ClusterFiles { cluster_id: "c".into(), directory: base.join("c"), sockets: base.join("s") }
    }

    #[test]
    fn a_name_can_be_claimed_once_and_again_after_its_owner_has_gone() {
        let base = tempfile::tempdir().expect("a directory");
        let files = files(base.path());
        let lock = files.claim().expect("free");
        assert!(matches!(files.claim(), Err(FilesError::Taken(_))));
        drop(lock);
        drop(files.claim().expect("free again"));
        assert_eq!(fs::metadata(&files.directory).expect("exists").mode() & 0o777, 0o700);
    }
}
