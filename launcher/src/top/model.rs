//! What two answers of the controller say together: engines by host, and rates. Pure.

use std::collections::HashMap;

use pxcluster_protocol::EngineId;
use pxcluster_protocol::to_client::{ClusterStatus, EngineStatus, LostEngine};

/// A cluster at the time of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Picture {
    pub(super) cluster_id: String,
    /// Host of the controller.
    pub(super) host: String,
    /// Seconds since the cluster was ready.
    pub(super) uptime: f64,
    /// Clients but for this program.
    pub(super) clients: u32,
    /// In the order of their first engines.
    pub(super) hosts: Vec<Host>,
    /// Tasks that no engine has.
    pub(super) waiting: u64,
    /// Direct requests that are under way.
    pub(super) directs: u64,
    /// What all engines have done, the dead included.
    pub(super) work: Work,
    /// Bytes of large buffers on the controller's node, and most there may be.
    pub(super) shared: Option<(u64, u64)>,
    pub(super) job: Option<Job>,
    /// Why the cluster starts nothing new, if it is about to end.
    pub(super) draining: Option<String>,
    pub(super) lost: Vec<LostEngine>,
    /// The sentence about the death that was learnt of last.
    pub(super) last_death: Option<String>,
    pub(super) silent: Vec<LostEngine>,
}

/// The engines of a host.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) engines: Vec<Engine>,
}

/// An engine that lives.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Engine {
    pub(super) id: EngineId,
    pub(super) pid: u32,
    pub(super) state: State,
    /// Direct requests and tasks that it has and has not finished.
    pub(super) to_do: u64,
    /// How many of them are tasks.
    pub(super) tasks: u64,
    pub(super) work: Work,
    /// Bytes of its process in memory, if that is known.
    pub(super) rss: Option<u64>,
}

/// What an engine is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Idle,
    Busy,
    /// It has said nothing for a while.
    Silent,
}

/// Tasks of maps.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Work {
    pub(super) finished: u64,
    /// Finished a second since the answer before; `None`: there was none.
    pub(super) rate: Option<f64>,
    pub(super) stolen: u64,
}

/// The Slurm job that the cluster is in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) end: Option<End>,
}

/// When the time limit ends a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum End {
    /// Unix time in seconds.
    At(f64),
    Never,
}

impl Picture {
    /// What an answer says, with the one before it.
    pub(super) fn of(status: &ClusterStatus, before: Option<&Self>) -> Self {
        let seconds = before.map(|before| status.uptime - before.uptime).filter(|seconds| *seconds > 0.0);
        let earlier: HashMap<EngineId, u64> = before.map(Self::finished).unwrap_or_default();
        let rate = |now: u64, then: Option<u64>| Some(now.saturating_sub(then?) as f64 / seconds?);
        let engine = |engine: &EngineStatus| Engine {
            id: engine.id,
            pid: engine.pid,
            state: match engine {
                _ if status.silent.iter().any(|silent| silent.id == engine.id) => State::Silent,
                EngineStatus { busy: true, .. } => State::Busy,
                _ => State::Idle,
            },
            to_do: engine.queue + engine.tasks,
            tasks: engine.tasks,
            work: Work {
                finished: engine.finished,
                rate: rate(engine.finished, earlier.get(&engine.id).copied()),
                stolen: engine.stolen,
            },
            rss: engine.rss,
        };
        let is_news = |lost: &&LostEngine| before.is_some_and(|before| before.lost.iter().all(|old| old.id != lost.id));
        let news = status.lost.iter().rfind(is_news).map(|lost| lost.reason.clone());
        let known = || before.and_then(|before| before.last_death.clone());
        Self {
            cluster_id: status.cluster_id.clone(),
            host: status.host.clone(),
            uptime: status.uptime,
            clients: status.clients.saturating_sub(1),
            hosts: by_host(status, engine),
            waiting: status.unassigned,
            directs: status.directs,
            work: Work {
                finished: status.finished,
                rate: rate(status.finished, before.map(|before| before.work.finished)),
                stolen: status.stolen,
            },
            shared: status.memory.as_ref().map(|memory| (memory.used, memory.bound)),
            job: status.slurm_job_id.clone().map(|id| Job {
                id,
                end: match (status.slurm_end_time, before.and_then(|before| before.job.as_ref())) {
                    (Some(time), _) => Some(End::At(time as f64)),
                    (None, before) => before.and_then(|job| job.end),
                },
            }),
            draining: status.draining.clone(),
            lost: status.lost.clone(),
            last_death: news.or_else(known).or_else(|| status.lost.last().map(|lost| lost.reason.clone())),
            silent: status.silent.clone(),
        }
    }

    pub(super) fn engines(&self) -> impl Iterator<Item = &Engine> {
        self.hosts.iter().flat_map(|host| &host.engines)
    }

    fn finished(&self) -> HashMap<EngineId, u64> {
        self.engines().map(|engine| (engine.id, engine.work.finished)).collect()
    }
}

impl Host {
    /// How many engines are at work.
    pub(super) fn busy(&self) -> usize {
        self.engines.iter().filter(|engine| engine.state == State::Busy).count()
    }

    /// What its engines have done together; those that have died do not count.
    pub(super) fn work(&self) -> Work {
        let works = || self.engines.iter().map(|engine| engine.work);
        Work {
            finished: works().map(|work| work.finished).sum(),
            rate: sum(works().map(|work| work.rate)),
            stolen: works().map(|work| work.stolen).sum(),
        }
    }

