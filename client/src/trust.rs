//! Whom a client believes to be the broker.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Which certificates prove that the peer is the broker. There is no way to trust any peer.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The certificates in this PEM file, and what they signed. Read at each connect, so a broker may renew it.
    ///
    /// A broker in development mode writes its own to `<data-dir>/dev-cert.pem`.
    Certificate(PathBuf),
    /// Exactly this certificate (PEM), whatever names it carries.
    Pinned(Vec<u8>),
    /// What these authorities (PEM, each one or more certificates) signed.
    Roots(Vec<Vec<u8>>),
}

/// Certificates that cannot be used as a [`Trust`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be read.
    #[error("cannot read the certificate file `{path}`: {problem}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the operating system says.
        problem: String,
    },
    /// The text is not a PEM certificate.
    #[error("not a certificate in PEM form: {0}")]
    NotCertificate(String),
}

impl Trust {
    /// TLS 1.3 settings under which a connection is made only to a trusted peer, for programs that bring a QUIC or HTTP
    /// stack of their own. They name no protocol.
    ///
    /// # Errors
    /// [`TrustError`] when the certificates cannot be used.
    ///
    /// # Panics
    /// Never: ring has TLS 1.3 cipher suites.
    pub fn tls_config(&self) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("ring has TLS 1.3 cipher suites");
        Ok(match self {
            Self::Certificate(path) => {
                let pem = std::fs::read(path).map_err(|error| TrustError::Unreadable {
                    path: path.display().to_string(),
                    problem: error.to_string(),
                })?;
                builder.with_root_certificates(roots([pem.as_slice()])?).with_no_client_auth()
            }
            Self::Roots(pems) => {
                builder.with_root_certificates(roots(pems.iter().map(Vec::as_slice))?).with_no_client_auth()
            }
            Self::Pinned(pem) => {
                let pinned = Pinned::new(pem, &provider)?;
                builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned)).with_no_client_auth()
            }
        })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match parsed {
        Ok(certificates) if certificates.is_empty() => Err(TrustError::NotCertificate("nothing in it is one".into())),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TrustError::NotCertificate(error.to_string())),
    }
}

fn roots<'a>(pems: impl IntoIterator<Item = &'a [u8]>) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for pem in pems {
        for certificate in certificates(pem)? {
            roots.add(certificate).map_err(|error| TrustError::NotCertificate(error.to_string()))?;
        }
    }
    Ok(roots)
}

/// Believes the holder of one certificate's key, and nobody else.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn new(pem: &[u8], provider: &CryptoProvider) -> Result<Self, TrustError> {
        let certificate = certificates(pem)?.swap_remove(0);
        Ok(Self { certificate, algorithms: provider.signature_verification_algorithms })
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() == self.certificate.as_ref() {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trust_without_a_certificate_is_refused_in_one_line() {
        let missing = Trust::Certificate("/nowhere/dev-cert.pem".into()).tls_config().unwrap_err();
        assert_eq!(
            missing.to_string(),
            "cannot read the certificate file `/nowhere/dev-cert.pem`: No such file or directory (os error 2)"
        );
        let empty = Trust::Pinned(b"no pem".to_vec()).tls_config().unwrap_err();
        assert_eq!(empty.to_string(), "not a certificate in PEM form: nothing in it is one");
    }
}
