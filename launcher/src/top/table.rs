//! The table of hosts and engines: its columns, which of them have room, and what stands in a row. Pure.

use super::facts::number;
use super::model::{Engine, Host, State, Work};
use crate::status::bytes;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    State,
    ToDo,
    Finished,
    Rate,
    Stolen,
    Rss,
    Process,
    /// The engines of a host, a character for each.
    Strip,
}

/// All columns, in order.
pub(super) const COLUMNS: [Column; 9] = [
    Column::Name,
    Column::State,
    Column::ToDo,
    Column::Finished,
    Column::Rate,
    Column::Stolen,
    Column::Rss,
    Column::Process,
    Column::Strip,
];
/// Those that are always there.
const NEEDED: [Column; 4] = [Column::Name, Column::State, Column::Rate, Column::Rss];
/// The others, in the order in which they are given room.
const WANTED: [Column; 5] = [Column::Finished, Column::ToDo, Column::Stolen, Column::Strip, Column::Process];
/// Least and most cells for the names.
const NAME: [u16; 2] = [11, 28];

/// A row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Row<'a> {
    /// A host; whether its engines are not shown.
    Host(&'a Host, bool),
    /// An engine of the host above it.
    Engine(&'a Engine),
}

impl Column {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Name => "host",
            Self::State => "busy",
            Self::ToDo => "to do",
            Self::Finished => "finished",
            Self::Rate => "tasks/s",
            Self::Stolen => "stolen",
            Self::Rss => "memory",
            Self::Process => "process",
            Self::Strip => "engines",
        }
    }

    /// Least cells that it needs.
    pub(super) fn width(self) -> u16 {
        match self {
            Self::Name => NAME[0],
            Self::State | Self::Rate | Self::Stolen | Self::ToDo | Self::Rss => 7,
            Self::Finished => 9,
            Self::Process => 8,
            Self::Strip => 10,
        }
    }

    /// Whether it has text rather than numbers.
    pub(super) fn is_text(self) -> bool {
        matches!(self, Self::Name | Self::Strip)
    }

    /// What stands there; the strip has so many cells.
    pub(super) fn cell(self, row: Row<'_>, strip: u16) -> String {
        match row {
            Row::Host(host, _) => self.host_cell(host, strip),
            Row::Engine(engine) => self.engine_cell(engine),
        }
    }

    fn host_cell(self, host: &Host, strip: u16) -> String {
        match self {
            Self::Name => host.name.clone(),
            Self::State => format!("{}/{}", host.busy(), host.engines.len()),
            Self::ToDo => host.engines.iter().map(|engine| engine.to_do).sum::<u64>().to_string(),
            Self::Rss => host.rss().map(bytes).unwrap_or_default(),
            Self::Strip => strip_of(&host.engines, usize::from(strip)),
            Self::Process => String::new(),
            Self::Finished | Self::Rate | Self::Stolen => self.work_cell(host.work()),
        }
    }

    fn engine_cell(self, engine: &Engine) -> String {
        match self {
            Self::Name => format!("  engine {}", engine.id),
            Self::State => match engine.state {
                State::Idle => "idle".to_owned(),
                State::Busy => "busy".to_owned(),
                State::Silent => "silent".to_owned(),
            },
            Self::ToDo => engine.to_do.to_string(),
            Self::Rss => engine.rss.map(bytes).unwrap_or_default(),
            Self::Process => engine.pid.to_string(),
            Self::Strip => String::new(),
            Self::Finished | Self::Rate | Self::Stolen => self.work_cell(engine.work),
        }
    }

    fn work_cell(self, work: Work) -> String {
        match self {
            Self::Finished => work.finished.to_string(),
            Self::Stolen => number(work.stolen as f64),
            _ => work.rate.map(number).unwrap_or_default(),
        }
    }
}

