//! `pxcluster top`: what a cluster is at, in the terminal, until the user leaves or the cluster ends.
//!
//! This file is the only door to the terminal; what stands on it is decided elsewhere, without I/O: `model` makes rates of
//! two answers, `screen` knows what the user looks at, `view` draws it, `facts` and `table` have the words, `paper` prints
//! them where standard output is no terminal. `watch` is the thread that asks the controller, `job` asks squeue.
//!
//! However this ends, by a key, a signal, an error or a panic, the terminal is as it was before.

mod facts;
mod job;
mod model;
mod paper;
mod screen;
mod table;
mod view;
mod watch;

use std::io::{self, ErrorKind, IsTerminal, Stdout, Write};
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{panic, process, thread};

use pxcluster_protocol::connection::ConnectionFile;
use pxcluster_protocol::to_client::ClusterStatus;
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::crossterm::{cursor, execute};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::TopFlags;
use crate::directory::{ClusterDirectory, DirectoryError};
use crate::link::{Link, LinkError};
use crate::machine::wait_until;
use model::{End, Picture};
use screen::Screen;
use watch::Watch;

/// The screen is drawn again after this time, because times on it go on.
const REDRAW: Duration = Duration::from_secs(1);
/// An answer that is late by this much is worth a word.
const LATE: Duration = Duration::from_secs(2);
/// The sockets of a process that dies are closed before it is gone, and its connection file is removed after that.
const DYING: Duration = Duration::from_secs(2);
/// Exit code after a panic, as Rust's own.
const PANICKED: u8 = 101;
/// Exit code of a program that a signal has ended, less the signal, as shells have it.
const SIGNALLED: u8 = 128;

/// Why there is nothing to show, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// There is no such cluster, or not any more.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The controller does not answer.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The cluster ended without saying so.
    #[error("cluster '{cluster_id}' has ended without a word ({reason}); `pxcluster logs` may say why")]
    Died {
        /// The cluster.
        cluster_id: String,
        /// What the link said.
        reason: LinkError,
    },
    /// The controller cannot be heard any more, and may still run.
    #[error(
        "the connection to cluster '{cluster_id}' on host {host} is lost ({reason}); `pxcluster status` tells whether it \
         still runs"
    )]
    Cut {
        /// The cluster.
        cluster_id: String,
        /// The controller's host.
        host: String,
        /// What the link said.
        reason: LinkError,
    },
    /// The terminal, or what standard output is instead, fails.
    #[error("cannot use the terminal: {0}; `pxcluster top --once` prints a table")]
    Terminal(#[from] io::Error),
}

/// What happens while the screen is shown.
enum News {
    /// The controller has answered.
    Answer(Box<ClusterStatus>),
    /// Nothing more comes from the controller.
    Lost(LinkError),
    /// Slurm has answered.
    End(End),
    /// A key was pressed, or the terminal has another size.
    Input(Event),
    /// Nothing more comes from the terminal.
    Deaf(io::Error),
    Signal(i32),
    /// Another thread has a bug, which it describes.
    Panicked(String),
}

/// How it ended.
enum Outcome {
    Left,
    /// The cluster has ended: the sentence about it.
    Ended(String),
    Signalled(i32),
    Panicked(String),
}

/// Shows the cluster until somebody has enough, or prints one table where that cannot be.
pub fn run(flags: &TopFlags) -> Result<ExitCode, TopError> {
    let directory = ClusterDirectory::locate(&flags.cluster_id)?;
    let connection = directory.read_running()?;
    let mut link = Link::open(&connection)?;
    if flags.once || !io::stdout().is_terminal() {
        return print(&mut link, flags.interval);
    }
    let first = link.status()?;
    match show(link, &first, flags.interval, |error| ending(&directory, &connection, error))? {
        Outcome::Left => Ok(ExitCode::SUCCESS),
        Outcome::Ended(sentence) => {
            writeln!(io::stdout(), "pxcluster: {sentence}")?;
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Panicked(what) => {
            writeln!(io::stderr(), "{what}")?;
            Ok(ExitCode::from(PANICKED))
        }
        Outcome::Signalled(signal) => Ok(ExitCode::from(SIGNALLED | u8::try_from(signal).unwrap_or_default())),
    }
}

/// One table, of two answers because of the rates.
fn print(link: &mut Link, interval: Duration) -> Result<ExitCode, TopError> {
    let [first, second] = watch::ask_twice(link, interval)?;
    let mut picture = Picture::of(&second, Some(&Picture::of(&first, None)));
    if let Some(job) = picture.job.as_mut().filter(|job| job.end.is_none()) {
        job.end = job::end_of(&job.id, unix_time());
    }
    match writeln!(io::stdout(), "{}", paper::table(&picture, unix_time())) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS), // the reader may have enough
    }
}

