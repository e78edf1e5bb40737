//! What a client is told of tasks that ended without having run to their end.

use super::{Controller, unix_time};
use bytes::Bytes;
use pxcluster_protocol::to_client::ToClient;
use pxcluster_protocol::{EngineId, RequestKey, Status, TaskIndex};
use pxcluster_scheduler::Why;
use pxcluster_transport::Transport;
use std::ops::Range;

impl<T: Transport> Controller<T> {
    /// Tells a client that tasks will not run: results with this status and, each, this payload.
    pub(super) fn tell_not_run(&mut self, key: RequestKey, tasks: Vec<Range<TaskIndex>>, why: &Why) {
        let tasks: Vec<TaskIndex> = tasks.into_iter().flatten().collect();
        let (count, now) = (tasks.len(), unix_time());
        let (status, payload) = match self.sentence(why) {
            None => (Status::Aborted, Vec::new()),
            Some((ename, message)) => (Status::Error, error_payload(ename, &message)),
        };
        let ends = (0..=count).flat_map(|task| ((task * payload.len()) as u64).to_le_bytes());
        let columns: [Vec<u8>; 7] = [
            tasks.iter().flat_map(|task| task.to_le_bytes()).collect(),
            u32::MAX.to_le_bytes().repeat(count),
            vec![status.into(); count],
            now.to_le_bytes().repeat(count),
            now.to_le_bytes().repeat(count),
            ends.collect(),
            payload.repeat(count),
        ];
        self.note_unrun(key, &columns[2]);
        let buffers = columns.map(Bytes::from).into();
        self.clients.send(key.client, &ToClient::Results { id: key.request }, buffers);
    }

    /// Class of the exception and its message; `None`: aborted.
    fn sentence(&self, why: &Why) -> Option<(&'static str, String)> {
        Some(match why {
            Why::Aborted => return None,
            Why::NoEngine => {
                let last = self.gone.values().next_back().map(|sentence| format!("; {sentence}")).unwrap_or_default();
                ("EngineError", format!("no engine is left that may run this task{last}"))
            }
            Why::Killed(engines) => {
                let deaths: Vec<String> = engines.iter().map(|engine| self.death_of(*engine)).collect();
                let deaths = deaths.join("; ");
                let count = engines.len();
                (
                    "EngineError",
                    format!("the task was tried {count} times and the engine died under it each time: {deaths}"),
                )
            }
            Why::Unmet => {
                let message = "every engine that may run this task has said that something it needs is missing there";
                ("ImpossibleDependency", message.to_owned())
            }
            Why::Impossible => {
                let message = "what this task comes after, or follows, ended so that it can never start";
                ("ImpossibleDependency", message.to_owned())
            }
            Why::Unknown(needed) => {
                let message =
                    format!("request {} of client {} is not known, or no longer", needed.request, needed.client.0);
                ("InvalidDependency", message)
            }
            Why::TimedOut => ("TaskTimeout", "the time was up before an engine could start this task".to_owned()),
        })
    }

    /// One sentence on how an engine ended.
    pub(super) fn death_of(&self, engine: EngineId) -> String {
        self.gone.get(&engine).cloned().unwrap_or_else(|| format!("engine {engine} died"))
    }
}

/// An error payload as engines make them, for what an engine can no longer say.
pub(super) fn error_payload(ename: &str, message: &str) -> Vec<u8> {
    let error = serde_json::json!({
        "ename": ename, "evalue": message, "traceback": null,
        "engine_id": null, "engine_uuid": null, "method": "apply",
    });
    error.to_string().into_bytes()
}
