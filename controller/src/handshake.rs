//! Who may talk to the controller: the first frame of a connection, judged without any side effect.

use pxcluster_protocol::PROTOCOL_VERSION;
use pxcluster_protocol::frame::{Frame, FrameError};
use pxcluster_protocol::from_client::{Death, FromClient, Hello, Memory, Nanny, Silent};
use subtle::ConstantTimeEq;

/// Why a connection is refused; the words go to the peer and to the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// It does not speak the protocol.
    #[error("the peer sends no frame of this protocol: {0}")]
    Frame(#[from] FrameError),
    /// It begins with something else.
    #[error("the first frame is not `hello`")]
    NotHello,
    /// It is of another version.
    #[error(
        "the client speaks protocol version {client} and the cluster version {PROTOCOL_VERSION}: install the same \
         pxcluster version on both sides"
    )]
    Version {
        /// The client's.
        client: u32,
    },
    /// It has not read the connection file.
    #[error("the key is wrong: the connection file is of another cluster or of an earlier start")]
    Key,
}

/// Who begins a connection.
#[derive(Debug)]
pub(crate) enum Peer {
    /// A client.
    Client(Hello),
    /// An engine's nanny.
    Nanny(Report),
    /// A client that wants the shared memory, and nothing else over this connection.
    Memory,
}

/// What an engine's nanny has to say.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    /// The engine has died.
    Death(Death),
    /// The engine is silent, or heard again.
    Silent(Silent),
}

impl Report {
    /// The report in a frame, if it is one.
    pub(crate) fn from_frame(message: FromClient) -> Option<Self> {
        match message {
            FromClient::Death(death) => Some(Self::Death(death)),
            FromClient::Silent(silent) => Some(Self::Silent(silent)),
            _ => None,
        }
    }

    /// Who reports.
    pub(crate) fn nanny(&self) -> &Nanny {
        let (Self::Death(Death { nanny, .. }) | Self::Silent(Silent { nanny, .. })) = self;
        nanny
    }
}

/// Judges the first frame.
pub(crate) fn judge(frame: &Frame, key: &str) -> Result<Peer, Refusal> {
    let (client, shown, peer) = match frame.parse()? {
        FromClient::Hello(hello) => (hello.protocol_version, hello.key.clone(), Peer::Client(hello)),
        FromClient::Memory(Memory { protocol_version, key }) => (protocol_version, key, Peer::Memory),
        message => {
            let report = Report::from_frame(message).ok_or(Refusal::NotHello)?;
            let nanny = report.nanny();
            (nanny.protocol_version, nanny.key.clone(), Peer::Nanny(report))
        }
    };
    if client != PROTOCOL_VERSION {
        return Err(Refusal::Version { client });
    }
    if !bool::from(shown.as_bytes().ct_eq(key.as_bytes())) {
        return Err(Refusal::Key);
    }
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pxcluster_protocol::{EngineId, RequestId};

    fn hello(protocol_version: u32, key: &str) -> Frame {
        let hello = Hello {
            protocol_version,
            key: key.into(),
            client_version: "0".into(),
            python: "3.11".into(),
            host: "h".into(),
            pid: 1,
            session: None,
            received: None,
            shares: false,
        };
        Frame::new(&FromClient::Hello(hello), vec![]).expect("encodes")
    }

    #[test]
    fn only_the_key_of_the_same_version_opens() {
        assert!(judge(&hello(PROTOCOL_VERSION, "secret"), "secret").is_ok());
        assert!(matches!(judge(&hello(PROTOCOL_VERSION, "secreT"), "secret"), Err(Refusal::Key)));
        assert!(matches!(judge(&hello(PROTOCOL_VERSION, ""), "secret"), Err(Refusal::Key)));
        assert!(matches!(judge(&hello(0, "secret"), "secret"), Err(Refusal::Version { client: 0 })));
        let status = Frame::new(&FromClient::Status { id: 1 as RequestId }, vec![]).expect("encodes");
        assert!(matches!(judge(&status, "secret"), Err(Refusal::NotHello)));
        let death = |key: &str| {
            let nanny = Nanny { protocol_version: PROTOCOL_VERSION, key: key.into(), engine: EngineId(0), pid: 1 };
            let death = FromClient::Death(Death { nanny, signal: Some(9), code: None, running: None });
            Frame::new(&death, vec![]).expect("encodes")
        };
        assert!(matches!(judge(&death("secret"), "secret"), Ok(Peer::Nanny(Report::Death(_)))));
        assert!(matches!(judge(&death("guess"), "secret"), Err(Refusal::Key)));
        let garbage = Frame { header: "}{".into(), buffers: vec![] };
        assert!(matches!(judge(&garbage, "secret"), Err(Refusal::Frame(_))));
    }
}