/// What the end of the link means.
fn ending(directory: &ClusterDirectory, connection: &ConnectionFile, error: LinkError) -> Result<Outcome, TopError> {
    let cluster_id = connection.cluster_id.clone();
    if let LinkError::Closed(why) = &error
        && !why.is_empty()
    {
        return Ok(Outcome::Ended(format!("cluster '{cluster_id}' has ended{why}")));
    }
    let is_gone = || match directory.read_running() {
        Ok(now) => now.key != connection.key,
        Err(error) => matches!(error, DirectoryError::NoCluster { .. } | DirectoryError::Gone { .. }),
    };
    if wait_until(DYING, is_gone) {
        return Err(TopError::Died { cluster_id, reason: error });
    }
    Err(TopError::Cut { cluster_id, host: connection.host.clone(), reason: error })
}

fn show(
    link: Link,
    first: &ClusterStatus,
    interval: Duration,
    ending: impl FnOnce(LinkError) -> Result<Outcome, TopError>,
) -> Result<Outcome, TopError> {
    let (sender, news) = mpsc::channel();
    listen_to_signals(sender.clone())?;
    ask_slurm(first, sender.clone())?;
    let watch = Watch::begin(link, interval, sender.clone())?;
    let mut full = FullScreen::enter(sender.clone())?;
    listen_to_keys(sender)?;
    let mut screen = Screen::new(Picture::of(first, None), full.terminal.size()?.height);
    let mut answered = Instant::now();
    let outcome = loop {
        let late = answered.elapsed().saturating_sub(interval);
        let silence = if late >= LATE { late } else { Duration::ZERO };
        full.terminal.draw(|frame| view::draw(frame, &mut screen, unix_time(), silence))?;
        match news.recv_timeout(REDRAW) {
            Ok(News::Answer(status)) => {
                answered = Instant::now();
                let picture = Picture::of(&status, Some(&screen.picture));
                screen.show(picture);
            }
            Ok(News::End(end)) => screen.set_end(end),
            Ok(News::Input(Event::Key(key))) if screen.press(key) => break Ok(Outcome::Left),
            Ok(News::Input(_)) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            Ok(News::Signal(signal)) => break Ok(Outcome::Signalled(signal)),
            Ok(News::Panicked(what)) => break Ok(Outcome::Panicked(what)),
            Ok(News::Lost(error)) => break ending(error),
            Ok(News::Deaf(error)) => break Err(error.into()),
        }
    };
    drop(full);
    watch.end();
    outcome
}

fn listen_to_keys(news: Sender<News>) -> io::Result<()> {
    spawn("keys", move || {
        loop {
            let (said, is_over) = match event::read() {
                Ok(event) => (News::Input(event), false),
                Err(error) => (News::Deaf(error), true),
            };
            if news.send(said).is_err() || is_over {
                return;
            }
        }
    })
}

fn listen_to_signals(news: Sender<News>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
    spawn("signals", move || {
        for signal in signals.forever() {
            let _nobody_listens = news.send(News::Signal(signal));
        }
    })
}

/// Slurm is asked once: its answer does not change while nobody changes the time limit.
fn ask_slurm(status: &ClusterStatus, news: Sender<News>) -> io::Result<()> {
    let Some(id) = status.slurm_job_id.clone().filter(|_| status.slurm_end_time.is_none()) else { return Ok(()) };
    spawn("squeue", move || {
        if let Some(end) = job::end_of(&id, unix_time()) {
            let _nobody_listens = news.send(News::End(end));
        }
    })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(body).map(drop)
}

/// The terminal while it is ours. Dropping it gives it back.
struct FullScreen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl FullScreen {
    fn enter(news: Sender<News>) -> io::Result<Self> {
        let (usual, draws) = (panic::take_hook(), thread::current().id());
        panic::set_hook(Box::new(move |panic| {
            if thread::current().id() == draws {
                leave();
                usual(panic);
                process::exit(PANICKED.into());
            }
            // Only the thread that draws can give the terminal back for good.
            let _it_has_left = news.send(News::Panicked(panic.to_string()));
        }));
        let full = Self { terminal: Terminal::new(CrosstermBackend::new(io::stdout()))? };
        terminal::enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)?;
        Ok(full)
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        leave();
    }
}

/// Nothing can be done about a terminal that is gone.
fn leave() {
    let _gone = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    let _gone = terminal::disable_raw_mode();
}

/// Unix time in seconds.
fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
