//! How well grants keep engines busy: one map, no faults, every message 100 µs under way.

use super::random::Random;
use super::{Cluster, Settings};
use crate::GrantPolicy;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
    /// All the same but the one in the middle of the map.
    OneStraggler {
        /// Of the others.
        seconds: f64,
        /// Of the one.
        straggler: f64,
    },
}

/// Result of [`efficiency`].
#[derive(Clone, Copy, Debug)]
pub struct Efficiency {
    /// Ideal makespan / makespan. The ideal is the longer of: all work shared evenly; the longest task.
    pub ratio: f64,
    /// Makespan of one queue that every engine takes from without delay / makespan. What [`Self::ratio`] lacks beyond
    /// this is lost to long tasks that nobody could know would come late.
    pub of_central_queue: f64,
    /// Messages from and to the controller for each task.
    pub messages_per_task: f64,
}

/// Runs a map of `tasks` tasks on `engines` engines, from its submission to its last result at the controller.
pub fn efficiency(engines: u32, tasks: u32, distribution: Distribution, policy: GrantPolicy) -> Efficiency {
    let mut random = Random::new(7);
    let seconds: Vec<f64> = (0..tasks)
        .map(|task| match distribution {
            Distribution::LogNormal { median, sigma } => random.log_normal(median, sigma),
            Distribution::OneStraggler { straggler, .. } if task == tasks / 2 => straggler,
            Distribution::Uniform(seconds) | Distribution::OneStraggler { seconds, .. } => seconds,
        })
        .collect();
    let even = seconds.iter().sum::<f64>() / f64::from(engines);
    let ideal = seconds.iter().copied().fold(even, f64::max);
    let central_queue = central_queue(engines, &seconds);
    let settings = Settings { latency: 100e-6, jitter: false, check_every: u64::MAX, policy };
    let mut cluster = Cluster::new(1, settings, engines);
    cluster.submit_map(0, seconds, None, 0, 0.0);
    cluster.run();
    Efficiency {
        ratio: ideal / cluster.last_map_done,
        of_central_queue: central_queue / cluster.last_map_done,
        messages_per_task: cluster.network.at_controller as f64 / f64::from(tasks),
    }
}

/// Makespan when each engine takes the next task the moment it is idle.
fn central_queue(engines: u32, seconds: &[f64]) -> f64 {
    let mut idle_from: BinaryHeap<Reverse<u64>> = (0..engines).map(|_| Reverse(0)).collect();
    let mut last = 0;
    for task in seconds {
        let Some(Reverse(start)) = idle_from.pop() else { break };
        let end = start + (task * 1e9) as u64;
        idle_from.push(Reverse(end));
        last = last.max(end);
    }
    last as f64 * 1e-9
}
