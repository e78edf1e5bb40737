//! Everything that this rank says and hears, one turn at a time.
#![allow(unsafe_code, reason = "signals to this process and its main thread")]

use super::pass_on;
use super::shared::Shared;
use crate::nanny::Nanny;
use crate::nanny::warnings::{self, Warnings};
use anyhow::Context;
use bytes::Bytes;
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::to_engine::{Cargo, Grant, Loot, Segment, Steal, ToEngine};
use pxcluster_protocol::{EngineId, EngineSet, Rank, codec};
use pxcluster_transport::arena::{Access, Arena};
use pxcluster_transport::mpi::MpiTransport;
use pxcluster_transport::{Transport, relay_fill, send, send_places};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Longest sleep of an idle engine; it is woken when there is something to do.
const IDLE: Duration = Duration::from_secs(1);
/// User code that does not let Python end is interrupted this often.
const NAG: Duration = Duration::from_millis(200);
/// When shared memory that nobody needs any more is unmapped: not while the answer to the request that did this is waited for.
const SWEPT: Duration = Duration::from_millis(5);
/// Longest sleep while the last messages leave.
const LAST_NAP: Duration = Duration::from_millis(1);
/// Numbers of broadcasts that are remembered; rank 0 repeats fewer.
const SEEN: usize = 8192;

/// The thread that runs Python, as the kernel's signal calls name it.
static MAIN: OnceLock<libc::pthread_t> = OnceLock::new();

/// Says that the calling thread is Python's.
pub(super) fn this_is_the_main_thread() {
    // SAFETY: no arguments, always succeeds.
    let _set_once = MAIN.set(unsafe { libc::pthread_self() });
}

/// This rank's side of the conversation. Used by one thread at a time.
pub(super) struct Comm {
    transport: MpiTransport,
    me: EngineId,
    announced: bool,
    /// Set while the cluster ends: when user code was interrupted last.
    ending: Option<Instant>,
    nanny: Arc<Nanny>,
    warnings: Warnings,
    /// The memory that the ranks of this node share.
    arena: Option<Arc<Arena>>,
    /// Where to write the segments that MPI's own broadcast brings.
    joined: VecDeque<Segment>,
    /// Numbers of the broadcasts that have come.
    seen: BTreeSet<u64>,
    someone_has_died: bool,
    /// How often rank 0 is to hear something, if it is on another host.
    beat: Option<Duration>,
    /// When it was told that this engine is there.
    beaten: Option<Instant>,
}

/// How a turn went.
pub(super) enum Turn {
    /// Something was received or sent; there may be more.
    Busy,
    /// Nothing is to be done before this time has passed, or the bell is rung.
    Idle(Duration),
    /// Python has ended and everything has been said.
    Done,
}

impl Comm {
    pub(super) fn new(
        transport: MpiTransport,
        nanny: Arc<Nanny>,
        arena: Option<Arc<Arena>>,
        beat: Option<Duration>,
    ) -> anyhow::Result<Self> {
        let me = transport.rank().engine().context("rank 0 is no engine")?;
        Ok(Self {
            transport,
            me,
            announced: false,
            ending: None,
            nanny,
            warnings: Warnings::default(),
            arena,
            joined: VecDeque::new(),
            seen: BTreeSet::new(),
            someone_has_died: false,
            beat,
            beaten: None,
        })
    }

    /// Whether another engine is known to have died.
    pub(super) fn someone_has_died(&self) -> bool {
        self.someone_has_died
    }

