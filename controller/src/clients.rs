//! Sessions: each outlives its connections, with the answers that its client has not confirmed.
//!
//! A client that reconnects says how many frames it has had, and gets the others. Another process that resumes a session
//! knows nothing of it: what is there of its requests, and what still comes, is put aside until it fetches them.

use crate::archive::{Archive, Outline};
use crate::event_loop::unix_time;
use crate::history::History;
use crate::inbox::{ConnectionId, Link};
use crate::mailbox::{Content, Letter, Mailbox, NeverSent, in_memory};
use crate::spill::{Spill, SpillError};
use crate::store::Store;
use bytes::Bytes;
use pxcluster_protocol::frame::Frame;
use pxcluster_protocol::from_client::Hello;
use pxcluster_protocol::to_client::ToClient;
use pxcluster_protocol::{ClientId, RequestId, RequestKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug, Default)]
struct Session {
    name: String,
    link: Option<(ConnectionId, Link)>,
    /// Host and process that count the frames.
    owner: (String, u32),
    mailbox: Mailbox,
    /// Requests up to this one are of a process that is gone.
    orphans: RequestId,
    /// Answers to those, until they are fetched.
    aside: BTreeMap<RequestId, Vec<Letter>>,
    /// Bytes of them in memory.
    aside_bytes: usize,
    last_request: RequestId,
    /// Requests that engines have not ended, with their bytes.
    under_way: BTreeMap<RequestId, usize>,
    /// Requests whose answers could not be kept.
    lost: BTreeSet<RequestId>,
    /// Whether the client has left on purpose.
    left: bool,
}

/// Why a session cannot be resumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoResume {
    #[error(
        "session {0} is not known: it has ended with its client and its last request, or the cluster was started anew"
    )]
    Unknown(String),
    #[error("session {name} has been resumed by process {pid} on {host}")]
    Taken { name: String, host: String, pid: u32 },
    #[error("session {name} cannot be resumed: {source}")]
    Count { name: String, source: NeverSent },
}

/// All sessions, by the id that the controller gave their clients.
#[derive(Debug)]
pub(crate) struct Clients {
    last: u32,
    by_id: BTreeMap<ClientId, Session>,
    by_connection: BTreeMap<ConnectionId, ClientId>,
    /// Those that are forgotten, too: what they did may be asked for.
    by_name: BTreeMap<String, ClientId>,
    archive: Archive,
    history: History,
    spill: Spill,
    store: Option<Arc<Store>>,
    /// Bytes of answers that may wait in memory.
    memory: usize,
}

impl Clients {
    pub(crate) fn new(memory: usize, spill: Spill, store: Option<Arc<Store>>) -> Self {
        let (by_id, by_connection, by_name) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (archive, history) = (Archive::default(), History::default());
        Self { last: 0, by_id, by_connection, by_name, archive, history, spill, store, memory }
    }

    // -- who is there ------------------------------------------------------------------------------------------------

    /// Begins a session.
    pub(crate) fn begin(&mut self, connection: ConnectionId, link: Link, name: String, hello: &Hello) -> ClientId {
        self.last += 1;
        let id = ClientId(self.last);
        let owner = (hello.host.clone(), hello.pid);
        let session = Session { name: name.clone(), link: Some((connection, link)), owner, ..Session::default() };
        self.by_id.insert(id, session);
        self.by_connection.insert(connection, id);
        self.by_name.insert(name, id);
        id
    }

