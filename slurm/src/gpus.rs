//! What Slurm says of GPUs (sbatch(1) and srun(1), `OUTPUT ENVIRONMENT VARIABLES`).
//!
//! Two kinds of variables exist: what this process's node has (`SLURM_GPUS_ON_NODE`, `SLURM_STEP_GPUS`,
//! `SLURM_JOB_GPUS`), and what was asked for (`SLURM_GPUS`, `SLURM_GPUS_PER_NODE`, `SLURM_GPUS_PER_TASK`).

use crate::counts::parse_digits;
use crate::vars::Vars;
use crate::{AllocationError, Node};

/// The GPUs of a step, or of the job where there is no step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gpus {
    /// How many there are on the node of this process.
    pub here: Option<u32>,
    /// Which ones these are, numbered as on the whole node; empty when Slurm does not say.
    pub ids: Vec<String>,
    /// How many were asked for in all.
    pub total: Option<u32>,
    /// How many were asked for on each node.
    pub per_node: Option<u32>,
    /// How many were asked for with each task.
    pub per_task: Option<u32>,
}

impl Gpus {
    /// A step inherits `SLURM_JOB_GPUS` from the batch shell, whose node may be another one, so that inside a
    /// step only `SLURM_STEP_GPUS` counts.
    pub(crate) fn from_vars(vars: &Vars, in_step: bool) -> Result<Self, AllocationError> {
        let ids = vars.get(if in_step { "SLURM_STEP_GPUS" } else { "SLURM_JOB_GPUS" });
        let ids: Vec<String> = ids.map(|ids| ids.split(',').map(str::to_owned).collect()).unwrap_or_default();
        let listed = (!ids.is_empty()).then(|| u32::try_from(ids.len()).unwrap_or(u32::MAX));
        Ok(Self {
            here: vars.number("SLURM_GPUS_ON_NODE")?.or(listed),
            ids,
            total: asked(vars, "SLURM_GPUS")?,
            per_node: asked(vars, "SLURM_GPUS_PER_NODE")?,
            per_task: asked(vars, "SLURM_GPUS_PER_TASK")?,
        })
    }

    /// How many a node has: what is there on this one, what was asked for on others.
    pub(crate) fn on(&self, node: &Node, is_here: bool) -> Option<u32> {
        let here = if is_here { self.here } else { None };
        here.or(self.per_node).or_else(|| self.per_task.map(|each| each.saturating_mul(node.tasks)))
    }
}

fn asked(vars: &Vars, variable: &'static str) -> Result<Option<u32>, AllocationError> {
    let Some(value) = vars.get(variable) else {
        return Ok(None);
    };
    parse_gpu_count(value).map(Some).ok_or_else(|| AllocationError::Gpus { variable, value: value.to_owned() })
}

/// How many GPUs a request such as `4`, `a100:2` or `a100:2,v100:1` asks for (sbatch(1), `--gpus`).
#[must_use]
pub fn parse_gpu_count(text: &str) -> Option<u32> {
    text.split(',').try_fold(0_u32, |sum, item| {
        let count = match item.rsplit_once(':') {
            None => item,
            Some((kind, count)) if !kind.is_empty() => count,
            Some(_) => return None,
        };
        sum.checked_add(parse_digits(count)?)
    })
}
