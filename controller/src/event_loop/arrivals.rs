//! Large buffers that go on to other nodes while clients still send them.

use super::{Controller, ControllerError};
use crate::fills::Buffer;
use crate::inbox::ConnectionId;
use crate::reading::Arriving;
use crate::store::Keeper;
use pxcluster_protocol::frame::Frame;
use pxcluster_protocol::from_client::{FromClient, Targets};
use pxcluster_transport::Transport;

/// A buffer whose sender has not named it in a whole request yet, or that is still on its way.
pub(super) struct Arrival {
    pub(super) connection: ConnectionId,
    pub(super) id: u64,
    pub(super) place: Keeper,
}

impl<T: Transport> Controller<T> {
    /// A connection's reader writes a buffer to shared memory.
    pub(super) fn handle_arriving(
        &mut self,
        connection: ConnectionId,
        arriving: Arriving,
    ) -> Result<(), ControllerError> {
        match arriving {
            Arriving::Begins { header, place, length } => {
                let header = Frame { header, buffers: vec![] }.parse::<FromClient>();
                if let Ok(FromClient::Direct { targets, .. }) = header {
                    self.expect(connection, vec![(place, length)], &targets);
                }
                Ok(())
            }
            Arriving::Has { place, upto } => self.has_written(place, upto),
            Arriving::Ends { place } => self.cut_arrivals(|arrival| arrival.place.place == place),
        }
    }

    /// Buffers of these lengths will come for these targets; whether any of them is on another node.
    pub(super) fn expect(&mut self, connection: ConnectionId, places: Vec<(Keeper, u64)>, targets: &Targets) -> bool {
        let leaders = match targets {
            None => self.leaders(),
            Some(targets) => self.leaders_among(&self.without_gone(&targets.iter().copied().collect())),
        };
        for (keeper, length) in places.into_iter().filter(|_| !leaders.is_empty()) {
            if let Some(id) = keeper.id() {
                self.fills.expect(Buffer { id, place: keeper.place, length }, &leaders);
                self.arrivals.push(Arrival { connection, id, place: keeper });
            }
        }
        !leaders.is_empty()
    }

    /// A client has written so much of a buffer.
    pub(super) fn has_written(&mut self, place: u64, upto: u64) -> Result<(), ControllerError> {
        self.arrived(place, upto);
        self.pump()
    }

    /// So much of a buffer is in shared memory. [`Self::pump`] sends it on.
    pub(super) fn arrived(&mut self, place: u64, upto: u64) {
        for arrival in self.arrivals.iter().filter(|arrival| arrival.place.place == place) {
            self.fills.arrived(arrival.id, upto);
        }
    }

    /// The rest of these buffers will not come.
    pub(super) fn cut_arrivals(&mut self, which: impl Fn(&Arrival) -> bool) -> Result<(), ControllerError> {
        for arrival in self.arrivals.iter().filter(|arrival| which(arrival)) {
            self.fills.cut(arrival.id);
        }
        self.pump()
    }
}
