//! The one thread that owns the transport, the scheduler and the list of clients, and runs the sessions of local clients.

mod ahead;
mod arrivals;
mod bulk;
mod deaths;
mod draining;
mod ending;
mod error;
mod requests;
mod sessions;
mod unrun;

use crate::Settings;
use crate::certificate::Identity;
use crate::clients::Clients;
use crate::files::{ClusterFiles, ClusterLock};
use crate::fills::Fills;
use crate::inbox::{ConnectionId, Inbox, Notice, Terminate};
use crate::incoming::Messages;
use crate::interfaces;
use crate::listener::{LAST_FRAMES, ListenError, RemoteListener, serve_local};
use crate::maps::{self, Maps};
use crate::nannies::Nannies;
use crate::relays::Relays;
use crate::rss::Rss;
use crate::silence::Silence;
use crate::spill::Spill;
use crate::store::{Reservation, Store};
use crate::timeouts::Timeouts;
use ahead::Passing;
use arrivals::Arrival;
use bulk::Waiting;
use bytes::Bytes;
use draining::Draining;
pub use error::ControllerError;
use nix::unistd::Pid;
use pxcluster_protocol::codec;
use pxcluster_protocol::from_client::DirectKind;
use pxcluster_protocol::to_client::{EngineInfo, ToClient};
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::to_engine::{Cargo, Direct, Grant, ReportTo, Steal, ToEngine};
use pxcluster_protocol::{EngineId, EngineSet, Rank, RequestKey, Status};
use pxcluster_scheduler as scheduler;
use pxcluster_scheduler::{Action, Event, GrantPolicy};
use pxcluster_transport::{Transport, send};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

/// Longest sleep of an idle controller; it is woken when there is something to do.
const IDLE: Duration = Duration::from_secs(1);
/// The same while the cluster ends.
const ENDING: Duration = Duration::from_millis(20);
/// Resolution of the runtime's timers; shorter naps are spent running sessions.
const TIMER: Duration = Duration::from_millis(1);
/// Messages and notices that are handled before sessions get their turn.
const ROUND: u32 = 64;
/// After a map of so many bytes, and a while in which clients confirm its results, memory is given back to the system.
const LARGE_MAP: usize = 4 << 20;
const RELEASE_AFTER: Duration = Duration::from_secs(1);

/// How a cluster ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every engine has ended Python; all ranks may leave MPI together.
    Together,
    /// As above, but engines have died, for whom MPI's own end would wait for ever: the job must be ended by an abort.
    WithoutTheDead,
    /// Some engine did not end in time; the job must be ended under it.
    Alone,
    /// The MPI launcher has ended the process that it knows as rank 0; MPI cannot be used any more.
    Orphaned,
}

/// What an engine has sent, for the actions that hand it on.
#[derive(Default)]
struct Answer {
    engine: Option<EngineId>,
    reply: Option<ToClient>,
    body: Vec<Bytes>,
}

/// Rank 0.
pub struct Controller<T: Transport> {
    settings: Settings,
    transport: T,
    files: ClusterFiles,
    scheduler: scheduler::Controller,
    clients: Clients,
    maps: Maps,
    /// Bodies of direct requests until all targets have answered.
    bodies: BTreeMap<RequestKey, (DirectKind, Vec<Bytes>)>,
    engines: BTreeMap<EngineId, EngineInfo>,
    timeouts: Timeouts,
    /// Large buffers, if there is shared memory.
    store: Option<Arc<Store>>,
    /// Large buffers on their way to other nodes.
    fills: Fills<Waiting>,
    /// Those of them that still arrive, or have not gone to all yet.
    arrivals: Vec<Arrival>,
    /// Long messages that come, by the numbers of their buffers.
    passing: BTreeMap<u64, Passing>,
    /// Places that connections were given and have not named in a request.
    reservations: BTreeMap<ConnectionId, Vec<Reservation>>,
    /// When memory is given back to the system.
    release_at: Option<Instant>,
    /// Engines that have died, and one sentence about each.
    gone: BTreeMap<EngineId, String>,
    /// Engines that MPI cannot reach: since when, and its words.
    suspects: BTreeMap<EngineId, (Instant, String)>,
    silence: Silence,
    rss: Rss,
    nannies: Nannies,
    relays: Relays,
    /// Engines that have ended Python.
    ended: EngineSet,
    draining: Option<Draining>,
    /// Set while the cluster stops, with what clients are told.
    deadline: Option<Instant>,
    closing: Option<ToClient>,
    ready_at: Instant,
    /// Whether the connection file has been written.
    published: bool,
    /// Who started this process.
    parent: Pid,
    actions: Vec<Action>,
}

