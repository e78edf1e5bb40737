//! The lines above the table, on the screen and on paper. Pure.

use super::model::{End, Job, Picture, State, sum};
use crate::status::{bytes, count, duration};

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    Cluster,
    Engines,
    Queue,
    Memory,
    Job,
    Draining,
    Deaths,
    Silence,
}

/// The lines, in order. `now`: Unix time in seconds.
pub(super) fn facts(picture: &Picture, now: f64) -> Vec<(About, String)> {
    let mut facts = vec![
        (About::Cluster, cluster(picture)),
        (About::Engines, engines(picture)),
        (About::Queue, queue(picture)),
        (About::Memory, memory(picture)),
    ];
    facts.extend(picture.job.as_ref().map(|job| (About::Job, job_line(job, now))));
    let draining = picture.draining.as_ref();
    facts.extend(
        draining.map(|why| (About::Draining, format!("starts nothing new, because it is about to end: {why}"))),
    );
    if let Some(last) = &picture.last_death {
        let have = if picture.lost.len() == 1 { "engine has" } else { "engines have" };
        facts.push((About::Deaths, format!("{} {have} died; the last: {last}", picture.lost.len())));
    }
    if let Some(first) = picture.silent.first() {
        let others = picture.silent.len() - 1;
        let more = if others > 0 { format!("; and {others} more") } else { String::new() };
        facts.push((About::Silence, format!("{}{more}", first.reason)));
    }
    facts
}

fn cluster(picture: &Picture) -> String {
    let Picture { cluster_id, host, uptime, clients, .. } = picture;
    format!("cluster '{cluster_id}' on {host}, up {}, {}", duration(*uptime), count(u64::from(*clients), "client"))
}

fn engines(picture: &Picture) -> String {
    let (all, busy) =
        (picture.engines().count(), picture.engines().filter(|engine| engine.state == State::Busy).count());
    let rate = picture.work.rate.map(|rate| format!("{} tasks/s, ", number(rate))).unwrap_or_default();
    let (finished, stolen) = (picture.work.finished, picture.work.stolen);
    format!("{busy} of {} busy, {rate}{finished} finished, {stolen} stolen", count(all as u64, "engine"))
}

fn queue(picture: &Picture) -> String {
    let held = picture.engines().map(|engine| engine.tasks).sum::<u64>();
    let directs = count(picture.directs, "direct request");
    format!("{} waiting, {held} on engines, {directs}", count(picture.waiting, "task"))
}

fn memory(picture: &Picture) -> String {
    let processes = sum(picture.engines().map(|engine| engine.rss)).map_or("unknown".to_owned(), bytes);
    let shared = match picture.shared {
        Some((used, bound)) => format!("shared {} of {}", bytes(used), bytes(bound)),
        None => "nothing shared".to_owned(),
    };
    format!("memory {processes} in engines, {shared}")
}

fn job_line(Job { id, end }: &Job, now: f64) -> String {
    match end {
        Some(End::At(time)) => format!("job {id}, {} left", duration(time - now)),
        Some(End::Never) => format!("job {id} without a time limit"),
        None => format!("job {id}"),
    }
}

/// Three digits and a letter: 0, 2.5, 812, 1.3k, 104M.
pub(super) fn number(number: f64) -> String {
    let mut value = number;
    for unit in ["", "k", "M", "G"] {
        if value < 999.5 {
            let digits = usize::from(value < 9.95 && value.fract() > 0.0);
            return format!("{value:.digits$}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.0}T")
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::{lost, status};
    use super::*;
    use pxcluster_protocol::to_client::Memory;

    fn lines(picture: &Picture) -> Vec<String> {
        facts(picture, 1_700_000_000.0).into_iter().map(|(_, line)| line).collect()
    }

    #[test]
    fn facts_are_sentences() {
        let mut now = status(2, 5);
        let first = Picture::of(&now, None);
        (now.uptime, now.finished) = (104.0, 10_010);
        now.slurm_job_id = Some("4711".into());
        now.slurm_end_time = Some(1_700_002_580);
        now.draining = Some("time limit".into());
        now.lost = vec![lost(7)];
        now.memory = Some(Memory { buffers: 1, used: 104_857_600, pooled: 0, bound: 19_327_352_832, others: vec![] });
        assert_eq!(
            lines(&Picture::of(&now, Some(&first))),
            [
                "cluster 'default' on node-17, up 1 min 44 s, 1 client",
                "3 of 5 engines busy, 2.5 tasks/s, 10010 finished, 30 stolen",
                "20 tasks waiting, 10 on engines, 1 direct request",
                "memory 200 MB in engines, shared 105 MB of 19 GB",
                "job 4711, 43 min 0 s left",
                "starts nothing new, because it is about to end: time limit",
                "1 engine has died; the last: engine 7 (host node-18, pid 9) was killed",
                "engine 3 (host node-18, pid 9) was killed",
            ]
        );
    }

    #[test]
    fn what_is_not_there_is_not_told() {
        let mut now = status(1, 1);
        now.silent.clear();
        now.engines[0].rss = None;
        let mut picture = Picture::of(&now, None);
        assert_eq!(lines(&picture)[3..], ["memory unknown in engines, nothing shared"]);
        assert_eq!(lines(&picture)[1], "1 of 1 engine busy, 10000 finished, 30 stolen");
        picture.job = Some(Job { id: "7".into(), end: Some(End::Never) });
        assert_eq!(lines(&picture)[4], "job 7 without a time limit");
        picture.job = Some(Job { id: "7".into(), end: None });
        assert_eq!(lines(&picture)[4], "job 7");
        picture.silent = vec![lost(1), lost(2), lost(3)];
        assert!(lines(&picture)[5].ends_with("; and 2 more"));
    }

    #[test]
    fn numbers_have_three_digits_at_most() {
        for (value, text) in
            [(0.0, "0"), (0.26, "0.3"), (2.0, "2"), (42.4, "42"), (999.9, "1.0k"), (1250.0, "1.2k"), (1.25e8, "125M")]
        {
            assert_eq!(number(value), text);
        }
    }
}
