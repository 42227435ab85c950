//! TLS of our own listeners and clients: a certificate that can be replaced without a restart, and certificate
//! verifiers.

use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::fmt::Debug;
use std::sync::Arc;
use thiserror::Error;

/// Why TLS can't be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The certificate or its key can't be used.
    #[error("the certificate or its key can't be used: {0}")]
    Certificate(String),
    /// The TLS library rejected the configuration.
    #[error("TLS can't be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A certificate and its key, for the server or the client side, that can be replaced without a restart.
#[derive(Debug)]
pub struct ReloadableCertificate(ArcSwap<CertifiedKey>);

impl ReloadableCertificate {
    /// Reads a certificate chain and its key, both in PEM.
    ///
    /// # Errors
    /// When one can't be read, or the key is not that of the certificate.
    pub fn new(chain_pem: &str, key_pem: &str) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(read_certified_key(chain_pem, key_pem)?))))
    }

    /// Replaces certificate and key for all handshakes from now on.
    ///
    /// # Errors
    /// When the new ones can't be used; the previous ones stay in use.
    pub fn replace(&self, chain_pem: &str, key_pem: &str) -> Result<(), TlsError> {
        self.0.store(Arc::new(read_certified_key(chain_pem, key_pem)?));
        Ok(())
    }

    /// The certificate in use.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.0.load_full()
    }
}

impl ResolvesServerCert for ReloadableCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for ReloadableCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn read_certified_key(chain_pem: &str, key_pem: &str) -> Result<CertifiedKey, TlsError> {
    let unusable = |error: rustls_pki_types::pem::Error| TlsError::Certificate(error.to_string());
    let chain =
        CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(unusable)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(unusable)?;
    Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
}

/// A server whose clients may present a certificate, which `clients` verifies.
///
/// # Errors
/// When the TLS library does not support the versions.
pub fn server_config(
    certificate: Arc<ReloadableCertificate>,
    clients: Arc<dyn ClientCertVerifier>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // no resumption: a resumed session would skip verification of a certificate that may have been revoked since
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Decides whether to accept the certificate of a server.
pub trait VerifyServer: Debug + Send + Sync {
    /// Verifies a chain, leaf first, that a server presents under a name.
    ///
    /// # Errors
    /// When the chain is not accepted; the handshake fails.
    fn verify(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>, now: UnixTime) -> Result<(), Error>;
}

impl<V: VerifyServer> VerifyServer for Arc<V> {
    fn verify(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        V::verify(self, chain, name, now)
    }
}

/// Decides whether to accept the certificate of a client.
pub trait VerifyClient: Debug + Send + Sync {
    /// Verifies the certificate that a client presents, with the intermediates that it sent.
    ///
    /// # Errors
    /// When the certificate is not accepted; the handshake fails.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error>;
}

/// A rustls verifier that checks the signatures of the handshake, and leaves the certificate to a [`VerifyServer`] or
/// [`VerifyClient`].
#[derive(Debug)]
pub struct HandshakeVerifier<V> {
    verify: V,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<V> HandshakeVerifier<V> {
    /// A verifier that accepts what `verify` accepts.
    pub fn new(verify: V) -> Arc<Self> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Arc::new(Self { verify, algorithms })
    }
}

/// The methods that verify handshake signatures, equal in both traits.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl<V: VerifyServer> ServerCertVerifier for HandshakeVerifier<V> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        self.verify.verify(&chain, name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl<V: VerifyClient> ClientCertVerifier for HandshakeVerifier<V> {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // no hint: roots can change between the request and the answer, and clients have only one certificate
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify.verify(leaf, intermediates, now)
    }

    handshake_signatures!();
}