    /// Goes on with the session `name` over another connection; [`Self::deliver`] is to follow.
    pub(crate) fn resume(
        &mut self,
        connection: ConnectionId,
        link: Link,
        name: &str,
        hello: &Hello,
    ) -> Result<ClientId, NoResume> {
        let found = self.by_name.get(name).and_then(|id| Some((*id, self.by_id.get_mut(id)?)));
        let (id, session) = found.ok_or_else(|| NoResume::Unknown(name.to_owned()))?;
        let new_owner = (hello.host.clone(), hello.pid);
        let had = match hello.received {
            Some(_) if session.owner != new_owner => {
                let (host, pid) = session.owner.clone();
                return Err(NoResume::Taken { name: name.to_owned(), host, pid });
            }
            Some(received) => {
                let counted = session.mailbox.confirm(received);
                session.mailbox.rewind();
                counted.map_err(|source| NoResume::Count { name: name.to_owned(), source })?
            }
            None => Vec::new(),
        };
        link.budget.take(session.under_way.values().sum());
        session.owner = new_owner;
        session.left = false;
        let older = session.link.replace((connection, link));
        self.by_connection.insert(connection, id);
        if let Some((old_connection, older)) = older {
            self.by_connection.remove(&old_connection);
            let (name, host, pid) = (name.to_owned(), hello.host.clone(), hello.pid);
            older.send(&ToClient::Refused { reason: NoResume::Taken { name, host, pid }.to_string() });
        }
        self.dispose(id, had);
        if hello.received.is_none() {
            self.put_aside(id);
        }
        Ok(id)
    }

    /// Another process goes on with a session: it fetches what it wants of what was there.
    fn put_aside(&mut self, id: ClientId) {
        self.archive.unsubscribe(id);
        let Some(session) = self.by_id.get_mut(&id) else { return };
        session.orphans = session.last_request;
        for letter in session.mailbox.empty() {
            if self.archive.find(RequestKey { client: id, request: letter.request }).is_some() {
                session.put_aside(letter);
            } else if let Content::Spilled(place) = letter.content {
                self.spill.release(place);
            }
        }
    }

    /// The connection is gone; the session stays.
    pub(crate) fn disconnect(&mut self, connection: ConnectionId) {
        if let Some(id) = self.by_connection.remove(&connection)
            && let Some(session) = self.by_id.get_mut(&id)
        {
            session.link = None;
            session.mailbox.rewind();
            self.forget_if_over(id);
        }
    }

    /// The client leaves on purpose: its session ends with what it has under way.
    pub(crate) fn leave(&mut self, connection: ConnectionId) {
        if let Some(session) = self.of(connection).and_then(|id| self.by_id.get_mut(&id)) {
            session.left = true;
        }
        self.disconnect(connection);
    }

    fn forget_if_over(&mut self, id: ClientId) {
        let over = |session: &Session| {
            let nothing_kept = session.mailbox.is_empty() && session.aside.is_empty();
            session.left && session.link.is_none() && session.under_way.is_empty() && nothing_kept
        };
        if self.by_id.get(&id).is_some_and(over) {
            self.by_id.remove(&id);
            self.archive.unsubscribe(id);
        }
    }

    /// Says `last` to everybody who has been handed all answers, or `whatever` they still wait for, and closes their
    /// connections behind it. They count as connected until it is written.
    pub(crate) fn dismiss(&mut self, last: &ToClient, whatever: bool) {
        let here: Vec<ClientId> = self.by_connection.values().copied().collect();
        for id in here {
            self.hand_out(id, whatever);
            if let Some(session) = self.by_id.get_mut(&id)
                && session.mailbox.is_handed_out()
                && let Some((_, link)) = session.link.take()
            {
                link.send(last);
                session.left = true;
            }
        }
    }

    /// Closes every connection after what has been queued, and complains of answers that nobody was ever sent.
    pub(crate) fn close(&mut self) {
        let away = self.by_id.values().filter(|session| !session.left);
        let left = away.map(|session| session.mailbox.never_sent()).filter(|count| *count > 0);
        let (clients, answers) = left.fold((0, 0), |(clients, answers), count| (clients + 1, answers + count));
        if clients > 0 {
            tracing::warn!("the cluster ends with {answers} answers for {clients} clients that have not taken them");
        }
        self.by_id.values_mut().for_each(|session| session.link = None);
        self.by_connection.clear();
    }

    pub(crate) fn of(&self, connection: ConnectionId) -> Option<ClientId> {
        self.by_connection.get(&connection).copied()
    }

