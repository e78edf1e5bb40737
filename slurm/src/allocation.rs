//! The variables of a batch shell or a step's task as one typed value.

use std::collections::BTreeMap;

use crate::{CountsError, HostlistError, parse_counts, parse_hostlist};

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
    /// The tasks per node cannot be read.
    #[error("{variable}: {source}")]
    TasksPerNode {
        /// The variable.
        variable: &'static str,
        /// What is wrong.
        source: CountsError,
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
        let vars = Vars(
            vars.into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .filter(|(name, value)| name.starts_with("SLURM_") && !value.is_empty())
                .collect(),
        );
        let Some((_, job_id)) = vars.first(&["SLURM_JOB_ID", "SLURM_JOBID"]) else {
            return Ok(None);
        };
        let task = vars.parse_task()?;
        Ok(Some(Self {
            job_id: job_id.to_owned(),
            nodes: vars.parse_nodes(task.is_some())?,
            task,
            cpus_per_task: vars.number("SLURM_CPUS_PER_TASK")?,
        }))
    }

    /// How many tasks the allocation has room for.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.nodes.iter().map(|node| node.tasks as usize).sum()
    }
}

struct Vars(BTreeMap<String, String>);

impl Vars {
    /// The first of `names` that is set.
    fn first(&self, names: &[&'static str]) -> Option<(&'static str, &str)> {
        names.iter().find_map(|&name| Some((name, self.0.get(name)?.as_str())))
    }

    fn required(&self, names: &[&'static str]) -> Result<(&'static str, &str), AllocationError> {
        self.first(names).ok_or(AllocationError::Missing { variable: names[0] })
    }

    fn number<T: std::str::FromStr>(&self, variable: &'static str) -> Result<Option<T>, AllocationError> {
        let Some(value) = self.0.get(variable) else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|_| AllocationError::Number { variable, value: value.clone() })
    }

    fn required_number<T: std::str::FromStr>(&self, variable: &'static str) -> Result<T, AllocationError> {
        self.number(variable)?.ok_or(AllocationError::Missing { variable })
    }

    fn parse_task(&self) -> Result<Option<Task>, AllocationError> {
        match self.number("SLURM_STEP_ID")? {
            None => Ok(None),
            Some(step_id) if step_id >= FIRST_SPECIAL_STEP => Ok(None),
            Some(step_id) => Ok(Some(Task {
                step_id,
                rank: self.required_number("SLURM_PROCID")?,
                count: self.required_number("SLURM_STEP_NUM_TASKS")?,
            })),
        }
    }

    /// A step may use fewer nodes and other counts than its job, so inside one the step's variables come
    /// first; a shell that lives in an interactive step must not look at them.
    fn parse_nodes(&self, in_step: bool) -> Result<Vec<Node>, AllocationError> {
        let skip = usize::from(!in_step);
        let (nodelist, names) =
            self.required(&["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"][skip..])?;
        let (counts_variable, counts) =
            self.required(&["SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"][skip..])?;
        let names = parse_hostlist(names).map_err(|source| AllocationError::Nodelist { variable: nodelist, source })?;
        let counts = parse_counts(counts)
            .map_err(|source| AllocationError::TasksPerNode { variable: counts_variable, source })?;
        if names.len() != counts.len() {
            return Err(AllocationError::Lengths {
                nodelist,
                nodes: names.len(),
                counts_variable,
                counts: counts.len(),
            });
        }
        Ok(names.into_iter().zip(counts).map(|(name, tasks)| Node { name, tasks }).collect())
    }
}
