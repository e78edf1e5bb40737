//! The clock, what is to happen, and the messages under way.

use super::random::Random;
use crate::{Failed, Suspect};
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
    Relay {
        targets: EngineSet,
        cargo: Rc<Cargo>,
    },
    /// A grant, or loot.
    Tasks {
        key: RequestKey,
        ranges: Vec<Range<TaskIndex>>,
        last_direct: Epoch,
        function: bool,
    },
    Steal {
        key: RequestKey,
        thief: EngineId,
        last_direct: Epoch,
        function: bool,
    },
    Reply {
        key: RequestKey,
        success: bool,
    },
    Results(Results),
    Ask {
        received: u64,
    },
    Gave {
        key: RequestKey,
        thief: EngineId,
        ranges: Vec<Range<TaskIndex>>,
    },
    Got {
        key: RequestKey,
        victim: EngineId,
        ranges: Vec<Range<TaskIndex>>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Results {
    pub(super) key: RequestKey,
    pub(super) tasks: Vec<TaskIndex>,
    pub(super) failed: Vec<Failed>,
    pub(super) busy: f64,
}

/// What happens at a moment.
#[derive(Debug)]
pub(super) enum Happening {
    Joins(EngineId),
    Arrives {
        from: Rank,
        to: Rank,
        message: Message,
    },
    /// The same, when the controller comes to it; inside the network only.
    IsRead {
        from: Rank,
        to: Rank,
        message: Message,
    },
    MainThreadIsDone {
        engine: EngineId,
        batch: u64,
    },
    ResultsAreDue(EngineId),
    ClientActs(usize),
    TimesOut(RequestKey),
    Dies(EngineId),
    /// The engine dies, if it is still at this batch.
    TaskKills {
        engine: EngineId,
        batch: u64,
    },
    DeathIsNoticed {
        engine: EngineId,
        suspect: Suspect,
    },
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
    /// Seconds that the controller needs for a message, received or sent.
    service: f64,
    /// When it has dealt with all that has arrived, nanoseconds.
    controller_free: u64,
    /// Messages from and to the controller.
    pub(super) at_controller: u64,
}

impl Network {
    pub(super) fn new(latency: f64, jitter: bool, service: f64) -> Self {
        Self {
            now: 0,
            agenda: BTreeMap::new(),
            planned: 0,
            last_arrival: BTreeMap::new(),
            latency,
            jitter,
            service,
            controller_free: 0,
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

    /// Advances the clock to what happens next. A message to the controller waits until that has dealt with those before.
    pub(super) fn next(&mut self) -> Option<Happening> {
        loop {
            let ((time, _), happening) = self.agenda.pop_first()?;
            self.now = time;
            match happening {
                Happening::Arrives { from, to: Rank::CONTROLLER, message } if self.service > 0.0 => {
                    let time = self.occupy_controller();
                    let to = Rank::CONTROLLER;
                    self.plan_at(time, Happening::IsRead { from, to, message });
                }
                Happening::IsRead { from, to, message } => return Some(Happening::Arrives { from, to, message }),
                other => return Some(other),
            }
        }
    }

    /// The controller is at one more message; when it is done with it, nanoseconds.
    fn occupy_controller(&mut self) -> u64 {
        self.controller_free = self.controller_free.max(self.now) + (self.service * 1e9) as u64;
        self.controller_free
    }

    pub(super) fn send(&mut self, from: Rank, to: Rank, message: Message, random: &mut Random) {
        let slow = if self.jitter && random.chance(0.05) { 50.0 } else { 1.0 };
        let seconds = if self.jitter { random.exponential(self.latency * slow) } else { self.latency };
        let mut start = self.now;
        if from == Rank::CONTROLLER {
            start = self.occupy_controller();
        }
        let earliest = self.last_arrival.get(&(from, to)).map_or(0, |last| last + 1);
        let time = earliest.max(start + (seconds * 1e9) as u64);
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
