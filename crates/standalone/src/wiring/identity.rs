//! The CA, the keys and the server certificate, from the state directory.

use chrono::Utc;
use durward_approvals::ApprovalSeal;
use durward_authn::Authenticator;
use durward_authn::tls::WorkloadClientVerifier;
use durward_identity::TokenKeys;
use durward_runtime::Failure;
use durward_runtime::tls::{ReloadableCertificate, TlsError, server_config};
use durward_state::LocalState;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use std::path::Path;
use std::sync::Arc;

/// The identity of this host's engine.
pub(super) struct StandaloneIdentity {
    /// Roots of the built-in CA.
    pub roots: Vec<CertificateDer<'static>>,
    /// Start of the CA's validity, in seconds since 1970.
    pub roots_since: i64,
    pub token_keys: TokenKeys,
    pub audit_keys: TokenKeys,
    /// Signs approvals with the audit keys.
    pub seal: ApprovalSeal,
    certificate: Arc<ReloadableCertificate>,
}

impl StandaloneIdentity {
    /// Opens the state directory, and issues the certificate of the listeners.
    pub fn open(state: &Path, trust_domain: &str) -> Result<Self, Failure> {
        let state = LocalState::open(state, trust_domain)?;
        let certificate = state.server_certificate(trust_domain, Utc::now())?;
        let audit_keys = TokenKeys::new(state.audit_keys);
        Ok(Self {
            roots: state.authority.roots().to_vec(),
            roots_since: state.authority.validity().0,
            token_keys: TokenKeys::new(state.token_keys),
            seal: ApprovalSeal::new(audit_keys.clone()),
            audit_keys,
            certificate: ReloadableCertificate::new(&certificate.chain_pem, &certificate.key_pem)?,
        })
    }

    /// TLS of the listeners. The authenticator verifies client certificates.
    pub fn server_config(&self, authenticator: &Arc<Authenticator>) -> Result<Arc<ServerConfig>, TlsError> {
        let clients = WorkloadClientVerifier::verifier(Arc::clone(authenticator));
        server_config(Arc::clone(&self.certificate), clients, rustls::DEFAULT_VERSIONS)
    }
}
