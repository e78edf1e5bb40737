//! A whole controller against engines and clients that are threads of this test: real sockets, loopback transport.

use bytes::{Bytes, BytesMut};
use pxcluster_controller::{Advertise, Bounds, ClusterFiles, Controller, Ended, Settings};
use pxcluster_protocol::connection::ConnectionFile;
use pxcluster_protocol::frame::{self, Frame, Limits};
use pxcluster_protocol::from_client::{Death, DirectKind, FromClient, Hello, Nanny};
use pxcluster_protocol::to_client::ToClient;
use pxcluster_protocol::to_controller::ToController;
use pxcluster_protocol::to_engine::{Cargo, Steal, ToEngine};
use pxcluster_protocol::{EngineId, PROTOCOL_VERSION, Rank, Status, codec};
use pxcluster_transport::loopback::{self, Loopback};
use pxcluster_transport::{Transport, relay, send};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    directory: tempfile::TempDir,
    controller: JoinHandle<Ended>,
    engines: Vec<JoinHandle<()>>,
}

impl Cluster {
    fn start(engines: u32) -> Self {
        Self::with(engines, Bounds::default())
    }

    fn with(engines: u32, bounds: Bounds) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut ranks = loopback::world(engines + 1).expect("sockets").into_iter();
        let first = ranks.next().expect("rank 0");
        let engines = ranks.map(|rank| std::thread::spawn(move || echo(rank))).collect();
        let files = ClusterFiles::below(directory.path(), directory.path().join("sockets"), "test");
        let lock = files.claim().expect("free");
        let settings = Settings {
            cluster_id: "test".into(),
            port: 0.into(),
            advertise: Advertise::default(),
            python: "3.11.7".into(),
            slurm_job_id: None,
            slurm_end_time: None,
            nannies: true,
            grace: PATIENCE,
            lost_after: Duration::from_secs(30),
            bounds,
            release_memory: || {},
            arena: None,
            nodes: vec![],
        };
        let controller = std::thread::spawn(move || Controller::new(first, settings, files).run(lock).expect("runs"));
        Self { directory, controller, engines }
    }

    fn connection_path(&self) -> PathBuf {
        self.directory.path().join("test/connection.json")
    }

    fn connection(&self) -> ConnectionFile {
        let begun = Instant::now();
        loop {
            if let Ok(text) = std::fs::read(self.connection_path()) {
                return serde_json::from_slice(&text).expect("is JSON");
            }
            assert!(begun.elapsed() < PATIENCE, "no connection file");
            std::thread::yield_now();
        }
    }

    fn client(&self) -> Client {
        let mut client = Client::connect(&self.connection());
        client.say(&FromClient::Hello(hello(&self.connection().key)), vec![]);
        assert!(matches!(client.hear().0, ToClient::Welcome(_)));
        client
    }

    fn join(self) {
        self.join_as(&Ended::Together);
    }

    fn join_as(self, end: &Ended) {
        assert_eq!(self.controller.join().expect("no panic"), *end);
        self.engines.into_iter().for_each(|engine| engine.join().expect("no panic"));
        assert!(!self.directory.path().join("test").exists(), "the cluster's directory is left behind");
        let sockets = std::fs::read_dir(self.directory.path().join("sockets")).expect("exists").count();
        assert_eq!(sockets, 0, "a socket is left behind");
    }
}

/// An engine without Python: answers a direct request with its body, and each task with its item. Engine 0 dies of the
/// body "die" before it passes it on.
fn echo(mut transport: Loopback) {
    let me = transport.rank().engine().expect("an engine");
    let say = |transport: &mut Loopback, header: &ToController, body: Vec<Bytes>| {
        send(transport, Rank::CONTROLLER, header, body).expect("encodes");
    };
    say(&mut transport, &ToController::Ready { host: "here".into(), pid: 1 }, vec![]);
    loop {
        let Some((_, message)) = transport.receive().expect("ours") else {
            transport.wait(Duration::from_millis(50));
            continue;
        };
        match codec::decode::<ToEngine>(&message).expect("ours") {
            (ToEngine::Grant(grant), body) => {
                let count = grant.range.len();
                let columns = vec![
                    grant.range.clone().flat_map(u32::to_le_bytes).collect::<Vec<u8>>().into(),
                    vec![0u8; count].into(),
                    1f64.to_le_bytes().repeat(count).into(),
                    2f64.to_le_bytes().repeat(count).into(),
                    body[1].clone(),
                    body[2].clone(),
                ];
                say(&mut transport, &ToController::Results { key: grant.key, busy: 1e-6 }, columns);
            }
            (ToEngine::Steal(Steal { key, thief, .. }), _) => {
                say(&mut transport, &ToController::Gave { key, thief, ranges: vec![] }, vec![]);
            }
            (ToEngine::Loot(_) | ToEngine::Reserved { .. } | ToEngine::Fill { .. } | ToEngine::Join { .. }, _) => {
                panic!("nobody gives anything away, or asks for places")
            }
            (ToEngine::Relay { cargo: Cargo::Direct(_), .. }, body) if me == EngineId(0) && body == ["die"] => return,
            (ToEngine::Relay { targets, cargo }, body) => {
                relay(&mut transport, &targets.without(me), &cargo, &body).expect("encodes");
                match cargo.unwrap_number().1 {
                    Cargo::Direct(direct) => {
                        let (key, epoch, status) = (direct.key, direct.epoch, Status::Ok);
                        let reply = ToController::DirectReply { key, epoch, status, started: 1.0, completed: 2.0 };
                        say(&mut transport, &reply, body);
                    }
                    Cargo::Lost(engine) => transport.lose(engine.rank()),
                    Cargo::Shutdown => {
                        say(&mut transport, &ToController::Bye, vec![]);
                        return;
                    }
                    _ => {}
                }
            }
        }
    }
}

