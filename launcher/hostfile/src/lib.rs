//! The hostfiles of Open MPI and MPICH as one list of hosts.
//!
//! This crate reads text, never a file or a name service: what it says of a host is what the text says.
//!
//! ```text
//! Open MPI   host [slots=N] [max_slots=N]      # comment          (mpirun(1), "HOSTFILE")
//! MPICH      host[:N]                          # comment          (mpiexec(1), "Host File")
//! ```
//!
//! Both let a host stand on several lines, which adds up its slots.

mod parse;

pub use parse::{HostfileError, parse_hostfile};

/// Whose grammar a hostfile is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grammar {
    /// `host slots=4 max_slots=8`
    OpenMpi,
    /// `host:4`
    Mpich,
}

impl Grammar {
    const fn example(self) -> &'static str {
        match self {
            Self::OpenMpi => "'host', 'host slots=4' or 'host slots=4 max_slots=8'",
            Self::Mpich => "'host' or 'host:4'",
        }
    }
}

/// A host and how many processes it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name or address, as written.
    pub name: String,
    /// Processes it takes before another host is used; a host without a number takes one.
    pub slots: u32,
    /// Processes it takes at the very most, when the file says so.
    pub max_slots: Option<u32>,
}

/// How many processes all hosts take.
#[must_use]
pub fn total_slots(hosts: &[Host]) -> usize {
    hosts.iter().map(|host| host.slots as usize).sum()
}
