//! What this machine is: its name, its cores, its processes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// This host's name, the same that a controller here writes into its connection file.
#[must_use]
pub fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The environment as far as it is text; no variable that matters here is anything else.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Cores that this process may use. Hardware threads of one core count once, as mpirun counts slots.
#[must_use]
pub fn cores() -> usize {
    let usable = thread::available_parallelism().map_or(1, usize::from);
    let physical = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| parse_cores(&text));
    physical.map_or(usable, |physical| physical.min(usable))
}

/// Cores by `/proc/cpuinfo` (proc(5)); `None` where it does not tell cores from hardware threads.
fn parse_cores(text: &str) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for processor in text.split("\n\n").filter(|block| block.contains("processor")) {
        let field = |name: &str| {
            let line = processor.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
            Some(line.split_once(':')?.1.trim())
        };
        cores.insert((field("physical id")?, field("core id")?));
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// The kernel's unit of times in `/proc`, the same on every architecture that pxcluster runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// How far the clock may have been set since the boot time was written down, seconds.
const CLOCK_SLACK: f64 = 5.0;

/// One process of this host. It remembers when the process started, so that a later one with the same id is
/// not taken for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pid: u32,
    stat: Stat,
}

/// The part of `/proc/<pid>/stat` that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    name: String,
    ended: bool,
    parent: u32,
    start: u64,
}

impl Process {
    /// The live process with this id; one that ended and was not waited for counts as gone.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        let stat = parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        (!stat.ended).then_some(Self { pid, stat })
    }

    /// Whether it started after a moment, in Unix seconds: then it is not who had this id at that moment.
    #[must_use]
    pub fn is_younger_than(&self, moment: f64) -> bool {
        let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| parse_boot_time(&text));
        boot.is_some_and(|boot| boot + self.stat.start as f64 / TICKS_PER_SECOND > moment + CLOCK_SLACK)
    }

    /// The process that started it.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        Self::find(self.stat.parent)
    }

    /// Its program's name, cut to 15 characters by the kernel.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.stat.name
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::find(self.pid).is_some_and(|now| now.stat.start == self.stat.start)
    }

    /// Sends it a signal, unless it is gone.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // It may end between the two lines, or belong to somebody else; the caller looks again anyway.
            let _ = kill(Pid::from_raw(self.pid.cast_signed()), signal);
        }
    }
}

/// Waits until `done`, looking often at first and then ten times a second; `false` when the time is over.
pub fn wait_until(timeout: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_millis(5);
    loop {
        if done() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Reads `/proc/<pid>/stat` (`proc_pid_stat(5)`). The name stands in brackets and may hold any character.
fn parse_stat(text: &str) -> Option<Stat> {
    let (before, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        name: before.split_once('(')?.1.to_owned(),
        ended: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// Reads the moment of boot, in Unix seconds, from `/proc/stat` (proc(5)).
fn parse_boot_time(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_threads_of_a_core_count_once() {
        let processor = |id: u32, package: u32, core: u32| {
            format!("processor\t: {id}\nmodel name\t: core id\nphysical id\t: {package}\ncore id\t\t: {core}\n\n")
        };
        let text: String = [processor(0, 0, 0), processor(1, 0, 1), processor(2, 0, 0), processor(3, 1, 0)].concat();
        assert_eq!(parse_cores(&text), Some(3));
        assert_eq!(parse_cores("processor\t: 0\nBogoMIPS\t: 50\n\n"), None);
        assert_eq!(parse_cores(""), None);
        assert!(cores() >= 1);
    }

    #[test]
    fn a_name_with_brackets_does_not_confuse() {
        let text = "42 (a) (b) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 99 1000 10";
        assert_eq!(parse_stat(text), Some(Stat { name: "a) (b".into(), ended: false, parent: 7, start: 99 }));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn a_process_knows_its_age() {
        assert_eq!(parse_boot_time("cpu 1 2\nbtime 1700000000\nprocesses 3\n"), Some(1_700_000_000.0));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let this = Process::find(std::process::id()).unwrap();
        assert!(!this.is_younger_than(now) && this.is_younger_than(now - 1e6));
    }

    #[test]
    fn a_process_that_ended_is_gone_before_anybody_waits_for_it() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        assert_eq!(process.parent(), Process::find(std::process::id()));
        assert!(process.is_alive());
        process.signal(Signal::SIGKILL);
        assert!(wait_until(Duration::from_secs(10), || !process.is_alive()));
        child.wait().unwrap();
        process.signal(Signal::SIGKILL);
    }
}
