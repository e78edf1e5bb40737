//! Whole environments, recorded from Slurm 22.05 in a batch shell, in steps, and made wrong by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::time::Duration;

use proptest::prelude::*;
use slurm_env::{Allocation, AllocationError, Gpus, Node};

/// All that the crate reads.
const VARIABLES: [&str; 21] = [
    "SLURM_JOB_ID",
    "SLURM_JOB_NODELIST",
    "SLURM_NODELIST",
    "SLURM_TASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_JOB_CPUS_PER_NODE",
    "SLURM_JOB_GPUS",
    "SLURM_GPUS",
    "SLURM_GPUS_ON_NODE",
    "SLURM_GPUS_PER_NODE",
    "SLURM_GPUS_PER_TASK",
    "SLURM_JOB_END_TIME",
    "SLURM_RESTART_COUNT",
    "SLURM_STEP_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_GPUS",
    "SLURM_PROCID",
    "SLURMD_NODENAME",
    "SLURM_JOBID",
];

fn pairs(text: &str) -> Vec<(String, String)> {
    text.lines()
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The variables of one task from a file whose lines begin with the task's number.
fn task_pairs(text: &str, task: u32) -> Vec<(String, String)> {
    let label = format!("{task}: ");
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&label)).collect();
    pairs(&lines.join("\n"))
}

fn tasks_of(allocation: &Allocation) -> Vec<(&str, u32)> {
    allocation.nodes.iter().map(|node| (node.name.as_str(), node.tasks)).collect()
}

#[test]
fn a_batch_shell_is_no_task_of_a_step() {
    let vars = pairs(include_str!("data/environments/sbatch.batch-step.txt"));
    let allocation = Allocation::from_vars(vars).unwrap().unwrap();
    assert_eq!(allocation.job_id, "4");
    assert_eq!(allocation.task, None);
    assert_eq!(tasks_of(&allocation), [("h1", 4), ("h2", 2), ("h3", 1)]);
    assert_eq!(allocation.slots(), 7);
    assert_eq!(allocation.cpus_per_task, Some(2));
}

#[test]
fn a_step_counts_its_own_tasks() {
    let text = include_str!("data/environments/sbatch.srun-step.all-tasks.txt");
    for rank in 0..7 {
        let allocation = Allocation::from_vars(task_pairs(text, rank)).unwrap().unwrap();
        let task = allocation.task.as_ref().unwrap();
        assert_eq!((task.step_id, task.rank, task.count), (0, rank, 7));
        assert_eq!(tasks_of(&allocation), [("h1", 3), ("h2", 2), ("h3", 2)]);
    }
    let text = include_str!("data/environments/srun.N3.n5.all-tasks.txt");
    for rank in 0..5 {
        let allocation = Allocation::from_vars(task_pairs(text, rank)).unwrap().unwrap();
        assert_eq!(allocation.task.as_ref().unwrap().rank, rank);
        assert_eq!(tasks_of(&allocation), [("h1", 3), ("h2", 1), ("h3", 1)]);
    }
}

#[test]
fn the_variables_of_a_process_manager_alone_are_no_job() {
    for text in [
        include_str!("data/environments/sbatch.srun-mpi-pmi2.txt"),
        include_str!("data/environments/sbatch.srun-mpi-pmix.txt"),
    ] {
        assert_eq!(Allocation::from_vars(task_pairs(text, 0)), Ok(None));
    }
    assert_eq!(Allocation::from_vars([("PATH", "/bin"), ("SLURM_CONF", "/etc/slurm.conf")]), Ok(None));
}

#[test]
fn an_interactive_step_is_a_shell() {
    let vars = [
        ("SLURM_JOB_ID", "9"),
        ("SLURM_JOB_NODELIST", "n[1-2]"),
        ("SLURM_TASKS_PER_NODE", "4(x2)"),
        ("SLURM_STEP_ID", "4294967290"),
        ("SLURM_STEP_NODELIST", "n1"),
        ("SLURM_STEP_TASKS_PER_NODE", "1"),
        ("SLURM_PROCID", "0"),
    ];
    let allocation = Allocation::from_vars(vars).unwrap().unwrap();
    assert_eq!(allocation.task, None);
    assert_eq!(tasks_of(&allocation), [("n1", 4), ("n2", 4)]);
}

