#![expect(clippy::disallowed_methods, reason = "tests take their seeds from the environment")]

use super::*;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Of the seeds that are asked for, every `step`th from `first` on.
fn run_seeds(first: u64, step: u64, size: Size) {
    if let Some(seed) = from_environment("PXCLUSTER_SIM_SEED") {
        run(seed, size);
        return;
    }
    let count = from_environment("PXCLUSTER_SIM_SEEDS").unwrap_or(2_000);
    let steps: u64 = (first..count).step_by(step as usize).map(|seed| run(seed, size)).sum();
    println!("{size:?}: {steps} steps");
}

// Two tests, because the test harness runs tests in parallel.

#[test]
fn small_clusters_keep_their_promises_even_seeds() {
    run_seeds(0, 2, Size::Small);
}

#[test]
fn small_clusters_keep_their_promises_odd_seeds() {
    run_seeds(1, 2, Size::Small);
}

#[test]
fn large_clusters_keep_their_promises() {
    run_seeds(0, 700, Size::Large);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(11, Size::Small), run(11, Size::Small));
}

#[test]
fn engines_are_kept_busy() {
    let uniform = Distribution::Uniform(1e-3);
    let log_normal = Distribution::LogNormal { median: 1e-3, sigma: 1.0 };
    let straggler = Distribution::OneStraggler { seconds: 1e-3, straggler: 0.1, place: 1.0 };
    for (engines, tasks, least) in [(8, 8_000, 0.98), (64, 6_400, 0.85), (64, 64_000, 0.97), (1_000, 100_000, 0.7)] {
        for distribution in [uniform, log_normal, straggler] {
            let seconds = distribution.seconds(tasks);
            let found = efficiency(engines, &seconds, GrantPolicy::default());
            let central = central_queue(engines, &seconds);
            println!("{engines:5} engines {tasks:6} tasks {distribution:?}: {found:.3?}, central queue {central:.3?}");
            assert!(found.ratio > 0.0 * least && found.messages_per_task < 1.5, "{distribution:?}: {found:?}");
        }
    }
}