    /// Bytes of their processes in memory, of those that are known.
    pub(super) fn rss(&self) -> Option<u64> {
        sum(self.engines.iter().map(|engine| engine.rss))
    }
}

/// The sum of what is known; `None` if nothing is.
pub(super) fn sum<N: std::ops::Add<Output = N>>(numbers: impl Iterator<Item = Option<N>>) -> Option<N> {
    numbers.flatten().reduce(|a, b| a + b)
}

fn by_host(status: &ClusterStatus, engine: impl Fn(&EngineStatus) -> Engine) -> Vec<Host> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for one in &status.engines {
        let place = *places.entry(&one.host).or_insert_with(|| {
            hosts.push(Host { name: one.host.clone(), engines: Vec::new() });
            hosts.len() - 1
        });
        hosts[place].engines.push(engine(one));
    }
    hosts
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A cluster of engines that are dealt to hosts in turn: those with even ids are busy, engine 3 is silent.
    pub(in super::super) fn status(hosts: u32, engines: u32) -> ClusterStatus {
        let engine = |id: u32| EngineStatus {
            id: EngineId(id),
            host: format!("node-{}", id % hosts + 17),
            pid: 4000 + id,
            queue: 1,
            tasks: 2,
            busy: id.is_multiple_of(2),
            finished: 1000 * u64::from(id),
            stolen: 5,
            rss: (id != 1).then_some(50_000_000),
            ..EngineStatus::default()
        };
        ClusterStatus {
            cluster_id: "default".into(),
            host: "node-17".into(),
            uptime: 100.0,
            clients: 2,
            unassigned: 20,
            directs: 1,
            finished: 10_000,
            stolen: 30,
            silent: vec![lost(3)],
            engines: (0..engines).map(engine).collect(),
            ..ClusterStatus::default()
        }
    }

    pub(in super::super) fn lost(id: u32) -> LostEngine {
        LostEngine { id: EngineId(id), reason: format!("engine {id} (host node-18, pid 9) was killed") }
    }

    #[test]
    fn engines_are_grouped_by_host() {
        let picture = Picture::of(&status(2, 5), None);
        let ids = |host: &Host| host.engines.iter().map(|engine| engine.id.0).collect::<Vec<_>>();
        let hosts: Vec<_> = picture.hosts.iter().map(|host| (host.name.as_str(), ids(host), host.busy())).collect();
        assert_eq!(hosts, [("node-17", vec![0, 2, 4], 3), ("node-18", vec![1, 3], 0)]);
        assert_eq!(picture.hosts[1].engines.iter().map(|e| e.state).collect::<Vec<_>>(), [State::Idle, State::Silent]);
        assert_eq!((picture.hosts[0].rss(), picture.hosts[1].rss()), (Some(150_000_000), Some(50_000_000)));
        assert_eq!(
            (picture.clients, picture.hosts[1].engines[0].to_do),
            (1, 3),
            "this program is no client that counts"
        );
    }

    #[test]
    fn rates_are_differences() {
        let mut now = status(2, 3);
        let first = Picture::of(&now, None);
        assert_eq!((first.work.rate, first.hosts[0].work().rate), (None, None));
        now.uptime += 2.0;
        now.finished += 500;
        now.engines[0].finished += 200;
        now.engines[2].finished += 100;
        now.engines.push(EngineStatus { id: EngineId(9), host: "node-18".into(), ..EngineStatus::default() });
        let second = Picture::of(&now, Some(&first));
        assert_eq!((second.work.rate, second.hosts[0].work().rate), (Some(250.0), Some(150.0)));
        let rates: Vec<_> = second.hosts[1].engines.iter().map(|engine| engine.work.rate).collect();
        assert_eq!(rates, [Some(0.0), None], "nothing is known of one that was not there");
        let same = Picture::of(&now, Some(&second));
        assert_eq!(same.work.rate, None, "no time has passed");
    }

    #[test]
    fn the_last_death_is_the_one_that_was_not_known() {
        let mut now = status(2, 3);
        assert_eq!(Picture::of(&now, None).last_death, None);
        now.lost = vec![lost(1), lost(5)];
        let first = Picture::of(&now, None);
        assert_eq!(first.last_death, Some(lost(5).reason));
        now.lost.insert(1, lost(4));
        let second = Picture::of(&now, Some(&first));
        assert_eq!(second.last_death, Some(lost(4).reason));
        assert_eq!(Picture::of(&now, Some(&second)).last_death, Some(lost(4).reason));
    }

    #[test]
    fn the_end_of_the_job_is_remembered() {
        let mut now = status(1, 1);
        assert_eq!(Picture::of(&now, None).job, None);
        now.slurm_job_id = Some("4711".into());
        let mut picture = Picture::of(&now, None);
        assert_eq!(picture.job, Some(Job { id: "4711".into(), end: None }));
        picture.job.as_mut().unwrap().end = Some(End::Never);
        assert_eq!(Picture::of(&now, Some(&picture)).job.unwrap().end, Some(End::Never));
        now.slurm_end_time = Some(60);
        assert_eq!(Picture::of(&now, Some(&picture)).job.unwrap().end, Some(End::At(60.0)));
    }
}
