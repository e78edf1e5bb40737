//! What a session has not confirmed, in order: numbered frames, in memory or in the spill file.
//!
//! A connection is handed a window of them; the rest waits here. So what is queued for a slow client is bounded, and a
//! client that comes back gets everything after the last frame that it has had.

use crate::spill::Place;
use pxcluster_protocol::RequestId;
use pxcluster_protocol::frame::Frame;
use std::collections::VecDeque;

/// Bytes that a connection may have been handed and not confirmed; one frame more is let through. The client confirms
/// four times as often.
pub(crate) const WINDOW: usize = 16 << 20;

/// Where a frame is.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Memory(Frame),
    Spilled(Place),
}

/// A frame of a request's answer.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) request: RequestId,
    /// What the frame takes in memory, bytes.
    pub(crate) size: usize,
    pub(crate) content: Content,
}

impl Letter {
    /// The letter of a frame of which so many bytes lie elsewhere than in memory.
    pub(crate) fn new(request: RequestId, frame: Frame, elsewhere: usize) -> Self {
        Self { request, size: memory_of(&frame) - elsewhere, content: Content::Memory(frame) }
    }
}

/// What a frame takes in memory, bytes.
pub(crate) fn memory_of(frame: &Frame) -> usize {
    frame.encoded_len() + 128 + 64 * frame.buffers.len()
}

/// The frames of one session.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// Number of frames that the client has confirmed.
    confirmed: u64,
    /// Number of frames that any connection has been handed.
    reached: u64,
    /// How many of `letters` have been handed to the present connection, and their bytes.
    sent: usize,
    sent_bytes: usize,
    letters: VecDeque<Letter>,
    /// Bytes in memory of letters that have not been handed out.
    waiting: usize,
}

/// A client confirms what it cannot have had.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has had {said} frames of this session, it says, and {sent} were sent")]
pub(crate) struct NeverSent {
    said: u64,
    sent: u64,
}

impl Mailbox {
    pub(crate) fn put(&mut self, letter: Letter) {
        self.waiting += in_memory(&letter);
        self.letters.push_back(letter);
    }

    /// Whether a frame that is put now would be handed out at once.
    pub(crate) fn flows(&self) -> bool {
        self.sent == self.letters.len() && self.sent_bytes < WINDOW
    }

    /// Whether the connection has been handed everything.
    pub(crate) fn is_handed_out(&self) -> bool {
        self.sent == self.letters.len()
    }

    /// How many letters no connection was ever handed.
    pub(crate) fn never_sent(&self) -> u64 {
        self.confirmed + self.letters.len() as u64 - self.reached
    }

    /// The next letter for the connection, if its window is open, or though it is not.
    pub(crate) fn hand_out(&mut self, whatever: bool) -> Option<&Letter> {
        if self.sent_bytes >= WINDOW && !whatever {
            return None;
        }
        let letter = self.letters.get(self.sent)?;
        self.sent += 1;
        self.reached = self.reached.max(self.confirmed + self.sent as u64);
        self.sent_bytes += letter.size;
        self.waiting -= in_memory(letter);
        Some(letter)
    }

    /// The client has had so many frames since the session began: they are given back.
    pub(crate) fn confirm(&mut self, frames: u64) -> Result<Vec<Letter>, NeverSent> {
        if frames > self.reached {
            return Err(NeverSent { said: frames, sent: self.reached });
        }
        let count = frames.saturating_sub(self.confirmed) as usize;
        self.confirmed += count as u64;
        let had: Vec<Letter> = self.letters.drain(..count).collect();
        let (sent, waited) = had.split_at(count.min(self.sent));
        self.sent -= sent.len();
        self.sent_bytes -= sent.iter().map(|letter| letter.size).sum::<usize>();
        self.waiting -= waited.iter().map(in_memory).sum::<usize>();
        Ok(had)
    }

    /// The connection is gone: what was not confirmed is to be sent again.
    pub(crate) fn rewind(&mut self) {
        self.waiting += self.letters.iter().take(self.sent).map(in_memory).sum::<usize>();
        self.sent = 0;
        self.sent_bytes = 0;
    }

    /// Takes everything, and begins to count anew.
    pub(crate) fn empty(&mut self) -> VecDeque<Letter> {
        std::mem::take(self).letters
    }

    pub(crate) fn letters(&self) -> impl Iterator<Item = &Letter> {
        self.letters.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    /// Bytes in memory that wait for a connection.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }
}

/// Bytes that a letter keeps in memory.
pub(crate) fn in_memory(letter: &Letter) -> usize {
    match letter.content {
        Content::Memory(_) => letter.size,
        Content::Spilled(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(request: RequestId, size: usize) -> Letter {
        let frame = Frame { header: "{}".into(), buffers: vec![] };
        Letter { request, size, content: Content::Memory(frame) }
    }

    fn next(mailbox: &mut Mailbox) -> Option<RequestId> {
        mailbox.hand_out(false).map(|letter| letter.request)
    }

    #[test]
    fn what_was_not_confirmed_is_sent_again_in_order() {
        let mut mailbox = Mailbox::default();
        (1..=4).for_each(|request| mailbox.put(letter(request, 10)));
        assert_eq!((next(&mut mailbox), next(&mut mailbox), next(&mut mailbox)), (Some(1), Some(2), Some(3)));
        assert_eq!((mailbox.waiting(), mailbox.never_sent(), mailbox.is_handed_out()), (10, 1, false));
        mailbox.rewind();
        assert_eq!(mailbox.waiting(), 40);
        assert_eq!(mailbox.confirm(4).expect_err("was never sent"), NeverSent { said: 4, sent: 3 });
        assert_eq!(mailbox.confirm(1).expect("was sent by the last connection").len(), 1);
        assert_eq!(mailbox.confirm(1).expect("again").len(), 0);
        assert_eq!(mailbox.waiting(), 30);
        assert_eq!((next(&mut mailbox), next(&mut mailbox), next(&mut mailbox)), (Some(2), Some(3), Some(4)));
        assert_eq!(next(&mut mailbox), None);
        assert_eq!(mailbox.confirm(4).expect("were sent").len(), 3);
        assert!(mailbox.is_empty() && mailbox.flows() && mailbox.waiting() == 0);
    }

    #[test]
    fn a_window_is_handed_out_and_opens_again_when_it_is_confirmed() {
        let mut mailbox = Mailbox::default();
        (1..=3).for_each(|request| mailbox.put(letter(request, WINDOW)));
        assert_eq!((next(&mut mailbox), next(&mut mailbox)), (Some(1), None));
        assert!(mailbox.confirm(2).is_err());
        assert_eq!(mailbox.confirm(1).expect("was sent")[0].request, 1);
        assert_eq!((next(&mut mailbox), next(&mut mailbox)), (Some(2), None));
        assert_eq!(mailbox.hand_out(true).map(|letter| letter.request), Some(3));
        assert!(mailbox.is_handed_out() && mailbox.never_sent() == 0);
    }
}
