//! What clients ask for.

use super::draining::Draining;
use super::{Answer, Controller, ControllerError, host};
use crate::inbox::ConnectionId;
use crate::reading::Arrived;
use bytes::Bytes;
use pxcluster_protocol::from_client::{self, FromClient, Targets};
use pxcluster_protocol::to_client::{ClusterStatus, EngineStatus, ToClient};
use pxcluster_protocol::to_engine::Cargo;
use pxcluster_protocol::{ClientId, EngineSet, RequestId, RequestKey, VERSION};
use pxcluster_scheduler::{Dependency, Event, Need, NewMap};
use pxcluster_transport::Transport;
use std::time::Duration;

impl<T: Transport> Controller<T> {
    pub(super) fn handle_frame(
        &mut self,
        connection: ConnectionId,
        client: ClientId,
        arrived: Arrived,
    ) -> Result<(), ControllerError> {
        let (bytes, names_places) = (arrived.bytes, !arrived.places.is_empty());
        let frame = match self.complete(connection, arrived) {
            Ok(frame) => frame,
            Err(error) => {
                tracing::warn!("client {} {error}, cut off", client.0);
                self.clients.disconnect(connection);
                return Ok(());
            }
        };
        if names_places {
            self.pump()?;
        }
        let header = match frame.parse::<FromClient>() {
            Ok(header) => header,
            Err(error) => {
                tracing::warn!("client {}: {error}, cut off", client.0);
                self.clients.disconnect(connection);
                return Ok(());
            }
        };
        self.begin_request(client, &header, bytes);
        let key = |request: RequestId| RequestKey { client, request };
        match header {
            FromClient::Hello(_) | FromClient::Memory(_) => tracing::warn!("client {} says hello twice", client.0),
            FromClient::Reserve { ticket, sizes, direct, targets } => {
                let audience = direct.then_some(targets);
                self.reserve_for_client(connection, client, ticket, &sizes, audience);
            }
            FromClient::Written { place, bytes } => self.has_written(place, bytes)?,
            FromClient::Abandon { places } => self.abandon(connection, &places)?,
            FromClient::Direct { id, kind, targets, label: _, unlisted: _ } => {
                if let Some(targets) = self.resolve(key(id), targets) {
                    self.bodies.insert(key(id), (kind, frame.buffers));
                    self.decide(Event::Direct { key: key(id), targets }, &Answer::default())?;
                }
            }
            header @ FromClient::Map { id, .. } => self.handle_map(key(id), header, frame.buffers)?,
            FromClient::Signal { id, signum, targets } => {
                if let Some(targets) = self.resolve(key(id), targets) {
                    self.broadcast(&targets, &Cargo::Signal(signum))?;
                    self.clients.send(client, &ToClient::Done { id }, vec![]);
                }
            }
            FromClient::Interrupt { id, requests } => {
                let keys = requests.into_iter().map(key).collect();
                self.broadcast(&self.living(), &Cargo::Interrupt(keys))?;
                self.clients.send(client, &ToClient::Done { id }, vec![]);
            }
            FromClient::Abort { id, requests, targets } => self.handle_abort(key(id), requests, targets)?,
            FromClient::Status { id } => {
                let status = self.status(id);
                self.clients.send(client, &ToClient::Status(status), vec![]);
            }
            FromClient::History { id } => self.tell_history(key(id)),
            FromClient::Purge { id, requests } => {
                self.clients.purge(requests);
                self.clients.send(client, &ToClient::Done { id }, vec![]);
            }
            FromClient::Kill { id, targets } => self.handle_kill(key(id), targets)?,
            FromClient::Death(_) | FromClient::Silent(_) => tracing::warn!("client {} is no nanny", client.0),
            FromClient::Drain { id, grace } => {
                self.drain("somebody asked for it", grace.map(seconds))?;
                self.clients.send(client, &ToClient::Done { id }, vec![]);
            }
            FromClient::Shutdown { id: _ } => self.stop("a client asked for it")?,
            FromClient::Received { frames } => self.handle_received(connection, client, frames),
            FromClient::Fetch { id, session, request } => self.handle_fetch(key(id), session.as_deref(), request),
            FromClient::Goodbye => self.clients.leave(connection),
        }
        Ok(())
    }

    /// `header`: that of a map.
    fn handle_map(&mut self, key: RequestKey, header: FromClient, buffers: Vec<Bytes>) -> Result<(), ControllerError> {
        let FromClient::Map { tasks, targets, retries, after, follow, timeout, .. } = header else { return Ok(()) };
        if let Some(why) = self.draining.as_ref().map(Draining::refusal) {
            self.fail(key, "ClusterEnding", why);
            return Ok(());
        }
        let subset = targets.is_some();
        let Some(targets) = self.resolve(key, targets) else { return Ok(()) };
        let waits =
            self.dependency(key.client, after).and_then(|after| Ok((after, self.dependency(key.client, follow)?)));
        match waits {
            Ok((after, follow)) => {
                let targets = subset.then_some(targets);
                self.submit_map(NewMap { key, tasks, targets, retries, after, follow }, timeout, buffers)?;
            }
            Err(error) => self.fail(key, "InvalidDependency", error.to_string()),
        }
        Ok(())
    }

