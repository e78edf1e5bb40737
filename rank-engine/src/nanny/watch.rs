//! The nanny's own process, from the fork to its end.
//!
//! One thread that sleeps in `poll`: on its child's end, on the line from it, on its connection to rank 0 once there is one,
//! and once a second to feel the pulse.

use super::pulse::{Finding, INTERVAL, Pulse};
use super::report::{Heard, Reporter};
use super::{DESCRIPTORS, LONGEST, Page, ToNanny, warnings};
use crate::keeper;
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use pxcluster_protocol::from_client::{Death, FromClient, Nanny, Silent};
use pxcluster_protocol::to_engine::ReportTo;
use pxcluster_protocol::{EngineId, PROTOCOL_VERSION};
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// How often, and every how many seconds, a nanny tries to reach rank 0.
const ATTEMPTS: u32 = 10;
const AGAIN: Duration = Duration::from_secs(1);
/// How long the launcher may take to end the job when rank 0 has let its nannies go.
const LET_GO: Duration = Duration::from_secs(5);

/// How an engine's process ended.
#[derive(Clone, Copy)]
enum End {
    Code(i32),
    Signal(i32),
}

pub(super) struct Watch {
    engine: EngineId,
    child: Pid,
    /// Who started this process.
    launcher: Pid,
    /// `None` when the engine has closed it.
    line: Option<OwnedFd>,
    page: &'static Page,
    hung_after: Duration,
    /// The engine's connections, open as long as this process lives.
    kept: Vec<OwnedFd>,
    place: Option<ReportTo>,
    leaving: bool,
    /// Whether its connections must outlive it when it ends without MPI's own end.
    by_srun: bool,
    deserting: bool,
    pulse: Option<Pulse>,
    reporter: Option<Reporter>,
}

impl Watch {
    pub(super) fn new(
        engine: EngineId,
        child: Pid,
        line: OwnedFd,
        page: &'static Page,
        hung_after: Duration,
        by_srun: bool,
    ) -> Self {
        Self {
            engine,
            child,
            launcher: nix::unistd::getppid(),
            line: Some(line),
            page,
            hung_after,
            kept: Vec::new(),
            place: None,
            leaving: false,
            by_srun,
            deserting: false,
            pulse: None,
            reporter: None,
        }
    }

    /// Everything a nanny does.
    pub(super) fn run(mut self) -> ! {
        // A cluster that has not begun is ended by the launcher's signals, and the kernel ends the child with its nanny.
        ignore(&[Signal::SIGUSR1]);
        let end = self.wait_for_the_end();
        let code = match end {
            End::Code(code) => code,
            End::Signal(number) => 128 + number,
        };
        if self.deserting {
            keeper::exit_keeping_connections(code);
        }
        if self.leaving {
            exit(code);
        }
        if let Some(place) = self.place.take() {
            self.report(&place, end);
        }
        // Nobody can be told. A program that ends by itself has said why.
        if let End::Signal(_) = end {
            say(&format!("{}, and the cluster ends: it had not begun", self.obituary(end)));
        }
        exit(if code == 0 { 1 } else { code })
    }