impl<T: Transport> Controller<T> {
    /// A controller that has not started.
    pub fn new(mut transport: T, settings: Settings, files: ClusterFiles) -> Self {
        let store = bulk::store(&settings);
        if let Some(store) = &store {
            transport.set_depot(Box::new(Messages(Arc::clone(store))));
        }
        let silence = Silence::new(settings.nodes.clone(), settings.lost_after, Instant::now());
        let clients = Clients::new(settings.bounds.results, Spill::new(settings.bounds.spill.clone()), store.clone());
        Self {
            settings,
            transport,
            files,
            scheduler: scheduler::Controller::new(GrantPolicy::default()),
            clients,
            maps: Maps::default(),
            bodies: BTreeMap::new(),
            engines: BTreeMap::new(),
            timeouts: Timeouts::default(),
            store,
            fills: Fills::default(),
            arrivals: Vec::new(),
            passing: BTreeMap::new(),
            reservations: BTreeMap::new(),
            release_at: None,
            gone: BTreeMap::new(),
            suspects: BTreeMap::new(),
            silence,
            rss: Rss::default(),
            nannies: Nannies::default(),
            relays: Relays::default(),
            ended: EngineSet::default(),
            draining: None,
            deadline: None,
            closing: None,
            ready_at: Instant::now(),
            published: false,
            parent: nix::unistd::getppid(),
            actions: Vec::new(),
        }
    }

