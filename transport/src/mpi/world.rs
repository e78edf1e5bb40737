//! The MPI job of this process: its start, its communicators, its end.

use super::calls::Communicator as Handle;
use super::collective::{self, Collective};
use super::{MpiTransport, start};
use crate::TransportError;
use crate::arena::{Arena, Node};
use crate::doorbell::{self, Doorbells};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi;
use mpi::topology::{Color, SimpleCommunicator};
use mpi::traits::{AsRaw, Communicator, Group};
use pxcluster_protocol::Rank;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The MPI job of this process. Dropping it finalises MPI.
pub struct World {
    threads: Threading,
    control: SimpleCommunicator,
    engines: Option<SimpleCommunicator>,
    doorbells: Arc<Doorbells>,
    local: Arc<[bool]>,
    arena: Option<Arc<Arena>>,
    nodes: Vec<Node>,
    /// Rank 0 and the first rank of every other node, where MPI's broadcast between them is to be used.
    first_ranks: Option<SimpleCommunicator>,
    /// MPI's own shared memory file of this rank, which has been unlinked.
    unlinked: Option<PathBuf>,
    /// Last, because dropping it finalises MPI.
    universe: Universe,
}

/// MPI that cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// `MPI_Init_thread` had been called before.
    #[error("MPI is already initialised in this process")]
    AlreadyInitialised,
    /// MPI allows calls from the main thread only.
    #[error(
        "this MPI allows no calls from a second thread; start with an MPI that grants at least MPI_THREAD_SERIALIZED"
    )]
    NoThreads,
    /// Something about the node.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

impl World {
    /// Initialises MPI and builds the private communicators and doorbells. Collective over all ranks.
    ///
    /// `multiple` asks for `MPI_THREAD_MULTIPLE`, which user code that calls mpi4py needs.
    pub fn start(multiple: bool) -> Result<Self, WorldError> {
        let wanted = if multiple { Threading::Multiple } else { Threading::Serialized };
        let (universe, threads) = mpi::initialize_with_threading(wanted).ok_or(WorldError::AlreadyInitialised)?;
        if threads < Threading::Serialized {
            return Err(WorldError::NoThreads);
        }
        let world = universe.world();
        let control = start::duplicate(Handle(world.as_raw()))?;
        // The engines make theirs without rank 0, which MPICH does in a third of the time of a split.
        let of_engines = world.group().exclude(&[0]);
        let is_engine = world.rank() != 0;
        let engines = is_engine.then(|| world.split_by_subgroup_with_tag(&of_engines, 0)).flatten();
        let split = (!is_one_node(&control)?).then(|| control.split_shared(control.rank()));
        let node = split.as_ref().unwrap_or(&control);
        // The first one's process id names what is shared, which only has to be new on this node.
        let neighbours = start::all_gather(Handle(node.as_raw()), [control.rank() as u64, std::process::id().into()])?;
        let [first, name] = neighbours[0];
        let mut local = vec![false; control.size() as usize];
        neighbours.iter().for_each(|[rank, _]| local[*rank as usize] = true);
        let doorbells = share_doorbells(node, name, &local)?;
        let arena = share_arena(node, name)?.map(Arc::new);
        let nodes = nodes(&control, first, arena.as_deref())?;
        let first_ranks = if split.is_some() { first_ranks(&control, node)? } else { None };
        let unlinked = unlink_shared_memory(node)?;
        let (doorbells, local) = (Arc::new(doorbells), local.into());
        Ok(Self { threads, control, engines, doorbells, local, arena, nodes, first_ranks, unlinked, universe })
    }

    /// This process.
    pub fn rank(&self) -> Rank {
        Rank(self.control.rank() as u32)
    }

    /// Number of processes in the job.
    pub fn size(&self) -> u32 {
        self.control.size() as u32
    }

    /// Whether user code may call MPI while the comm thread does.
    pub fn is_thread_multiple(&self) -> bool {
        self.threads == Threading::Multiple
    }

    /// Fortran handle of the engines communicator (ranks 1…n of the job), as mpi4py takes it; `None` on rank 0.
    pub fn engines_handle(&self) -> Option<i32> {
        // SAFETY: a live communicator.
        self.engines.as_ref().map(|engines| unsafe { ffi::RSMPI_Comm_c2f(engines.as_raw()) } as i32)
    }

    /// The transport of this rank; made once, and used by one thread at a time.
    pub fn transport(&self) -> MpiTransport {
        let communicator = Handle(self.control.as_raw());
        let (doorbells, local) = (Arc::clone(&self.doorbells), Arc::clone(&self.local));
        let mut transport = MpiTransport::new(communicator, self.rank(), doorbells, local);
        if let Some(first_ranks) = &self.first_ranks {
            let members = self.nodes.iter().filter_map(|node| node.first.engine()).collect();
            transport.collective = Some((Collective::new(first_ranks), members));
        }
        transport
    }

