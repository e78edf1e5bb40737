//! Asking what may not answer: programs, name services, file systems of other hosts.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::is_manager_variable;
use crate::machine::{variables, wait_until};

/// How long a program may take to end when it is told to.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks, and waits for so long.
pub(crate) struct Ask {
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// The system does not run the program.
    #[error("it cannot be run ({0})")]
    NotRun(#[from] io::Error),
    /// It is still at it.
    #[error("it did not answer within {0} seconds")]
    Silent(f64),
}

/// Slurm's squeue, to say these fields (its letters) of a job.
pub(crate) fn squeue(job: &str, format: &str) -> Command {
    let mut command = Command::new("squeue");
    command.args(["--noheader", "--jobs", job, "--format", format]);
    command
}

impl Ask {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { timeout }
    }

    /// Runs a program without input, outside any MPI job, and gives back what it printed.
    pub(crate) fn program(&self, command: &mut Command) -> Result<Output, Unanswered> {
        for (name, _) in variables().filter(|(name, _)| is_manager_variable(name)) {
            command.env_remove(name);
        }
        // Not pipes: those are open as long as any descendant of the program lives.
        let [mut out, mut err] = [memory()?, memory()?];
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
        let mut child = command.spawn()?;
        let mut ended = None;
        let in_time = wait_until(self.timeout, || {
            ended = child.try_wait().transpose();
            ended.is_some()
        });
        match ended {
            Some(status) if in_time => {
                Ok(Output { status: status?, stdout: whole(&mut out)?, stderr: whole(&mut err)? })
            }
            _ => {
                give_up(&mut child);
                Err(Unanswered::Silent(self.timeout.as_secs_f64()))
            }
        }
    }

    /// Calls a function that may block for ever; `None` if it has not returned in time.
    pub(crate) fn within<T: Send + 'static>(&self, function: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(function()));
        receiver.recv_timeout(self.timeout).ok()
    }

    /// The time-out in words.
    pub(crate) fn patience(&self) -> String {
        format!("{} seconds", self.timeout.as_secs_f64())
    }
}

/// A file without a name.
fn memory() -> io::Result<File> {
    Ok(memfd_create("pxcluster-doctor", MFdFlags::MFD_CLOEXEC)?.into())
}

fn whole(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An mpirun that is told to end takes its processes with it.
fn give_up(child: &mut Child) {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    if !wait_until(GIVE_UP_TIMEOUT, || !matches!(child.try_wait(), Ok(None))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The line that says the most of what a program printed before it failed: the first one with a word in it, because
/// MPIs frame their messages; from standard error, if there is any.
pub(crate) fn telling_line(output: &Output) -> String {
    let words = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.lines().map(str::trim).find(|line| line.chars().any(char::is_alphabetic)).map(str::to_owned)
    };
    words(&output.stderr).or_else(|| words(&output.stdout)).unwrap_or_else(|| output.status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(timeout: Duration, script: &str) -> Result<Output, Unanswered> {
        Ask::new(timeout).program(Command::new("/bin/sh").args(["-c", script]))
    }

    #[test]
    fn answers_are_whole() {
        let output = shell(LONG, "seq 100000; echo wrong >&2; exit 3").unwrap();
        assert_eq!((output.status.code(), telling_line(&output)), (Some(3), "wrong".to_owned()));
        assert!(output.stdout.ends_with(b"\n100000\n"));
    }

    #[test]
    fn a_descendant_that_stays_keeps_nobody_waiting() {
        let output = shell(LONG, "sleep 600 & echo $!").unwrap();
        let pid: i32 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the descendant still sleeps");
    }

    #[test]
    fn silence_ends() {
        let silent = shell(Duration::from_millis(50), "exec sleep 600").unwrap_err();
        assert_eq!(silent.to_string(), "it did not answer within 0.05 seconds");
        let (_never, receiver) = mpsc::channel::<()>();
        assert_eq!(Ask::new(Duration::from_millis(50)).within(move || receiver.recv()), None);
        assert_eq!(Ask::new(LONG).within(|| 1), Some(1));
    }

    #[test]
    fn what_does_not_run_says_so() {
        let missing = Ask::new(LONG).program(&mut Command::new("/none")).unwrap_err();
        assert_eq!(missing.to_string(), "it cannot be run (No such file or directory (os error 2))");
    }

    #[test]
    fn the_frames_of_messages_do_not_count() {
        let output =
            shell(LONG, "printf '%s\\n' ------- '' ' There are not enough slots' 'More.' -------; exit 1").unwrap();
        assert_eq!(telling_line(&output), "There are not enough slots");
        assert_eq!(telling_line(&shell(LONG, "exit 4").unwrap()), "exit status: 4");
    }
}
