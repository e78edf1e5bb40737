//! The door to what the kernel knows of the node: affinity, cores, devices.
#![allow(unsafe_code, reason = "sched_getaffinity, sched_setaffinity, and the environment while there is one thread")]

use super::{Host, Settings, settings};
use crate::cli::Flags;
use crate::environment::Place;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// CPUs that a mask has room for, as many as the kernel can be built for.
const MOST_CPUS: usize = 8192;
const WORD: usize = u64::BITS as usize;

/// A set of CPUs as the kernel takes it (`sched_setaffinity(2)`).
type Mask = [u64; MOST_CPUS / WORD];

/// Gives this process, and all that it loads and starts, its share of the node. To be called in the process that the
/// launcher has started, whose parent tells whether it is bound, and before any thread.
pub(crate) fn take_share(place: Place, flags: &Flags) {
    if flags.no_bind {
        return;
    }
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    // Where the kernel does not say, or does not let itself be asked, there are no cores to share.
    let host = Host { nvidia: count_nvidia(), amd: Path::new("/dev/kfd").exists(), ..cpus().unwrap_or_default() };
    let Settings { cpus, variables } = settings(place, &variables, &host);
    if let Some(cpus) = &cpus
        && let Err(error) = set_affinity(&mask(cpus))
    {
        tracing::warn!("the engine cannot be bound to CPUs {cpus:?}: {error}");
    }
    tracing::debug!("CPUs {cpus:?}, {variables:?}");
    for (name, value) in variables {
        // SAFETY: the process has one thread.
        unsafe { std::env::set_var(name, value) };
    }
}

/// What there is of a host's cores.
fn cpus() -> io::Result<Host> {
    let own = affinity(0)?;
    let parent = affinity(nix::unistd::getppid().as_raw()).ok();
    // The kernel cuts a mask of all CPUs down to those of the job's cpuset.
    set_affinity(&[u64::MAX; MOST_CPUS / WORD])?;
    let widest = affinity(0);
    set_affinity(&mask(&own))?;
    let widest = widest?;
    // A set that the parent has, too, was chosen for the launcher and all its ranks.
    let bound = own != widest && parent.as_ref() != Some(&own);
    Ok(Host { cores: cores(&own), widest: cores(&widest).len(), bound, ..Host::default() })
}

/// The CPUs of a process; 0 is this one.
fn affinity(process: i32) -> io::Result<Vec<usize>> {
    let mut mask: Mask = [0; MOST_CPUS / WORD];
    // SAFETY: the kernel writes into the mask, of which it is told the size.
    let done = unsafe { libc::sched_getaffinity(process, size_of::<Mask>(), mask.as_mut_ptr().cast()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..MOST_CPUS).filter(|cpu| mask[cpu / WORD] >> (cpu % WORD) & 1 == 1).collect())
}

fn set_affinity(mask: &Mask) -> io::Result<()> {
    // SAFETY: the kernel reads the mask, of which it is told the size.
    let done = unsafe { libc::sched_setaffinity(0, size_of::<Mask>(), mask.as_ptr().cast()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn mask(cpus: &[usize]) -> Mask {
    let mut mask: Mask = [0; MOST_CPUS / WORD];
    for cpu in cpus {
        mask[cpu / WORD] |= 1 << (cpu % WORD);
    }
    mask
}

/// CPUs by core, those of a socket beside each other. Where the kernel does not tell (no sysfs), each is a core.
fn cores(cpus: &[usize]) -> Vec<Vec<usize>> {
    let mut cores: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for &cpu in cpus {
        let about = |name: &str| fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}")).ok();
        let socket = about("physical_package_id").and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let siblings = about("thread_siblings_list").and_then(|text| parse_cpus(&text));
        let first = siblings.and_then(|siblings| siblings.first().copied()).unwrap_or(cpu);
        cores.entry((socket, first)).or_default().push(cpu);
    }
    cores.into_values().collect()
}

/// A list such as `0-3,8` (cpuset(7), "List format").
fn parse_cpus(text: &str) -> Option<BTreeSet<usize>> {
    let mut cpus = BTreeSet::new();
    for item in text.trim().split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok().filter(|&last| last < MOST_CPUS)?);
    }
    Some(cpus)
}

/// The devices `/dev/nvidia0`, `/dev/nvidia1` …
fn count_nvidia() -> usize {
    let names = fs::read_dir("/dev").into_iter().flatten().filter_map(Result::ok);
    names.filter(|entry| entry.file_name().to_str().is_some_and(is_nvidia)).count()
}

/// Whether a device is a GPU, and none that manages them, such as `nvidiactl`.
fn is_nvidia(name: &str) -> bool {
    let number = name.strip_prefix("nvidia").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_bound_and_freed() {
        // A thread has a mask of its own.
        let thread = std::thread::spawn(|| {
            let before = affinity(0).expect("a mask");
            set_affinity(&mask(&before[..1])).expect("is allowed");
            assert_eq!(affinity(0).expect("a mask"), before[..1]);
            let found = cpus().expect("a host");
            assert_eq!(found.cores, [&before[..1]]);
            assert!(found.widest >= 1);
            assert_eq!(found.bound, before.len() > 1, "the parent has all of them");
            assert_eq!(affinity(0).expect("a mask"), before[..1], "looking changes nothing");
            assert_eq!(cores(&before).concat().len(), before.len());
        });
        thread.join().expect("no panic");
    }

    #[test]
    fn lists_of_cpus_and_names_of_gpus_are_read() {
        assert_eq!(parse_cpus("0-2,8\n"), Some(BTreeSet::from([0, 1, 2, 8])));
        assert_eq!(parse_cpus("5"), Some(BTreeSet::from([5])));
        assert_eq!(parse_cpus(""), None);
        assert_eq!(parse_cpus("0-99999999999"), None);
        let names = ["nvidia0", "nvidia12", "nvidia", "nvidiactl", "nvidia-uvm", "nvidia0x", "null"];
        assert_eq!(names.map(is_nvidia), [true, true, false, false, false, false, false]);
    }
}
