//! What the gate shows to both sides, and whom it believes; replaced while it runs.

use crate::peers::Peers;
use durward_api::compile::ClusterDomains;
use durward_authn::Authenticator;
use durward_authn::tls::WorkloadClientVerifier;
use durward_core::principal::PrincipalId;
use durward_runtime::Failure;
use durward_runtime::tls::{ServerCertificate, Verifier, server_config};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// A certificate with its key, and what others are verified by.
pub(super) struct Material {
    /// SPIFFE ID of the certificate.
    pub(super) id: PrincipalId,
    /// Leaf first.
    pub(super) chain_pem: String,
    pub(super) key_pem: Zeroizing<String>,
    pub(super) roots: Vec<CertificateDer<'static>>,
    /// Keys of the trust domain's own tokens, as a JWKS in JSON.
    pub(super) jwks: Option<String>,
}

/// Both sides' TLS.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) certificate: Arc<ServerCertificate>,
    clients: Arc<Verifier<WorkloadClientVerifier>>,
    pub(super) peers: Arc<Peers>,
}

impl Identity {
    fn new(material: &Material, cluster_domain: &str, authenticator: &Arc<Authenticator>) -> Result<Self, Failure> {
        Ok(Self {
            certificate: ServerCertificate::new(&material.chain_pem, &material.key_pem)?,
            clients: WorkloadClientVerifier::verifier(Arc::clone(authenticator)),
            peers: Peers::new(&material.id, cluster_domain, material.roots.clone()),
        })
    }

    fn replace(&self, material: &Material) -> Result<(), Failure> {
        self.certificate.replace(&material.chain_pem, &material.key_pem)?;
        self.peers.replace(&material.roots);
        Ok(())
    }

    /// TLS of the side that callers reach: 1.3, and 1.2 only where somebody asked for it.
    pub(super) fn tls(&self, older: bool) -> Result<Arc<ServerConfig>, Failure> {
        let versions: &[&'static SupportedProtocolVersion] = if older { &[&TLS13, &TLS12] } else { &[&TLS13] };
        Ok(server_config(Arc::clone(&self.certificate), self.clients.clone(), versions)?)
    }
}

/// Where new material goes.
#[derive(Clone)]
pub(super) struct Shown {
    identity: watch::Sender<Option<Arc<Identity>>>,
    authenticator: Arc<Authenticator>,
    trust_domain: Arc<str>,
    cluster_domain: Arc<str>,
}

impl Shown {
    pub(super) fn new(authenticator: Arc<Authenticator>, domain: &ClusterDomains) -> Self {
        let (trust_domain, cluster_domain) =
            (domain.trust_domain.as_str().into(), domain.cluster_domain.as_str().into());
        Self { identity: watch::Sender::new(None), authenticator, trust_domain, cluster_domain }
    }

    /// Shows and believes this from now on; on an error what was shown before stays.
    pub(super) fn show(&self, material: &Material) -> Result<(), Failure> {
        let of = material.id.trust_domain().unwrap_or_default();
        if of != &*self.trust_domain {
            return Err(
                format!("the certificate is of {}, not of trust domain {}", material.id, self.trust_domain).into()
            );
        }
        let known = self.identity.borrow().clone();
        let first = match known {
            Some(identity) => {
                identity.replace(material)?;
                None
            }
            None => Some(Arc::new(Identity::new(material, &self.cluster_domain, &self.authenticator)?)),
        };
        self.authenticator.change_domain(|domain| {
            domain.roots.clone_from(&material.roots);
            domain.own_keys.clone_from(&material.jwks);
        });
        if first.is_some() {
            self.identity.send_replace(first);
        }
        Ok(())
    }

    /// Once there is one.
    pub(super) async fn identity(&self) -> Option<Arc<Identity>> {
        self.identity.subscribe().wait_for(Option::is_some).await.ok()?.clone()
    }
}
