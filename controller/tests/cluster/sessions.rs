//! Clients that vanish and return, ask for what others did, read slowly, or send too much.

use super::*;
use pxcluster_protocol::to_client::{PastRequest, RequestKind, Welcome};

const MEBIBYTE: usize = 1 << 20;

impl Cluster {
    /// A client that says this of the session that it resumes.
    fn comes(&self, session: Option<&str>, received: Option<u64>, pid: u32) -> (Client, ToClient) {
        let connection = self.connection();
        let mut client = Client::connect(&connection);
        let session = session.map(str::to_owned);
        client.say(&FromClient::Hello(Hello { session, received, pid, ..hello(&connection.key) }), vec![]);
        let answer = client.hear().0;
        (client, answer)
    }

    fn resumed(&self, session: &str, received: Option<u64>, pid: u32) -> (Client, Welcome) {
        match self.comes(Some(session), received, pid) {
            (client, ToClient::Welcome(welcome)) => (client, welcome),
            (_, other) => panic!("{other:?}"),
        }
    }

    fn new_session(&self, pid: u32) -> (Client, String) {
        match self.comes(None, None, pid) {
            (client, ToClient::Welcome(welcome)) => (client, welcome.session),
            (_, other) => panic!("{other:?}"),
        }
    }

    fn stop(self, mut client: Client) {
        client.say(&FromClient::Shutdown { id: 1000 }, vec![]);
        drop(client);
        self.join();
    }
}

fn indices(column: &[u8]) -> Vec<u32> {
    column.chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect()
}

/// Hears results of map `id` until all tasks have one; how many frames that were.
fn hear_map(client: &mut Client, id: u64, seen: &mut [u32]) -> u64 {
    let mut frames = 0;
    while seen.contains(&0) {
        let (header, columns) = client.hear();
        assert!(matches!(header, ToClient::Results { id: same } if same == id), "{header:?}");
        indices(&columns[0]).into_iter().for_each(|task| seen[task as usize] += 1);
        frames += 1;
    }
    assert!(seen.iter().all(|count| *count == 1));
    frames
}

fn push(client: &mut Client, id: u64, body: Vec<u8>) {
    let targets = Some(vec![EngineId(0)]);
    let header =
        FromClient::Direct { id, kind: DirectKind::Push, targets, label: Some("mine".into()), unlisted: false };
    client.say(&header, vec![body.into()]);
}

fn hear_reply(client: &mut Client, id: u64) -> usize {
    match client.hear() {
        (ToClient::Reply { id: same, .. }, body) if same == id => body[0].len(),
        other => panic!("{other:?}"),
    }
}

