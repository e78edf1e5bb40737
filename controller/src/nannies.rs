//! The nannies that have something to say of their engines: each keeps its connection until the cluster ends.

use crate::inbox::{ConnectionId, Outbox, Outgoing};
use pxcluster_protocol::EngineId;
use pxcluster_protocol::frame::Frame;
use pxcluster_protocol::from_client::Death;
use pxcluster_protocol::to_client::{LostEngine, ToClient};
use std::collections::{BTreeMap, BTreeSet};

/// See the module's page.
#[derive(Default)]
pub(crate) struct Nannies {
    by_connection: BTreeMap<ConnectionId, (EngineId, Outbox)>,
    /// Engines that are silent, and the sentence about each.
    silent: BTreeMap<EngineId, String>,
    /// Engines that are to be killed.
    condemned: BTreeSet<EngineId>,
}

impl Nannies {
    pub(crate) fn add(&mut self, connection: ConnectionId, engine: EngineId, outbox: Outbox) {
        self.by_connection.insert(connection, (engine, outbox));
        self.kill_if_condemned(engine);
    }

    /// Whose connection this is.
    pub(crate) fn of(&self, connection: ConnectionId) -> Option<EngineId> {
        self.by_connection.get(&connection).map(|(engine, _)| *engine)
    }

    pub(crate) fn remove(&mut self, connection: ConnectionId) -> bool {
        self.by_connection.remove(&connection).is_some()
    }

    /// An engine is silent, or with `None` heard again.
    pub(crate) fn set_silent(&mut self, engine: EngineId, sentence: Option<String>) {
        match sentence {
            Some(sentence) => self.silent.insert(engine, sentence),
            None => self.silent.remove(&engine),
        };
    }

    /// The engines that are silent.
    pub(crate) fn silent(&self) -> Vec<LostEngine> {
        self.silent.iter().map(|(id, reason)| LostEngine { id: *id, reason: reason.clone() }).collect()
    }

    /// Has an engine killed: now if its nanny listens, or as soon as it does.
    pub(crate) fn kill(&mut self, engine: EngineId) {
        self.condemned.insert(engine);
        self.kill_if_condemned(engine);
    }

    fn kill_if_condemned(&self, engine: EngineId) {
        if self.condemned.contains(&engine) {
            let nannies = self.by_connection.values().filter(|(whose, _)| *whose == engine);
            for (frame, (_, outbox)) in Frame::new(&ToClient::KillEngine, vec![]).into_iter().cycle().zip(nannies) {
                let _its_connection_is_closing = outbox.send(Outgoing::Frame(frame));
            }
        }
    }

    /// The cluster ends: those that stay behind their dead engines may go. Their connections are closed behind that.
    pub(crate) fn let_go(&mut self, closing: &ToClient) {
        let nannies = std::mem::take(&mut self.by_connection).into_values();
        for (frame, (_, outbox)) in Frame::new(closing, vec![]).into_iter().cycle().zip(nannies) {
            let _its_connection_is_closing = outbox.send(Outgoing::Frame(frame));
        }
    }

    /// An engine is dead: nothing more is said of it.
    pub(crate) fn forget(&mut self, engine: EngineId) {
        self.silent.remove(&engine);
        self.condemned.remove(&engine);
    }
}

/// What has ended an engine, as the end of a sentence about it.
pub fn cause(death: &Death) -> String {
    use nix::sys::signal::Signal;
    let Some(number) = death.signal else {
        return format!("ended with exit code {}", death.code.unwrap_or_default());
    };
    let signal = Signal::try_from(number);
    let name = signal.map_or_else(|_| "a signal".to_owned(), |signal| signal.as_str().to_owned());
    let hint = match signal {
        Ok(Signal::SIGSEGV) => ", a segmentation fault",
        Ok(Signal::SIGKILL) => ", which the kernel sends, too, when memory runs out",
        Ok(Signal::SIGBUS) => ", a bus error",
        Ok(Signal::SIGABRT) => ", which abort() sends",
        Ok(Signal::SIGILL) => ", an instruction that this processor does not have",
        _ => "",
    };
    format!("was killed by {name} (signal {number}{hint})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxcluster_protocol::from_client::Nanny;

    #[test]
    fn causes_are_told_in_words() {
        let nanny = Nanny { protocol_version: 1, key: String::new(), engine: EngineId(3), pid: 4711 };
        let death = |signal, code| cause(&Death { nanny: nanny.clone(), signal, code, running: None });
        assert_eq!(death(Some(11), None), "was killed by SIGSEGV (signal 11, a segmentation fault)");
        assert!(death(Some(9), None).starts_with("was killed by SIGKILL (signal 9, which the kernel sends"));
        assert_eq!(death(Some(40), None), "was killed by a signal (signal 40)");
        assert_eq!(death(None, Some(3)), "ended with exit code 3");
    }
}
