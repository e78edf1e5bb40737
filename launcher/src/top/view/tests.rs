//! Whole screens.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;

use super::super::model::Picture;
use super::super::model::tests::{lost, status};
use super::*;

/// The lines of a terminal of this size, without trailing blanks.
fn drawn(screen: &mut Screen, width: u16, height: u16, silence: Duration) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, screen, 0.0, silence)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

/// A cluster of which two answers have come.
fn screen(hosts: u32, engines: u32, height: u16) -> Screen {
    let mut status = status(hosts, engines);
    let first = Picture::of(&status, None);
    status.uptime += 4.0;
    status.finished += 50;
    status.engines[0].finished += 50;
    status.silent.clear();
    Screen::new(Picture::of(&status, Some(&first)), height)
}

#[test]
fn a_usual_terminal_has_facts_hosts_and_engines() {
    assert_eq!(
        drawn(&mut screen(2, 4, 24), 80, 24, Duration::ZERO)[..13],
        [
            "cluster 'default' on node-17, up 1 min 44 s, 1 client",
            "2 of 4 engines busy, 12 tasks/s, 10050 finished, 30 stolen",
            "20 tasks waiting, 8 on engines, 1 direct request",
            "memory 150 MB in engines, nothing shared",
            "",
            "host           busy   to do  finished tasks/s  stolen  memory engines",
            "▾ node-17       2/2       6      2050      12      10  100 MB ██",
            "  engine 0     busy       3        50      12       5   50 MB",
            "  engine 2     busy       3      2000       0       5   50 MB",
            "▾ node-18       0/2       6      4000       0      10   50 MB ··",
            "  engine 1     idle       3      1000       0       5",
            "  engine 3     idle       3      3000       0       5   50 MB",
            "",
        ]
    );
}

#[test]
fn a_small_terminal_has_what_matters() {
    assert_eq!(
        drawn(&mut screen(2, 64, 10), 40, 10, Duration::ZERO),
        [
            "cluster 'default' on node-17, up 1 min 4",
            "32 of 64 engines busy, 12 tasks/s, 10050",
            "host           busy tasks/s  memory",
            "▸ node-17     32/32      12  1.6 GB",
            "▸ node-18      0/32       0  1.6 GB",
            "",
            "",
            "",
            "",
            "q quit  h hosts/engines  arrows move, fo",
        ]
    );
}

#[test]
fn a_large_terminal_has_every_column() {
    let lines = drawn(&mut screen(50, 6400, 60), 200, 60, Duration::ZERO);
    assert_eq!(lines[5].split_whitespace().last(), Some("engines"));
    assert_eq!(lines[5].split_whitespace().count(), 10, "{}", lines[5]);
    let strip = lines[6].split_whitespace().last().unwrap();
    assert_eq!(strip.chars().count(), 128, "one for each engine: {strip}");
    assert!(lines[55].starts_with("▸ node-66"), "{}", lines[55]);
    assert!(lines[59].ends_with("1/50"), "{}", lines[59]);
}

#[test]
fn rows_scroll_and_the_marked_one_is_shown() {
    let mut screen = screen(1, 100, 24);
    drawn(&mut screen, 80, 24, Duration::ZERO);
    screen.press(KeyCode::Char('h').into());
    screen.press(KeyCode::End.into());
    let lines = drawn(&mut screen, 80, 24, Duration::ZERO);
    assert!(lines[22].starts_with("  engine 99 "), "{}", lines[22]);
    assert!(lines[6].starts_with("  engine 83 "), "{}", lines[6]);
    assert!(lines[23].ends_with("101/101"), "{}", lines[23]);
    let lines = drawn(&mut screen, 80, 14, Duration::ZERO);
    assert!(lines[12].starts_with("  engine 99 "), "the terminal is smaller now: {}", lines[12]);
}

#[test]
fn deaths_and_silence_are_told() {
    let mut now = status(2, 4);
    now.lost = vec![lost(7)];
    let mut screen = Screen::new(Picture::of(&now, None), 24);
    let lines = drawn(&mut screen, 80, 24, Duration::from_millis(5_900));
    assert_eq!(lines[4], "1 engine has died; the last: engine 7 (host node-18, pid 9) was killed");
    assert_eq!(lines[5], "engine 3 (host node-18, pid 9) was killed");
    assert_eq!(lines[12].split_whitespace().collect::<Vec<_>>()[..3], ["engine", "1", "idle"]);
    assert_eq!(lines[13].split_whitespace().collect::<Vec<_>>()[..3], ["engine", "3", "silent"]);
    assert_eq!(lines[23], "no answer for 5 s");
    assert!(drawn(&mut screen, 40, 10, Duration::ZERO)[2].starts_with("1 engine has died"));
}

#[test]
fn no_terminal_is_too_small_and_no_cluster_too_empty() {
    for (width, height) in [(1, 1), (3, 2), (10, 5), (80, 3), (0, 0)] {
        drawn(&mut screen(2, 4, height), width, height, Duration::ZERO);
        drawn(&mut Screen::new(Picture::default(), height), width, height, Duration::ZERO);
    }
}
