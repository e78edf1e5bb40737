//! The ulimits that ranks run into, each with a mend: open files, processes, locked memory, address space.

use std::fs;
use std::path::Path;

use allocation::Allocation;

use super::finding::{Finding, size};
use crate::machine::cores;

const CHECK: &str = "ulimits";

/// Descriptors of each rank in the process that starts it: counted were 2 in Open MPI's mpirun, 4 in MPICH's proxy.
const FILES_PER_RANK: u64 = 4;
/// Descriptors for everything else: sockets of clients, libraries, Python's modules.
const FILES: u64 = 256;
/// Threads and processes of a rank besides those of its numerical libraries, which start one for each core.
const THREADS_PER_RANK: u64 = 16;

/// A soft and a hard limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    soft: Option<u64>,
    hard: Option<u64>,
}

/// What the judgement depends on.
#[derive(Debug, Clone)]
struct Facts {
    files: Option<Limit>,
    processes: Option<Limit>,
    locked: Option<Limit>,
    space: Option<Limit>,
    /// Ranks that a cluster of default size has on one host.
    ranks: u64,
    cores: u64,
    is_root: bool,
    has_infiniband: bool,
}

pub(crate) fn examine(allocation: Option<&Allocation>) -> Vec<Finding> {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let tasks = allocation.and_then(|job| job.hosts.iter().map(|host| u64::from(host.slots)).max());
    let devices = fs::read_dir(Path::new("/sys/class/infiniband")).map(|mut devices| devices.next().is_some());
    let cores = cores() as u64;
    judge(&Facts {
        files: parse_limit(&text, "Max open files"),
        processes: parse_limit(&text, "Max processes"),
        locked: parse_limit(&text, "Max locked memory"),
        space: parse_limit(&text, "Max address space"),
        ranks: tasks.unwrap_or(cores).max(2),
        cores,
        is_root: nix::unistd::getuid().is_root(),
        has_infiniband: devices.unwrap_or(false),
    })
}

/// Reads a line of `/proc/<pid>/limits` (`proc_pid_limits(5)`): the name, the soft and the hard limit.
fn parse_limit(text: &str, name: &str) -> Option<Limit> {
    let mut values = text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace();
    let mut value = || match values.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Limit { soft: value()?, hard: value()? })
}

fn judge(facts: &Facts) -> Vec<Finding> {
    let Facts { ranks, cores, .. } = facts;
    // The kernel does not count the processes of root.
    let processes = facts.processes.filter(|_| !facts.is_root);
    let threads = ranks * (THREADS_PER_RANK + cores);
    let [files, processes] = [
        (facts.files, 'n', "nofile", "open files", FILES + FILES_PER_RANK * ranks),
        (processes, 'u', "nproc", "processes and threads", threads),
    ]
    .map(|(limit, flag, item, noun, need)| {
        let Limit { soft, hard } = limit?;
        let soft = soft.filter(|soft| *soft < need)?;
        let found = format!("{soft} {noun} are allowed, and {ranks} ranks may need {need}");
        Some(Finding::warning(CHECK, found, raise(flag, item, need, hard)))
    });
    let locked = facts.locked.and_then(|limit| limit.soft).filter(|_| facts.has_infiniband).map(|soft| {
        let found = format!("{} of memory may be locked, and InfiniBand needs more", size(soft));
        let mend = "run `ulimit -l unlimited`; where that is refused, ask for `* - memlock unlimited` in \
                    /etc/security/limits.conf and LimitMEMLOCK=infinity for slurmd";
        Finding::warning(CHECK, found, mend)
    });
    let space = facts.space.and_then(|limit| limit.soft).map(|soft| {
        let found = format!("a process may have {} of address space, and shared memory is mapped whole", size(soft));
        let mend = "run `ulimit -v unlimited`; where that is refused, as on some login nodes, start clusters in a job";
        Finding::warning(CHECK, found, mend)
    });
    let narrow: Vec<Finding> = [files, processes, locked, space].into_iter().flatten().collect();
    if narrow.is_empty() {
        return vec![Finding::ok(CHECK, format!("the ulimits are wide enough for {ranks} ranks on this host"))];
    }
    narrow
}