fn hello(key: &str) -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        key: key.to_owned(),
        client_version: "0".into(),
        python: "3.11".into(),
        host: "here".into(),
        pid: 2,
        session: None,
        received: None,
        shares: false,
    }
}

struct Client {
    stream: UnixStream,
    buffer: BytesMut,
}

impl Client {
    fn connect(connection: &ConnectionFile) -> Self {
        let stream = UnixStream::connect(&connection.socket).expect("listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { stream, buffer: BytesMut::new() }
    }

    fn say(&mut self, header: &FromClient, buffers: Vec<Bytes>) {
        let frame = Frame::new(header, buffers).expect("encodes");
        self.stream.write_all(&frame.encode()).expect("is connected");
    }

    /// Each task's item is its index.
    fn map(&mut self, id: u64, tasks: u32) {
        let items: Vec<u8> = (0..tasks).flat_map(u32::to_le_bytes).collect();
        let offsets: Vec<u8> = (0..=u64::from(tasks)).flat_map(|task| (4 * task).to_le_bytes()).collect();
        let (targets, label) = (None, None);
        let map = FromClient::Map { id, tasks, targets, label, retries: 0, after: None, follow: None, timeout: None };
        self.say(&map, vec!["function".into(), offsets.into(), items.into()]);
    }

    fn hear(&mut self) -> (ToClient, Vec<Bytes>) {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer, Limits::CLIENT).expect("well formed") {
                return (frame.parse().expect("known"), frame.buffers);
            }
            let mut block = [0; 4096];
            let count = self.stream.read(&mut block).expect("an answer in time");
            assert!(count > 0, "the controller has closed the connection");
            self.buffer.extend_from_slice(&block[..count]);
        }
    }
}

#[path = "cluster/sessions.rs"]
mod sessions;

#[test]
fn every_target_of_a_direct_request_answers_once() {
    let cluster = Cluster::start(5);
    let mut client = cluster.client();
    let targets = [1, 2, 4].map(EngineId).to_vec();
    client.say(
        &FromClient::Direct { id: 1, kind: DirectKind::Push, targets: Some(targets), label: None, unlisted: false },
        vec!["body".into()],
    );
    let mut answered: Vec<u32> = (0..3)
        .map(|_| match client.hear() {
            (ToClient::Reply { id: 1, engine, status: Status::Ok, .. }, body) => {
                assert_eq!(body, ["body"]);
                engine.0
            }
            other => panic!("{other:?}"),
        })
        .collect();
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 4]);
    client.say(&FromClient::Shutdown { id: 2 }, vec![]);
    assert!(matches!(client.hear().0, ToClient::Closing { .. }));
    cluster.join();
}

#[test]
fn every_task_of_a_map_comes_back_once_with_its_own_payload() {
    let cluster = Cluster::start(3);
    let mut client = cluster.client();
    let tasks = 1000;
    client.map(9, tasks);
    let mut seen = vec![0; tasks as usize];
    while seen.iter().sum::<i32>() < tasks as i32 {
        let (ToClient::Results { id: 9 }, columns) = client.hear() else { panic!("not results") };
        for (at, index) in columns[0].chunks_exact(4).enumerate() {
            assert_eq!(index, &columns[6][4 * at..4 * at + 4], "a task has another one's payload");
            seen[u32::from_le_bytes(index.try_into().expect("4 bytes")) as usize] += 1;
        }
    }
    assert!(seen.iter().all(|&count| count == 1));
    client.say(&FromClient::Shutdown { id: 10 }, vec![]);
    cluster.join();
}

