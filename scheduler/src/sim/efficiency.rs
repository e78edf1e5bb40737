//! How well engines are kept busy: one map, no faults, every message 100 µs under way, 1 µs of the controller's time.

use super::oracle::MapRecord;
use super::random::Random;
use super::{Cluster, Settings};
use crate::GrantPolicy;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Seconds from rank to rank.
const LATENCY: f64 = 100e-6;
/// Seconds that the controller needs for each message; 0.3 to 1 µs were measured for small ones.
const SERVICE: f64 = 1e-6;
/// Results wait for others at least so long, and so long for each engine, seconds: as in engines.
const RESULTS_AGE: [f64; 2] = [1e-3, 5e-6];

/// How long tasks take, in seconds.
#[derive(Clone, Copy, Debug)]
pub enum Distribution {
    /// All the same.
    Uniform(f64),
    /// Log-normal: `exp(N(ln median, sigma))`.
    LogNormal {
        /// Half of the tasks are shorter.
        median: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
    /// All the same but one.
    OneStraggler {
        /// Of the others.
        seconds: f64,
        /// Of the one.
        straggler: f64,
        /// Its place in the map, 0 to 1.
        place: f64,
    },
}

impl Distribution {
    /// Durations of `tasks` tasks, always the same.
    pub fn seconds(self, tasks: u32) -> Vec<f64> {
        let mut random = Random::new(7);
        let odd = |place: f64| (place * f64::from(tasks - 1)) as u32;
        let one = |task| match self {
            Self::LogNormal { median, sigma } => random.log_normal(median, sigma),
            Self::OneStraggler { straggler, place, .. } if task == odd(place) => straggler,
            Self::Uniform(seconds) | Self::OneStraggler { seconds, .. } => seconds,
        };
        (0..tasks).map(one).collect()
    }
}

/// How a map went: ours, or another way to share it out.
#[derive(Clone, Copy, Debug)]
pub struct Efficiency {
    /// Ideal makespan / makespan. The ideal is the longer of: all work shared evenly; the longest task.
    pub ratio: f64,
    /// Messages from and to the controller for each task.
    pub messages_per_task: f64,
}

impl Efficiency {
    fn new(engines: u32, seconds: &[f64], makespan: f64, messages: f64) -> Self {
        let even = seconds.iter().sum::<f64>() / f64::from(engines);
        let ideal = seconds.iter().copied().fold(even, f64::max);
        Self { ratio: ideal / makespan, messages_per_task: messages / seconds.len() as f64 }
    }
}

/// Runs a map on `engines` engines, from its submission to its last result at the controller.
pub fn efficiency(engines: u32, seconds: &[f64], policy: GrantPolicy) -> Efficiency {
    let results_age = RESULTS_AGE[0].max(RESULTS_AGE[1] * f64::from(engines));
    let settings =
        Settings { latency: LATENCY, jitter: false, service: SERVICE, results_age, check_every: u64::MAX, policy };
    let mut cluster = Cluster::new(1, settings, engines);
    cluster.submit_map(0, MapRecord::new(seconds.to_vec()));
    cluster.run();
    Efficiency::new(engines, seconds, cluster.last_map_done, cluster.network.at_controller as f64)
}

/// The same with a central queue and window 1: an engine gets its next task when the result of the last one has arrived.
pub fn central_queue(engines: u32, seconds: &[f64]) -> Efficiency {
    let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
    let (latency, service) = (nanoseconds(LATENCY), nanoseconds(SERVICE));
    // When the controller hears from each engine the next time.
    let mut arrivals: BinaryHeap<Reverse<u64>> = (0..engines).map(|_| Reverse(0)).collect();
    let (mut free, mut last) = (0, 0);
    for task in seconds {
        let Some(Reverse(arrival)) = arrivals.pop() else { break };
        free = arrival.max(free) + 2 * service;
        let end = free + latency + nanoseconds(*task) + latency;
        arrivals.push(Reverse(end));
        last = last.max(end);
    }
    Efficiency::new(engines, seconds, last as f64 * 1e-9, 2.0 * seconds.len() as f64)
}

/// The same with as many tasks for each engine, in a row and once.
pub fn static_chunks(engines: u32, seconds: &[f64]) -> Efficiency {
    let size = seconds.len().div_ceil(engines as usize).max(1);
    let chunks = seconds.chunks(size).map(|chunk| chunk.iter().sum::<f64>());
    let longest = chunks.fold(0.0, f64::max);
    Efficiency::new(engines, seconds, longest + 2.0 * LATENCY, 2.0 * f64::from(engines))
}