    fn wait_for_the_end(&mut self) -> End {
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        let ends = SignalFd::with_flags(&children, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        loop {
            if let Some(end) = self.end_of_the_engine() {
                return end;
            }
            if nix::unistd::getppid() != self.launcher {
                // The launcher has died, and can end nobody any more.
                self.end_the_engine();
                exit(1);
            }
            self.sleep(ends.as_ref().ok());
            while ends.as_ref().is_ok_and(|ends| ends.read_signal().is_ok_and(|read| read.is_some())) {}
        }
    }

    /// How the child has ended, if it has. Not by nix, which knows no real-time signals.
    fn end_of_the_engine(&self) -> Option<End> {
        let mut status = 0;
        // SAFETY: a pointer to a live local.
        let reaped = unsafe { libc::waitpid(self.child.as_raw(), &raw mut status, libc::WNOHANG) };
        if reaped != self.child.as_raw() {
            return None;
        }
        let by_signal = libc::WIFSIGNALED(status);
        Some(if by_signal { End::Signal(libc::WTERMSIG(status)) } else { End::Code(libc::WEXITSTATUS(status)) })
    }

    /// Sleeps until there is something to do, and does it, but for the end of the child.
    fn sleep(&mut self, ends: Option<&SignalFd>) {
        let looks = self.pulse.as_ref().map(|_| INTERVAL);
        let timeout = looks
            .or(ends.is_none().then_some(AGAIN))
            .map_or(PollTimeout::NONE, |nap| PollTimeout::try_from(nap).unwrap_or(PollTimeout::MAX));
        let (mut from_line, mut from_rank_0) = (false, false);
        {
            let descriptors = [ends.map(AsFd::as_fd), self.line.as_ref().map(AsFd::as_fd)];
            let descriptors = descriptors.into_iter().chain([self.reporter.as_ref().map(AsFd::as_fd)]);
            let places: Vec<usize> =
                descriptors.clone().enumerate().filter_map(|(at, known)| known.map(|_| at)).collect();
            let mut polled: Vec<PollFd<'_>> =
                descriptors.flatten().map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN)).collect();
            if poll(&mut polled, timeout).is_ok() {
                for (place, polled) in places.into_iter().zip(&polled) {
                    let ready = polled.any().unwrap_or(true);
                    from_line |= place == 1 && ready;
                    from_rank_0 |= place == 2 && ready;
                }
            }
        }
        if from_line {
            self.hear_from_engine();
        }
        if from_rank_0 {
            self.hear_from_rank_0();
        }
        self.feel_the_pulse();
    }

    fn hear_from_engine(&mut self) {
        let Some(line) = &self.line else { return };
        let mut bytes = vec![0; LONGEST];
        let mut space = cmsg_space!([RawFd; DESCRIPTORS]);
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let count = match recvmsg::<()>(line.as_raw_fd(), &mut pieces, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => return,
            Err(_) => 0,
            Ok(message) => {
                for control in message.cmsgs().into_iter().flatten() {
                    if let ControlMessageOwned::ScmRights(descriptors) = control {
                        // SAFETY: the kernel has just made them for this process.
                        self.kept.extend(descriptors.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                    }
                }
                message.bytes
            }
        };
        if count == 0 {
            self.line = None;
            return;
        }
        match serde_json::from_slice(&bytes[..count]) {
            Ok(ToNanny::Keep) => {}
            Ok(ToNanny::ReportTo(place)) => {
                // From here on rank 0 ends its engines in order.
                ignore(&[Signal::SIGINT, Signal::SIGHUP]);
                warnings::note(self.page);
                self.place = Some(place);
                if !self.hung_after.is_zero() {
                    self.pulse = Some(Pulse::new(self.hung_after, Instant::now()));
                }
            }
            Ok(ToNanny::Leaving) => {
                self.leaving = true;
                self.pulse = None;
            }
            Ok(ToNanny::Deserting) => {
                self.deserting = true;
                self.pulse = None;
            }
            Err(error) => say(&format!("its nanny does not understand engine {}: {error}", self.engine)),
        }
    }

    fn hear_from_rank_0(&mut self) {
        match self.reporter.as_mut().map(Reporter::hear) {
            Some(Heard::Kill) => self.end_the_engine(),
            Some(Heard::Closed(_) | Heard::LetGo) => {
                self.reporter = None;
                if let Some(pulse) = &mut self.pulse {
                    pulse.forget_silence();
                }
            }
            Some(Heard::Nothing) | None => {}
        }
    }

    fn end_the_engine(&self) {
        let _gone_already = kill(self.child, Signal::SIGKILL);
    }

    fn feel_the_pulse(&mut self) {
        let (Some(pulse), Some(place)) = (&mut self.pulse, &self.place) else { return };
        let seconds = match pulse.look(self.page.beats(), Instant::now()) {
            Finding::Nothing => return,
            Finding::Silent(time) => time.as_secs_f64(),
            Finding::Recovered => 0.0,
        };
        let silent = FromClient::Silent(Silent { nanny: introduction(self.engine, self.child, place), seconds });
        if self.reporter.is_none() {
            self.reporter = Reporter::connect(place).ok();
        }
        if self.reporter.as_mut().is_none_or(|reporter| reporter.say(&silent).is_err()) {
            self.reporter = None;
            pulse.forget_silence();
        }
    }

    /// Tells rank 0 of the engine's death, and stays until rank 0 ends. What it does not hear it is told again.
    fn report(&mut self, place: &ReportTo, end: End) -> ! {
        let (signal, code) = match end {
            End::Code(code) => (None, Some(code)),
            End::Signal(number) => (Some(number), None),
        };
        let nanny = introduction(self.engine, self.child, place);
        let death = FromClient::Death(Death { nanny, signal, code, running: self.page.running() });
        let (mut told, mut failures, mut why) = (false, 0, String::new());
        while failures < ATTEMPTS {
            let connected = self.reporter.take().map_or_else(|| Reporter::connect(place), Ok);
            match connected.and_then(|mut reporter| reporter.say(&death).map(|()| reporter)) {
                Ok(mut reporter) => match wait_until_closed(&mut reporter) {
                    Ending::LetGo => self.go(),
                    Ending::Closed => told = true,
                    Ending::Refused(reason) => (failures, why) = (failures + 1, reason),
                },
                // Rank 0 has ended; had the connection alone, it would be told again.
                Err(_) if told => self.go(),
                Err(error) => (failures, why) = (failures + 1, error.to_string()),
            }
            std::thread::sleep(AGAIN);
        }
        say(&format!("{}, and rank 0 cannot be told: {why}", self.obituary(end)));
        exit(1)
    }

    /// Rank 0 ends, and the launcher may see this process end, too.
    fn go(&self) -> ! {
        if self.by_srun {
            keeper::exit_last();
        }
        std::thread::sleep(LET_GO);
        exit(0)
    }

    fn obituary(&self, end: End) -> String {
        let (signal, code) = match end {
            End::Code(code) => (None, Some(code)),
            End::Signal(number) => (Some(number), None),
        };
        let pid = self.child.as_raw() as u32;
        let nanny = Nanny { protocol_version: PROTOCOL_VERSION, key: String::new(), engine: self.engine, pid };
        let cause = pxcluster_controller::cause_of_death(&Death { nanny, signal, code, running: None });
        format!("engine {} ({}, pid {pid}) {cause}", self.engine, self.engine.rank())
    }
}

