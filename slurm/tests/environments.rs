//! Whole environments, recorded from Slurm 22.05 in a batch shell, in steps, and made wrong by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use slurm_env::{Allocation, AllocationError};

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

#[test]
fn each_mistake_names_its_variable() {
    let shell = [("SLURM_JOB_ID", "9"), ("SLURM_JOB_NODELIST", "n[1-2]"), ("SLURM_TASKS_PER_NODE", "4(x2)")];
    let with = |name: &'static str, value: &'static str| -> String {
        let mut vars: std::collections::BTreeMap<&str, &str> = shell.into();
        vars.insert(name, value);
        Allocation::from_vars(vars).unwrap_err().to_string()
    };
    assert_eq!(with("SLURM_JOB_NODELIST", "n[1-"), "SLURM_JOB_NODELIST: column 5 of 'n[1-': expected a number");
    assert_eq!(
        with("SLURM_TASKS_PER_NODE", "4x2"),
        "SLURM_TASKS_PER_NODE: '4x2' in '4x2': expected a count such as 2 or 2(x3)"
    );
    assert_eq!(
        with("SLURM_TASKS_PER_NODE", "4"),
        "SLURM_JOB_NODELIST names 2 nodes but SLURM_TASKS_PER_NODE counts 1; they must agree"
    );
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
