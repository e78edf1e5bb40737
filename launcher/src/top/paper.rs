//! The plain table, for standard output that is no terminal. Pure.

use super::facts::facts;
use super::model::Picture;
use super::table::{COLUMNS, Column, Row};

/// All facts, and every host and engine. `now`: Unix time in seconds.
pub(super) fn table(picture: &Picture, now: f64) -> String {
    let columns: Vec<Column> = COLUMNS.into_iter().filter(|column| *column != Column::Strip).collect();
    let line = |row| columns.iter().map(|column| column.cell(row, 0)).collect::<Vec<_>>();
    let mut lines = vec![columns.iter().map(|column| column.title().to_owned()).collect::<Vec<_>>()];
    for host in &picture.hosts {
        lines.push(line(Row::Host(host, false)));
        lines.extend(host.engines.iter().map(|engine| line(Row::Engine(engine))));
    }
    let width = |at: usize| lines.iter().map(|cells| cells[at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let pad = |(at, cell): (usize, &String)| {
        let width = widths[at];
        if columns[at].is_text() { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    };
    let rows = lines.iter().map(|cells| cells.iter().enumerate().map(pad).collect::<Vec<_>>().join("  "));
    let facts = facts(picture, now).into_iter().map(|(_, line)| line);
    let text: Vec<String> = facts.chain([String::new()]).chain(rows).map(|line| line.trim_end().to_owned()).collect();
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::status;
    use super::*;

    #[test]
    fn the_table_has_every_host_and_engine() {
        let now = status(2, 3);
        let picture = Picture::of(&now, None);
        let later = pxcluster_protocol::to_client::ClusterStatus { uptime: 102.0, ..now };
        let text = table(&Picture::of(&later, Some(&picture)), 0.0);
        let rows: Vec<&str> = text.lines().skip_while(|line| !line.is_empty()).skip(1).collect();
        assert_eq!(
            rows,
            [
                "host        busy  to do  finished  tasks/s  stolen  memory  process",
                "node-17      2/2      6      2000        0      10  100 MB",
                "  engine 0  busy      3         0        0       5   50 MB     4000",
                "  engine 2  busy      3      2000        0       5   50 MB     4002",
                "node-18      0/1      3      1000        0       5",
                "  engine 1  idle      3      1000        0       5             4001",
            ]
        );
        assert!(text.starts_with("cluster 'default' on node-17, up 1 min 42 s, 1 client\n"));
    }
}
