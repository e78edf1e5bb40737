//! `pxcluster list`: all clusters of this user that have a connection file, and which of them are still there.

use std::fmt::Write as _;
use std::thread;

use pxcluster_protocol::connection::ConnectionFile;
use serde::Serialize;

use crate::cli::ListFlags;
use crate::directory::{ClusterDirectory, Controller, DirectoryError, shown};
use crate::link::Link;
use crate::status::duration;

/// A line of the list.
#[derive(Debug, Serialize)]
struct Entry {
    cluster_id: String,
    state: State,
    /// Host of the controller.
    host: Option<String>,
    engines: Option<usize>,
    clients: Option<u32>,
    /// Seconds since it was ready.
    uptime: Option<f64>,
    slurm_job_id: Option<String>,
    connection_file: String,
    /// Why it is not known to run.
    reason: Option<String>,
}

/// Whether a cluster is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Its controller has answered.
    Running,
    /// Its controller has ended and left the file.
    Gone,
    /// Its controller does not answer.
    Silent,
    /// The file cannot be used.
    Broken,
}

/// Asks all clusters at once, and gives back what to print.
pub fn run(flags: &ListFlags) -> Result<String, ListError> {
    let directories = ClusterDirectory::all()?;
    let entries: Vec<Entry> = thread::scope(|scope| {
        let asked: Vec<_> = directories.iter().map(|directory| scope.spawn(|| entry(directory))).collect();
        asked.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    if flags.json { Ok(serde_json::to_string_pretty(&entries)?) } else { Ok(to_text(&entries)) }
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "transparent variants; the other has its message")]
pub enum ListError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("cannot write the list as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

fn entry(directory: &ClusterDirectory) -> Entry {
    let mut entry = Entry {
        cluster_id: directory.cluster_id().to_owned(),
        state: State::Broken,
        host: None,
        engines: None,
        clients: None,
        uptime: None,
        slurm_job_id: None,
        connection_file: shown(&directory.connection_file()),
        reason: None,
    };
    match directory.read_connection() {
        Ok(connection) => ask(&mut entry, &connection),
        Err(error) => entry.reason = Some(error.to_string()),
    }
    entry
}

fn ask(entry: &mut Entry, connection: &ConnectionFile) {
    entry.host = Some(connection.host.clone());
    entry.slurm_job_id.clone_from(&connection.slurm_job_id);
    if Controller::find(connection) == Controller::Gone {
        entry.state = State::Gone;
        entry.reason = Some(format!("process {} does not run any more; remove the file", connection.pid));
        return;
    }
    match Link::open(connection).and_then(|mut link| link.status()) {
        Ok(status) => {
            entry.state = State::Running;
            entry.engines = Some(status.engines.len());
            entry.clients = Some(status.clients.saturating_sub(1)); // this program is one
            entry.uptime = Some(status.uptime);
        }
        Err(error) => {
            entry.state = State::Silent;
            entry.reason = Some(error.to_string());
        }
    }
}

fn to_text(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no cluster is running; `pxcluster start -n 4` starts one".to_owned();
    }
    let rows: Vec<[String; 7]> = entries
        .iter()
        .map(|entry| {
            let number = |value: Option<String>| value.unwrap_or_default();
            [
                entry.cluster_id.clone(),
                format!("{:?}", entry.state).to_lowercase(),
                number(entry.host.clone()),
                number(entry.engines.map(|engines| engines.to_string())),
                number(entry.clients.map(|clients| clients.to_string())),
                number(entry.uptime.map(duration)),
                number(entry.slurm_job_id.clone()),
            ]
        })
        .collect();
    let header = ["cluster", "state", "host", "engines", "clients", "up", "job"];
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or_default()
    };
    let line = |cells: [&str; 7]| {
        let padded: Vec<String> =
            cells.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column))).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut text = line(header);
    for (entry, row) in entries.iter().zip(&rows) {
        // A string takes everything.
        let _ = write!(text, "\n{}", line(row.each_ref().map(String::as_str)));
        if let Some(reason) = &entry.reason {
            let _ = write!(text, "\n    {}: {reason}", entry.connection_file);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(cluster_id: &str) -> Entry {
        Entry {
            cluster_id: cluster_id.to_owned(),
            state: State::Running,
            host: Some("node-17".to_owned()),
            engines: Some(63),
            clients: Some(1),
            uptime: Some(7_632.9),
            slurm_job_id: Some("4711".to_owned()),
            connection_file: format!("~/.pxcluster/{cluster_id}/connection.json"),
            reason: None,
        }
    }

    #[test]
    fn the_list_is_a_table_with_reasons_below() {
        let gone = Entry {
            state: State::Gone,
            engines: None,
            clients: None,
            uptime: None,
            slurm_job_id: None,
            reason: Some("process 3 does not run any more; remove the file".to_owned()),
            ..running("old")
        };
        assert_eq!(
            to_text(&[running("default"), gone]),
            "cluster  state    host     engines  clients  up         job\n\
             default  running  node-17  63       1        2 h 7 min  4711\n\
             old      gone     node-17\n    \
                 ~/.pxcluster/old/connection.json: process 3 does not run any more; remove the file"
        );
        assert!(to_text(&[]).starts_with("no cluster is running"));
    }
}
