//! TLS of this replica's listeners: their certificate, and the roots that client certificates are verified with.

use durward_authn::Authenticator;
use durward_authn::tls::{WebhookClientVerifier, WorkloadClientVerifier};
use durward_core::digest::Digest;
use durward_engine::metrics::Metrics;
use durward_identity::{Authorities, TrustState};
use durward_pki::authority::{AuthorityError, CertificateAuthority, IssuedSvid, SvidRequest};
use durward_pki::client_roots::ClientRoots;
use durward_pki::serial::CertificateSerial;
use durward_pki::svid::BACKDATE;
use durward_runtime::Failure;
use durward_runtime::random::{RandomnessUnavailable, random_bytes};
use durward_runtime::tls::{ReloadableCertificate, TlsError, server_config};
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Why the listeners have no certificate.
#[derive(Debug, Error)]
pub enum ListenerTlsError {
    #[error(transparent)]
    Randomness(#[from] RandomnessUnavailable),
    #[error("the certificate of the listeners can't be issued: {0}")]
    Issue(#[from] AuthorityError),
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What the listeners' certificate is issued for.
pub struct ListenerCertificateProfile {
    /// SPIFFE ID of this installation.
    pub id: String,
    /// Host names of the Service.
    pub dns_names: Vec<String>,
    pub lifetime: Duration,
    pub metrics: Arc<Metrics>,
}

impl ListenerCertificateProfile {
    /// Issues a certificate with a new key.
    fn issue(&self, authority: &CertificateAuthority) -> Result<IssuedSvid, ListenerTlsError> {
        let now = chrono::Utc::now();
        let not_after = now + self.lifetime;
        let issued = authority.issue(&SvidRequest {
            id: &self.id,
            dns_names: &self.dns_names,
            addresses: &[],
            not_before: now - chrono::TimeDelta::seconds(BACKDATE),
            not_after,
            serial: CertificateSerial::unbound(random_bytes()?),
        })?;
        self.metrics.listener_certificate_expiry("doors", not_after.timestamp());
        Ok(issued)
    }
}

/// The certificate of the listeners and the trusted roots, both kept current.
pub struct ListenerTls {
    profile: ListenerCertificateProfile,
    authorities: Authorities,
    certificate: Arc<ReloadableCertificate>,
    authenticator: Arc<Authenticator>,
    /// Digest of the roots that this replica verifies with.
    roots_in_force: watch::Sender<Option<Digest>>,
}

impl ListenerTls {
    pub fn new(
        profile: ListenerCertificateProfile,
        authorities: Authorities,
        authenticator: Arc<Authenticator>,
    ) -> Result<Self, ListenerTlsError> {
        let trust = authorities.current();
        let issued = profile.issue(&trust.active)?;
        Ok(Self {
            certificate: ReloadableCertificate::new(&issued.chain_pem, &issued.key_pem)?,
            authenticator,
            roots_in_force: watch::Sender::new(Some(trust.digest())),
            profile,
            authorities,
        })
    }

    pub fn server_config(&self) -> Result<Arc<ServerConfig>, ListenerTlsError> {
        let clients = WorkloadClientVerifier::verifier(Arc::clone(&self.authenticator));
        Ok(server_config(Arc::clone(&self.certificate), clients, rustls::DEFAULT_VERSIONS)?)
    }

    /// TLS of the webhook listener, with a certificate of its own if there is one. `roots` verify the API server.
    pub fn webhook_config(
        &self,
        certificate: Option<&Arc<ReloadableCertificate>>,
        roots: Option<Arc<ClientRoots>>,
    ) -> Result<Arc<ServerConfig>, ListenerTlsError> {
        let certificate = Arc::clone(certificate.unwrap_or(&self.certificate));
        let authenticator = Arc::clone(&self.authenticator);
        let versions = rustls::DEFAULT_VERSIONS;
        Ok(match roots {
            Some(roots) => server_config(certificate, WebhookClientVerifier::verifier(authenticator, roots), versions)?,
            None => server_config(certificate, WorkloadClientVerifier::verifier(authenticator), versions)?,
        })
    }

    pub fn roots_in_force(&self) -> watch::Receiver<Option<Digest>> {
        self.roots_in_force.subscribe()
    }

    /// Follows every change of the authorities, and renews the certificate at half of its lifetime, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut changes = self.authorities.changes();
        let mut signed_by = Arc::clone(&self.authorities.current().active);
        let mut renewal = Instant::now() + self.renewal_delay()?;
        loop {
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = sleep_until(renewal) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let trust = Arc::clone(&changes.borrow_and_update());
            self.update_roots(&trust);
            if renewal <= Instant::now() || signed_by.certificate() != trust.active.certificate() {
                let issued = self.profile.issue(&trust.active)?;
                self.certificate.replace(&issued.chain_pem, &issued.key_pem)?;
                signed_by = Arc::clone(&trust.active);
                renewal = Instant::now() + self.renewal_delay()?;
            }
        }
    }

    fn update_roots(&self, trust: &TrustState) {
        let digest = trust.digest();
        if *self.roots_in_force.borrow() != Some(digest) {
            let roots = trust.roots();
            self.authenticator.change_domain(|domain| domain.roots.clone_from(&roots));
            self.roots_in_force.send_replace(Some(digest));
        }
    }

    /// Between 45 % and 55 % of the lifetime, so that replicas don't renew at the same time.
    fn renewal_delay(&self) -> Result<Duration, RandomnessUnavailable> {
        let [jitter] = random_bytes::<1>()?;
        Ok(self.profile.lifetime.mul_f64(0.45 + 0.1 * f64::from(jitter) / 255.0))
    }
}
