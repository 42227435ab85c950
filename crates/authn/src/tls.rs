//! Verification of client certificates at our own listeners.

use crate::authenticator::Authenticator;
use durward_pki::client_roots::ClientRoots;
use durward_runtime::tls::{HandshakeVerifier, VerifyClient};
use rustls::CertificateError;
use rustls::server::danger::ClientCertVerified;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::Arc;

/// Verifies clients by the current roots of their own trust domain.
#[derive(Debug)]
pub struct WorkloadClientVerifier(Arc<Authenticator>);

impl WorkloadClientVerifier {
    /// A rustls verifier for the clients that `authenticator` accepts.
    #[must_use]
    pub fn verifier(authenticator: Arc<Authenticator>) -> Arc<HandshakeVerifier<Self>> {
        HandshakeVerifier::new(Self(authenticator))
    }
}

impl VerifyClient for WorkloadClientVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verifier = self.0.verifier_for(leaf).ok_or(CertificateError::UnknownIssuer)?;
        verifier.verify_client_cert(leaf, intermediates, now)
    }
}

/// Verifies clients of the webhooks: the API server by the CA of its client certificate, and workloads.
#[derive(Debug)]
pub struct WebhookClientVerifier {
    workloads: WorkloadClientVerifier,
    roots: Arc<ClientRoots>,
}

impl WebhookClientVerifier {
    /// A rustls verifier for clients of `roots`, and those that `authenticator` accepts.
    #[must_use]
    pub fn verifier(authenticator: Arc<Authenticator>, roots: Arc<ClientRoots>) -> Arc<HandshakeVerifier<Self>> {
        HandshakeVerifier::new(Self { workloads: WorkloadClientVerifier(authenticator), roots })
    }
}

impl VerifyClient for WebhookClientVerifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        if self.roots.verify(&chain, now) {
            return Ok(ClientCertVerified::assertion());
        }
        self.workloads.verify(leaf, intermediates, now)
    }
}