    fn handle_abort(
        &mut self,
        key: RequestKey,
        requests: Option<Vec<RequestId>>,
        targets: Targets,
    ) -> Result<(), ControllerError> {
        let client = key.client;
        let named = |requests: Vec<_>| requests.into_iter().map(|request| RequestKey { client, request }).collect();
        let keys = requests.map_or_else(|| self.scheduler.requests_of(client), named);
        if targets.is_none() {
            self.decide(Event::Abort(keys), &Answer::default())?;
        } else {
            // What these engines have is aborted; what they do not have yet may still run elsewhere.
            let Some(targets) = self.resolve(key, targets) else { return Ok(()) };
            self.broadcast(&targets, &Cargo::Abort(keys))?;
        }
        self.clients.send(client, &ToClient::Done { id: key.request }, vec![]);
        Ok(())
    }

    fn handle_kill(&mut self, key: RequestKey, targets: Targets) -> Result<(), ControllerError> {
        if !self.settings.nannies {
            let why = "the cluster was started with --no-nanny: an engine's death would end all of it";
            self.fail(key, "EngineError", why.to_owned());
        } else if let Some(targets) = self.resolve(key, targets) {
            for engine in targets.iter() {
                self.kill_engine(engine)?;
            }
            self.clients.send(key.client, &ToClient::Done { id: key.request }, vec![]);
        }
        Ok(())
    }

    /// The engines that a request is for; tells the client and gives `None` if there are none or one is gone.
    fn resolve(&mut self, key: RequestKey, targets: Targets) -> Option<EngineSet> {
        let Some(targets) = targets else {
            let alive = self.scheduler.engines();
            if alive.is_empty() {
                let hint = match self.gone.values().next_back() {
                    None => "Try client.wait_for_engines(n) to wait for engines to register.".to_owned(),
                    Some(last) => format!("All have died ({last}); stop the cluster and start it again."),
                };
                self.fail(key, "NoEnginesRegistered", format!("This operation requires engines. {hint}"));
                return None;
            }
            return Some(alive);
        };
        if let Some(gone) = targets.iter().find(|engine| !self.engines.contains_key(engine)) {
            let why = self.gone.get(gone).cloned().unwrap_or_else(|| format!("engine {gone} does not exist"));
            self.fail(key, "EngineError", format!("{why}; rc.ids lists those alive"));
            return None;
        }
        if targets.is_empty() {
            self.fail(key, "ValueError", "a request needs at least one target".to_owned());
            return None;
        }
        Some(targets.into_iter().collect())
    }

    fn submit_map(&mut self, new: NewMap, timeout: Option<f64>, buffers: Vec<Bytes>) -> Result<(), ControllerError> {
        if let Err(error) = self.maps.insert(new.key, new.tasks, buffers) {
            self.fail(new.key, "ValueError", error.to_string());
            return Ok(());
        }
        if let Some(seconds) = timeout {
            self.timeouts.add(new.key, seconds);
        }
        self.decide(Event::Map(new), &Answer::default())
    }

    /// What a client's dependency names.
    fn dependency(&self, client: ClientId, asked: Option<from_client::Dependency>) -> Result<Dependency, NoSession> {
        let Some(from_client::Dependency { needs, all, success, failure }) = asked else {
            return Ok(Dependency::default());
        };
        let need = |need: from_client::Needed| {
            let client = match need.session {
                None => client,
                Some(session) => self.clients.named(&session).ok_or(NoSession(session))?,
            };
            Ok(Need { key: RequestKey { client, request: need.request }, part: need.part })
        };
        let needs = needs.into_iter().map(need).collect::<Result<_, NoSession>>()?;
        Ok(Dependency { needs, all, success, failure })
    }

    fn status(&mut self, id: RequestId) -> ClusterStatus {
        self.look_at_memory();
        let totals = self.scheduler.totals();
        let engine = |info: &pxcluster_protocol::to_client::EngineInfo| {
            let load = self.scheduler.load(info.id);
            EngineStatus {
                id: info.id,
                host: info.host.clone(),
                pid: info.pid,
                queue: load.queue,
                tasks: load.tasks,
                completed: load.completed,
                shared: self.store.as_ref().map_or(0, |store| store.held_by(info.id)),
                busy: load.queue + load.tasks > 0,
                finished: load.finished,
                stolen: load.stolen,
                rss: self.rss.of(info.id),
            }
        };
        ClusterStatus {
            id,
            cluster_id: self.settings.cluster_id.clone(),
            host: host(),
            pid: std::process::id(),
            version: VERSION.to_owned(),
            uptime: self.ready_at.elapsed().as_secs_f64(),
            clients: self.clients.len() as u32,
            unassigned: self.scheduler.unassigned(),
            draining: self.draining.as_ref().map(|draining| draining.reason().to_owned()),
            directs: self.scheduler.directs(),
            finished: totals.finished,
            stolen: totals.stolen,
            slurm_job_id: self.settings.slurm_job_id.clone(),
            slurm_end_time: self.settings.slurm_end_time,
            lost: self.lost(),
            silent: self.nannies.silent(),
            memory: self.memory(),
            engines: self.engines.values().map(engine).collect(),
        }
    }
}

/// A client's number of seconds; one that is no time at all, or for ever, is the next one that is.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number.max(0.0)).unwrap_or(Duration::MAX)
}

/// A dependency on a session that is not known.
#[derive(Debug, thiserror::Error)]
#[error("the dependency names a result of session {0}, which this cluster does not know")]
struct NoSession(String);
