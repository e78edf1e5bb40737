//! `PXCLUSTER_DIR`: where clients find a cluster's key, so that it must be writable, the user's alone, and shared by hosts.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access, getuid};
use pxcluster_protocol::connection::parse_cluster_id;

use super::ask::Ask;
use super::finding::Finding;
use super::mounts::file_system_of;
use crate::directory::{self, ClusterDirectory, Controller, DirectoryError, shown};

const CHECK: &str = "directory";
const CLUSTERS: &str = "connection files";
const ANOTHER: &str = "set PXCLUSTER_DIR to a directory of your own that all hosts share";

/// File systems that several hosts see, as `/proc/self/mountinfo` names them.
const SHARED: [&str; 18] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "fuse.ceph-fuse",
    "fuse.cvmfs",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.sshfs",
    "gfs2",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "smb3",
    "wekafs",
];

/// What is known of the directory.
#[derive(Debug, Clone)]
struct Place {
    path: String,
    /// Its owner and mode; `None` if it does not exist and can be made.
    there: Option<(u32, u32)>,
    file_system: Option<String>,
}

/// What a connection file says.
#[derive(Debug)]
enum Left {
    Running(String),
    Elsewhere(String, String),
    Gone(String),
    Bad(DirectoryError),
}

/// Looks at the directory and at the connection files in it.
pub(crate) fn examine(ask: &Ask) -> Vec<Finding> {
    let base = match directory::base() {
        Ok(base) => base,
        Err(error) => return vec![Finding::of_error(CHECK, &error, ANOTHER)],
    };
    let name = shown(&base);
    let looked = ask.within(move || {
        let place = survey(&base)?;
        Ok((place, connection_files()))
    });
    match looked {
        None => vec![Finding::problem(
            CHECK,
            format!("the file system of {name} did not answer within {}", ask.patience()),
            "wait for its server, or set PXCLUSTER_DIR to a directory elsewhere that all hosts share",
        )],
        Some(Err(error)) => vec![judge_unusable(&name, &error)],
        Some(Ok((place, left))) => {
            let mut findings = vec![judge_place(&place, getuid().as_raw())];
            findings.extend(judge_clusters(&left));
            findings
        }
    }
}

/// Gathers what is known of the directory; an error if it cannot be used.
fn survey(base: &Path) -> io::Result<Place> {
    let path = shown(base);
    let found = match fs::metadata(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let above = base.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
            access(above, AccessFlags::W_OK | AccessFlags::X_OK)?;
            return Ok(Place { path, there: None, file_system: file_system_of(above) });
        }
        found => found?,
    };
    if !found.is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    access(base, AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK)?;
    Ok(Place { path, there: Some((found.uid(), found.mode())), file_system: file_system_of(base) })
}

/// Every connection file there is, with what has become of its controller.
fn connection_files() -> Vec<Left> {
    let all = ClusterDirectory::all().unwrap_or_default().into_iter();
    all.filter(|directory| parse_cluster_id(directory.cluster_id()).is_ok())
        .filter_map(|directory| {
            let id = directory.cluster_id().to_owned();
            match directory.read_connection() {
                Ok(connection) => Some(match Controller::find(&connection) {
                    Controller::Here(_) => Left::Running(id),
                    Controller::Elsewhere => Left::Elsewhere(id, connection.host),
                    Controller::Gone => Left::Gone(id),
                }),
                Err(DirectoryError::NoCluster { .. }) => None, // it has gone since
                Err(error) => Some(Left::Bad(error)),
            }
        })
        .collect()
}

fn judge_unusable(path: &str, error: &io::Error) -> Finding {
    Finding::problem(CHECK, format!("clusters cannot keep their files in {path} ({error})"), ANOTHER)
}

fn judge_place(place: &Place, user: u32) -> Finding {
    let Place { path, there, file_system } = place;
    let host = match file_system.as_deref() {
        Some(kind) if SHARED.contains(&kind) => format!("on {kind}, which hosts can share"),
        Some(kind) => format!("on {kind}, which this host alone sees, so that clients elsewhere find no cluster"),
        None => "on an unknown file system".to_owned(),
    };
    let Some((owner, mode)) = *there else {
        return Finding::ok(CHECK, format!("{path} is made by the first cluster, {host}"));
    };
    let sticky = mode & 0o1000 != 0;
    if owner != user && !(owner == 0 && (sticky || mode & 0o022 == 0)) {
        return Finding::warning(
            CHECK,
            format!("{path} belongs to user {owner}, who can put another cluster there"),
            ANOTHER,
        );
    }
    if mode & 0o022 != 0 && !sticky {
        let found = format!("others can write to {path}, and so put a cluster of theirs there");
        return Finding::warning(CHECK, found, format!("run `chmod 700 {path}`"));
    }
    if mode & 0o077 != 0 && owner == user {
        let found = format!("others can see in {path} which clusters you have");
        return Finding::warning(CHECK, found, format!("run `chmod 700 {path}`"));
    }
    let whose = if owner == user { "is yours alone" } else { "can be used" };
    Finding::ok(CHECK, format!("{path} {whose}, {host}"))
}