fn ignore(signals: &[Signal]) {
    for ignored in signals {
        // SAFETY: no handler is installed.
        let _never_fails = unsafe { signal(*ignored, SigHandler::SigIgn) };
    }
}

fn say(sentence: &str) {
    let _closed_stderr = writeln!(std::io::stderr(), "pxcluster: {sentence}");
}

fn introduction(engine: EngineId, child: Pid, place: &ReportTo) -> Nanny {
    Nanny { protocol_version: PROTOCOL_VERSION, key: place.key.clone(), engine, pid: child.as_raw() as u32 }
}

/// How a connection to rank 0 has ended.
enum Ending {
    /// Rank 0 ends, too.
    LetGo,
    Closed,
    Refused(String),
}

/// Waits until rank 0 closes the connection.
fn wait_until_closed(reporter: &mut Reporter) -> Ending {
    loop {
        let mut polled = [PollFd::new(reporter.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::NONE).is_ok() {
            match reporter.hear() {
                Heard::LetGo => return Ending::LetGo,
                Heard::Closed(None) => return Ending::Closed,
                Heard::Closed(Some(reason)) => return Ending::Refused(reason),
                Heard::Nothing | Heard::Kill => {}
            }
        }
    }
}

/// Ends this process without the destructors that are the engine's business.
fn exit(code: i32) -> ! {
    // SAFETY: always safe.
    unsafe { libc::_exit(code) }
}
