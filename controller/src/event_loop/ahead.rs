//! Answers of engines on other nodes, which go on to their clients while they arrive.
//!
//! What is sent ahead is an addition: the frame follows as if nothing had been sent, and its connection then leaves out
//! what its client has. So it need not come: an engine may die in the middle, and a frame may have to wait. The client is
//! told in any case when it may forget.

use super::Controller;
use crate::inbox::{Link, Outgoing};
use crate::incoming::Progress;
use crate::store::Store;
use bytes::Bytes;
use pxcluster_protocol::codec::{self, Head, Span};
use pxcluster_protocol::to_client::Ahead;
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::{EngineId, RequestKey};
use pxcluster_transport::Transport;
use pxcluster_transport::arena::LARGE;
use std::sync::Arc;

/// Messages from this length on, bytes: two segments.
const LONG: u64 = 8 << 20;

/// What becomes of a long message.
pub(super) enum Passing {
    /// Nothing before all of it is there.
    Not,
    /// It goes to a client.
    To(Recipient),
}

pub(super) struct Recipient {
    link: Link,
    /// The large buffers, and how far they have been sent.
    buffers: Vec<Ahead>,
}

impl<T: Transport> Controller<T> {
    /// Sends clients what has come for them.
    pub(super) fn send_ahead(&mut self) {
        let Some(store) = self.store.clone() else { return };
        let progress = store.incoming.progress();
        self.passing.retain(|id, passing| {
            let is_there = progress.contains_key(id);
            if let Passing::To(recipient) = passing
                && !is_there
            {
                recipient.forget();
            }
            is_there
        });
        for (id, progress) in progress {
            if !self.passing.contains_key(&id)
                && let Some(passing) = self.recognize(&store, &progress)
            {
                self.passing.insert(id, passing);
            }
            if let Some(Passing::To(recipient)) = self.passing.get_mut(&id) {
                recipient.send(&store, progress.place + progress.upto);
            }
        }
    }

    /// Whom a message is for; `None`: not enough of it is there.
    fn recognize(&self, store: &Arc<Store>, progress: &Progress) -> Option<Passing> {
        let Progress { place, length, upto, .. } = *progress;
        if length < LONG {
            return Some(Passing::Not);
        }
        let beginning = store.share(place, upto as usize).ok()?;
        let Head { header, spans, end } = match codec::decode_head::<ToController>(&beginning) {
            Ok(head) => head,
            Err(codec::CodecError::Truncated { .. }) => return None,
            Err(_) => return Some(Passing::Not), // its receiver will say so
        };
        let ToController::DirectReply { key, .. } = header else { return Some(Passing::Not) };
        let Some(link) = self.clients.flowing(key) else { return Some(Passing::Not) };
        let buffers = buffers_of(key, progress.from, &spans, place + end as u64);
        Some(Passing::To(Recipient { link, buffers }))
    }
}

/// What can be sent ahead of an answer whose buffers begin at `at`.
fn buffers_of(key: RequestKey, engine: EngineId, spans: &[Span], mut at: u64) -> Vec<Ahead> {
    let sizes = spans.iter().map(|span| span.length).collect::<Vec<_>>();
    let mut buffers = vec![];
    for (buffer, span) in (0..).zip(spans).filter(|(_, span)| span.place.is_none()) {
        if span.length >= LARGE as u64 {
            let sizes = sizes.clone();
            buffers.push(Ahead { id: key.request, engine, sizes, buffer, place: at, at: 0, upto: 0 });
        }
        at += span.length;
    }
    buffers
}

impl Recipient {
    /// Sends what lies before `end` in shared memory.
    fn send(&mut self, store: &Arc<Store>, end: u64) {
        for ahead in &mut self.buffers {
            let length = ahead.sizes[ahead.buffer as usize];
            let upto = end.saturating_sub(ahead.place).min(length);
            if upto > ahead.upto {
                (ahead.at, ahead.upto) = (ahead.upto, upto);
                let bytes = store.share(ahead.place + ahead.at, (upto - ahead.at) as usize);
                let bytes: Bytes = match bytes {
                    Ok(bytes) => bytes,
                    Err(error) => return tracing::warn!("an answer is not sent ahead: {error}"),
                };
                self.link.put_outgoing(Outgoing::Ahead(ahead.clone(), bytes));
            }
        }
    }

    fn forget(&self) {
        for ahead in self.buffers.iter().filter(|ahead| ahead.upto > 0) {
            self.link.put_outgoing(Outgoing::Forget(ahead.place));
        }
    }
}