    /// The memory that this node's ranks share; `None` where they cannot.
    pub fn arena(&self) -> Option<Arc<Arena>> {
        self.arena.clone()
    }

    /// For each rank, its node.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Waits until every rank has come to its end, and takes what is still under way to this one (acknowledgements, which
    /// nobody needs any more). To be called by all ranks, after their transports are drained and before MPI is finalised.
    pub fn finish(&self) {
        let communicator = Handle(self.control.as_raw());
        if start::barrier(communicator).is_err() {
            return;
        }
        let mut misses = 0;
        while misses < 2 {
            match communicator.probe() {
                Ok(Some(found)) => drop(found.receive()),
                Ok(None) => misses += 1,
                Err(_) => return,
            }
        }
    }

    /// Ends the whole job at once with this exit code.
    pub fn abort(&self, code: i32) -> ! {
        self.universe.world().abort(code)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // MPI_Finalize complains about a file that it cannot unlink.
        if let Some(file) = &self.unlinked {
            let _at_worst_it_complains = std::fs::File::create(file);
        }
    }
}

/// Name and version of the MPI library, one line. May be called before the start.
pub fn library_version() -> String {
    let text = mpi::environment::library_version().unwrap_or_default();
    text.lines().next().unwrap_or_default().trim_matches(['\0', ' ']).to_owned()
}

/// Whether all ranks are seen to have one host name, one kernel and one directory of shared memory, so that MPI need not
/// be asked for the ranks of this node: a split takes MPICH seconds where ranks are more than cores. Collective.
fn is_one_node(control: &SimpleCommunicator) -> Result<bool, TransportError> {
    // A number of its own for a rank that cannot tell.
    let unknown = u64::from(u32::MAX) + control.rank() as u64;
    let mine = home().unwrap_or(unknown);
    Ok(start::all_gather(Handle(control.as_raw()), [mine])?.iter().all(|[other]| *other == mine))
}

/// A number for the place of this process: host name, boot of the kernel, directory of shared memory.
fn home() -> Option<u64> {
    let mut hasher = std::hash::DefaultHasher::new();
    for file in ["/proc/sys/kernel/hostname", "/proc/sys/kernel/random/boot_id"] {
        std::fs::read(file).ok()?.hash(&mut hasher);
    }
    let directory = std::fs::metadata(doorbell::path("").parent()?).ok()?;
    (directory.dev(), directory.ino()).hash(&mut hasher);
    Some(hasher.finish())
}

/// Maps the node's doorbells in all its ranks. Collective.
fn share_doorbells(node: &SimpleCommunicator, name: u64, local: &[bool]) -> Result<Doorbells, TransportError> {
    let (handle, size, with_fifo) = (Handle(node.as_raw()), local.len() as u32, local[0]);
    let path = doorbell::path(&format!("bells-{name}"));
    let mut made = None;
    if node.rank() == 0 {
        doorbell::unlink(&path); // of a process with the same id that was killed within the next few lines
        made = Some(create(&path, size, with_fifo));
    }
    start::barrier(handle)?;
    let doorbells = made.unwrap_or_else(|| open(&path, size, with_fifo));
    start::barrier(handle)?;
    if node.rank() == 0 {
        doorbell::unlink(&path);
    }
    doorbells
}

/// Opens one arena in all ranks of the node, or in none. Collective.
fn share_arena(node: &SimpleCommunicator, name: u64) -> Result<Option<Arena>, TransportError> {
    let handle = Handle(node.as_raw());
    let path = doorbell::path(&format!("arena-{name}"));
    let mut made = None;
    if node.rank() == 0 {
        let _of_a_killed_process = std::fs::remove_file(&path);
        made = Some(Arena::create(&path));
    }
    start::barrier(handle)?;
    let arena = made.unwrap_or_else(|| Arena::open(&path));
    let all = start::all_gather(handle, [u64::from(arena.is_ok())])?;
    if node.rank() == 0 {
        let _never_made = std::fs::remove_file(&path);
    }
    Ok(arena.ok().filter(|_| all.iter().all(|[ok]| *ok == 1)))
}

/// The communicator of the first ranks of all nodes, if there are several and MPI's broadcast is the faster one. Collective.
fn first_ranks(
    control: &SimpleCommunicator,
    node: &SimpleCommunicator,
) -> Result<Option<SimpleCommunicator>, TransportError> {
    let color = if node.rank() == 0 { Color::with_value(1) } else { Color::undefined() };
    let Some(members) = control.split_by_color(color).filter(|members| members.size() > 1) else { return Ok(None) };
    start::return_errors(&members)?;
    Ok(collective::is_faster(&members)?.then_some(members))
}