/// A batch shell on two nodes, with more variables.
fn shell_with(more: &[(&'static str, &'static str)]) -> Result<Allocation, AllocationError> {
    let mut vars: std::collections::BTreeMap<&str, &str> =
        [("SLURM_JOB_ID", "9"), ("SLURM_JOB_NODELIST", "n[1-2]"), ("SLURM_TASKS_PER_NODE", "4(x2)")].into();
    vars.extend(more.iter().copied());
    Allocation::from_vars(vars).map(Option::unwrap)
}

fn gpus_of(allocation: &Allocation) -> Vec<Option<u32>> {
    allocation.nodes.iter().map(|node| node.gpus).collect()
}

#[test]
fn a_batch_shell_knows_every_nodes_cpus_and_its_own_gpus() {
    let vars = pairs(include_str!("data/environments/sbatch.batch-step.txt"));
    let allocation = Allocation::from_vars(vars).unwrap().unwrap();
    let node = |name: &str, tasks, cpus, gpus| Node { name: name.to_owned(), tasks, cpus: Some(cpus), gpus };
    assert_eq!(allocation.nodes, [node("h1", 4, 8, Some(1)), node("h2", 2, 4, None), node("h3", 1, 2, None)]);
    assert_eq!(allocation.gpus, Gpus { here: Some(1), ids: vec!["0".to_owned()], ..Gpus::default() });
    assert_eq!((allocation.end_time, allocation.time_left(0), allocation.restarts), (None, None, 0));
}

#[test]
fn a_task_knows_the_gpus_of_its_node() {
    let text = include_str!("data/environments/srun.N3.n5.all-tasks.txt");
    for (rank, gpus) in [(0, [Some(1), None, None]), (3, [None, Some(1), None]), (4, [None, None, Some(1)])] {
        let allocation = Allocation::from_vars(task_pairs(text, rank)).unwrap().unwrap();
        assert_eq!(allocation.gpus.ids, ["0"]);
        assert_eq!(gpus_of(&allocation), gpus);
        assert_eq!(allocation.nodes.iter().map(|node| node.cpus).collect::<Vec<_>>(), [Some(6), Some(2), Some(2)]);
    }
}

#[test]
fn a_step_on_some_nodes_finds_their_cpus_and_not_the_gpus_of_the_batch_shell() {
    let step = shell_with(&[
        ("SLURM_JOB_NODELIST", "n[1-4]"),
        ("SLURM_JOB_CPUS_PER_NODE", "8,16(x3)"),
        ("SLURM_JOB_GPUS", "0,1,2,3"),
        ("SLURM_STEP_ID", "2"),
        ("SLURM_STEP_NODELIST", "n[1,4]"),
        ("SLURM_STEP_TASKS_PER_NODE", "1(x2)"),
        ("SLURM_STEP_NUM_TASKS", "2"),
        ("SLURM_STEP_GPUS", "2,3"),
        ("SLURM_PROCID", "1"),
        ("SLURMD_NODENAME", "n4"),
    ])
    .unwrap();
    let node = |name: &str, cpus, gpus| Node { name: name.to_owned(), tasks: 1, cpus: Some(cpus), gpus };
    assert_eq!(step.nodes, [node("n1", 8, None), node("n4", 16, Some(2))]);
    assert_eq!(step.gpus.ids, ["2", "3"]);
}

#[test]
fn gpus_that_were_asked_for_are_known_of_every_node() {
    let per_node = shell_with(&[("SLURM_GPUS_PER_NODE", "a100:2,v100:1"), ("SLURM_GPUS", "6")]).unwrap();
    assert_eq!(gpus_of(&per_node), [Some(3), Some(3)]);
    assert_eq!(per_node.gpus.total, Some(6));
    let per_task = shell_with(&[("SLURM_GPUS_PER_TASK", "a100:2")]).unwrap();
    assert_eq!((per_task.gpus.per_task, gpus_of(&per_task)), (Some(2), vec![Some(8), Some(8)]));
    let granted =
        shell_with(&[("SLURM_GPUS_PER_NODE", "2"), ("SLURM_GPUS_ON_NODE", "4"), ("SLURMD_NODENAME", "n1")]).unwrap();
    assert_eq!(gpus_of(&granted), [Some(4), Some(2)]);
    assert_eq!(gpus_of(&shell_with(&[]).unwrap()), [None, None]);
}

#[test]
fn cpus_of_other_nodes_say_nothing() {
    let one = shell_with(&[("SLURM_JOB_CPUS_PER_NODE", "8")]).unwrap();
    assert_eq!(one.nodes.iter().map(|node| node.cpus).collect::<Vec<_>>(), [None, None]);
}