/// The columns that have room in `width` cells, each with what it gets; one cell is left between two. `name`: the longest
/// name.
pub(super) fn columns(width: u16, name: u16) -> Vec<(Column, u16)> {
    let mut chosen = NEEDED.to_vec();
    let cells = |columns: &[Column]| columns.iter().map(|column| column.width() + 1).sum::<u16>() - 1;
    let name = name.clamp(NAME[0], NAME[1]) - NAME[0];
    for column in WANTED {
        if cells(&chosen) + 1 + column.width() + name <= width {
            chosen.push(column);
        }
    }
    let left = width.saturating_sub(cells(&chosen));
    let has_strip = chosen.contains(&Column::Strip);
    let name = if has_strip { name } else { name.min(left) };
    let share = |column| match column {
        Column::Name => Column::Name.width() + name,
        Column::Strip => Column::Strip.width() + left - name,
        column => column.width(),
    };
    COLUMNS.into_iter().filter(|column| chosen.contains(column)).map(|column| (column, share(column))).collect()
}

/// Engines at a glance: a character for each of them, or for a few if they are too many for `width`.
fn strip_of(engines: &[Engine], width: usize) -> String {
    const SHARES: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    if width == 0 || engines.is_empty() {
        return String::new();
    }
    let glance = |some: &[Engine]| {
        if some.iter().any(|engine| engine.state == State::Silent) {
            return '?';
        }
        let busy = some.iter().filter(|engine| engine.state == State::Busy).count();
        SHARES[(busy * 8).div_ceil(some.len())]
    };
    engines.chunks(engines.len().div_ceil(width)).map(glance).collect()
}

#[cfg(test)]
mod tests {
    use super::super::model::Picture;
    use super::super::model::tests::status;
    use super::*;

    fn shown(width: u16, name: u16) -> Vec<(Column, u16)> {
        let columns = columns(width, name);
        let sum = columns.iter().map(|(_, width)| width + 1).sum::<u16>() - 1;
        assert!(sum <= width, "{sum} cells of {width}: {columns:?}");
        columns
    }

    #[test]
    fn a_wider_terminal_has_more_columns() {
        let names = |width| shown(width, 9).into_iter().map(|(column, _)| column).collect::<Vec<_>>();
        assert_eq!(names(40), NEEDED);
        assert_eq!(names(50), [Column::Name, Column::State, Column::Finished, Column::Rate, Column::Rss]);
        assert_eq!(names(200), COLUMNS);
        assert!(names(80).contains(&Column::Strip) && !names(80).contains(&Column::Process));
    }

    #[test]
    fn the_strip_takes_what_is_left_and_names_are_cut() {
        assert_eq!(shown(200, 20).last(), Some(&(Column::Strip, 200 - 20 - 7 * 5 - 9 - 8 - 8)));
        assert_eq!(shown(40, 40)[0], (Column::Name, 16));
        assert_eq!(shown(200, 90)[0], (Column::Name, 28));
    }

    #[test]
    fn cells_are_short() {
        let picture = Picture::of(&status(2, 4), None);
        let cells = |row| COLUMNS.map(|column| column.cell(row, 10));
        let host = Row::Host(&picture.hosts[1], true);
        assert_eq!(cells(host), ["node-18", "0/2", "6", "4000", "", "10", "50 MB", "", "·?"]);
        let engine = Row::Engine(&picture.hosts[0].engines[1]);
        assert_eq!(cells(engine), ["  engine 2", "busy", "3", "2000", "", "5", "50 MB", "4002", ""]);
    }

    #[test]
    fn a_strip_joins_engines_that_are_too_many() {
        let engines = |busy: &[u8]| {
            let state = |busy: &u8| if *busy == 1 { State::Busy } else { State::Idle };
            busy.iter().map(|busy| Engine { state: state(busy), ..Engine::default() }).collect::<Vec<_>>()
        };
        assert_eq!(strip_of(&engines(&[1, 0, 1]), 3), "█·█");
        assert_eq!(strip_of(&engines(&[1, 1, 1, 0, 0, 0]), 3), "█▄·");
        assert_eq!(strip_of(&engines(&[1; 128]), 10).chars().count(), 10);
        assert_eq!(strip_of(&engines(&[1, 1]), 0), "");
        assert_eq!(strip_of(&[], 3), "");
    }
}
