//! Verifies the certificates of clients of our own listeners.

use crate::Authenticator;
use durward_runtime::tls::{HandshakeVerifier, VerifyClient};
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::sync::Arc;

/// Verifies clients by the roots of their own trust domain, as the authenticator knows them at that moment.
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

/// A verifier for one set of roots. A client without a certificate is anonymous; with a wrong one it gets no connection.
pub(crate) fn verifier(roots: &[CertificateDer<'static>]) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::new(aws_lc_rs::default_provider()))
        .allow_unauthenticated()
        .build()
        .inspect_err(|error| tracing::warn!(%error, "no client certificate can be verified by these roots"))
        .ok()
}
