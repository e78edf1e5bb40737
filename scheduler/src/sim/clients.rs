//! What the clients do: anything, at any time.

use super::Cluster;
use super::network::Happening;
use super::oracle::MapRecord;
use crate::{Dependency, Event, Need, NewMap};
use pxcluster_protocol::{ClientId, EngineId, EngineSet, RequestKey};

#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: ClientId,
    pub(super) requests: u64,
    /// What it will still do.
    pub(super) acts: u32,
    /// Most tasks in a map.
    pub(super) most_tasks: u32,
    /// Seconds from one act to the next, mean.
    pub(super) pause: f64,
}

impl Client {
    pub(super) fn new(index: usize, acts: u32, most_tasks: u32, pause: f64) -> Self {
        Self { id: ClientId(index as u32 + 1), requests: 0, acts, most_tasks, pause }
    }

    fn next_key(&mut self) -> RequestKey {
        self.requests += 1;
        RequestKey { client: self.id, request: self.requests }
    }
}

impl Cluster {
    pub(super) fn client_acts(&mut self, index: usize) {
        let mut absent = 1.0;
        match self.random.below(100) {
            0..33 => self.submit_direct(index),
            33..80 => self.submit_some_map(index),
            80..91 => self.abort(index),
            91..95 => self.leave_and_come_again(index),
            95..97 => absent = 50.0, // its connection is lost for a while; nothing of it is dropped
            _ => {}
        }
        let client = &mut self.clients[index];
        client.acts = client.acts.saturating_sub(1);
        if client.acts > 0 {
            let pause = client.pause * absent;
            let seconds = self.random.exponential(pause);
            self.network.plan(seconds, Happening::ClientActs(index));
        }
    }

    /// The client leaves for good, and somebody like it comes.
    fn leave_and_come_again(&mut self, index: usize) {
        let client = self.clients[index].id;
        for request in 1..=self.clients[index].requests {
            self.oracle.abort_asked(RequestKey { client, request });
        }
        self.tell(Event::ClientGone(client), None);
        self.clients[index].id = ClientId(client.0 + self.clients.len() as u32);
        self.clients[index].requests = 0;
    }

    fn submit_direct(&mut self, index: usize) {
        let key = self.clients[index].next_key();
        let targets = if self.random.chance(0.4) { self.controller.engines() } else { self.some_engines() };
        self.oracle.direct_submitted(key, &targets);
        self.tell(Event::Direct { key, targets }, None);
    }

    fn submit_some_map(&mut self, index: usize) {
        let most = if self.random.chance(0.3) { 3 } else { self.clients[index].most_tasks };
        let tasks = self.random.below(most);
        let least = 10f64.powf(-2.0 - 4.0 * self.random.unit());
        let mut record = MapRecord::new((0..tasks).map(|_| self.random.heavy_tailed(least)).collect());
        record.targets = self.random.chance(0.4).then(|| self.some_engines());
        (record.retries, record.raise_chance) =
            if self.random.chance(0.4) { (self.random.below(4), 0.3) } else { (0, 0.05) };
        if self.random.chance(0.1) && tasks > 0 {
            record.deadly = (0..=self.random.below(2)).map(|_| self.random.below(tasks)).collect();
        }
        if self.random.chance(0.1) {
            record.unmet = 0.6;
        }
        if self.random.chance(0.25) {
            record.after = self.some_dependency(index);
        }
        if self.random.chance(0.15) {
            record.follow = self.some_dependency(index);
        }
        let seconds = self.random.chance(0.1).then(|| self.random.heavy_tailed(100e-6));
        let key = self.submit_map(index, record);
        if let Some(seconds) = seconds {
            self.network.plan(seconds, Happening::TimesOut(key));
        }
    }

    /// Submits a map.
    pub(super) fn submit_map(&mut self, index: usize, record: MapRecord) -> RequestKey {
        let key = self.clients[index].next_key();
        let new = NewMap {
            key,
            tasks: record.seconds.len() as u32,
            targets: record.targets.clone(),
            retries: record.retries,
            after: record.after.clone(),
            follow: record.follow.clone(),
        };
        self.oracle.map_submitted(key, record);
        self.tell(Event::Map(new), None);
        key
    }

    /// On some of the last requests of this client and of another.
    fn some_dependency(&mut self, index: usize) -> Dependency {
        let other = self.random.below(self.clients.len() as u32) as usize;
        let mut needs = Vec::new();
        for of in [index, other] {
            let (client, requests) = (self.clients[of].id, self.clients[of].requests);
            for request in requests.saturating_sub(4) + 1..=requests {
                let key = RequestKey { client, request };
                if self.random.chance(0.4) && self.oracle.has_parts(key) {
                    let part =
                        if self.random.chance(0.5) { Some(self.oracle.some_part(key, &mut self.random)) } else { None };
                    needs.push(Need { key, part });
                }
            }
        }
        let (all, failure) = (self.random.chance(0.6), self.random.chance(0.6));
        Dependency { needs, all, success: !failure || self.random.chance(0.8), failure }
    }

    fn abort(&mut self, index: usize) {
        let (client, requests) = (self.clients[index].id, self.clients[index].requests);
        let all = self.random.chance(0.2);
        let keys: Vec<RequestKey> = (requests.saturating_sub(5) + 1..=requests)
            .filter(|_| all || self.random.chance(0.3))
            .map(|request| RequestKey { client, request })
            .collect();
        for key in &keys {
            self.oracle.abort_asked(*key);
        }
        self.tell(Event::Abort(keys), None);
    }

    /// One engine or many, dead or alive.
    fn some_engines(&mut self) -> EngineSet {
        let count = self.engines.len() as u32;
        let first = EngineId(self.random.below(count));
        let density = if self.random.chance(0.3) { 0.0 } else { self.random.unit() };
        (0..count).map(EngineId).filter(|&engine| engine == first || self.random.chance(density)).collect()
    }
}