    /// The client of a session, here or gone.
    pub(crate) fn named(&self, session: &str) -> Option<ClientId> {
        self.by_name.get(session).copied()
    }

    /// The name of a client's session.
    pub(crate) fn name(&self, client: ClientId) -> &str {
        self.by_id.get(&client).map_or("", |session| &session.name)
    }

    /// Clients that are connected.
    pub(crate) fn len(&self) -> usize {
        self.by_connection.len()
    }

    // -- requests ----------------------------------------------------------------------------------------------------

    /// A frame with this number has arrived; the highest one so far.
    pub(crate) fn arrived(&mut self, client: ClientId, request: Option<RequestId>) -> RequestId {
        self.by_id.get_mut(&client).map_or(0, |session| {
            session.last_request = session.last_request.max(request.unwrap_or_default());
            session.last_request
        })
    }

    /// A request is given to the scheduler. Its bytes were taken from the budget and are given back at its end.
    pub(crate) fn begin_request(&mut self, key: RequestKey, bytes: usize, outline: Outline) {
        if let Some(session) = self.by_id.get_mut(&key.client) {
            session.under_way.insert(key.request, bytes);
            self.history.begin(key, &session.name, outline.clone(), unix_time());
            self.archive.begin(key, outline);
        }
    }

    /// Every part of a request has been answered.
    pub(crate) fn end_request(&mut self, key: RequestKey) {
        self.history.end(key);
        for (client, id) in self.archive.end(key) {
            self.post(RequestKey { client, request: id }, incomplete(id));
        }
        if let Some(session) = self.by_id.get_mut(&key.client) {
            session.lost.remove(&key.request);
            let bytes = session.under_way.remove(&key.request).unwrap_or_default();
            self.give_back(key.client, bytes);
            self.forget_if_over(key.client);
        }
    }

    /// The buffers of a `history` frame.
    pub(crate) fn history(&self) -> Result<Vec<Bytes>, serde_json::Error> {
        self.history.buffers()
    }

    /// Forgets requests that have ended, and what is kept of their answers for others; `None`: all.
    pub(crate) fn purge(&mut self, requests: Option<Vec<(String, RequestId)>>) {
        let key = |(session, request): (String, RequestId)| Some(RequestKey { client: self.named(&session)?, request });
        let keys = requests.map(|requests| requests.into_iter().filter_map(key).collect());
        for key in self.history.purge(keys) {
            self.archive.forget(key);
        }
    }

    /// Bytes of a request that are not under way any more, or never were.
    pub(crate) fn give_back(&self, client: ClientId, bytes: usize) {
        if let Some((_, link)) = self.by_id.get(&client).and_then(|session| session.link.as_ref()) {
            link.budget.give_back(bytes);
        }
    }

    /// Sends what is known of the request `of`, and what comes, as answers to `to`; whether anything is known.
    pub(crate) fn fetch(&mut self, to: RequestKey, of: RequestKey) -> bool {
        let Some(found) = self.archive.find(of) else { return false };
        let Outline { kind, label, tasks, targets, .. } = found.outline.clone();
        let (count, ended, kept) = (found.count, found.ended, found.frames.map(<[Frame]>::to_vec));
        let claimed = match self.by_id.get_mut(&of.client) {
            Some(session) if to.client == of.client => session.take_aside(of.request),
            _ => Vec::new(),
        };
        self.send(to.client, &ToClient::Request { id: to.request, kind, label, tasks, targets }, vec![]);
        let letters: Vec<Letter> = match kept {
            Some(frames) => frames.into_iter().map(|frame| self.letter(of.request, frame)).collect(),
            None if claimed.is_empty() => self.by_id.get(&of.client).map_or_else(Vec::new, |session| {
                let aside = session.aside.get(&of.request).into_iter().flatten();
                aside.chain(session.mailbox.letters().filter(|letter| letter.request == of.request)).cloned().collect()
            }),
            None => claimed.clone(),
        };
        for letter in &letters {
            match self.open(letter) {
                Ok(frame) => self.readdress(to, &frame),
                Err(error) => self.post(to, unreadable(to.request, &error)),
            }
        }
        self.dispose(of.client, claimed);
        if !ended {
            self.archive.subscribe(of, to.client, to.request);
        } else if (letters.len() as u64) < count {
            self.post(to, incomplete(to.request));
        }
        true
    }

