//! How much memory the engines' processes have: read from `/proc` on rank 0's node, told by the engines of others.

use pxcluster_protocol::EngineId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long what was read is good enough. Whoever asks more often is not to keep the event loop busy with reading.
const FRESH: Duration = Duration::from_millis(500);

/// See the module's page.
#[derive(Debug, Default)]
pub(crate) struct Rss {
    known: BTreeMap<EngineId, u64>,
    looked: Option<Instant>,
}

impl Rss {
    /// An engine says how many bytes it has.
    pub(crate) fn tell(&mut self, engine: EngineId, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => self.known.insert(engine, bytes),
            None => self.known.remove(&engine),
        };
    }

    /// Reads those of engines of this node, named with their process ids.
    pub(crate) fn look(&mut self, here: Vec<(EngineId, u32)>, now: Instant) {
        if self.looked.is_some_and(|last| now.saturating_duration_since(last) < FRESH) {
            return;
        }
        self.looked = Some(now);
        for (engine, pid) in here {
            self.tell(engine, rss_of(&pid.to_string()));
        }
    }

    /// Bytes that an engine's process has in memory, if that is known.
    pub(crate) fn of(&self, engine: EngineId) -> Option<u64> {
        self.known.get(&engine).copied()
    }
}

/// Bytes that a process of this host has in memory, shared memory that it has mapped included. `process`: its id, or `self`.
pub fn rss_of(process: &str) -> Option<u64> {
    parse_rss(&std::fs::read_to_string(format!("/proc/{process}/status")).ok()?)
}

/// Reads `VmRSS` of `/proc/<pid>/status` (proc(5)), which is in units of 1024 bytes.
fn parse_rss(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rss_is_read_in_bytes() {
        let status = "Name:\tpxcluster-rank\nVmHWM:\t  999999 kB\nVmRSS:\t   41972 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(parse_rss(status), Some(41_972 * 1024));
        assert_eq!(parse_rss("Name:\tkthreadd\nThreads:\t1\n"), None, "a kernel thread or a zombie has none");
        assert_eq!(parse_rss("VmRSS:\t12 pages\n"), None);
        assert!(rss_of("self").is_some_and(|bytes| bytes > 1 << 16));
        assert_eq!(rss_of("0"), None);
    }

    #[test]
    fn processes_are_read_from_time_to_time_and_words_taken_at_once() {
        let (mut rss, start) = (Rss::default(), Instant::now());
        let (here, gone, elsewhere) = (EngineId(0), EngineId(1), EngineId(2));
        rss.tell(elsewhere, Some(7));
        rss.look(vec![(here, std::process::id()), (gone, 0)], start);
        assert!(rss.of(here).is_some());
        assert_eq!((rss.of(gone), rss.of(elsewhere)), (None, Some(7)));
        rss.look(vec![(here, 0)], start + FRESH / 2);
        assert!(rss.of(here).is_some(), "too early to look again");
        rss.look(vec![(here, 0)], start + FRESH);
        assert_eq!(rss.of(here), None);
        rss.tell(elsewhere, None);
        assert_eq!(rss.of(elsewhere), None);
    }
}
