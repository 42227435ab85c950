//! TLS of our own listeners.

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
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
    /// The roots for client certificates are not usable.
    #[error("client certificates can't be verified: {0}")]
    Roots(String),
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

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(chain_pem: &str, key_pem: &str) -> Result<CertifiedKey, TlsError> {
    let unusable = |error: rustls_pki_types::pem::Error| TlsError::Certificate(error.to_string());
    let chain =
        CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(unusable)?;
    Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
}

/// Roots by which clients' certificates are verified, replaced without a restart.
#[derive(Debug)]
pub struct ClientRoots(ArcSwap<Verifier>);

type Verifier = Arc<dyn ClientCertVerifier>;

impl ClientRoots {
    /// Verifies by these roots.
    ///
    /// # Errors
    /// When none of them is usable.
    pub fn new(roots: &[CertificateDer<'static>]) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(verifier(roots)?))))
    }

    /// Replaces them, for every handshake from now on.
    ///
    /// # Errors
    /// As [`ClientRoots::new`]; the old ones stay then.
    pub fn replace(&self, roots: &[CertificateDer<'static>]) -> Result<(), TlsError> {
        self.0.store(Arc::new(verifier(roots)?));
        Ok(())
    }
}

/// Lets clients show a certificate: without one they are nobody, with a wrong one they get no connection.
fn verifier(roots: &[CertificateDer<'static>]) -> Result<Verifier, TlsError> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::new(aws_lc_rs::default_provider()))
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Roots(error.to_string()))
}

impl ClientCertVerifier for ClientRoots {
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
        self.0.load().verify_client_cert(leaf, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.load().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.load().supported_verify_schemes()
    }
}

/// A server whose clients may show a certificate.
///
/// # Errors
/// When the protocol versions are not usable.
pub fn server_config(
    certificate: Arc<ServerCertificate>,
    clients: Arc<ClientRoots>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // a resumed session would bring back a certificate that may not count any more
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
