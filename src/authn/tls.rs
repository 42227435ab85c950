//! TLS of our own listeners.

use crate::authn::Authenticator;
use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::sync::Arc;
use thiserror::Error;

/// TLS can't be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// Certificate or key is not usable.
    #[error("the server's certificate or key can't be used: {0}")]
    Certificate(String),
    /// The library refused.
    #[error("TLS can't be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The server's certificate, replaced without a restart.
#[derive(Debug)]
pub struct ServerCertificate(ArcSwap<CertifiedKey>);

impl ServerCertificate {
    /// A certificate chain and key, both in PEM.
    ///
    /// # Errors
    /// When they can't be used together.
    pub fn new(chain_pem: &str, key_pem: &str) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(certified(chain_pem, key_pem)?))))
    }

    /// Replaces them, for every handshake from now on.
    ///
    /// # Errors
    /// When they can't be used together; the old ones stay then.
    pub fn replace(&self, chain_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        self.0.store(Arc::new(certified(chain_pem, key_pem)?));
        Ok(())
    }
}

impl ServerCertificate {
    /// The one that is shown now.
    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        self.0.load_full()
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn certified(chain_pem: &str, key_pem: &str) -> Result<CertifiedKey, TlsError> {
    let unusable = |error: rustls_pki_types::pem::Error| TlsError::Certificate(error.to_string());
    let chain =
        CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(unusable)?;
    Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
}

/// Verifies clients' certificates, each by the roots of its own trust domain, as the authenticator knows them now.
#[derive(Debug)]
pub struct Clients {
    authenticator: Arc<Authenticator>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Clients {
    /// Clients that `authenticator` knows.
    #[must_use]
    pub fn new(authenticator: Arc<Authenticator>) -> Arc<Self> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Arc::new(Self { authenticator, algorithms })
    }
}

/// Lets clients show a certificate: without one they are nobody, with a wrong one they get no connection.
pub(crate) fn verifier(roots: &[CertificateDer<'static>]) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::new(aws_lc_rs::default_provider()))
        .allow_unauthenticated()
        .build()
        .inspect_err(|error| tracing::warn!(%error, "no client certificate can be verified by these roots"))
        .ok()
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // roots can change between the question and the answer; clients have one certificate and need no hint
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verifier = self.authenticator.verifier_for(leaf).ok_or(CertificateError::UnknownIssuer)?;
        verifier.verify_client_cert(leaf, intermediates, now)
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

/// A server whose clients may show a certificate.
///
/// # Errors
/// When the protocol versions are not usable.
pub fn server_config(
    certificate: Arc<ServerCertificate>,
    clients: Arc<Clients>,
) -> Result<Arc<ServerConfig>, TlsError> {
    server_config_of(certificate, clients, rustls::DEFAULT_VERSIONS)
}

/// As [`server_config`], for these versions of TLS alone.
///
/// # Errors
/// When they are not usable.
pub fn server_config_of(
    certificate: Arc<ServerCertificate>,
    clients: Arc<Clients>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // a resumed session would bring back a certificate that may not count any more
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