    /// Runs the cluster until somebody stops it. The lock is given back at the end.
    pub fn run(self, lock: ClusterLock) -> Result<Ended, ControllerError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ListenError::Thread)?;
        let result = runtime.block_on(self.run_inside(lock));
        runtime.shutdown_timeout(LAST_FRAMES);
        result
    }

    async fn run_inside(mut self, _lock: ClusterLock) -> Result<Ended, ControllerError> {
        let identity = Identity::new()?;
        let (inbox, mut notices) = Inbox::new(self.settings.bounds.requests, self.store.clone());
        serve_local(&self.files.socket(std::process::id()), &identity, &inbox)?;
        let opened = RemoteListener::open(self.settings.port, &identity, inbox);
        let (result, remote) = match opened {
            Ok(remote) => (self.serve(&mut notices, &identity, remote.port).await, Some(remote)),
            Err(error) => (Err(error.into()), None),
        };
        self.files.remove(std::process::id());
        if let Err(error) = &result {
            self.say_farewell(error, &mut notices).await?;
        }
        self.clients.close();
        self.nannies.let_go(&ToClient::Closing { reason: "the cluster has ended".to_owned() });
        tokio::time::sleep(LAST_FRAMES).await;
        drop(remote);
        result
    }

    async fn serve(
        &mut self,
        notices: &mut mpsc::UnboundedReceiver<Notice>,
        identity: &Identity,
        port: u16,
    ) -> Result<Ended, ControllerError> {
        let size = self.transport.size() - 1;
        let bell =
            self.transport.descriptor().map(|bell| bell.try_clone_to_owned().and_then(pipe::Receiver::from_owned_fd));
        let bell = bell.transpose().map_err(ListenError::Thread)?;
        if self.settings.nannies {
            let (certificate, key) = (identity.certificate.clone(), identity.key.clone());
            let socket = self.files.socket(std::process::id()).display().to_string();
            let report_to = ReportTo { socket, addresses: interfaces::addresses(port), certificate, key };
            self.broadcast(&self.living(), &Cargo::ReportTo(report_to))?;
        }
        loop {
            let more = self.handle_round(notices)?;
            if self.release_at.take_if(|due| *due <= Instant::now()).is_some() {
                (self.settings.release_memory)();
            }
            while let Some(key) = self.timeouts.next_due(Instant::now()) {
                self.decide(Event::TimedOut(key), &Answer::default())?;
            }
            self.handle_suspects()?;
            self.handle_silence()?;
            self.punch_elsewhere()?;
            if !self.published && self.engines.len() == size as usize && self.deadline.is_none() {
                self.published = true;
                self.ready_at = Instant::now();
                self.silence.begin(self.ready_at);
                self.publish(identity, port)?;
            }
            self.look_for_the_end_of_draining()?;
            if let Some(ended) = self.look_for_the_end() {
                return Ok(ended);
            }
            if more {
                tokio::task::yield_now().await; // sessions write meanwhile
            } else {
                self.sleep(notices, bell.as_ref()).await?;
            }
        }
    }

    /// Handles what has come, but no more than a round of it; whether there may be more.
    fn handle_round(&mut self, notices: &mut mpsc::UnboundedReceiver<Notice>) -> Result<bool, ControllerError> {
        let mut left = ROUND;
        while left > 0
            && let Some((from, message)) = self.transport.receive()?
        {
            self.handle_message(from, &message)?;
            left -= 1;
        }
        self.send_ahead();
        let more = left == 0;
        let mut left = ROUND;
        while left > 0
            && let Ok(notice) = notices.try_recv()
        {
            self.handle_notice(notice)?;
            left -= 1;
        }
        Ok(more || left == 0)
    }

    /// Sleeps until there is something to do; sessions run meanwhile.
    async fn sleep(
        &mut self,
        notices: &mut mpsc::UnboundedReceiver<Notice>,
        bell: Option<&pipe::Receiver>,
    ) -> Result<(), ControllerError> {
        self.transport.arm();
        if let Some((from, message)) = self.transport.receive()? {
            self.transport.disarm();
            return self.handle_message(from, &message);
        }
        self.send_ahead();
        let idle = if self.deadline.is_some() || self.draining.is_some() { ENDING } else { IDLE };
        let idle = self.timeouts.nap(Instant::now()).map_or(idle, |nap| nap.min(idle));
        let idle = self.store.as_ref().and_then(|store| store.tidy()).map_or(idle, |due| due.min(idle));
        let nap = self.transport.nap().map_or(idle, |nap| nap.min(idle));
        let rung = async {
            match bell {
                Some(bell) => {
                    let _as_below = bell.readable().await;
                    while bell.try_read(&mut [0; 64]).is_ok_and(|count| count > 0) {} // clears the readiness
                }
                None => std::future::pending().await,
            }
        };
        let notice = if nap < TIMER {
            tokio::task::yield_now().await;
            None
        } else {
            tokio::select! {
                biased;
                notice = notices.recv() => notice,
                () = rung => None,
                () = tokio::time::sleep(nap) => None,
            }
        };
        self.transport.disarm();
        notice.map_or(Ok(()), |notice| self.handle_notice(notice))
    }

    fn handle_notice(&mut self, notice: Notice) -> Result<(), ControllerError> {
        match notice {
            Notice::Connected { connection, link, hello } => self.handle_hello(connection, link, &hello)?,
            Notice::Nanny { connection, outbox, report } => {
                self.nannies.add(connection, report.nanny().engine, outbox);
                self.handle_report(report)?;
            }
            Notice::Frame { connection, arrived } if self.nannies.of(connection).is_some() => {
                self.handle_nanny_frame(connection, &arrived.frame)?;
            }
            Notice::Frame { connection, arrived } => {
                if let Some(client) = self.clients.of(connection) {
                    self.handle_frame(connection, client, arrived)?;
                }
            }
            Notice::Arriving { connection, arriving } => self.handle_arriving(connection, arriving)?,
            Notice::Disconnected { connection } => {
                self.reservations.remove(&connection);
                self.cut_arrivals(|arrival| arrival.connection == connection)?;
                if !self.nannies.remove(connection) {
                    self.clients.disconnect(connection);
                }
            }
            Notice::Terminate(Terminate::Now(signal)) => self.stop(&format!("the controller received {signal}"))?,
            Notice::Terminate(Terminate::Soon(signal)) => self.handle_warning(signal)?,
        }
        Ok(())
    }

    fn handle_message(&mut self, from: Rank, message: &Bytes) -> Result<(), ControllerError> {
        let adopt = |place, length| self.adopt(from, place, length);
        let decoded = codec::decode_places::<ToController>(message, &adopt);
        let (header, body) = decoded.map_err(|source| ControllerError::Codec { from, source })?;
        let Some(engine) = from.engine().filter(|engine| !self.gone.contains_key(engine)) else { return Ok(()) };
        self.silence.heard(from, Instant::now());
        match header {
            ToController::Beat { rss } => {
                self.rss.tell(engine, rss);
                Ok(())
            }
            ToController::Ready { host, pid } => {
                self.engines.insert(engine, EngineInfo { id: engine, host, pid });
                self.decide(Event::EngineJoined(engine), &Answer::default())
            }
            ToController::Unfit { reason } => Err(ControllerError::Unfit { engine, reason }),
            ToController::Bye => {
                self.ended = self.ended.iter().chain([engine]).collect();
                Ok(())
            }
            ToController::DirectReply { key, epoch: _, status, started, completed } => {
                let reply = ToClient::Reply { id: key.request, engine, status, started, completed };
                let answer = Answer { engine: Some(engine), reply: Some(reply), body };
                let success = status == Status::Ok;
                self.decide(Event::DirectFinished { key, engine, success }, &answer)
            }
            ToController::Results { key, busy } => {
                let column = |at: usize| body.get(at).map(|bytes| &bytes[..]).unwrap_or_default();
                let (tasks, failed) = (maps::indices(column(0)), maps::failed(column(1)));
                let answer = Answer { engine: Some(engine), reply: None, body };
                self.decide(Event::TasksFinished { key, engine, tasks: &tasks, failed: &failed, busy }, &answer)
            }
            ToController::Ask { received } => self.decide(Event::Asked { engine, received }, &Answer::default()),
            ToController::Gave { key, thief, ranges } => {
                self.decide(Event::Gave { engine, key, thief, ranges }, &Answer::default())
            }
            ToController::Got { key, victim, ranges } => {
                self.decide(Event::Got { engine, key, victim, ranges }, &Answer::default())
            }
            ToController::Reserve { ticket, sizes } => self.reserve_for_engine(engine, ticket, &sizes),
            ToController::Filled { transfer, upto } => self.filled(engine, transfer, upto),
            ToController::Released { places } => {
                self.store.iter().for_each(|store| store.release(&places, engine));
                Ok(())
            }
            ToController::Output { key, task, name } => {
                let output = ToClient::Output { id: key.request, engine, task, name };
                self.clients.send(key.client, &output, body);
                Ok(())
            }
        }
    }

    /// Asks the scheduler and does what it says. `answer`: the message that caused the event.
    fn decide(&mut self, event: Event<'_>, answer: &Answer) -> Result<(), ControllerError> {
        let mut actions = std::mem::take(&mut self.actions);
        self.scheduler.handle(event, &mut actions);
        for action in actions.drain(..) {
            self.carry_out(action, answer)?;
        }
        self.actions = actions;
        Ok(())
    }

    fn carry_out(&mut self, action: Action, answer: &Answer) -> Result<(), ControllerError> {
        match action {
            Action::Broadcast { key, targets, epoch, previous, exceptions } => {
                if let Some((kind, body)) = self.bodies.get(&key) {
                    let (cargo, body) = (Direct { key, kind: *kind, epoch, previous, exceptions }, body.clone());
                    self.broadcast_body(&targets, &Cargo::Direct(cargo), &body)?;
                }
            }
            Action::Grant { engine, key, range, submitted, last_direct, function } => {
                let Some(body) = self.maps.grant(key, &range, function) else { return Ok(()) };
                let grant = ToEngine::Grant(Grant { key, range, submitted, last_direct });
                self.send_body(engine, &grant, body)?;
            }
            Action::Reply { key, engine: _ } => {
                if let Some(reply) = &answer.reply {
                    self.clients.send(key.client, reply, answer.body.clone());
                }
            }
            Action::Steal { victim, thief, key, last_direct, function } => {
                let steal = ToEngine::Steal(Steal { key, thief, last_direct, function });
                send(&mut self.transport, victim.rank(), &steal, vec![])?;
            }
            Action::Deliver { key, accepted, tries } => {
                let frame = |engine| maps::results_frame(engine, &answer.body, &accepted, &tries);
                let frame = answer.engine.and_then(frame);
                if let Some(buffers) = frame {
                    self.note_unrun(key, &buffers[2]);
                    self.clients.send(key.client, &ToClient::Results { id: key.request }, buffers);
                } else {
                    tracing::error!("results of {key} are malformed");
                }
            }
            Action::TasksEnded { key, tasks, why } => self.tell_not_run(key, tasks, &why),
            Action::AbortOn { key, engines } => self.broadcast(&engines, &Cargo::Abort(vec![key]))?,
            Action::DirectLost { key, engine } => {
                let message = format!("{}, before it answered", self.death_of(engine));
                let error = unrun::error_payload("EngineError", &message);
                let now = unix_time();
                let reply =
                    ToClient::Reply { id: key.request, engine, status: Status::Error, started: now, completed: now };
                self.clients.send(key.client, &reply, vec![error.into()]);
            }
            Action::DirectDone { key, engines } => {
                self.bodies.remove(&key);
                self.clients.end_request(key);
                self.broadcast(&engines, &Cargo::Forget(vec![key]))?;
            }
            Action::Forget { key, engine } => {
                self.broadcast(&std::iter::once(engine).collect(), &Cargo::Forget(vec![key]))?;
            }
            Action::MapDone { key, engines } => {
                if self.maps.remove(key) >= LARGE_MAP {
                    self.release_at = Some(Instant::now() + RELEASE_AFTER);
                }
                self.clients.end_request(key);
                self.broadcast(&engines, &Cargo::Forget(vec![key]))?;
            }
        }
        Ok(())
    }

    fn fail(&mut self, key: RequestKey, ename: &str, message: String) {
        let failed = ToClient::Failed { id: key.request, ename: ename.to_owned(), message };
        self.clients.send(key.client, &failed, vec![]);
        self.clients.end_request(key);
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// This host's name.
pub(crate) fn host() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
