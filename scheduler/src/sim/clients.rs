//! What the clients do: anything, at any time.

use super::Cluster;
use super::network::Happening;
use crate::Event;
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
        match self.random.below(100) {
            0..35 => self.submit_direct(index),
            35..80 => self.submit_some_map(index),
            80..93 => self.abort(index),
            93..95 => {
                let client = self.clients[index].id;
                for request in 1..=self.clients[index].requests {
                    self.oracle.abort_asked(RequestKey { client, request });
                }
                self.tell(Event::ClientGone(client), None);
                return;
            }
            _ => {}
        }
        let client = &mut self.clients[index];
        client.acts = client.acts.saturating_sub(1);
        if client.acts > 0 {
            let pause = client.pause;
            let seconds = self.random.exponential(pause);
            self.network.plan(seconds, Happening::ClientActs(index));
        }
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
        let seconds = (0..tasks).map(|_| self.random.heavy_tailed(least)).collect();
        let targets = self.random.chance(0.4).then(|| self.some_engines());
        let (retries, raises) = if self.random.chance(0.4) { (self.random.below(4), 0.3) } else { (0, 0.05) };
        self.submit_map(index, seconds, targets, retries, raises);
    }

    /// Submits a map whose tasks take `seconds`, and raise with probability `raises`.
    pub(super) fn submit_map(
        &mut self,
        index: usize,
        seconds: Vec<f64>,
        targets: Option<EngineSet>,
        retries: u32,
        raises: f64,
    ) {
        let (key, tasks) = (self.clients[index].next_key(), seconds.len() as u32);
        self.oracle.map_submitted(key, targets.clone(), retries, seconds, raises);
        self.tell(Event::Map { key, tasks, targets, retries }, None);
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
