//! The link against a controller of a few lines, over both kinds of socket.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use pxcluster_protocol::to_client::Welcome;
use pxcluster_protocol::{ClientId, EngineId, to_client::EngineStatus};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

const KEY: &str = "abcd";

/// A certificate as PEM, and what a server needs of it.
struct Identity {
    pem: String,
    config: Arc<ServerConfig>,
}

fn identity() -> Identity {
    let made = rcgen::generate_simple_self_signed(vec!["pxcluster".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Identity { pem: made.cert.pem(), config: Arc::new(config) }
}

fn connection(certificate: String, addresses: Vec<String>, socket: String) -> ConnectionFile {
    ConnectionFile {
        protocol_version: PROTOCOL_VERSION,
        version: VERSION.to_owned(),
        cluster_id: "default".to_owned(),
        key: KEY.to_owned(),
        certificate,
        addresses,
        socket,
        host: host_name(),
        pid: 1,
        engines: 1,
        python: "3.11.7".to_owned(),
        slurm_job_id: None,
        started: 0.0,
    }
}

fn example_status(id: RequestId) -> ClusterStatus {
    let engine =
        EngineStatus { id: EngineId(0), host: "h".into(), pid: 3, tasks: 1, completed: 2, ..EngineStatus::default() };
    ClusterStatus {
        id,
        cluster_id: "default".into(),
        host: "h".into(),
        pid: 2,
        version: VERSION.into(),
        uptime: 1.0,
        clients: 1,
        engines: vec![engine],
        ..ClusterStatus::default()
    }
}

/// Answers as a controller does, an engine's coming and going in between, until the client leaves.
fn serve(mut stream: impl Read + Write) -> Vec<FromClient> {
    let (mut heard, mut bytes) = (Vec::new(), BytesMut::new());
    loop {
        let mut chunk = [0; 7];
        let count = stream.read(&mut chunk).unwrap_or(0);
        if count == 0 {
            return heard;
        }
        bytes.extend_from_slice(&chunk[..count]);
        while let Some(frame) = decode(&mut bytes, Limits::STRANGER).unwrap() {
            let message: FromClient = frame.parse().unwrap();
            for answer in answers(&message) {
                stream.write_all(&Frame::new(&answer, Vec::new()).unwrap().encode()).unwrap();
                stream.flush().unwrap();
            }
            heard.push(message);
        }
    }
}

fn answers(message: &FromClient) -> Vec<ToClient> {
    match message {
        FromClient::Hello(hello) if hello.key != KEY => vec![ToClient::Refused { reason: "wrong key".into() }],
        FromClient::Hello(_) => vec![ToClient::Welcome(Welcome {
            protocol_version: PROTOCOL_VERSION,
            session: "s".into(),
            client_id: ClientId(0),
            cluster_id: "default".into(),
            python: "3.11".into(),
            engines: Vec::new(),
            host: "h".into(),
            pid: 2,
            version: VERSION.into(),
            last_request: 0,
        })],
        FromClient::Status { id } => {
            vec![
                ToClient::Engines { joined: Vec::new(), lost: Vec::new(), silent: Vec::new() },
                ToClient::Status(example_status(*id)),
            ]
        }
        FromClient::Shutdown { .. } => vec![ToClient::Closing { reason: "asked to".into() }],
        _ => Vec::new(),
    }
}

fn serve_tls(identity: &Identity) -> (String, JoinHandle<Vec<FromClient>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = Arc::clone(&identity.config);
    let server = thread::spawn(move || {
        let tcp = listener.accept().unwrap().0;
        serve(StreamOwned::new(ServerConnection::new(config).unwrap(), tcp))
    });
    (address, server)
}

#[test]
fn the_unix_socket_comes_first() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0));
    let mut link = Link::open(&connection(String::new(), Vec::new(), path.display().to_string())).unwrap();
    assert_eq!(link.status().unwrap(), example_status(1));
    assert_eq!(link.status().unwrap(), example_status(2));
    drop(link);
    let heard = server.join().unwrap();
    assert!(matches!(&heard[0], FromClient::Hello(hello) if hello.session.is_none() && hello.python.is_empty()));
    assert_eq!(heard.last(), Some(&FromClient::Goodbye));
}

#[test]
fn addresses_are_tried_in_order_with_tls() {
    let identity = identity();
    let (address, server) = serve_tls(&identity);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let link = Link::open(&connection(identity.pem, vec![closed, address], "/none".into())).unwrap();
    link.shutdown().unwrap();
    assert!(server.join().unwrap().contains(&FromClient::Shutdown { id: 1 }));
}

#[test]
fn another_certificate_is_refused_before_the_key_is_sent() {
    let (address, server) = serve_tls(&identity());
    let error = Link::open(&connection(identity().pem, vec![address], String::new())).err().unwrap();
    assert!(matches!(error, LinkError::Dial(DialError::Unreachable { .. })), "{error}");
    assert!(server.join().unwrap().is_empty());
}