    // -- answers -----------------------------------------------------------------------------------------------------

    /// Sends a frame. An answer to a request is kept until the client has confirmed it; any other frame is lost when the
    /// client is not there.
    pub(crate) fn send(&mut self, client: ClientId, header: &ToClient, buffers: Vec<Bytes>) {
        let frame = match Frame::new(header, buffers) {
            Ok(frame) => frame,
            Err(error) => return tracing::error!("a frame for client {} cannot be encoded: {error}", client.0),
        };
        let Some(request) = header.answers() else {
            if let Some((_, link)) = self.by_id.get(&client).and_then(|session| session.link.as_ref()) {
                link.put(frame);
            }
            return;
        };
        let key = RequestKey { client, request };
        self.history.note(key, header, &frame.buffers, unix_time);
        let subscribers = self.archive.add(key, &frame);
        for (who, id) in &subscribers {
            self.readdress(RequestKey { client: *who, request: *id }, &frame);
        }
        let orphan = self.by_id.get(&client).is_some_and(|session| request <= session.orphans);
        if orphan && subscribers.iter().any(|(who, _)| *who == client) {
            self.archive.settle(key); // its own client has fetched it
        } else {
            self.post(key, frame);
        }
    }

    /// The connection of a request's client, if an answer would be handed out now.
    pub(crate) fn flowing(&self, key: RequestKey) -> Option<Link> {
        let session = self.by_id.get(&key.client)?;
        let flows = session.mailbox.flows() && key.request > session.orphans;
        session.link.as_ref().filter(|_| flows).map(|(_, link)| link.clone())
    }

    /// Sends the same frame, which is no answer, to everybody who is connected.
    pub(crate) fn send_to_all(&mut self, header: &ToClient) {
        let all: Vec<ClientId> = self.by_connection.values().copied().collect();
        all.into_iter().for_each(|id| self.send(id, header, vec![]));
    }

    /// The client has had so many frames since the session began.
    pub(crate) fn confirm(&mut self, client: ClientId, frames: u64) -> Result<(), NeverSent> {
        if let Some(session) = self.by_id.get_mut(&client) {
            let had = session.mailbox.confirm(frames)?;
            self.dispose(client, had);
            self.deliver(client);
        }
        Ok(())
    }

    /// Hands the connection what its window lets through.
    pub(crate) fn deliver(&mut self, client: ClientId) {
        self.hand_out(client, false);
    }

    fn hand_out(&mut self, client: ClientId, whatever: bool) {
        let Some(session) = self.by_id.get_mut(&client) else { return };
        let Some((_, link)) = &session.link else { return };
        while let Some(letter) = session.mailbox.hand_out(whatever) {
            link.put(match &letter.content {
                Content::Memory(frame) => frame.clone(),
                Content::Spilled(place) => {
                    self.spill.read(*place).unwrap_or_else(|error| unreadable(letter.request, &error))
                }
            });
        }
    }

    fn readdress(&mut self, to: RequestKey, frame: &Frame) {
        let header = frame.parse::<ToClient>().map(|header| header.readdressed(to.request));
        match header.and_then(|header| Frame::new(&header, frame.buffers.clone())) {
            Ok(frame) => self.post(to, frame),
            Err(error) => tracing::error!("an answer cannot be sent again: {error}"),
        }
    }