/// What each rank has to say of its node. Collective.
fn nodes(control: &SimpleCommunicator, first: u64, arena: Option<&Arena>) -> Result<Vec<Node>, TransportError> {
    let all = start::all_gather(Handle(control.as_raw()), [first, arena.map_or(0, Arena::room)])?;
    Ok(all.into_iter().map(|[first, room]| Node { first: Rank(first as u32), room }).collect())
}

fn create(path: &Path, size: u32, with_fifo: bool) -> Result<Doorbells, TransportError> {
    let mut doorbells = Doorbells::create(path, size)?;
    if with_fifo {
        doorbells.create_fifo(path)?;
    }
    Ok(doorbells)
}

fn open(path: &Path, size: u32, with_fifo: bool) -> Result<Doorbells, TransportError> {
    let mut doorbells = Doorbells::open(path, size)?;
    if with_fifo {
        doorbells.open_fifo(path)?;
    }
    Ok(doorbells)
}

/// Unlinks the file in `/dev/shm` that MPI has made for this rank, once every rank of the node has mapped every such file, so
/// that nothing is left there however the job ends. Where that cannot be told, MPI's own clean-up has to do. Collective.
fn unlink_shared_memory(node: &SimpleCommunicator) -> Result<Option<PathBuf>, TransportError> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let files = mapped_files(&maps);
    let mut hasher = std::hash::DefaultHasher::new();
    files.hash(&mut hasher);
    let mine = hasher.finish();
    if start::all_gather(Handle(node.as_raw()), [mine])?.iter().any(|[other]| *other != mine) {
        return Ok(None);
    }
    let place = std::env::var("OMPI_COMM_WORLD_LOCAL_RANK").ok();
    let own = files.into_iter().find(|file| is_own(file, place.as_deref(), node.rank() == 0));
    Ok(own.filter(|own| std::fs::remove_file(own).is_ok()).map(PathBuf::from))
}

/// Whether this rank is the one to unlink a file. Open MPI makes one for each rank, whose place on the node ends the name;
/// version 4 calls it `vader_segment`, version 5 `sm_segment`. MPICH 5 makes one for the node (4 unlinks it itself).
fn is_own(file: &str, place: Option<&str>, is_first: bool) -> bool {
    let name = file.rsplit('/').next().unwrap_or_default();
    let of_rank = name.starts_with("vader_segment.") || name.starts_with("sm_segment.");
    (of_rank && name.rsplit('.').next() == place) || (is_first && name.starts_with("mpich_shm_"))
}

/// Paths below `/dev/shm` in the text of `/proc/self/maps`.
fn mapped_files(maps: &str) -> BTreeSet<&str> {
    let paths = maps.lines().filter_map(|line| line.find("/dev/shm/").map(|at| &line[at..]));
    paths.filter(|path| !path.ends_with(" (deleted)")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_memory_are_found_once_and_deleted_ones_are_not() {
        let maps = "7f00-7f01 rw-s 00000000 00:1b 5    /dev/shm/vader_segment.vm.0.1.0\n\
                    7f01-7f02 rw-s 00001000 00:1b 5    /dev/shm/vader_segment.vm.0.1.0\n\
                    7f02-7f03 rw-s 00000000 00:1b 6    /dev/shm/pxcluster-bells-1 (deleted)\n\
                    7f03-7f04 r-xp 00000000 08:01 7    /usr/lib/libc.so.6\n";
        assert_eq!(mapped_files(maps).into_iter().collect::<Vec<_>>(), ["/dev/shm/vader_segment.vm.0.1.0"]);
    }

    #[test]
    fn two_ranks_in_one_place_say_the_same() {
        assert!(home().is_some());
        assert_eq!(home(), home());
    }

    #[test]
    fn a_rank_knows_its_own_file_by_the_name() {
        assert!(is_own("/dev/shm/vader_segment.vm.0.1.10", Some("10"), false));
        assert!(is_own("/dev/shm/sm_segment.vm.0.79f60001.2", Some("2"), false));
        assert!(!is_own("/dev/shm/sm_segment.vm.0.79f60001.12", Some("2"), true));
        assert!(!is_own("/dev/shm/pxcluster-bells-1", Some("1"), true));
        assert!(is_own("/dev/shm/mpich_shm_e7b00b93_0", None, true));
        assert!(!is_own("/dev/shm/mpich_shm_e7b00b93_0", None, false));
    }
}
