//! What the user looks at: which hosts are folded, which row is marked, how far the table is scrolled. Pure.

use std::collections::BTreeSet;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{End, Picture};
use super::table::Row;

/// State of the view.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    pub(super) picture: Picture,
    /// Whether the engines of hosts are hidden, but for those of `exceptions`, of which the opposite is true.
    folded: bool,
    exceptions: BTreeSet<String>,
    /// The marked row.
    cursor: usize,
    /// The first row that is shown.
    offset: usize,
    /// Rows that had room when this was drawn last.
    page: usize,
}

impl Screen {
    /// Hosts are unfolded if all rows have room in `height` lines.
    pub(super) fn new(picture: Picture, height: u16) -> Self {
        let rows = picture.hosts.len() + picture.engines().count();
        let folded = rows > usize::from(height.saturating_sub(super::view::OVERHEAD));
        Self { picture, folded, exceptions: BTreeSet::new(), cursor: 0, offset: 0, page: 1 }
    }

    /// The controller has answered.
    pub(super) fn show(&mut self, picture: Picture) {
        self.picture = picture;
        self.scroll(self.page);
    }

    /// Slurm has said when the job ends.
    pub(super) fn set_end(&mut self, end: End) {
        self.picture.job.iter_mut().for_each(|job| job.end = Some(end));
    }

    fn is_folded(&self, host: &str) -> bool {
        self.folded != self.exceptions.contains(host)
    }

    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for host in &self.picture.hosts {
            let is_folded = self.is_folded(&host.name);
            rows.push(Row::Host(host, is_folded));
            if !is_folded {
                rows.extend(host.engines.iter().map(Row::Engine));
            }
        }
        rows
    }

    /// The marked row, and the first one that is shown.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.cursor, self.offset)
    }

    /// So many rows have room: those around the marked one are shown.
    pub(super) fn scroll(&mut self, page: usize) {
        self.page = page.max(1);
        let rows = self.rows().len();
        self.cursor = self.cursor.min(rows.saturating_sub(1));
        self.offset = self.offset.clamp((self.cursor + 1).saturating_sub(self.page), self.cursor);
        self.offset = self.offset.min(rows.saturating_sub(self.page));
    }

    /// A key was pressed; whether the user wants to leave.
    pub(super) fn press(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let page = self.page.saturating_sub(1).max(1);
        match key.code {
            KeyCode::Char('c' | 'C' | 'd' | 'D') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return true,
            KeyCode::Up | KeyCode::Char('k') => self.cursor = self.cursor.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.cursor += 1,
            KeyCode::PageUp => self.cursor = self.cursor.saturating_sub(page),
            KeyCode::PageDown => self.cursor += page,
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = usize::MAX - 1,
            KeyCode::Char('h' | 'H') => self.fold_all(),
            KeyCode::Left => self.fold_one(Some(true)),
            KeyCode::Right => self.fold_one(Some(false)),
            KeyCode::Enter | KeyCode::Char(' ') => self.fold_one(None),
            _ => {}
        }
        self.scroll(self.page);
        false
    }

    /// The host of the marked row.
    fn host(&self) -> Option<String> {
        self.rows().iter().take(self.cursor + 1).rev().find_map(|row| match row {
            Row::Host(host, _) => Some(host.name.clone()),
            Row::Engine(_) => None,
        })
    }

    fn fold_all(&mut self) {
        let host = self.host();
        self.folded = !self.folded;
        self.exceptions.clear();
        self.mark(host.as_deref());
    }

    /// Folds or unfolds the host of the marked row; without a wish does the opposite of what is.
    fn fold_one(&mut self, wish: Option<bool>) {
        let Some(host) = self.host() else { return };
        let is_folded = self.is_folded(&host);
        if wish.unwrap_or(!is_folded) != is_folded {
            if !self.exceptions.remove(&host) {
                self.exceptions.insert(host.clone());
            }
            self.mark(Some(&host));
        }
    }

    fn mark(&mut self, name: Option<&str>) {
        let is_it = |row: &Row<'_>| matches!(row, Row::Host(host, _) if Some(host.name.as_str()) == name);
        self.cursor = self.rows().iter().position(is_it).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::status;
    use super::*;

    fn screen(hosts: u32, engines: u32, height: u16) -> Screen {
        let mut screen = Screen::new(Picture::of(&status(hosts, engines), None), height);
        screen.scroll(usize::from(height));
        screen
    }

    fn press(screen: &mut Screen, keys: &[KeyCode]) {
        for key in keys {
            assert!(!screen.press((*key).into()));
        }
    }

    #[test]
    fn few_engines_are_unfolded_and_many_are_not() {
        assert_eq!(screen(2, 6, 24).rows().len(), 8);
        assert_eq!(screen(2, 60, 24).rows().len(), 2);
    }

    #[test]
    fn hosts_fold_one_by_one_and_together() {
        let mut screen = screen(2, 60, 24);
        press(&mut screen, &[KeyCode::Down, KeyCode::Enter]);
        assert_eq!((screen.rows().len(), screen.place()), (32, (1, 0)));
        press(&mut screen, &[KeyCode::PageDown, KeyCode::Left]);
        assert_eq!((screen.rows().len(), screen.place()), (2, (1, 0)), "the mark goes to the host");
        press(&mut screen, &[KeyCode::Left]);
        assert_eq!(screen.rows().len(), 2);
        press(&mut screen, &[KeyCode::Char('h')]);
        assert_eq!((screen.rows().len(), screen.place().0), (62, 31), "the same host is marked");
        press(&mut screen, &[KeyCode::Char(' '), KeyCode::Char('h'), KeyCode::Right]);
        assert_eq!(screen.rows().len(), 32);
    }

    #[test]
    fn the_marked_row_is_always_shown() {
        let mut screen = screen(100, 100, 10);
        press(&mut screen, &[KeyCode::End]);
        assert_eq!(screen.place(), (99, 90));
        press(&mut screen, &[KeyCode::Down, KeyCode::Up, KeyCode::PageUp]);
        assert_eq!(screen.place(), (89, 89));
        screen.scroll(3);
        press(&mut screen, &[KeyCode::Home, KeyCode::Up]);
        assert_eq!(screen.place(), (0, 0));
        press(&mut screen, &[KeyCode::PageDown, KeyCode::PageDown]);
        assert_eq!(screen.place(), (4, 2));
        screen.show(Picture::of(&status(2, 2), None));
        assert_eq!(screen.place(), (1, 0), "hosts are gone");
        screen.show(Picture::default());
        press(&mut screen, &[KeyCode::Down, KeyCode::Enter, KeyCode::Char('h')]);
        assert_eq!(screen.place(), (0, 0), "all are gone");
    }

    #[test]
    fn q_escape_and_control_c_leave() {
        let mut screen = screen(1, 1, 24);
        assert!(screen.press(KeyCode::Char('q').into()));
        assert!(screen.press(KeyCode::Esc.into()));
        assert!(screen.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!screen.press(KeyCode::Char('c').into()));
        let released = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert!(!screen.press(released));
    }
}