/// How a limit is raised: by the user, up to the hard limit.
fn raise(flag: char, item: &str, need: u64, hard: Option<u64>) -> String {
    let shell = match hard {
        None => Some("unlimited".to_owned()),
        Some(hard) if hard >= need => Some(hard.to_string()),
        Some(_) => None,
    };
    shell.map_or_else(
        || {
            format!(
                "ask for a higher {item} in /etc/security/limits.conf, or set OMP_NUM_THREADS=1 and start fewer engines"
            )
        },
        |value| format!("run `ulimit -{flag} {value}` before the cluster is started"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    const TEXT: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max stack size            8388608              unlimited            bytes     
Max processes             96365                96365                processes 
Max open files            1024                 524288               files     
Max locked memory         8388608              8388608              bytes     
Max address space         unlimited            unlimited            bytes     
Max nice priority         0                    0                    
";

    fn facts() -> Facts {
        Facts {
            files: parse_limit(TEXT, "Max open files"),
            processes: parse_limit(TEXT, "Max processes"),
            locked: parse_limit(TEXT, "Max locked memory"),
            space: parse_limit(TEXT, "Max address space"),
            ranks: 64,
            cores: 64,
            is_root: false,
            has_infiniband: false,
        }
    }

    fn only(facts: &Facts) -> Finding {
        let mut findings = judge(facts);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn limits_are_read() {
        assert_eq!(parse_limit(TEXT, "Max open files"), Some(Limit { soft: Some(1024), hard: Some(524_288) }));
        assert_eq!(parse_limit(TEXT, "Max address space"), Some(Limit { soft: None, hard: None }));
        assert_eq!(parse_limit(TEXT, "Max nonsense"), None);
        let own = fs::read_to_string("/proc/self/limits").unwrap();
        assert!(parse_limit(&own, "Max open files").is_some());
    }

    #[test]
    fn usual_limits_are_wide_enough() {
        assert_eq!(only(&facts()).to_string(), "ok      the ulimits are wide enough for 64 ranks on this host");
    }

    #[test]
    fn few_descriptors_can_be_raised_up_to_the_hard_limit() {
        let many = only(&Facts { ranks: 256, ..facts() });
        assert_eq!(many.found, "1024 open files are allowed, and 256 ranks may need 1280");
        assert_eq!(many.mend.unwrap(), "run `ulimit -n 524288` before the cluster is started");
        let hard = Some(Limit { soft: Some(100), hard: Some(100) });
        assert!(only(&Facts { files: hard, ..facts() }).mend.unwrap().starts_with("ask for a higher nofile"));
    }

    #[test]
    fn processes_are_counted_for_everybody_but_root() {
        let few = Facts { processes: Some(Limit { soft: Some(4096), hard: None }), ..facts() };
        let warning = only(&few);
        assert_eq!(warning.found, "4096 processes and threads are allowed, and 64 ranks may need 5120");
        assert_eq!(warning.mend.unwrap(), "run `ulimit -u unlimited` before the cluster is started");
        assert_eq!(only(&Facts { is_root: true, ..few }).verdict, Verdict::Ok);
    }

    #[test]
    fn locked_memory_matters_to_infiniband_alone_and_address_space_to_all() {
        let locked = only(&Facts { has_infiniband: true, ..facts() });
        assert_eq!(locked.found, "8 MiB of memory may be locked, and InfiniBand needs more");
        let space = only(&Facts { space: Some(Limit { soft: Some(4 << 30), hard: None }), ..facts() });
        assert!(space.mend.unwrap().starts_with("run `ulimit -v unlimited`"));
    }
}
