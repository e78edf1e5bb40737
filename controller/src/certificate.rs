//! The cluster's certificate and key: made at the start, known to nobody but the connection file's readers.

use rand::TryRngCore;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;

/// Secrets of one cluster.
pub(crate) struct Identity {
    /// TLS 1.3 with the self-signed certificate.
    pub(crate) tls: Arc<ServerConfig>,
    /// The certificate for the connection file, PEM.
    pub(crate) certificate: String,
    /// Shared secret for the handshake, 64 hexadecimal digits.
    pub(crate) key: String,
}

/// No certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate library refused.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused it.
    #[error("cannot use the certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// The system has no randomness.
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] rand::rand_core::OsError),
}

impl Identity {
    pub(crate) fn new() -> Result<Self, IdentityError> {
        let made = rcgen::generate_simple_self_signed(vec!["pxcluster".to_owned()])?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], private)?;
        Ok(Self { tls: Arc::new(tls), certificate: made.cert.pem(), key: random_hex(32)? })
    }
}

/// `bytes` random bytes as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> Result<String, rand::rand_core::OsError> {
    use std::fmt::Write;
    let mut random = vec![0u8; bytes];
    rand::rngs::OsRng.try_fill_bytes(&mut random)?;
    Ok(random.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    }))
}
