//! Which batch system it is, and what each one says.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::grammars::{parse_gpu_line, parse_name_line, parse_names, parse_pairs, parse_sge_line};
use crate::job::Job;
use crate::{Allocation, AllocationError, BatchSystem, Host};

/// What a line of most files is.
const LINE_PER_SLOT: &str = "a host, a line for each slot";

/// Grid Engine's word for "no array".
const NO_TASK: &str = "undefined";

impl Allocation {
    /// The job that this process runs in, from name and value pairs and the files that they name; `Ok(None)`
    /// outside any job.
    ///
    /// Where the variables of several systems are there, the innermost counts. Flux takes Slurm's away in what it
    /// starts, and Slurm's own imitate those of PBS on some sites, so that Slurm comes first; a task of Flux comes
    /// before what Flux itself may have been started in; `FLUX_URI` alone, which a shell outside any job may have,
    /// comes last.
    ///
    /// # Errors
    /// [`AllocationError`] names the variable, or file and line, and what was expected there.
    pub fn find<I, K, V, R>(vars: I, read_file: R) -> Result<Option<Self>, AllocationError>
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
        R: Fn(&Path) -> io::Result<String>,
    {
        let vars: BTreeMap<String, String> =
            vars.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        let job = Job::new(vars, read_file);
        if let Some(slurm) = slurm_env::Allocation::from_vars(job.vars().clone())? {
            return Ok(Some(slurm.into()));
        }
        job.allocation()
    }
}

impl From<slurm_env::Allocation> for Allocation {
    fn from(slurm: slurm_env::Allocation) -> Self {
        let hosts = slurm.nodes.into_iter();
        let hosts: Vec<Host> =
            hosts.map(|node| Host { name: node.name, slots: node.tasks, cpus: node.cpus, gpus: node.gpus }).collect();
        let host_count = Some(hosts.len());
        Self { system: BatchSystem::Slurm, job_id: Some(slurm.job_id), hosts, host_count, end_time: slurm.end_time }
    }
}

impl<R: Fn(&Path) -> io::Result<String>> Job<R> {
    /// The job, where it is not Slurm's.
    fn allocation(&self) -> Result<Option<Allocation>, AllocationError> {
        if self.has("FLUX_JOB_ID") {
            self.flux().map(Some)
        } else if self.has("PBS_JOBID") {
            self.pbs().map(Some)
        } else if self.has("LSB_JOBID") {
            self.lsf().map(Some)
        } else if self.has("JOB_ID") && (self.has("PE_HOSTFILE") || self.has("SGE_TASK_ID")) {
            self.sge().map(Some)
        } else if self.has("COBALT_JOBID") && self.has("COBALT_NODEFILE") {
            self.cobalt().map(Some)
        } else if self.has("FLUX_URI") {
            self.flux().map(Some)
        } else {
            Ok(None)
        }
    }

    /// PBS writes a line for each process that a chunk has (`mpiprocs`, or Torque's `ppn`).
    fn pbs(&self) -> Result<Allocation, AllocationError> {
        let mut hosts = self.hosts_in_file("PBS_NODEFILE", "PBS_JOBID", parse_name_line, LINE_PER_SLOT)?;
        self.add_from_file("PBS_GPUFILE", parse_gpu_line, "a GPU such as 'host-gpu0'", &mut hosts)?;
        Ok(known(BatchSystem::Pbs, self.get("PBS_JOBID"), hosts.into_vec()))
    }

    /// Where IBM's CSM runs the nodes, the first host is the one that runs the script, apart from those that the
    /// job computes on.
    fn lsf(&self) -> Result<Allocation, AllocationError> {
        let mut hosts = self.lsf_hosts()?;
        if self.has("CSM_ALLOCATION_ID") && hosts.len() > 1 {
            hosts.remove(0);
        }
        let index = self.get("LSB_JOBINDEX").filter(|&index| index != "0");
        let job_id = self.get("LSB_JOBID").map(|id| index.map_or_else(|| id.to_owned(), |i| format!("{id}[{i}]")));
        Ok(known(BatchSystem::Lsf, job_id.as_deref(), hosts))
    }

    /// The one that needs no file comes first, and `LSB_HOSTS`, which LSF leaves out when it would be long, last.
    fn lsf_hosts(&self) -> Result<Vec<Host>, AllocationError> {
        const PAIRS: &str = "LSB_MCPU_HOSTS";
        const NAMES: &str = "LSB_HOSTS";
        let mistake = |variable: &'static str, value: &str, expected: &'static str| {
            let value = value.to_owned();
            move |found| AllocationError::Variable { variable, value, found, expected }
        };
        if let Some(text) = self.get(PAIRS) {
            let expected = "hosts, each with its number of slots, such as 'h1 2 h2 4'";
            parse_pairs(text).map_err(mistake(PAIRS, text, expected))
        } else if self.has("LSB_DJOB_HOSTFILE") {
            Ok(self.hosts_in_file("LSB_DJOB_HOSTFILE", "LSB_JOBID", parse_name_line, LINE_PER_SLOT)?.into_vec())
        } else if let Some(text) = self.get(NAMES) {
            parse_names(text).map_err(mistake(NAMES, text, "a host for each slot, such as 'h1 h1 h2'"))
        } else {
            Err(AllocationError::Missing { variable: PAIRS, job_variable: "LSB_JOBID" })
        }
    }

    /// A job without a parallel environment has no file: it is one process on the host that it runs on.
    fn sge(&self) -> Result<Allocation, AllocationError> {
        let hosts = if self.has("PE_HOSTFILE") {
            self.hosts_in_file("PE_HOSTFILE", "JOB_ID", parse_sge_line, "'host slots queue range'")?.into_vec()
        } else {
            let name = self.get("HOSTNAME").unwrap_or("localhost").to_owned();
            vec![Host { name, slots: self.number("NSLOTS")?.unwrap_or(1).max(1), cpus: None, gpus: None }]
        };
        let task = self.get("SGE_TASK_ID").filter(|&task| task != NO_TASK);
        let job_id = self.get("JOB_ID").map(|id| task.map_or_else(|| id.to_owned(), |task| format!("{id}.{task}")));
        Ok(known(BatchSystem::Sge, job_id.as_deref(), hosts))
    }

    fn cobalt(&self) -> Result<Allocation, AllocationError> {
        let hosts = self.hosts_in_file("COBALT_NODEFILE", "COBALT_JOBID", parse_name_line, "a host")?;
        let allocation = known(BatchSystem::Cobalt, self.get("COBALT_JOBID"), hosts.into_vec());
        Ok(Allocation { end_time: self.number("COBALT_ENDTIME")?, ..allocation })
    }

    /// A task is told how many nodes its job has, and none of their names; the shell of an instance
    /// (`flux alloc`, `flux batch`) is told nothing at all.
    fn flux(&self) -> Result<Allocation, AllocationError> {
        let allocation = known(BatchSystem::Flux, self.get("FLUX_JOB_ID"), Vec::new());
        Ok(Allocation { host_count: self.number("FLUX_JOB_NNODES")?, ..allocation })
    }
}

/// What all systems say alike.
fn known(system: BatchSystem, job_id: Option<&str>, hosts: Vec<Host>) -> Allocation {
    let host_count = (!hosts.is_empty()).then_some(hosts.len());
    Allocation { system, job_id: job_id.map(str::to_owned), hosts, host_count, end_time: None }
}
