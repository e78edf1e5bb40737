//! How clients find the cluster; who comes, comes back, and asks for what others did.

use super::draining::Draining;
use super::{Controller, ControllerError, host, unix_time};
use crate::archive::Outline;
use crate::certificate::{Identity, random_hex};
use crate::inbox::{ConnectionId, Link};
use crate::interfaces;
use pxcluster_protocol::connection::ConnectionFile;
use pxcluster_protocol::from_client::{FromClient, Hello};
use pxcluster_protocol::to_client::{RequestKind, ToClient, Welcome};
use pxcluster_protocol::{ClientId, PROTOCOL_VERSION, RequestId, RequestKey, VERSION};
use pxcluster_transport::Transport;
use std::io::Write;

impl<T: Transport> Controller<T> {
    /// Writes the connection file and says so.
    pub(super) fn publish(&mut self, identity: &Identity, port: u16) -> Result<(), ControllerError> {
        let path = self.files.publish(&ConnectionFile {
            protocol_version: PROTOCOL_VERSION,
            version: VERSION.to_owned(),
            cluster_id: self.settings.cluster_id.clone(),
            key: identity.key.clone(),
            certificate: identity.certificate.clone(),
            addresses: interfaces::advertised(&self.settings.advertise, port)?,
            socket: self.files.socket(std::process::id()).display().to_string(),
            host: host(),
            pid: std::process::id(),
            engines: self.engines.len() as u32,
            python: self.settings.python.clone(),
            slurm_job_id: self.settings.slurm_job_id.clone(),
            started: unix_time(),
        })?;
        let (id, count) = (&self.settings.cluster_id, self.engines.len());
        let engines = if count == 1 { "engine" } else { "engines" };
        let line =
            format!("pxcluster: cluster '{id}' is ready: {count} {engines}, connection file {}\n", path.display());
        let _closed_stderr = std::io::stderr().write_all(line.as_bytes());
        Ok(())
    }

    /// A client has shown the key: a new session, or one that goes on.
    pub(super) fn handle_hello(
        &mut self,
        connection: ConnectionId,
        link: Link,
        hello: &Hello,
    ) -> Result<(), ControllerError> {
        let client = match &hello.session {
            None => self.clients.begin(connection, link, random_hex(8)?, hello),
            Some(name) => match self.clients.resume(connection, link.clone(), name, hello) {
                Ok(client) => client,
                Err(reason) => {
                    tracing::warn!("process {} on {}: refused: {reason}", hello.pid, hello.host);
                    link.send(&ToClient::Refused { reason: reason.to_string() });
                    return Ok(());
                }
            },
        };
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            session: self.clients.name(client).to_owned(),
            client_id: client,
            cluster_id: self.settings.cluster_id.clone(),
            python: self.settings.python.split('.').take(2).collect::<Vec<_>>().join("."),
            engines: self.engines.values().cloned().collect(),
            host: host(),
            pid: std::process::id(),
            version: VERSION.to_owned(),
            last_request: self.clients.arrived(client, None),
        };
        self.clients.send(client, &ToClient::Welcome(welcome), vec![]);
        if let Some(engines) = self.sorrows() {
            self.clients.send(client, &engines, vec![]);
        }
        if let Some(draining) = self.draining.as_ref().map(Draining::notice) {
            self.clients.send(client, &draining, vec![]);
        }
        self.clients.deliver(client);
        Ok(())
    }

    /// A client wants the answers to a request, whoever made it.
    pub(super) fn handle_fetch(&mut self, to: RequestKey, session: Option<&str>, request: RequestId) {
        let owner = session.map_or(Some(to.client), |session| self.clients.named(session));
        if !owner.is_some_and(|client| self.clients.fetch(to, RequestKey { client, request })) {
            let why = match owner {
                None => "this cluster does not know the session".to_owned(),
                Some(_) => "its results are not kept any more: 16 MiB of delivered results are kept in all".to_owned(),
            };
            self.fail(to, "KeyError", why);
        }
    }

    /// A client asks what all clients have asked for.
    pub(super) fn tell_history(&mut self, key: RequestKey) {
        match self.clients.history() {
            Ok(buffers) => self.clients.send(key.client, &ToClient::History { id: key.request }, buffers),
            Err(error) => self.fail(key, "ValueError", format!("the history cannot be written: {error}")),
        }
    }

    /// A frame has come: if it is a request whose answers are kept, it begins, otherwise its bytes are done with.
    pub(super) fn begin_request(&mut self, client: ClientId, header: &FromClient, bytes: usize) {
        self.clients.arrived(client, header.id());
        let (id, outline) = match header {
            FromClient::Direct { id, kind, targets, label, unlisted } => {
                let targets = targets.clone().unwrap_or_else(|| self.scheduler.engines().iter().collect());
                let (kind, label, listed) = (RequestKind::Direct(*kind), label.clone(), !unlisted);
                (*id, Outline { kind, label, tasks: 0, targets, listed })
            }
            FromClient::Map { id, tasks, label, .. } => {
                let label = label.clone();
                (*id, Outline { kind: RequestKind::Map, label, tasks: *tasks, targets: vec![], listed: true })
            }
            _ => return self.clients.give_back(client, bytes),
        };
        self.clients.begin_request(RequestKey { client, request: id }, bytes, outline);
    }

    /// The client has had so many frames; one that lies is cut off.
    pub(super) fn handle_received(&mut self, connection: ConnectionId, client: ClientId, frames: u64) {
        if let Err(error) = self.clients.confirm(client, frames) {
            tracing::warn!("client {}: {error}, cut off", client.0);
            self.clients.disconnect(connection);
        }
    }
}