#[test]
fn a_wrong_key_is_told() {
    let identity = identity();
    let (address, _server) = serve_tls(&identity);
    let wrong = ConnectionFile { key: "dcba".into(), ..connection(identity.pem, vec![address], String::new()) };
    assert_eq!(Link::open(&wrong).err().unwrap().to_string(), "the controller refused: wrong key");
}

#[test]
fn nobody_there_is_one_sentence() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = Link::open(&connection(identity().pem, vec![closed.clone()], String::new())).err().unwrap();
    assert!(error.to_string().starts_with(&format!("cannot reach the controller at {closed}: ")), "{error}");
    let error = Link::open(&connection("no PEM".into(), Vec::new(), String::new())).err().unwrap();
    assert!(error.to_string().starts_with("the certificate in the connection file cannot be used: "), "{error}");
}

#[test]
fn something_else_on_the_socket_is_no_controller() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut hello = [0; 16];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2p1\r\n").unwrap();
    });
    let error = Link::open(&connection(String::new(), Vec::new(), path.display().to_string())).err().unwrap();
    assert!(matches!(error, LinkError::Frame(_)), "{error}");
    server.join().unwrap();
}

/// A link to a server on a Unix socket that answers, and then does as it is told.
fn link_to(directory: &tempfile::TempDir, then: impl FnOnce(UnixPeer) + Send + 'static) -> (Link, JoinHandle<()>) {
    let path = directory.path().join("c.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut bytes = BytesMut::new();
        let mut chunk = [0; 4096];
        while decode(&mut bytes, Limits::STRANGER).unwrap().is_none() {
            let count = stream.read(&mut chunk).unwrap();
            bytes.extend_from_slice(&chunk[..count]);
        }
        let hello = FromClient::Hello(Hello { key: KEY.into(), ..hello() });
        answers(&hello).into_iter().for_each(|answer| say(&mut stream, &answer));
        then(stream);
    });
    (Link::open(&connection(String::new(), Vec::new(), path.display().to_string())).unwrap(), server)
}

type UnixPeer = std::os::unix::net::UnixStream;

fn hello() -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        key: String::new(),
        client_version: VERSION.into(),
        python: String::new(),
        host: "h".into(),
        pid: 1,
        session: None,
        received: None,
        shares: false,
    }
}

fn say(stream: &mut impl Write, message: &ToClient) {
    stream.write_all(&Frame::new(message, Vec::new()).unwrap().encode()).unwrap();
}

#[test]
fn waiting_ends_with_its_time_or_when_somebody_wants_it() {
    let directory = tempfile::tempdir().unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (mut link, server) = link_to(&directory, move |mut stream| {
        say(&mut stream, &ToClient::Engines { joined: Vec::new(), lost: Vec::new(), silent: Vec::new() });
        let _released = held.recv();
    });
    let (ended, alive) = io::pipe().unwrap();
    assert!(!link.wait(Duration::from_millis(20), ended.as_fd()).unwrap(), "what came meanwhile is no end");
    drop(alive);
    assert!(link.wait(Duration::from_secs(600), ended.as_fd()).unwrap());
    drop(release);
    server.join().unwrap();
}

#[test]
fn a_goodbye_is_heard_while_nothing_is_asked() {
    let directory = tempfile::tempdir().unwrap();
    let closing = ToClient::Closing { reason: "asked to".into() };
    let (mut link, server) = link_to(&directory, move |mut stream| say(&mut stream, &closing));
    let (ended, _alive) = io::pipe().unwrap();
    let error = link.wait(Duration::from_secs(600), ended.as_fd()).unwrap_err();
    assert_eq!(error.to_string(), "the controller closed the connection: asked to");
    server.join().unwrap();
}

#[test]
fn a_goodbye_that_came_before_the_question_is_heard() {
    let directory = tempfile::tempdir().unwrap();
    let closing = ToClient::Closing { reason: "asked to".into() };
    let (mut link, server) = link_to(&directory, move |mut stream| say(&mut stream, &closing));
    server.join().unwrap();
    assert_eq!(link.status().unwrap_err().to_string(), "the controller closed the connection: asked to");
}

#[test]
fn waiting_works_over_tls_too() {
    let identity = identity();
    let (address, server) = serve_tls(&identity);
    let mut link = Link::open(&connection(identity.pem, vec![address], "/none".into())).unwrap();
    let (ended, alive) = io::pipe().unwrap();
    assert!(!link.wait(Duration::from_millis(20), ended.as_fd()).unwrap());
    assert_eq!(link.status().unwrap(), example_status(1));
    drop(alive);
    assert!(link.wait(Duration::from_secs(600), ended.as_fd()).unwrap());
    drop(link);
    assert_eq!(server.join().unwrap().last(), Some(&FromClient::Goodbye));
}
