//! Certificate and trust of the gate, for both sides; replaced while it runs.

use crate::error::GateError;
use crate::server_verifier::ServerVerifier;
use chrono::Utc;
use durward_api::compile::ClusterDomains;
use durward_authn::Authenticator;
use durward_authn::tls::WorkloadClientVerifier;
use durward_controller_client::identity::IdentityState;
use durward_core::principal::PrincipalId;
use durward_pki::authority::pem;
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use durward_runtime::tls::{HandshakeVerifier, ReloadableCertificate, TlsError, server_config};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// A certificate with its key, and the roots and keys that verify others.
pub(super) struct IdentityMaterial {
    /// SPIFFE ID of the certificate.
    pub(super) id: PrincipalId,
    /// Leaf first.
    pub(super) chain_pem: String,
    pub(super) key_pem: Zeroizing<String>,
    /// When the certificate expires.
    pub(super) not_after: SystemTime,
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// Keys of the trust domain's own tokens, as a JWKS in JSON.
    pub(super) jwks: Option<String>,
}

/// TLS of both sides.
#[derive(Debug)]
pub(super) struct GateTls {
    pub(super) certificate: Arc<ReloadableCertificate>,
    clients: Arc<HandshakeVerifier<WorkloadClientVerifier>>,
    pub(super) peers: Arc<ServerVerifier>,
}

impl GateTls {
    fn new(
        material: &IdentityMaterial,
        cluster_domain: &str,
        authenticator: &Arc<Authenticator>,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: ReloadableCertificate::new(&material.chain_pem, &material.key_pem)?,
            clients: WorkloadClientVerifier::verifier(Arc::clone(authenticator)),
            peers: ServerVerifier::new(&material.id, cluster_domain, material.roots.clone()),
        })
    }

    fn replace(&self, material: &IdentityMaterial) -> Result<(), TlsError> {
        self.certificate.replace(&material.chain_pem, &material.key_pem)?;
        self.peers.replace(&material.roots);
        Ok(())
    }

    /// TLS of the side for callers: 1.3, and 1.2 only where the settings allow it.
    pub(super) fn server_config(&self, tls12: bool) -> Result<Arc<ServerConfig>, TlsError> {
        let versions: &[&'static SupportedProtocolVersion] = if tls12 { &[&TLS13, &TLS12] } else { &[&TLS13] };
        server_config(Arc::clone(&self.certificate), self.clients.clone(), versions)
    }
}

/// Puts new certificates and roots in use.
#[derive(Clone)]
pub(super) struct IdentityPublisher {
    identity: watch::Sender<Option<Arc<GateTls>>>,
    authenticator: Arc<Authenticator>,
    readiness: Arc<Readiness>,
    trust_domain: Arc<str>,
    cluster_domain: Arc<str>,
}

impl IdentityPublisher {
    pub(super) fn new(authenticator: Arc<Authenticator>, readiness: Arc<Readiness>, domain: &ClusterDomains) -> Self {
        Self {
            identity: watch::Sender::new(None),
            authenticator,
            readiness,
            trust_domain: domain.trust_domain.as_str().into(),
            cluster_domain: domain.cluster_domain.as_str().into(),
        }
    }

    /// Uses this certificate and these roots from now on; the process is ready until the certificate expires. On an error
    /// the previous ones stay in use.
    pub(super) fn publish(&self, material: &IdentityMaterial) -> Result<(), GateError> {
        if material.id.trust_domain().unwrap_or_default() != &*self.trust_domain {
            let trust_domain = self.trust_domain.to_string();
            return Err(GateError::ForeignTrustDomain { id: material.id.clone(), trust_domain });
        }
        let current = self.identity.borrow().clone();
        if current.is_some() && material.not_after <= SystemTime::now() {
            return Err(GateError::Expired(material.id.clone()));
        }
        let first = match current {
            Some(identity) => {
                identity.replace(material)?;
                None
            }
            None => Some(Arc::new(GateTls::new(material, &self.cluster_domain, &self.authenticator)?)),
        };
        self.authenticator.change_domain(|domain| {
            domain.roots.clone_from(&material.roots);
            domain.own_keys.clone_from(&material.jwks);
        });
        if first.is_some() {
            self.identity.send_replace(first);
        }
        self.readiness.mark_identities_ready_until(material.not_after);
        Ok(())
    }

    /// The TLS of both sides, once the first certificate has arrived.
    pub(super) async fn identity(&self) -> Option<Arc<GateTls>> {
        self.identity.subscribe().wait_for(Option::is_some).await.ok()?.clone()
    }
}

/// Publishes each new certificate and bundle of the controller, until `shutdown`.
pub(super) async fn follow_controller(
    mut state: watch::Receiver<IdentityState>,
    publisher: IdentityPublisher,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    loop {
        let material = issued_material(&state.borrow_and_update());
        if let Some(Err(error)) = material.map(|material| publisher.publish(&material?)) {
            tracing::warn!(%error, "a certificate can't be used; keeping the previous one");
        }
        tokio::select! {
            changed = state.changed() => changed?,
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

/// The current certificate and roots of the controller, once there are any.
fn issued_material(state: &IdentityState) -> Option<Result<IdentityMaterial, GateError>> {
    let (issued, _, bundle) = state.valid_identity(Utc::now())?;
    let id = match issued.id.parse() {
        Ok(id) => id,
        Err(error) => return Some(Err(GateError::Subject(error))),
    };
    Some(Ok(IdentityMaterial {
        id,
        chain_pem: issued.chain.iter().map(|der| pem(&CertificateDer::from(der.as_slice()))).collect(),
        key_pem: Zeroizing::new(issued.key_pem.to_string()),
        not_after: issued.not_after.into(),
        roots: bundle.roots.clone(),
        jwks: Some(bundle.jwks.clone()),
    }))
}