fn judge_clusters(left: &[Left]) -> Vec<Finding> {
    let bad = left.iter().filter_map(|one| match one {
        Left::Bad(error @ DirectoryError::Exposed(_)) => {
            Some(Finding::of_error(CLUSTERS, error, "stop that cluster and remove the file"))
        }
        Left::Bad(error) => {
            let Finding { found, mend, .. } = Finding::of_error(CLUSTERS, error, "remove it if no cluster uses it");
            Some(Finding::warning(CLUSTERS, found, mend.unwrap_or_default()))
        }
        _ => None,
    });
    let mut findings: Vec<Finding> = bad.collect();
    let gone = left.iter().filter_map(|one| if let Left::Gone(id) = one { Some(id.as_str()) } else { None });
    let gone: Vec<&str> = gone.collect();
    if let Some(first) = gone.first() {
        findings.push(Finding::warning(
            CLUSTERS,
            format!("clusters that do not run any more have left connection files: {}", gone.join(", ")),
            format!("remove each with `pxcluster stop --cluster-id NAME`, as in `pxcluster stop --cluster-id {first}`"),
        ));
    }
    if findings.is_empty() {
        let cluster = |one: &Left| match one {
            Left::Running(id) => Some(format!("'{id}' runs on this host")),
            Left::Elsewhere(id, host) => Some(format!("'{id}' was started on host {host}")),
            Left::Gone(_) | Left::Bad(_) => None,
        };
        let clusters: Vec<String> = left.iter().filter_map(cluster).collect();
        let found = if clusters.is_empty() { "no cluster has left one".to_owned() } else { clusters.join(", ") };
        findings.push(Finding::ok(CLUSTERS, format!("connection files: {found}")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn judge(there: Option<(u32, u32)>, file_system: &str) -> Finding {
        let place = Place { path: "~/.pxcluster".into(), there, file_system: Some(file_system.into()) };
        judge_place(&place, 1000)
    }

    #[test]
    fn a_private_directory_is_well() {
        assert_eq!(
            judge(Some((1000, 0o40700)), "nfs4").to_string(),
            "ok      ~/.pxcluster is yours alone, on nfs4, which hosts can share"
        );
        assert!(
            judge(None, "ext4")
                .found
                .starts_with("~/.pxcluster is made by the first cluster, on ext4, which this host")
        );
        assert_eq!(judge(Some((0, 0o41777)), "tmpfs").verdict, Verdict::Ok, "/tmp");
    }

    #[test]
    fn a_directory_of_others_is_a_warning() {
        for (there, found) in [
            ((1001, 0o40700), "belongs to user 1001"),
            ((0, 0o40777), "belongs to user 0"),
            ((1000, 0o40775), "others can write to ~/.pxcluster"),
            ((1000, 0o40755), "others can see in ~/.pxcluster"),
        ] {
            let finding = judge(Some(there), "ext4");
            assert_eq!(finding.verdict, Verdict::Warning);
            assert!(finding.found.contains(found), "{finding}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_a_problem() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.join("below"), file] {
            let finding = judge_unusable("X", &survey(&path).unwrap_err());
            let expected =
                format!("PROBLEM clusters cannot keep their files in X (Not a directory (os error 20)): {ANOTHER}");
            assert_eq!(finding.to_string(), expected);
        }
        let there = survey(folder.path()).unwrap();
        assert!(there.there.is_some() && there.file_system.is_some());
        assert!(survey(&folder.path().join("a/b")).unwrap().there.is_none());
    }

    #[test]
    fn what_dead_clusters_left_is_named_with_the_way_to_remove_it() {
        let dead = judge_clusters(&[Left::Gone("a".into()), Left::Running("b".into()), Left::Gone("c".into())]);
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].found, "clusters that do not run any more have left connection files: a, c");
        assert!(dead[0].mend.as_ref().unwrap().ends_with("`pxcluster stop --cluster-id a`"));
        let bad = judge_clusters(&[
            Left::Bad(DirectoryError::Exposed("x".into())),
            Left::Bad(DirectoryError::Version { path: "y".into(), found: 7 }),
        ]);
        assert_eq!(bad.iter().map(|finding| finding.verdict).collect::<Vec<_>>(), [Verdict::Problem, Verdict::Warning]);
    }

    #[test]
    fn living_clusters_are_named() {
        let found = |left: &[Left]| judge_clusters(left).remove(0).to_string();
        assert_eq!(found(&[]), "ok      connection files: no cluster has left one");
        let two = [Left::Running("a".into()), Left::Elsewhere("b".into(), "h".into())];
        assert_eq!(found(&two), "ok      connection files: 'a' runs on this host, 'b' was started on host h");
    }
}
