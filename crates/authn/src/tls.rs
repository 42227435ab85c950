//! Verification of client certificates at our own listeners.

use crate::authenticator::Authenticator;
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
