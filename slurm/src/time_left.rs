//! The time that a job has left, as squeue prints it (squeue(1), `--format=%L`): `1-02:03:04`, `3:04:05`, `59:30`.

use crate::counts::parse_digits;
use std::time::Duration;

/// How long a job may still run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeLeft {
    /// Until its time limit.
    Limited(Duration),
    /// It has no time limit.
    Unlimited,
}

/// Reads days-hours:minutes:seconds; `None` where Slurm does not know (`NOT_SET`, `INVALID`), or it is something else.
#[must_use]
pub fn parse_time_left(text: &str) -> Option<TimeLeft> {
    if text == "UNLIMITED" {
        return Some(TimeLeft::Unlimited);
    }
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (Some(parse_digits::<u32>(days)?), clock),
        None => (None, text),
    };
    let fields: Vec<u32> = clock.split(':').map(field).collect::<Option<_>>()?;
    let (hours, minutes, seconds) = match fields[..] {
        [minutes, seconds] if days.is_none() => (0, minutes, seconds),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return None,
    };
    if minutes > 59 || seconds > 59 {
        return None;
    }
    let hours = u64::from(days.unwrap_or(0)) * 24 + u64::from(hours);
    Some(TimeLeft::Limited(Duration::from_secs((hours * 60 + u64::from(minutes)) * 60 + u64::from(seconds))))
}

/// Digits, at least one.
fn field(text: &str) -> Option<u32> {
    (!text.is_empty()).then(|| parse_digits(text))?
}
