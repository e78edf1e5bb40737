//! What a process can know of its Slurm allocation, from the `SLURM_*` variables alone.
//!
//! This crate never reads the environment, a file or a clock: it takes name and value pairs and gives back
//! an [`Allocation`], or one error that names the variable and what was expected in it. The grammars
//! are Slurm's own: `HOSTLIST EXPRESSIONS` in scontrol(1), `SLURM_TASKS_PER_NODE` in sbatch(1).
//!
//! ```
//! let vars = [
//!     ("SLURM_JOB_ID", "4"),
//!     ("SLURM_JOB_NODELIST", "h[1-3]"),
//!     ("SLURM_TASKS_PER_NODE", "2(x2),1"),
//! ];
//! let allocation = slurm_env::Allocation::from_vars(vars)?.expect("inside a job");
//! assert_eq!(allocation.slots(), 5);
//! assert_eq!(allocation.nodes[2].name, "h3");
//! assert!(allocation.task.is_none(), "a batch shell is one process, not a task");
//! # Ok::<(), slurm_env::AllocationError>(())
//! ```

mod allocation;
mod counts;
mod gpus;
mod hostlist;
mod time_left;
mod vars;

pub use allocation::{Allocation, AllocationError, Node, Task};
pub use counts::{CountsError, parse_counts};
pub use gpus::{Gpus, parse_gpu_count};
pub use hostlist::{HostlistError, MAX_HOSTS, parse_hostlist};
pub use time_left::{TimeLeft, parse_time_left};