    /// Receives and sends what there is, without waiting.
    pub(super) fn turn(&mut self, shared: &Shared) -> anyhow::Result<Turn> {
        self.nanny.beat();
        let mut idle = true;
        while let Some((from, message)) = self.transport.receive().context("MPI fails")? {
            idle = false;
            self.handle(shared, from, &message)?;
        }
        while let Some(bytes) = self.transport.take_broadcast() {
            idle = false;
            if let Some(segment) = self.joined.pop_front() {
                self.write(segment, &bytes)?;
            }
        }
        if !self.announced && shared.is_ready() {
            self.announced = true;
            idle = false;
            if self.nanny.is_there() {
                warnings::put_off();
            }
            let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
            self.say(&ToController::Ready { host, pid: std::process::id() }, vec![])?;
        }
        self.someone_has_died |= !self.transport.take_suspects().is_empty();
        let (messages, due) = shared.take_messages();
        for (header, body) in messages {
            idle = false;
            self.say(&header, body)?;
        }
        if !idle {
            // What was queued leaves now, and not only when somebody takes the next turn.
            if let Some((from, message)) = self.transport.receive().context("MPI fails")? {
                self.handle(shared, from, &message)?;
            }
            return Ok(Turn::Busy);
        }
        let released = self.arena.as_ref().map(|arena| arena.take_released(SWEPT)).unwrap_or_default();
        if !released.is_empty() {
            self.say(&ToController::Released { places: released }, vec![])?;
            return Ok(Turn::Busy);
        }
        let is_due = |beat| self.beaten.is_none_or(|last| last.elapsed() >= beat);
        if self.announced && self.beat.is_some_and(is_due) {
            self.beaten = Some(Instant::now());
            self.say(&ToController::Beat { rss: pxcluster_controller::rss_of("self") }, vec![])?;
            return Ok(Turn::Busy);
        }
        if due.is_none()
            && let Some(status) = shared.ended()
        {
            self.say_goodbye(shared, status)?;
            return Ok(Turn::Done);
        }
        if let Some(since) = &mut self.ending
            && since.elapsed() >= NAG
        {
            *since = Instant::now();
            interrupt(shared, libc::SIGINT);
        }
        let until_due = due.map_or(IDLE, |due| due.saturating_duration_since(Instant::now()));
        let is_to_sweep = self.arena.as_ref().is_some_and(|arena| arena.has_unneeded());
        let until_due = until_due.min(if is_to_sweep { SWEPT } else { IDLE });
        let nap = self.transport.nap().unwrap_or(IDLE).min(until_due).min(self.beat.unwrap_or(IDLE));
        let look = self.warnings.look(self.nanny.page());
        let nap = nap.min(if look { warnings::LOOK } else { IDLE });
        Ok(Turn::Idle(nap.min(if self.ending.is_some() { NAG } else { IDLE })))
    }

    fn say(&mut self, header: &ToController, body: Vec<Bytes>) -> anyhow::Result<()> {
        let place_of = |buffer: &Bytes| self.arena.as_ref().and_then(|arena| arena.place_of(buffer));
        Ok(send_places(&mut self.transport, Rank::CONTROLLER, header, body, &place_of)?)
    }

    fn handle(&mut self, shared: &Shared, from: Rank, message: &Bytes) -> anyhow::Result<()> {
        let map = |place, length| match &self.arena {
            Some(arena) => arena.map(place, length, Access::CopyOnWrite).map_err(|error| error.to_string()),
            None => Err("this node has none".to_owned()),
        };
        let (header, body) = codec::decode_places::<ToEngine>(message, &map)?;
        let (targets, cargo) = match header {
            ToEngine::Grant(Grant { key, range, last_direct, .. }) => {
                return Ok(shared.put_tasks(key, vec![range], last_direct, body)?);
            }
            ToEngine::Reserved { ticket, places } => {
                shared.put_places(ticket, places);
                return Ok(());
            }
            ToEngine::Fill { leaders, segment } => return self.fill(&leaders, segment, &body),
            ToEngine::Join { segment, length } => {
                self.joined.push_back(segment);
                return Ok(self.transport.join_broadcast(length as usize)?);
            }
            ToEngine::Steal(steal) => return self.give(shared, &steal),
            ToEngine::Loot(Loot { key, ranges, last_direct }) => {
                if let Some(victim) = from.engine() {
                    self.say(&ToController::Got { key, victim, ranges: ranges.clone() }, vec![])?;
                }
                return Ok(shared.put_tasks(key, ranges, last_direct, body)?);
            }
            ToEngine::Relay { targets, cargo } => (targets, cargo),
        };
        pass_on(&mut self.transport, &targets, &cargo, &body)?;
        let (number, cargo) = cargo.unwrap_number();
        if number.is_some_and(|number| !self.is_new(number)) {
            return Ok(());
        }
        match cargo {
            Cargo::Setup(_) | Cargo::Numbered(..) => {}
            Cargo::Punch(ranges) => {
                for (offset, length) in ranges {
                    self.arena.iter().for_each(|arena| arena.punch(offset, length));
                }
            }
            Cargo::ReportTo(place) => self.nanny.report_to(&place),
            Cargo::Lost(engine) => {
                self.someone_has_died = true;
                self.joined.clear();
                self.transport.lose(engine.rank());
            }
            Cargo::Kill => {
                // SAFETY: a signal to this process itself.
                unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            }
            Cargo::Direct(direct) => shared.put_direct(self.me, &direct, body),
            Cargo::Signal(signal) => interrupt(shared, signal),
            Cargo::Interrupt(keys) => {
                if shared.running_request().is_some_and(|key| keys.contains(&key)) {
                    interrupt(shared, libc::SIGINT);
                }
            }
            Cargo::Abort(keys) => shared.abort(keys),
            Cargo::Forget(keys) => shared.forget(keys),
            Cargo::Shutdown => {
                self.ending = Some(Instant::now());
                shared.shut_down();
                interrupt(shared, libc::SIGINT);
            }
        }
        Ok(())
    }

