//! How a cluster ends: by somebody's wish, or by an error.

use super::{Controller, ControllerError, Ended};
use crate::inbox::Notice;
use pxcluster_protocol::to_client::ToClient;
use pxcluster_protocol::to_engine::Cargo;
use pxcluster_transport::Transport;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long engines have to end Python, and clients to take what waits for them, before the job is ended under them.
const GRACE: Duration = Duration::from_secs(3);

impl<T: Transport> Controller<T> {
    /// Begins to stop the cluster.
    pub(super) fn stop(&mut self, reason: &str) -> Result<(), ControllerError> {
        if self.deadline.is_some() {
            return Ok(());
        }
        tracing::info!("stopping: {reason}");
        self.deadline = Some(Instant::now() + GRACE);
        self.files.remove(std::process::id());
        self.closing = Some(ToClient::Closing { reason: format!("the cluster was stopped: {reason}") });
        self.broadcast(&self.living(), &Cargo::Shutdown)
    }

    /// Whether the cluster, if it stops, has stopped: engines have ended, clients have what waited for them, or time is up.
    pub(super) fn look_for_the_end(&mut self) -> Option<Ended> {
        let deadline = self.deadline?;
        let is_late = Instant::now() >= deadline;
        if let Some(closing) = &self.closing {
            self.clients.dismiss(closing, is_late);
        }
        if self.all_have_ended() && self.transport.is_drained() && (is_late || self.clients.len() == 0) {
            return Some(if self.gone.is_empty() { Ended::Together } else { Ended::WithoutTheDead });
        }
        if nix::unistd::getppid() != self.parent {
            return Some(Ended::Orphaned);
        }
        is_late.then_some(Ended::Alone)
    }

    /// Tells everybody of an error that ends the cluster, clients behind the answers that wait for them.
    pub(super) async fn say_farewell(
        &mut self,
        error: &ControllerError,
        notices: &mut mpsc::UnboundedReceiver<Notice>,
    ) -> Result<(), ControllerError> {
        self.clients.dismiss(&ToClient::Closing { reason: error.to_string() }, true);
        self.broadcast(&self.living(), &Cargo::Shutdown)?;
        let until = Instant::now() + GRACE;
        while !self.transport.is_drained() && Instant::now() < until && self.transport.receive().is_ok() {
            tokio::task::yield_now().await;
        }
        while self.clients.len() > 0
            && let Ok(Some(notice)) = tokio::time::timeout_at(until.into(), notices.recv()).await
        {
            if let Notice::Disconnected { connection } = notice {
                self.clients.disconnect(connection);
            }
        }
        Ok(())
    }
}
