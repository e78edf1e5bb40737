//! What can be wrong with a job's variables and files.

use std::path::PathBuf;

/// Why a job's variables and files do not describe an allocation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    /// Slurm's variables.
    #[error(transparent)]
    Slurm(#[from] slurm_env::AllocationError),
    /// A variable that every such job has is not there.
    #[error(
        "{variable} is not set although {job_variable} is; run inside the job's own environment, or unset the latter"
    )]
    Missing {
        /// The variable looked for.
        variable: &'static str,
        /// The variable that tells of a job.
        job_variable: &'static str,
    },
    /// A variable cannot be read.
    #[error("{variable}='{value}': {found}; expected {expected}")]
    Variable {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What is wrong there.
        found: String,
        /// What a right value looks like.
        expected: &'static str,
    },
    /// The file that a variable names cannot be read.
    #[error("{variable} names {}, which cannot be read ({reason}); run on the first host of the job", path.display())]
    File {
        /// The variable.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// A line of such a file is not of its grammar.
    #[error("{}:{line}: {found}; expected {expected}, as {variable} promises", path.display())]
    Line {
        /// The variable that names the file.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        found: String,
        /// What a right line looks like.
        expected: &'static str,
    },
    /// Such a file names no host.
    #[error("{}, which {variable} names, has no host in it; expected lines with {expected}", path.display())]
    Empty {
        /// The variable that names the file.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// What a right line looks like.
        expected: &'static str,
    },
}
