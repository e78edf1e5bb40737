#![expect(clippy::disallowed_methods, reason = "tests take their seeds from the environment")]

use super::*;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Every `step`th seed from `first` on, or the one that is asked for.
fn run_seeds(first: u64, step: u64, count: u64, size: Size) {
    if let Some(seed) = from_environment("PXCLUSTER_SIM_SEED") {
        run(seed, size);
        return;
    }
    let count = from_environment("PXCLUSTER_SIM_SEEDS").unwrap_or(count);
    let steps: u64 = (first..count).step_by(step as usize).map(|seed| run(seed, size)).sum();
    println!("{size:?}: {steps} steps");
}

// Two tests, because the test harness runs tests in parallel.

#[test]
fn small_clusters_keep_their_promises_even_seeds() {
    run_seeds(0, 2, 2_000, Size::Small);
}

#[test]
fn small_clusters_keep_their_promises_odd_seeds() {
    run_seeds(1, 2, 2_000, Size::Small);
}

#[test]
fn large_clusters_keep_their_promises() {
    run_seeds(0, 1, 3, Size::Large);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(11, Size::Small), run(11, Size::Small));
}

#[test]
fn engines_are_kept_busy() {
    let uniform = Distribution::Uniform(1e-3);
    let log_normal = Distribution::LogNormal { median: 1e-3, sigma: 1.0 };
    let straggler = Distribution::OneStraggler { seconds: 1e-3, straggler: 0.1 };
    for (engines, tasks) in [(8, 8_000), (64, 6_400), (64, 64_000), (1_000, 100_000)] {
        for distribution in [uniform, log_normal, straggler] {
            let Efficiency { ratio, messages_per_task } = efficiency(engines, tasks, distribution, GrantPolicy::default());
            println!("{engines:5} engines {tasks:6} tasks {distribution:?}: {ratio:.3}, {messages_per_task:.2} messages/task");
        }
    }
}