#[test]
fn the_time_limit_is_a_moment() {
    let allocation = shell_with(&[("SLURM_JOB_END_TIME", "1700003600"), ("SLURM_RESTART_COUNT", "2")]).unwrap();
    assert_eq!(allocation.time_left(1_700_000_000), Some(Duration::from_secs(3600)));
    assert_eq!(allocation.time_left(1_700_003_601), Some(Duration::ZERO));
    assert_eq!(allocation.restarts, 2);
}

#[test]
fn each_mistake_names_its_variable() {
    let with = |name: &'static str, value: &'static str| shell_with(&[(name, value)]).unwrap_err().to_string();
    assert_eq!(with("SLURM_JOB_NODELIST", "n[1-"), "SLURM_JOB_NODELIST: column 5 of 'n[1-': expected a number");
    assert_eq!(
        with("SLURM_TASKS_PER_NODE", "4x2"),
        "SLURM_TASKS_PER_NODE: '4x2' in '4x2': expected a count such as 2 or 2(x3)"
    );
    assert_eq!(
        with("SLURM_TASKS_PER_NODE", "4"),
        "SLURM_JOB_NODELIST names 2 nodes but SLURM_TASKS_PER_NODE counts 1; they must agree"
    );
    assert_eq!(
        with("SLURM_JOB_CPUS_PER_NODE", "8(x)"),
        "SLURM_JOB_CPUS_PER_NODE: '8(x)' in '8(x)': expected a count such as 2 or 2(x3)"
    );
    for value in ["many", "a100:", ":2", "2,", "4294967295,1"] {
        assert_eq!(
            with("SLURM_GPUS_PER_NODE", value),
            format!("SLURM_GPUS_PER_NODE='{value}': expected a count such as 4, a100:2 or a100:2,v100:1")
        );
    }
    assert_eq!(with("SLURM_JOB_END_TIME", "soon"), "SLURM_JOB_END_TIME='soon': expected a number");
    assert_eq!(with("SLURM_CPUS_PER_TASK", "two"), "SLURM_CPUS_PER_TASK='two': expected a number");
    assert_eq!(
        with("SLURM_STEP_ID", "0"),
        "SLURM_PROCID is not set although SLURM_JOB_ID is; run inside an unmodified Slurm environment"
    );
    assert!(matches!(
        Allocation::from_vars([("SLURM_JOB_ID", "9")]),
        Err(AllocationError::Missing { variable: "SLURM_JOB_NODELIST" })
    ));
}

proptest! {
    #[test]
    fn any_values_end_in_an_allocation_or_an_error(
        values in prop::collection::vec(prop_oneof!["[n0-9,\\[\\]x():-]{0,12}", "[0-9]{1,3}", ".{0,12}"], VARIABLES.len())
    ) {
        let vars = VARIABLES.iter().copied().zip(values);
        if let Ok(Some(allocation)) = Allocation::from_vars(vars) {
            prop_assert!(!allocation.job_id.is_empty());
            prop_assert_eq!(allocation.time_left(u64::MAX).unwrap_or_default(), Duration::ZERO);
        }
    }

    #[test]
    fn a_steps_nodes_have_the_cpus_that_their_job_lists(
        cpus in prop::collection::vec(1u32..300, 1..30), first in any::<prop::sample::Index>()
    ) {
        let first = first.index(cpus.len());
        let list = cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let last = cpus.len() - 1;
        let vars = [
            ("SLURM_JOB_ID", "1".to_owned()),
            ("SLURM_JOB_NODELIST", format!("n[0-{last}]")),
            ("SLURM_JOB_CPUS_PER_NODE", list),
            ("SLURM_STEP_ID", "0".to_owned()),
            ("SLURM_STEP_NODELIST", format!("n[{first}-{last}]")),
            ("SLURM_STEP_TASKS_PER_NODE", format!("1(x{})", cpus.len() - first)),
            ("SLURM_STEP_NUM_TASKS", (cpus.len() - first).to_string()),
            ("SLURM_PROCID", "0".to_owned()),
        ];
        let allocation = Allocation::from_vars(vars).unwrap().unwrap();
        let found: Vec<u32> = allocation.nodes.iter().map(|node| node.cpus.unwrap()).collect();
        prop_assert_eq!(found.as_slice(), &cpus[first..]);
    }
}
