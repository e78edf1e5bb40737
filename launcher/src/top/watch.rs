//! The thread that asks the controller, again and again.

use std::io::{PipeReader, PipeWriter, pipe};
use std::os::fd::AsFd;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pxcluster_protocol::to_client::ClusterStatus;

use super::News;
use crate::link::{Link, LinkError};

/// How long the thread may take to say goodbye to a controller that may not listen any more.
const GOODBYE: Duration = Duration::from_millis(200);

/// Asks while it lives.
pub(super) struct Watch {
    thread: JoinHandle<()>,
    /// Its end is what the thread waits for beside the controller.
    alive: PipeWriter,
}

impl Watch {
    /// Asks every `interval`, for the first time when that has passed.
    pub(super) fn begin(mut link: Link, interval: Duration, news: Sender<News>) -> std::io::Result<Self> {
        let (ended, alive) = pipe()?;
        let thread = thread::Builder::new().name("watch".into()).spawn(move || {
            if let Err(error) = ask(&mut link, interval, &ended, &news) {
                let _nobody_listens = news.send(News::Lost(error));
            }
        })?;
        Ok(Self { thread, alive })
    }

    /// Ends the session, unless the controller keeps that waiting.
    pub(super) fn end(self) {
        drop(self.alive);
        crate::machine::wait_until(GOODBYE, || self.thread.is_finished());
    }
}

fn ask(link: &mut Link, interval: Duration, ended: &PipeReader, news: &Sender<News>) -> Result<(), LinkError> {
    let mut asked = Instant::now();
    loop {
        if link.wait(interval.saturating_sub(asked.elapsed()), ended.as_fd())? {
            return Ok(());
        }
        asked = Instant::now();
        if news.send(News::Answer(Box::new(link.status()?))).is_err() {
            return Ok(());
        }
    }
}

/// Two answers, `interval` apart.
pub(super) fn ask_twice(link: &mut Link, interval: Duration) -> Result<[ClusterStatus; 2], LinkError> {
    let first = link.status()?;
    thread::sleep(interval);
    Ok([first, link.status()?])
}
