//! The variables of a batch shell or a step's task as one typed value.

use std::collections::HashMap;
use std::time::Duration;

use crate::vars::Vars;
use crate::{CountsError, Gpus, HostlistError, parse_counts, parse_hostlist};

/// Step ids from here on are Slurm's own (batch, external, interactive, pending): a process that has one
/// is a shell, not a task that srun started.
const FIRST_SPECIAL_STEP: u64 = 0xffff_fff0;

/// The nodes of a job, or of a step of it, as this process sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// The job's id.
    pub job_id: String,
    /// Which task of which step this process is; `None` in a batch or interactive shell.
    pub task: Option<Task>,
    /// The nodes with their task counts, in Slurm's order.
    pub nodes: Vec<Node>,
    /// CPUs that each task may use, when the job says so.
    pub cpus_per_task: Option<u32>,
    /// The GPUs.
    pub gpus: Gpus,
    /// When the time limit ends the job, in Unix seconds; Slurm 22.05 does not say.
    pub end_time: Option<u64>,
    /// How often the job was requeued and started again.
    pub restarts: u32,
}

/// One task of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The step's number in the job.
    pub step_id: u64,
    /// This task's number in the step.
    pub rank: u32,
    /// How many tasks the step has.
    pub count: u32,
}

/// One node of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name Slurm knows it by.
    pub name: String,
    /// How many tasks run, or may run, there.
    pub tasks: u32,
    /// CPUs that the job has there; `None` where Slurm does not say, or says it of other nodes.
    pub cpus: Option<u32>,
    /// GPUs that the job or step has there; `None` where Slurm does not say.
    pub gpus: Option<u32>,
}

/// Why the `SLURM_*` variables do not describe an allocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// A variable that every job or step has is not there.
    #[error("{variable} is not set although SLURM_JOB_ID is; run inside an unmodified Slurm environment")]
    Missing {
        /// The variable looked for first.
        variable: &'static str,
    },
    /// A variable should be a number and is not.
    #[error("{variable}='{value}': expected a number")]
    Number {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
    },
    /// The list of nodes cannot be read.
    #[error("{variable}: {source}")]
    Nodelist {
        /// The variable.
        variable: &'static str,
        /// What is wrong.
        source: HostlistError,
    },
    /// Counts per node cannot be read.
    #[error("{variable}: {source}")]
    CountsPerNode {
        /// The variable.
        variable: &'static str,
        /// What is wrong.
        source: CountsError,
    },
    /// A request for GPUs cannot be read.
    #[error("{variable}='{value}': expected a count such as 4, a100:2 or a100:2,v100:1")]
    Gpus {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
    },
    /// The two lists are of different length.
    #[error("{nodelist} names {nodes} nodes but {counts_variable} counts {counts}; they must agree")]
    Lengths {
        /// The variable with the names.
        nodelist: &'static str,
        /// How many names.
        nodes: usize,
        /// The variable with the counts.
        counts_variable: &'static str,
        /// How many counts.
        counts: usize,
    },
}

impl Allocation {
    /// Reads an allocation from name and value pairs; others than `SLURM_*` do not matter.
    /// `Ok(None)` outside a job.
    ///
    /// # Errors
    /// [`AllocationError`] names the variable that is missing, unreadable, or disagrees with another.
    pub fn from_vars<I, K, V>(vars: I) -> Result<Option<Self>, AllocationError>
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
    {
        let vars = Vars::from_pairs(vars);
        let Some((_, job_id)) = vars.first(&["SLURM_JOB_ID", "SLURM_JOBID"]) else {
            return Ok(None);
        };
        let task = parse_task(&vars)?;
        let in_step = task.is_some();
        let gpus = Gpus::from_vars(&vars, in_step)?;
        let mut nodes = parse_nodes(&vars, in_step)?;
        let cpus = parse_cpus(&vars)?;
        for node in &mut nodes {
            node.cpus = cpus.get(&node.name).copied();
            node.gpus = gpus.on(node, vars.get("SLURMD_NODENAME") == Some(&node.name));
        }
        Ok(Some(Self {
            job_id: job_id.to_owned(),
            task,
            nodes,
            cpus_per_task: vars.number("SLURM_CPUS_PER_TASK")?,
            gpus,
            end_time: vars.number("SLURM_JOB_END_TIME")?,
            restarts: vars.number("SLURM_RESTART_COUNT")?.unwrap_or(0),
        }))
    }

    /// How many tasks the allocation has room for.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.nodes.iter().map(|node| node.tasks as usize).sum()
    }

    /// How long the job may still run at the moment `now`, in Unix seconds; nothing when the end is not known.
    #[must_use]
    pub fn time_left(&self, now: u64) -> Option<Duration> {
        Some(Duration::from_secs(self.end_time?.saturating_sub(now)))
    }
}

fn parse_task(vars: &Vars) -> Result<Option<Task>, AllocationError> {
    match vars.number("SLURM_STEP_ID")? {
        None => Ok(None),
        Some(step_id) if step_id >= FIRST_SPECIAL_STEP => Ok(None),
        Some(step_id) => Ok(Some(Task {
            step_id,
            rank: vars.required_number("SLURM_PROCID")?,
            count: vars.required_number("SLURM_STEP_NUM_TASKS")?,
        })),
    }
}

/// A step may use fewer nodes and other counts than its job, so inside one the step's variables come
/// first; a shell that lives in an interactive step must not look at them.
fn parse_nodes(vars: &Vars, in_step: bool) -> Result<Vec<Node>, AllocationError> {
    let skip = usize::from(!in_step);
    let (nodelist, names) = vars.required(&["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"][skip..])?;
    let (counts_variable, counts) = vars.required(&["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"][skip..])?;
    let names = names_in(nodelist, names)?;
    let counts = counts_in(counts_variable, counts)?;
    if names.len() != counts.len() {
        return Err(AllocationError::Lengths { nodelist, nodes: names.len(), counts_variable, counts: counts.len() });
    }
    let nodes = names.into_iter().zip(counts);
    Ok(nodes.map(|(name, tasks)| Node { name, tasks, cpus: None, gpus: None }).collect())
}

/// CPUs by the name of the node. They are the job's, in the order of its nodes; a step may use some of these.
/// Lists that do not pair (a component of a heterogeneous job) say nothing, which stops nobody.
fn parse_cpus(vars: &Vars) -> Result<HashMap<String, u32>, AllocationError> {
    const CPUS: &str = "SLURM_JOB_CPUS_PER_NODE";
    let (Some((nodelist, names)), Some(cpus)) = (vars.first(&["SLURM_JOB_NODELIST", "SLURM_NODELIST"]), vars.get(CPUS))
    else {
        return Ok(HashMap::new());
    };
    let (names, cpus) = (names_in(nodelist, names)?, counts_in(CPUS, cpus)?);
    let paired = names.len() == cpus.len();
    Ok(names.into_iter().zip(cpus).filter(|_| paired).collect())
}

fn names_in(variable: &'static str, text: &str) -> Result<Vec<String>, AllocationError> {
    parse_hostlist(text).map_err(|source| AllocationError::Nodelist { variable, source })
}

fn counts_in(variable: &'static str, text: &str) -> Result<Vec<u32>, AllocationError> {
    parse_counts(text).map_err(|source| AllocationError::CountsPerNode { variable, source })
}