    /// Puts a frame into a mailbox, and hands it out if it can be.
    fn post(&mut self, key: RequestKey, frame: Frame) {
        let Some(session) = self.by_id.get(&key.client) else { return };
        if session.lost.contains(&key.request) {
            return;
        }
        let orphan = key.request <= session.orphans;
        let letter = self.letter(key.request, frame);
        let flows = !orphan && session.link.is_some() && session.mailbox.flows();
        let letter = if flows || self.fits(session, letter.size) { letter } else { self.spilled(key, letter) };
        let Some(session) = self.by_id.get_mut(&key.client) else { return };
        if orphan {
            session.put_aside(letter);
        } else {
            session.mailbox.put(letter);
            if flows {
                self.deliver(key.client);
            }
        }
    }

    /// A letter; what of it lies in the store takes no memory of rank 0's.
    fn letter(&self, request: RequestId, frame: Frame) -> Letter {
        let is_stored = |buffer: &&Bytes| self.store.as_ref().is_some_and(|store| store.place_of(buffer).is_some());
        let stored = frame.buffers.iter().filter(is_stored).map(Bytes::len).sum();
        Letter::new(request, frame, stored)
    }

    /// Whether a frame may wait in memory: there is room in all, or this session has less than its share.
    fn fits(&self, session: &Session, size: usize) -> bool {
        let all: usize = self.by_id.values().map(Session::waiting).sum();
        all + size <= self.memory || session.waiting() + size <= self.memory / 16
    }

    /// The letter, in the file. If that is not possible, the request is lost and nothing else.
    fn spilled(&mut self, key: RequestKey, letter: Letter) -> Letter {
        let Content::Memory(frame) = &letter.content else { return letter };
        match self.spill.write(frame) {
            Ok(place) => Letter { content: Content::Spilled(place), ..letter },
            Err(error) => {
                tracing::error!("results of {key} cannot be kept: {error}");
                if let Some(session) = self.by_id.get_mut(&key.client) {
                    session.lost.insert(key.request);
                }
                Letter::new(key.request, unwritable(key.request, &error), 0)
            }
        }
    }

    fn open(&self, letter: &Letter) -> Result<Frame, SpillError> {
        match &letter.content {
            Content::Memory(frame) => Ok(frame.clone()),
            Content::Spilled(place) => self.spill.read(*place),
        }
    }

    /// Letters that nobody needs any more.
    fn dispose(&mut self, client: ClientId, letters: Vec<Letter>) {
        for letter in letters {
            if let Content::Spilled(place) = letter.content {
                self.spill.release(place);
            }
            self.archive.settle(RequestKey { client, request: letter.request });
        }
    }
}

impl Session {
    fn put_aside(&mut self, letter: Letter) {
        self.aside_bytes += in_memory(&letter);
        self.aside.entry(letter.request).or_default().push(letter);
    }

    fn take_aside(&mut self, request: RequestId) -> Vec<Letter> {
        let letters = self.aside.remove(&request).unwrap_or_default();
        self.aside_bytes -= letters.iter().map(in_memory).sum::<usize>();
        letters
    }

    /// Bytes in memory that wait for somebody.
    fn waiting(&self) -> usize {
        self.mailbox.waiting() + self.aside_bytes
    }
}

fn lost(id: RequestId, message: String) -> Frame {
    let failed = ToClient::Failed { id, ename: "ResultsLost".to_owned(), message };
    Frame::new(&failed, vec![]).unwrap_or_else(|_| Frame { header: Bytes::new(), buffers: vec![] })
}

fn incomplete(id: RequestId) -> Frame {
    let why =
        "some results were delivered before and are not kept any more: 16 MiB of delivered results are kept in all";
    lost(id, why.to_owned())
}

fn unwritable(id: RequestId, error: &SpillError) -> Frame {
    let hint = "free space there, set PXCLUSTER_SPILL_DIR, or fetch results while they come";
    lost(id, format!("its results waited for the client, and could not be written to {error}; {hint}"))
}

fn unreadable(id: RequestId, error: &SpillError) -> Frame {
    lost(id, format!("its results waited for the client, and could not be read again from {error}"))
}
