//! Prints how well simulated clusters are kept busy, beside two other ways to share tasks out.
//!
//! `cargo run --release -p pxcluster-scheduler --example efficiency`
#![allow(clippy::print_stdout, reason = "the table is what it is for")]

use pxcluster_scheduler::GrantPolicy;
use pxcluster_scheduler::sim::{Distribution, Efficiency, central_queue, efficiency, static_chunks};

/// Tasks for each engine.
const TASKS: u32 = 100;

fn main() {
    println!("{TASKS} tasks an engine; 100 us from rank to rank, 1 us of the controller's time for each message");
    println!("efficiency: max(longest task, all work / engines) / makespan; messages: at rank 0, for each task\n");
    println!("{:>7}  {:<32} {:>17} {:>17} {:>17}", "", "", "pxcluster", "central queue", "static chunks");
    let header = ["efficiency", "msgs"].repeat(3);
    print!("{:>7}  {:<32}", "engines", "task times");
    header.chunks(2).for_each(|pair| print!(" {:>11} {:>5}", pair[0], pair[1]));
    println!();
    let distributions = [
        ("uniform 1 ms", Distribution::Uniform(1e-3)),
        ("lognormal, median 1 ms, sigma 1", Distribution::LogNormal { median: 1e-3, sigma: 1.0 }),
        (
            "1 ms, the one in the middle 50 ms",
            Distribution::OneStraggler { seconds: 1e-3, straggler: 50e-3, place: 0.5 },
        ),
        ("1 ms, the last one 50 ms", Distribution::OneStraggler { seconds: 1e-3, straggler: 50e-3, place: 1.0 }),
    ];
    for engines in [64, 1_024, 10_000] {
        for (name, distribution) in distributions {
            let seconds = distribution.seconds(TASKS * engines);
            let ours = efficiency(engines, &seconds, GrantPolicy::default());
            let others = [central_queue(engines, &seconds), static_chunks(engines, &seconds)];
            print!("{engines:>7}  {name:<32}");
            for Efficiency { ratio, messages_per_task } in [ours].into_iter().chain(others) {
                print!(" {ratio:>11.3} {messages_per_task:>5.2}");
            }
            println!();
        }
    }
}
