//! When the Slurm job of the cluster ends: squeue is asked where the controller was not told.

use std::time::Duration;

use slurm_env::{TimeLeft, parse_time_left};

use super::model::End;
use crate::doctor::ask::{Ask, squeue};

/// How long squeue may take.
const SQUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks squeue; `None`: there is none here, it does not answer, or it does not know. `now`: Unix time in seconds.
pub(super) fn end_of(id: &str, now: f64) -> Option<End> {
    let output = Ask::new(SQUEUE_TIMEOUT).program(&mut squeue(id, "%L")).ok()?;
    end(&String::from_utf8_lossy(&output.stdout), now)
}

fn end(said: &str, now: f64) -> Option<End> {
    match parse_time_left(said.lines().next()?.trim())? {
        TimeLeft::Unlimited => Some(End::Never),
        TimeLeft::Limited(left) => Some(End::At(now + left.as_secs_f64())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_squeue_says_is_a_moment() {
        assert_eq!(end("1:00:01\n", 10.0), Some(End::At(3611.0)));
        assert_eq!(end("UNLIMITED\n", 10.0), Some(End::Never));
        for unknown in ["", "\n", "INVALID\n", "slurm_load_jobs error: Invalid job id specified\n"] {
            assert_eq!(end(unknown, 10.0), None, "{unknown}");
        }
    }
}
