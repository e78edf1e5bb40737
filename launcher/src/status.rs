//! `pxcluster status`: what the controller says of its engines.

use std::fmt::Write as _;

use pxcluster_protocol::to_client::{ClusterStatus, Memory};

use crate::cli::StatusFlags;
use crate::directory::{ClusterDirectory, DirectoryError};
use crate::link::{Link, LinkError};

/// Why there is no status to show.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// There is no such cluster, or not any more.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The controller does not answer.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The answer cannot be written as JSON.
    #[error("cannot write the status as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Asks the controller, and gives back what to print.
pub fn run(flags: &StatusFlags) -> Result<String, StatusError> {
    let connection = ClusterDirectory::locate(&flags.cluster_id)?.read_running()?;
    let status = Link::open(&connection)?.status()?;
    if flags.json { to_json(&status) } else { Ok(to_text(&status)) }
}

fn to_json(status: &ClusterStatus) -> Result<String, StatusError> {
    let mut value = serde_json::to_value(status)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("id"); // of the request; it means nothing outside the link
    }
    Ok(serde_json::to_string_pretty(&value)?)
}

fn to_text(status: &ClusterStatus) -> String {
    let ClusterStatus { cluster_id, host, pid, version, clients, unassigned, .. } = status;
    let mut text = format!(
        "cluster '{cluster_id}': {}, up {}, {}, {}\ncontroller on {host} (process {pid}, pxcluster {version})",
        count(status.engines.len() as u64, "engine"),
        duration(status.uptime),
        count(u64::from(*clients), "client"),
        count(*unassigned, "waiting task"),
    );
    if let Some(reason) = &status.draining {
        let _ = write!(text, "\nit is ending: {reason}; nothing new begins");
    }
    let width = status.engines.iter().map(|engine| engine.host.chars().count()).max().unwrap_or(0).max(4);
    if let Some(Memory { buffers, used, pooled, bound, others }) = &status.memory {
        let (number, used, bound) = (count(*buffers, "large buffer"), bytes(*used), bytes(*bound));
        // A string takes everything, here and below.
        let _ = write!(
            text,
            "\nshared memory: {number}, {used} on {host}, and {} kept for the next, of {bound}",
            bytes(*pooled)
        );
        for node in others.iter().filter(|node| node.used > 0) {
            let _ = write!(text, "; {} on {}", bytes(node.used), node.host);
        }
    }
    let row = |text: &mut String, cells: [&str; 7]| {
        let [engine, host, pid, queue, tasks, completed, shared] = cells;
        let start = format!("{engine:>6}  {host:<width$}  {pid:>8}  {queue:>6}  {tasks:>6}");
        let _ = write!(text, "\n{start}  {completed:>9}  {shared:>8}");
    };
    row(&mut text, ["engine", "host", "process", "queue", "tasks", "completed", "shared"]);
    for engine in &status.engines {
        let [id, pid] = [engine.id.to_string(), engine.pid.to_string()];
        let [queue, tasks, completed] = [engine.queue, engine.tasks, engine.completed].map(|n| n.to_string());
        row(&mut text, [&id, &engine.host, &pid, &queue, &tasks, &completed, &bytes(engine.shared)]);
    }
    text
}

pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Three digits and a unit: 0 B, 1.5 kB, 104 MB.
pub(crate) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            let digits = usize::from(unit != "B" && value < 9.95);
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// Two units are enough: 42 s, 3 min 5 s, 2 h 7 min, 4 d 1 h.
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxcluster_protocol::EngineId;
    use pxcluster_protocol::to_client::{EngineStatus, NodeMemory};

    fn example() -> ClusterStatus {
        let engine = |id: u32| EngineStatus {
            id: EngineId(id),
            host: "node-17".into(),
            pid: 4000 + id,
            tasks: 3,
            completed: 1_250_000,
            shared: u64::from(id) * 104_857_600,
            ..EngineStatus::default()
        };
        ClusterStatus {
            id: 1,
            cluster_id: "default".into(),
            host: "node-17".into(),
            pid: 3999,
            version: "0.1.0".into(),
            uptime: 7_632.9,
            clients: 1,
            unassigned: 20,
            draining: None,
            memory: Some(Memory {
                buffers: 1,
                used: 104_857_600,
                pooled: 0,
                bound: 19_327_352_832,
                others: vec![NodeMemory { host: "node-18".into(), used: 104_857_600 }],
            }),
            engines: vec![engine(0), engine(2)],
            ..ClusterStatus::default()
        }
    }

    #[test]
    fn text_is_a_table() {
        assert_eq!(
            to_text(&example()),
            "cluster 'default': 2 engines, up 2 h 7 min, 1 client, 20 waiting tasks\n\
             controller on node-17 (process 3999, pxcluster 0.1.0)\n\
             shared memory: 1 large buffer, 105 MB on node-17, and 0 B kept for the next, of 19 GB; 105 MB on node-18\n\
             engine  host      process   queue   tasks  completed    shared\n     \
             0  node-17      4000       0       3    1250000       0 B\n     \
             2  node-17      4002       0       3    1250000    210 MB"
        );
    }

    #[test]
    fn json_has_everything_but_the_request() {
        let value: serde_json::Value = serde_json::from_str(&to_json(&example()).unwrap()).unwrap();
        assert_eq!(value["engines"][1]["id"], 2);
        assert_eq!(value["unassigned"], 20);
        assert_eq!(value.get("id"), None);
    }

    #[test]
    fn sizes_have_three_digits_at_most() {
        for (number, text) in
            [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (999_600, "1.0 MB"), (19_327_352_832, "19 GB")]
        {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in
            [(0.4, "0 s"), (59.9, "59 s"), (185.0, "3 min 5 s"), (86_399.0, "23 h 59 min"), (352_800.0, "4 d 2 h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
