//! The clock, what is to happen, and the messages under way.

use super::random::Random;
use pxcluster_protocol::to_engine::Cargo;
use pxcluster_protocol::{EngineId, EngineSet, Epoch, Rank, RequestKey, TaskIndex};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Children of a rank in the relay tree.
const FANOUT: usize = 2;

/// What travels from rank to rank.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Relay { targets: EngineSet, cargo: Rc<Cargo> },
    Grant { key: RequestKey, range: Range<TaskIndex>, last_direct: Epoch, first: bool },
    Reply { key: RequestKey },
    Results(Results),
}

#[derive(Clone, Debug)]
pub(super) struct Results {
    pub(super) key: RequestKey,
    pub(super) tasks: Vec<TaskIndex>,
    pub(super) failed: Vec<usize>,
    pub(super) aborted: bool,
    pub(super) busy: f64,
}

/// What happens at a moment.
#[derive(Debug)]
pub(super) enum Happening {
    Joins(EngineId),
    Arrives { from: Rank, to: Rank, message: Message },
    MainThreadIsDone(EngineId),
    ClientActs(usize),
    Dies(EngineId),
    DeathIsNoticed(EngineId),
}

/// Keeps messages in order between two ranks, and in no order otherwise.
#[derive(Debug)]
pub(super) struct Network {
    /// Nanoseconds.
    now: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    planned: u64,
    last_arrival: BTreeMap<(Rank, Rank), u64>,
    /// Seconds from rank to rank.
    latency: f64,
    jitter: bool,
    /// Messages from and to the controller.
    pub(super) at_controller: u64,
}

impl Network {
    pub(super) fn new(latency: f64, jitter: bool) -> Self {
        Self {
            now: 0,
            agenda: BTreeMap::new(),
            planned: 0,
            last_arrival: BTreeMap::new(),
            latency,
            jitter,
            at_controller: 0,
        }
    }

    /// Seconds since the start.
    pub(super) fn now(&self) -> f64 {
        self.now as f64 * 1e-9
    }

    pub(super) fn plan(&mut self, seconds: f64, happening: Happening) {
        self.plan_at(self.now + (seconds * 1e9) as u64, happening);
    }

    fn plan_at(&mut self, time: u64, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((time, self.planned), happening);
    }

    /// Advances the clock to what happens next.
    pub(super) fn next(&mut self) -> Option<Happening> {
        let ((time, _), happening) = self.agenda.pop_first()?;
        self.now = time;
        Some(happening)
    }

    pub(super) fn send(&mut self, from: Rank, to: Rank, message: Message, random: &mut Random) {
        let slow = if self.jitter && random.chance(0.05) { 50.0 } else { 1.0 };
        let seconds = if self.jitter { random.exponential(self.latency * slow) } else { self.latency };
        let earliest = self.last_arrival.get(&(from, to)).map_or(0, |last| last + 1);
        let time = earliest.max(self.now + (seconds * 1e9) as u64);
        self.last_arrival.insert((from, to), time);
        self.at_controller += u64::from(from == Rank::CONTROLLER || to == Rank::CONTROLLER);
        self.plan_at(time, Happening::Arrives { from, to, message });
    }

    /// Sends to the smallest engine of each part, which relays to the others of its part.
    pub(super) fn relay(&mut self, from: Rank, targets: &EngineSet, cargo: &Rc<Cargo>, random: &mut Random) {
        for targets in targets.split_for_relay(FANOUT) {
            if let Some(first) = targets.min() {
                self.send(from, first.rank(), Message::Relay { targets, cargo: Rc::clone(cargo) }, random);
            }
        }
    }
}