/// Asks for the status until the first engine has completed so many requests.
fn watch_until_completed(client: &mut Client, requests: u64) {
    let begun = Instant::now();
    loop {
        client.say(&FromClient::Status { id: 1 }, vec![]);
        match client.hear().0 {
            ToClient::Status(status) if status.engines[0].completed >= requests => return,
            ToClient::Status(_) => assert!(begun.elapsed() < PATIENCE),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_client_that_lost_its_connection_gets_what_it_has_not_had_and_nothing_twice() {
    let cluster = Cluster::start(3);
    let (mut client, session) = cluster.new_session(1);
    client.map(1, 5000);
    let mut seen = vec![0; 5000];
    for _ in 0..3 {
        indices(&client.hear().1[0]).into_iter().for_each(|task| seen[task as usize] += 1);
    }
    client.say(&FromClient::Received { frames: 2 }, vec![]);
    drop(client);
    let (mut client, welcome) = cluster.resumed(&session, Some(3), 1);
    assert_eq!((welcome.session.as_str(), welcome.last_request), (session.as_str(), 1));
    let frames = 3 + hear_map(&mut client, 1, &mut seen);
    client.say(&FromClient::Received { frames: frames + 1 }, vec![]);
    let mut rest = [0; 1];
    assert_eq!(client.stream.read(&mut rest).expect("in time"), 0, "a client that lies is cut off");
    let (client, _) = cluster.resumed(&session, Some(frames), 1);
    cluster.stop(client);
}

#[test]
fn another_process_fetches_everything_once_even_what_was_confirmed() {
    let cluster = Cluster::start(2);
    let (mut client, session) = cluster.new_session(1);
    client.map(1, 3000);
    client.hear();
    client.say(&FromClient::Received { frames: 1 }, vec![]);
    push(&mut client, 2, b"body".to_vec());
    let (mut heir, welcome) = cluster.resumed(&session, None, 2);
    assert!(welcome.last_request <= 2);
    heir.say(&FromClient::Fetch { id: 10, session: None, request: 1 }, vec![]);
    let header = heir.hear().0;
    assert!(matches!(header, ToClient::Request { id: 10, kind: RequestKind::Map, tasks: 3000, .. }), "{header:?}");
    hear_map(&mut heir, 10, &mut vec![0; 3000]);
    assert!(
        matches!(cluster.comes(Some(&session), Some(1), 1).1, ToClient::Refused { reason } if reason.contains("process 2"))
    );
    cluster.stop(heir);
}

#[test]
fn other_clients_fetch_by_session_and_request() {
    let cluster = Cluster::start(2);
    let (mut client, session) = cluster.new_session(1);
    push(&mut client, 1, b"body".to_vec());
    hear_reply(&mut client, 1);
    client.say(&FromClient::Received { frames: 1 }, vec![]);
    client.say(&FromClient::Goodbye, vec![]);
    let (mut other, _) = cluster.new_session(2);
    let fetch = |id, request| FromClient::Fetch { id, session: Some(session.clone()), request };
    other.say(&fetch(7, 1), vec![]);
    let kind = RequestKind::Direct(DirectKind::Push);
    let told = ToClient::Request { id: 7, kind, label: Some("mine".into()), tasks: 0, targets: vec![EngineId(0)] };
    assert_eq!(other.hear().0, told);
    assert_eq!(hear_reply(&mut other, 7), 4);
    other.say(&fetch(8, 5), vec![]);
    assert!(matches!(other.hear().0, ToClient::Failed { id: 8, ename, .. } if ename == "KeyError"));
    other.say(&FromClient::Fetch { id: 9, session: Some("nobody".into()), request: 1 }, vec![]);
    assert!(matches!(other.hear().0, ToClient::Failed { id: 9, ename, .. } if ename == "KeyError"));
    let gone = cluster.comes(Some("nobody"), Some(0), 1).1;
    assert!(matches!(gone, ToClient::Refused { reason } if reason.contains("session nobody is not known")));
    cluster.stop(other);
}

#[test]
fn what_all_clients_asked_for_is_remembered_until_it_is_purged() {
    let cluster = Cluster::start(2);
    let (mut client, session) = cluster.new_session(1);
    push(&mut client, 1, b"body".to_vec());
    hear_reply(&mut client, 1);
    client.map(2, 3);
    let frames = 1 + hear_map(&mut client, 2, &mut [0; 3]);
    client.say(&FromClient::Received { frames }, vec![]);
    client.say(&FromClient::Status { id: 3 }, vec![]);
    assert!(matches!(client.hear().0, ToClient::Status(_)));
    let (mut other, _) = cluster.new_session(2);
    push(&mut other, 1, vec![]);
    hear_reply(&mut other, 1);
    let past = |other: &mut Client| -> (Vec<PastRequest>, Vec<Bytes>) {
        other.say(&FromClient::History { id: 7 }, vec![]);
        let (header, buffers) = other.hear();
        assert_eq!(header, ToClient::History { id: 7 });
        (serde_json::from_slice(&buffers[0]).expect("is JSON"), buffers)
    };
    let (found, columns) = past(&mut other);
    let named: Vec<_> = found.iter().map(|past| (past.session == session, past.request, past.parts)).collect();
    assert_eq!(named, [(true, 1, 1), (true, 2, 3), (false, 1, 1)]);
    assert_eq!((found[0].label.as_deref(), &found[0].targets[..]), (Some("mine"), &[EngineId(0)][..]));
    assert_eq!((found[1].kind, found[1].tasks), (RequestKind::Map, 3));
    assert!(indices(&columns[1]).into_iter().all(|engine| engine < 2));
    assert_eq!(&columns[2][..], [0; 5]);
    assert_eq!(&columns[4][..], 2f64.to_le_bytes().repeat(5));

    let purge = |other: &mut Client, requests| {
        other.say(&FromClient::Purge { id: 8, requests }, vec![]);
        assert_eq!(other.hear().0, ToClient::Done { id: 8 });
    };
    purge(&mut other, Some(vec![(session.clone(), 2), (session.clone(), 5), ("nobody".into(), 1)]));
    assert_eq!(past(&mut other).0.len(), 2);
    other.say(&FromClient::Fetch { id: 9, session: Some(session), request: 2 }, vec![]);
    assert!(matches!(other.hear().0, ToClient::Failed { id: 9, ename, .. } if ename == "KeyError"));
    purge(&mut other, None);
    assert_eq!(past(&mut other).0, []);
    drop(client);
    cluster.stop(other);
}

#[test]
fn results_of_a_client_that_is_away_wait_in_a_file_without_a_name() {
    let spill = tempfile::tempdir().expect("a directory");
    let bounds = Bounds { results: 100_000, spill: spill.path().to_owned(), ..Bounds::default() };
    let cluster = Cluster::with(1, bounds);
    let (mut client, session) = cluster.new_session(1);
    for id in 1..=60 {
        push(&mut client, id, vec![7; MEBIBYTE]); // more than a window
    }
    let (mut watcher, _) = cluster.new_session(2);
    watch_until_completed(&mut watcher, 60);
    assert_eq!(std::fs::read_dir(spill.path()).expect("exists").count(), 0);
    assert!(spilled_bytes(spill.path()) > 20 * MEBIBYTE as u64);
    for id in 1..=30 {
        assert_eq!(hear_reply(&mut client, id), MEBIBYTE);
        client.say(&FromClient::Received { frames: id }, vec![]);
    }
    drop(client);
    let (mut client, _) = cluster.resumed(&session, Some(30), 1);
    for id in 31..=60 {
        assert_eq!(hear_reply(&mut client, id), MEBIBYTE);
        client.say(&FromClient::Received { frames: id }, vec![]);
    }
    push(&mut client, 61, vec![1]);
    assert_eq!(hear_reply(&mut client, 61), 1);
    assert_eq!(spilled_bytes(spill.path()), 0);
    cluster.stop(client);
}

/// Bytes in open files of this process that were made in `directory`.
fn spilled_bytes(directory: &std::path::Path) -> u64 {
    let open = std::fs::read_dir("/proc/self/fd").expect("Linux").filter_map(Result::ok);
    let ours = open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path.starts_with(directory)));
    ours.filter_map(|entry| std::fs::metadata(entry.path()).ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn a_full_disk_costs_the_requests_whose_results_it_cannot_take_and_nothing_else() {
    let bounds = Bounds { results: 100_000, spill: "/nowhere/at/all".into(), ..Bounds::default() };
    let cluster = Cluster::with(1, bounds);
    let (mut client, _) = cluster.new_session(1);
    for id in 1..=30 {
        push(&mut client, id, vec![7; MEBIBYTE]);
    }
    push(&mut client, 31, vec![1]);
    let mut lost = 0;
    for frames in 1..=31 {
        match client.hear() {
            (ToClient::Reply { .. }, _) => {}
            (ToClient::Failed { ename, message, .. }, _) => {
                assert!(ename == "ResultsLost" && message.contains("/nowhere/at/all: No such file"), "{message}");
                lost += 1;
            }
            other => panic!("{other:?}"),
        }
        client.say(&FromClient::Received { frames }, vec![]);
    }
    assert!((1..30).contains(&lost), "{lost}");
    cluster.stop(client);
}

#[test]
fn a_client_with_too_much_under_way_is_not_read_until_some_of_it_has_ended() {
    let cluster = Cluster::with(1, Bounds { requests: 1, ..Bounds::default() });
    let (mut client, _) = cluster.new_session(1);
    for id in 1..=50 {
        push(&mut client, id, vec![7; 1000]);
    }
    for id in 1..=50 {
        assert_eq!(hear_reply(&mut client, id), 1000);
    }
    client.map(51, 100);
    hear_map(&mut client, 51, &mut vec![0; 100]);
    cluster.stop(client);
}

#[test]
fn a_cluster_that_is_stopped_delivers_what_waits_for_clients_before_it_says_so() {
    let cluster = Cluster::start(1);
    let (mut slow, _) = cluster.new_session(1);
    for id in 1..=30 {
        push(&mut slow, id, vec![7; MEBIBYTE]); // more than a window
    }
    let (mut other, _) = cluster.new_session(2);
    watch_until_completed(&mut other, 30);
    other.say(&FromClient::Shutdown { id: 2 }, vec![]);
    assert!(matches!(other.hear().0, ToClient::Closing { .. }), "nothing waits for it");
    for id in 1..=30 {
        assert_eq!(hear_reply(&mut slow, id), MEBIBYTE);
        slow.say(&FromClient::Received { frames: id }, vec![]);
    }
    assert!(matches!(slow.hear().0, ToClient::Closing { .. }));
    cluster.join();
}
