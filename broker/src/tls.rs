//! The listener's certificate: from files, or made for development.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sluicegate_protocol::ProducerId;

use crate::config::TlsFiles;
use crate::disk::{Readers, secret, write_file};

/// Name of the development certificate in the data directory; clients trust this file.
pub(crate) const DEV_CERTIFICATE: &str = "dev-cert.pem";
const DEV_KEY: &str = "dev-key.pem";
const RESET_KEY: &str = "quic-reset.key";
/// Between two stateless resets: thousands of clients of the process before are all to notice within a second. A reset is smaller than
/// the packet that it answers, and sent only where that names a connection that was ours.
const RESET_INTERVAL: Duration = Duration::from_micros(200);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("certificate: {0}")]
pub struct TlsError(String);

/// A certificate chain and its key.
pub(crate) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads PEM files.
    pub(crate) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let problem = |path: &Path, error: &dyn std::fmt::Display| TlsError(format!("{}: {error}", path.display()));
        let chain: Vec<_> = CertificateDer::pem_file_iter(&files.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| problem(&files.certificate, &error))?;
        if chain.is_empty() {
            return Err(problem(&files.certificate, &"no certificate in it"));
        }
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| problem(&files.key, &error))?;
        Ok(Self { chain, key })
    }

    /// The development certificate in `data_dir`, made on first use for loopback names.
    pub(crate) fn development(data_dir: &Path) -> Result<Self, TlsError> {
        let files = TlsFiles { certificate: data_dir.join(DEV_CERTIFICATE), key: data_dir.join(DEV_KEY) };
        if !files.certificate.exists() || !files.key.exists() {
            make(&files).map_err(TlsError)?;
        }
        Self::load(&files)
    }

    /// Settings for the QUIC listener.
    pub(crate) fn quic(&self) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let mut config = self.server(&[&rustls::version::TLS13])?;
        config.alpn_protocols = vec![sluicegate_protocol::ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    /// Settings for the HTTPS listener.
    pub(crate) fn https(&self) -> Result<Arc<rustls::ServerConfig>, TlsError> {
        let mut config = self.server(rustls::DEFAULT_VERSIONS)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    fn server(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Result<rustls::ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(self.chain.clone(), self.key.clone_key())
            })
            .map_err(|error| TlsError(error.to_string()))
    }
}

/// Settings of a QUIC endpoint by whose secret, kept in `data_dir`, a client notices at once that the broker it talked to was
/// killed and another process took over.
pub(crate) fn endpoint_config(data_dir: &Path) -> Result<quinn::EndpointConfig, TlsError> {
    let key = reset_key(data_dir)?;
    // Packets of unknown connections are answered with a reset only where the connection could have been ours: the next
    // process must recognise the ids that this one gives out.
    let ids = ring::hmac::sign(&key, b"connection ids");
    let ids = u64::from_be_bytes(*ids.as_ref().first_chunk().expect("it has 32 bytes"));
    let mut config = quinn::EndpointConfig::new(Arc::new(key));
    config.cid_generator(move || Box::new(quinn_proto::HashedConnectionIdGenerator::from_key(ids)));
    config.min_reset_interval(RESET_INTERVAL);
    Ok(config)
}

/// The producer that publishes what comes over HTTP: the same over all starts, and nobody else's.
pub(crate) fn http_producer(data_dir: &Path) -> Result<ProducerId, TlsError> {
    let id = ring::hmac::sign(&reset_key(data_dir)?, b"HTTP producer");
    Ok(ProducerId::from_bytes(&id.as_ref()[..16]).expect("an id has 16 bytes"))
}

/// The key of QUIC's stateless resets.
fn reset_key(data_dir: &Path) -> Result<ring::hmac::Key, TlsError> {
    let path = data_dir.join(RESET_KEY);
    let key = secret(&path).map_err(|error| TlsError(format!("{}: {error}", path.display())))?;
    Ok(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &key))
}

fn make(files: &TlsFiles) -> Result<(), String> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).map_err(|error| error.to_string())?;
    let write = |path: &Path, text: &str, readers| {
        write_file(path, text.as_bytes(), readers).map_err(|error| format!("{}: {error}", path.display()))
    };
    write(&files.key, &made.signing_key.serialize_pem(), Readers::Owner)?;
    write(&files.certificate, &made.cert.pem(), Readers::Everybody)
}
