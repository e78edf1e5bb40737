//! The screen as widgets. Draws what the model says, and knows no terminal.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

use super::facts::{About, facts};
use super::model::{Engine, State};
use super::screen::Screen;
use super::table::{Column, Row, columns};

/// Lines of a high terminal that are no rows: facts, a blank one, titles, keys.
pub(super) const OVERHEAD: u16 = 9;
/// From so many lines on a terminal is high: it has all facts, and a blank line.
const HIGH: u16 = 14;
const KEYS: &str = "q quit  h hosts/engines  arrows move, fold";

/// Draws everything. `now`: Unix time in seconds. `silence`: how long an answer has been waited for.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &mut Screen, now: f64, silence: Duration) {
    let area = frame.area();
    let is_high = area.height >= HIGH;
    let lines = lines(screen, now, is_high);
    let heights = [lines.len() as u16, u16::from(is_high), 1, 0, 1].map(Constraint::Length);
    let [top, _blank, titles, _rows, keys] =
        Layout::vertical([heights[0], heights[1], heights[2], Constraint::Fill(1), heights[4]]).areas(area);
    frame.render_widget(Paragraph::new(lines), top);
    let below = Rect { height: keys.y.saturating_sub(titles.y), ..titles };
    screen.scroll(usize::from(below.height.saturating_sub(1)));
    frame.render_widget(table(screen, below), below);
    frame.render_widget(footer(screen, silence), keys);
}

fn lines(screen: &Screen, now: f64, all: bool) -> Vec<Line<'static>> {
    let matters = |about| all || matches!(about, About::Cluster | About::Engines | About::Draining | About::Deaths);
    let style = |about| match about {
        About::Cluster => Style::new().bold(),
        About::Deaths => Style::new().fg(Color::Red),
        About::Draining | About::Silence => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    };
    let facts = facts(&screen.picture, now).into_iter().filter(|(about, _)| matters(*about));
    facts.map(|(about, line)| Line::styled(line, style(about))).collect()
}

/// The titles and the rows that have room below them.
fn table(screen: &Screen, area: Rect) -> Table<'static> {
    let rows = screen.rows();
    let names = screen.picture.hosts.iter().map(|host| host.name.chars().count() + 2);
    let columns = columns(area.width, names.max().unwrap_or_default().try_into().unwrap_or(u16::MAX));
    let (cursor, offset) = screen.place();
    let shown = rows.iter().enumerate().skip(offset).take(usize::from(area.height.saturating_sub(1)));
    let shown = shown.map(|(at, row)| {
        let cells = columns.iter().map(|&(column, width)| cell(column, *row, width));
        let style = match row {
            _ if at == cursor => Style::new().reversed(),
            Row::Host(..) => Style::new().bold(),
            Row::Engine(_) => Style::new(),
        };
        TableRow::new(cells.collect::<Vec<_>>()).style(style)
    });
    let titles = columns.iter().map(|(column, _)| Cell::new(aligned(*column, column.title().to_owned())));
    let titles = TableRow::new(titles.collect::<Vec<_>>()).style(Style::new().underlined());
    let widths: Vec<Constraint> = columns.iter().map(|(_, width)| Constraint::Length(*width)).collect();
    Table::new(shown.collect::<Vec<_>>(), widths).header(titles).column_spacing(1)
}

fn cell(column: Column, row: Row<'_>, width: u16) -> Cell<'static> {
    let text = column.cell(row, width);
    let text = match (column, row) {
        (Column::Name, Row::Host(_, is_folded)) => format!("{} {text}", if is_folded { '▸' } else { '▾' }),
        _ => text,
    };
    let style = match (column, row) {
        (Column::State, Row::Engine(Engine { state: State::Busy, .. })) => Style::new().fg(Color::Green),
        (Column::State, Row::Engine(Engine { state: State::Silent, .. })) => Style::new().fg(Color::Yellow),
        _ => Style::new(),
    };
    Cell::new(aligned(column, text)).style(style)
}

fn aligned(column: Column, text: String) -> Text<'static> {
    let text = Text::raw(text);
    if column.is_text() { text } else { text.right_aligned() }
}

fn footer(screen: &Screen, silence: Duration) -> Line<'static> {
    if !silence.is_zero() {
        let text = format!("no answer for {} s", silence.as_secs());
        return Line::styled(text, Style::new().fg(Color::Yellow));
    }
    let (cursor, rows) = (screen.place().0 + 1, screen.rows().len());
    Line::styled(format!("{KEYS}  {}/{rows}", cursor.min(rows)), Style::new().dim())
}

#[cfg(test)]
mod tests;