    /// Passes a segment of a buffer on, and writes it to the memory of this node.
    fn fill(&mut self, leaders: &EngineSet, segment: Segment, body: &[Bytes]) -> anyhow::Result<()> {
        relay_fill(&mut self.transport, &leaders.without(self.me), segment, body)?;
        body.first().map_or(Ok(()), |bytes| self.write(segment, bytes))
    }

    fn write(&mut self, segment: Segment, bytes: &Bytes) -> anyhow::Result<()> {
        let Segment { transfer, place, at } = segment;
        let written = self.arena.as_ref().is_some_and(|arena| {
            let written = arena.write(place + at, bytes);
            written.inspect_err(|error| tracing::warn!("no room for a buffer in shared memory: {error}")).is_ok()
        });
        let upto = written.then_some(at + bytes.len() as u64);
        self.say(&ToController::Filled { transfer, upto }, vec![])
    }

    /// Gives tasks to another engine, and tells the controller which.
    fn give(&mut self, shared: &Shared, steal: &Steal) -> anyhow::Result<()> {
        let Steal { key, thief, last_direct, function } = *steal;
        let (ranges, body) = shared.give(key, function).unwrap_or_default();
        if !ranges.is_empty() {
            let loot = ToEngine::Loot(Loot { key, ranges: ranges.clone(), last_direct });
            send(&mut self.transport, thief.rank(), &loot, body)?;
        }
        self.say(&ToController::Gave { key, thief, ranges }, vec![])
    }

    /// Whether the broadcast of this number has not come before.
    fn is_new(&mut self, number: u64) -> bool {
        let forgotten = self.seen.len() >= SEEN;
        if forgotten && self.seen.first().is_some_and(|&first| number < first) {
            return false;
        }
        let new = self.seen.insert(number);
        if self.seen.len() > SEEN {
            self.seen.pop_first();
        }
        new
    }

    /// The last message, and its delivery.
    fn say_goodbye(&mut self, shared: &Shared, status: i32) -> anyhow::Result<()> {
        let dies = self.announced && self.ending.is_none() && self.nanny.is_there();
        let last = if self.announced && self.ending.is_some() {
            ToController::Bye
        } else if self.announced {
            ToController::Unfit { reason: format!("its Python ended with status {status} although nobody asked it to") }
        } else {
            let reason = format!("its Python ended with status {status} before it was ready; its own message is above");
            ToController::Unfit { reason }
        };
        if !dies {
            self.nanny.leaving();
            self.say(&last, vec![])?;
        }
        // The news that a peer is dead, for whom something waits, may still have to come.
        while !self.transport.is_drained() {
            match self.transport.receive().context("MPI fails")? {
                Some((from, message)) => self.handle(shared, from, &message)?,
                None => self.transport.wait(LAST_NAP),
            }
        }
        if dies {
            // SAFETY: ends the process at once; the nanny reports it, and the cluster goes on.
            unsafe { libc::_exit(status) };
        }
        if self.ending.is_none() {
            super::leave(&mut self.transport)?;
        }
        Ok(())
    }
}

/// Sends a signal to the main thread. SIGINT is for user code only: Python's own waiting is not to be interrupted.
fn interrupt(shared: &Shared, signal: i32) {
    if signal == libc::SIGINT && !shared.runs_user_code() {
        return;
    }
    if let Some(main) = MAIN.get() {
        // SAFETY: the main thread outlives the comm thread.
        let code = unsafe { libc::pthread_kill(*main, signal) };
        if code != 0 {
            tracing::warn!("signal {signal} cannot be sent to user code (error {code})");
        }
    }
}