#[test]
fn strangers_are_refused_and_the_cluster_goes_on() {
    let cluster = Cluster::start(1);
    let connection = cluster.connection();
    let refused = |hello: Hello| {
        let mut client = Client::connect(&connection);
        client.say(&FromClient::Hello(hello), vec![]);
        match client.hear().0 {
            ToClient::Refused { reason } => reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(hello("not the key")).contains("the key is wrong"));
    let old = Hello { protocol_version: 0, ..hello(&connection.key) };
    assert!(refused(old).contains("install the same pxcluster version"));
    let mut browser = Client::connect(&connection);
    browser.stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("is connected");
    assert!(matches!(browser.hear().0, ToClient::Refused { .. }));
    drop(Client::connect(&connection));

    let mut client = cluster.client();
    client.say(
        &FromClient::Direct {
            id: 1,
            kind: DirectKind::Pull,
            targets: Some(vec![EngineId(7)]),
            label: None,
            unlisted: false,
        },
        vec![],
    );
    assert!(matches!(client.hear().0, ToClient::Failed { id: 1, ename, .. } if ename == "EngineError"));
    client.say(&FromClient::Status { id: 2 }, vec![]);
    assert!(matches!(client.hear().0, ToClient::Status(status) if status.engines.len() == 1 && status.clients == 1));
    client.say(&FromClient::Shutdown { id: 3 }, vec![]);
    cluster.join();
}

#[test]
fn a_broadcast_goes_on_when_the_engine_dies_that_was_to_pass_it_on() {
    let cluster = Cluster::start(5);
    let mut client = cluster.client();
    client.say(
        &FromClient::Direct { id: 1, kind: DirectKind::Push, targets: None, label: None, unlisted: false },
        vec!["die".into()],
    );
    client.say(&FromClient::Signal { id: 2, signum: 2, targets: None }, vec![]);
    let connection = cluster.connection();
    let death = |key: &str| {
        let nanny = Nanny { protocol_version: PROTOCOL_VERSION, key: key.into(), engine: EngineId(0), pid: 4711 };
        FromClient::Death(Death { nanny, signal: Some(11), code: None, running: None })
    };
    let mut stranger = Client::connect(&connection);
    stranger.say(&death("guess"), vec![]);
    assert!(matches!(stranger.hear().0, ToClient::Refused { .. }));
    let mut nanny = Client::connect(&connection);
    nanny.say(&death(&connection.key), vec![]);

    let (mut answered, mut sentence) = (Vec::new(), String::new());
    while answered.len() < 5 {
        match client.hear() {
            (ToClient::Reply { id: 1, engine, status, .. }, _) => answered.push((engine.0, status)),
            (ToClient::Engines { lost, .. }, _) => sentence.clone_from(&lost[0].reason),
            (ToClient::Done { id: 2 }, _) => {}
            other => panic!("{other:?}"),
        }
    }
    answered.sort_unstable_by_key(|(engine, _)| *engine);
    let expected = [Status::Error, Status::Ok, Status::Ok, Status::Ok, Status::Ok];
    assert_eq!(answered, (0..5).zip(expected).collect::<Vec<_>>());
    assert_eq!(sentence, "engine 0 (host here, pid 4711) was killed by SIGSEGV (signal 11, a segmentation fault)");

    client.say(
        &FromClient::Direct {
            id: 3,
            kind: DirectKind::Pull,
            targets: Some(vec![EngineId(0)]),
            label: None,
            unlisted: false,
        },
        vec![],
    );
    assert!(matches!(client.hear().0, ToClient::Failed { id: 3, message, .. } if message.contains("SIGSEGV")));
    let mut late = cluster.client();
    assert!(matches!(late.hear().0, ToClient::Engines { lost, .. } if lost.len() == 1));
    client.say(&FromClient::Shutdown { id: 4 }, vec![]);
    cluster.join_as(&Ended::WithoutTheDead);
    assert!(matches!(nanny.hear().0, ToClient::Closing { .. }), "it is let go");
    assert_eq!(nanny.stream.read(&mut [0; 64]).expect("and its connection closed"), 0);
}

#[test]
fn a_cluster_that_drains_takes_no_tasks_and_ends_by_itself() {
    let cluster = Cluster::start(2);
    let mut client = cluster.client();
    client.say(&FromClient::Drain { id: 1, grace: None }, vec![]);
    assert!(matches!(client.hear().0, ToClient::Draining { grace: None, .. }));
    assert!(matches!(client.hear().0, ToClient::Done { id: 1 }));
    client.map(2, 3);
    assert!(matches!(client.hear().0, ToClient::Failed { id: 2, ename, .. } if ename == "ClusterEnding"));
    client.say(
        &FromClient::Direct { id: 3, kind: DirectKind::Pull, targets: None, label: None, unlisted: false },
        vec!["body".into()],
    );
    assert!(matches!(client.hear().0, ToClient::Reply { id: 3, status: Status::Ok, .. }));
    assert!(matches!(client.hear().0, ToClient::Reply { id: 3, status: Status::Ok, .. }));
    let mut late = cluster.client();
    assert!(matches!(late.hear().0, ToClient::Draining { reason, .. } if reason == "somebody asked for it"));
    assert!(matches!(client.hear().0, ToClient::Closing { reason } if reason.contains("somebody asked for it")));
    cluster.join();
}
