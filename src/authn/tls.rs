//! TLS of our own listeners.

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
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
    Ok(CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())?)
}

/// A server that lets clients show a certificate of ours: without one they are nobody, with a wrong one they get no
/// connection.
///
/// # Errors
/// When the roots or the protocol versions are not usable.
pub fn server_config(
    certificate: Arc<ServerCertificate>,
    roots: &[CertificateDer<'static>],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
        .allow_unauthenticated()
        .build();
    let verifier = verifier.map_err(|error| TlsError::Roots(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
