//! `/dev/shm`, through which ranks of one host talk and hand over large buffers.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use super::ask::Ask;
use super::finding::{Finding, size};
use super::mounts::file_system_of;

const CHECK: &str = "shared memory";

/// Less than this is what containers have by default (64 MiB): enough for a few ranks and small arrays.
const SMALL: u64 = 256 << 20;
/// With less than this free an MPI may not start; each rank of Open MPI takes 4 MiB before anything is sent.
const FULL: u64 = 32 << 20;
/// File systems in memory.
const IN_MEMORY: [&str; 4] = ["tmpfs", "ramfs", "hugetlbfs", "devtmpfs"];

/// What is known of a directory in memory, sizes in bytes.
#[derive(Debug, Clone)]
struct Memory {
    total: u64,
    free: u64,
    file_system: Option<String>,
}

/// Looks at the directory of pxcluster and at that of the MPIs, which know no other.
pub(crate) fn examine(ask: &Ask) -> Vec<Finding> {
    let own = std::env::var_os("PXCLUSTER_SHM_DIR").map(PathBuf::from);
    let paths: BTreeSet<PathBuf> = own.into_iter().chain(["/dev/shm".into()]).collect();
    let look = |path: PathBuf| {
        let name = path.display().to_string();
        ask.within(move || survey(&path)).map_or_else(|| silent(&name, &ask.patience()), |memory| judge(&name, &memory))
    };
    paths.into_iter().map(look).collect()
}

fn survey(path: &Path) -> io::Result<Memory> {
    let found = statvfs(path)?;
    access(path, AccessFlags::W_OK | AccessFlags::X_OK)?;
    let unit = found.fragment_size();
    Ok(Memory {
        total: found.blocks() * unit,
        free: found.blocks_available() * unit,
        file_system: file_system_of(path),
    })
}

fn silent(path: &str, patience: &str) -> Finding {
    let found = format!("the file system of {path} did not answer within {patience}");
    Finding::problem(CHECK, found, "unset PXCLUSTER_SHM_DIR, or set it to a directory in memory")
}

fn judge(path: &str, memory: &io::Result<Memory>) -> Finding {
    let Memory { total, free, file_system } = match memory {
        Ok(memory) => memory,
        Err(error) => {
            let found = format!("no shared memory can be made in {path} ({error})");
            let mend = "have a tmpfs of mode 1777 mounted there, or unset PXCLUSTER_SHM_DIR if it names that directory";
            return Finding::problem(CHECK, found, mend);
        }
    };
    let has = format!("{path} has {}, of which {} are free", size(*total), size(*free));
    match file_system {
        Some(kind) if !IN_MEMORY.contains(&kind.as_str()) => Finding::warning(
            CHECK,
            format!("{path} is on {kind} and not in memory, so that large buffers are written to a disk"),
            "set PXCLUSTER_SHM_DIR to a directory on a tmpfs, or unset it",
        ),
        _ if *total < SMALL => Finding::warning(
            CHECK,
            format!("{has}, too little for many ranks and for large arrays"),
            "start the container with --shm-size=1g (docker, podman), or run `mount -o remount,size=50% /dev/shm` as root",
        ),
        _ if *free < FULL => Finding::warning(
            CHECK,
            format!("{has}, so that it is full"),
            format!("remove what programs that have ended left there, with `ls -l {path}` and `rm`"),
        ),
        _ => Finding::ok(CHECK, has),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn memory_is_judged_by_size_and_what_is_free() {
        let look = |total, free, kind: &str| {
            let file_system = Some(kind.into());
            judge("/dev/shm", &Ok(Memory { total, free, file_system }))
        };
        assert_eq!(look(8 << 30, 6 << 30, "tmpfs").to_string(), "ok      /dev/shm has 8 GiB, of which 6 GiB are free");
        let small = look(64 << 20, 64 << 20, "tmpfs");
        assert_eq!(
            small.found,
            "/dev/shm has 64 MiB, of which 64 MiB are free, too little for many ranks and for large arrays"
        );
        assert!(small.mend.unwrap().contains("--shm-size=1g"));
        assert!(look(8 << 30, 1 << 20, "tmpfs").found.ends_with("so that it is full"));
        assert!(look(8 << 30, 6 << 30, "xfs").found.starts_with("/dev/shm is on xfs and not in memory"));
        assert_eq!(judge("/dev/shm", &Err(io::ErrorKind::NotFound.into())).verdict, Verdict::Problem);
        assert_eq!(silent("/x", "2 seconds").found, "the file system of /x did not answer within 2 seconds");
    }

    #[test]
    fn this_hosts_memory_can_be_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let memory = survey(folder.path()).unwrap();
        assert!(memory.total >= memory.free && memory.file_system.is_some());
        assert!(survey(&folder.path().join("none")).is_err());
    }
}
