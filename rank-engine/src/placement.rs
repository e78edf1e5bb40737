//! An engine's share of its node: cores, threads of its libraries, GPUs. Decided before MPI and Python start. Pure.
//!
//! Neither launcher does this for all three: Open MPI binds by itself, to sockets mostly, MPICH not at all, srun as the site
//! has set it; none leaves a core to the controller or tells numerical libraries how many threads they may have. So
//! each engine takes its share of the cores that it finds itself on, and whatever the user, Slurm or mpirun has chosen stays.
//!
//! * **Cores.** Only where there is one for every rank of the node. Engines have sets of neighbouring cores that are
//!   disjoint; the first core is left to the controller on its node, which itself may run anywhere, as its TLS thread and
//!   the user's script beside it should. Its nanny, which sleeps, and its comm thread share an engine's set.
//! * **Threads.** `OMP_NUM_THREADS` is the same for all engines of a node, so that they compute alike. MKL, BLIS,
//!   numexpr, torch and `OpenBLAS` follow it where their own variables are not set.
//! * **GPUs.** Dealt in turn to the engines of the node, like cards: every GPU belongs to somebody.

mod host;

use crate::environment::Place;
use slurm_env::Allocation;
use std::collections::BTreeMap;

pub(crate) use host::take_share;

/// A variable and its value.
type Variable = (&'static str, String);

/// What an engine is given; nothing where nothing is to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// CPUs, as the kernel counts them.
    cpus: Option<Vec<usize>>,
    /// Variables to set.
    variables: Vec<Variable>,
}

/// The place of an engine among the ranks of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Local {
    /// Its number among the engines there, from 0.
    engine: usize,
    /// How many engines are there.
    engines: usize,
    /// Whether the controller is there, too.
    controller: bool,
}

/// What the kernel says of the node.
#[derive(Clone, Debug, Default)]
struct Host {
    /// The cores that this process may use, each with its hardware threads, neighbours beside each other.
    cores: Vec<Vec<usize>>,
    /// How many cores the job has there, be this process bound to some of them or not.
    widest: usize,
    /// Whether the launcher has bound this process to these.
    bound: bool,
    /// NVIDIA's GPUs.
    nvidia: usize,
    /// Whether there is a GPU of AMD's.
    amd: bool,
}

/// The share of the engine at `place`; `variables` are its environment.
fn settings(place: Place, variables: &BTreeMap<String, String>, host: &Host) -> Settings {
    let Some(local) = Local::find(place, variables) else { return Settings::default() };
    let slurm = Allowance::from_variables(place, variables);
    let (cpus, threads) = cores(local, host, slurm);
    let mut set = Vec::new();
    if !variables.contains_key("OMP_NUM_THREADS") && threads > 0 {
        set.push(("OMP_NUM_THREADS", threads.to_string()));
    }
    set.extend(gpus(local, place, variables, host));
    Settings { cpus, variables: set }
}

impl Local {
    /// Reads the number on the node and how many there are: as Open MPI, MPICH's hydra and Slurm say it.
    fn find(place: Place, variables: &BTreeMap<String, String>) -> Option<Self> {
        let number = |name: &str| variables.get(name)?.parse::<usize>().ok();
        let launchers =
            [("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"), ("MPI_LOCALRANKID", "MPI_LOCALNRANKS")];
        let by_mpirun = launchers.into_iter().find_map(|(rank, size)| Some((number(rank)?, number(size)?)));
        // Ranks of a node are numbered in order, mostly without gaps: on the first node the two numbers are the same.
        let in_front = |local_rank: usize| place.rank.0 as usize == local_rank;
        let (rank, size, controller) = if let Some((rank, size)) = by_mpirun {
            (rank, size, in_front(rank))
        } else {
            let (rank, node) = (number("SLURM_LOCALID")?, number("SLURM_NODEID")?);
            let nodes = Allocation::from_vars(variables.clone()).ok()??.nodes;
            (rank, nodes.get(node)?.tasks as usize, node == 0)
        };
        let engine = rank.checked_sub(usize::from(controller))?;
        let engines = size.checked_sub(usize::from(controller))?;
        (engine < engines).then_some(Self { engine, engines, controller })
    }

    fn ranks(self) -> usize {
        self.engines + usize::from(self.controller)
    }
}

/// What Slurm lets a job have, whether or not it keeps it to that.
#[derive(Clone, Copy, Debug, Default)]
struct Allowance {
    /// CPUs of each task.
    per_task: Option<usize>,
    /// CPUs on this node.
    on_node: Option<usize>,
}

impl Allowance {
    fn from_variables(place: Place, variables: &BTreeMap<String, String>) -> Self {
        let number = |name: &str| variables.get(name)?.parse::<usize>().ok().filter(|&number| number > 0);
        Self {
            per_task: number("SLURM_CPUS_PER_TASK").filter(|_| place.by_srun),
            on_node: number("SLURM_CPUS_ON_NODE"),
        }
    }
}

/// CPUs to be bound to, if any, and how many threads are useful; 0 if that cannot be said.
fn cores(local: Local, host: &Host, slurm: Allowance) -> (Option<Vec<usize>>, usize) {
    let all = host.cores.len();
    if all == 0 {
        return (None, 0);
    }
    let cpus: usize = host.cores.iter().map(Vec::len).sum();
    // A node that the job shares with others although nothing keeps it from their cores: which are its own is not known.
    let shared = slurm.on_node.filter(|&on_node| on_node < cpus);
    let most = slurm.per_task.or_else(|| shared.map(|on_node| on_node / local.ranks())).unwrap_or(usize::MAX);
    let (set, threads) = if host.bound {
        (None, all.min(host.widest / local.ranks()))
    } else if all >= local.ranks() {
        let first = usize::from(local.controller);
        let free = all - first;
        let bounds = [local.engine, local.engine + 1].map(|number| first + number * free / local.engines);
        let own = &host.cores[bounds[0]..bounds[1]];
        (Some(own.concat()).filter(|own| own.len() < cpus && shared.is_none()), free / local.engines)
    } else {
        (None, all / local.ranks())
    };
    (set, threads.min(most).max(1))
}

/// The variable that shows the engine its GPUs, where it has to be set.
fn gpus(local: Local, place: Place, variables: &BTreeMap<String, String>, host: &Host) -> Option<Variable> {
    let rocm = host.amd && host.nvidia == 0;
    let name = if rocm { "ROCR_VISIBLE_DEVICES" } else { "CUDA_VISIBLE_DEVICES" };
    let visible: Vec<String> = match variables.get(name) {
        Some(list) => list.split(',').map(|device| device.trim().to_owned()).collect(),
        None => (0..if rocm { 0 } else { host.nvidia }).map(|number| number.to_string()).collect(),
    };
    let per_task =
        ["SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_GPU_BIND", "SLURM_TRES_BIND", "SLURM_TRES_PER_TASK"];
    let dealt_by_slurm = place.by_srun && per_task.iter().any(|name| variables.contains_key(*name));
    // Nothing to deal, or a list that the user has made to hide them: empty, or with a number that is none.
    if dealt_by_slurm || visible.len() < 2 || visible.iter().any(|device| device.is_empty() || device.starts_with('-'))
    {
        return None;
    }
    let own: Vec<&str> = if local.engines < visible.len() {
        visible.iter().skip(local.engine).step_by(local.engines).map(String::as_str).collect()
    } else {
        vec![&visible[local.engine % visible.len()]]
    };
    (own.len() < visible.len()).then(|| (name, own.join(",")))
}

#[cfg(test)]
mod tests;
