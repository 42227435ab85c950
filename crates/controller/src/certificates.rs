//! The certificate of this replica's listeners, and the roots by which it verifies others.

use durward_authn::Authenticator;
use durward_authn::tls::WorkloadClients;
use durward_core::digest::Digest;
use durward_engine::metrics::Metrics;
use durward_identity::{Authorities, Trust};
use durward_pki::authority::{CertificateAuthority, IssuedSvid, SvidRequest};
use durward_pki::serial::CertificateSerial;
use durward_pki::svid::BACKDATE;
use durward_runtime::Failure;
use durward_runtime::random::random;
use durward_runtime::tls::{ServerCertificate, server_config};
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What the certificate says, and for how long.
pub struct Leaf {
    /// SPIFFE ID of this installation.
    pub id: String,
    /// Names under which the Service is called.
    pub dns_names: Vec<String>,
    pub lifetime: Duration,
    pub metrics: Arc<Metrics>,
}

impl Leaf {
    /// A fresh key and certificate.
    fn issue(&self, authority: &CertificateAuthority) -> Result<IssuedSvid, Failure> {
        let now = chrono::Utc::now();
        let not_after = now + self.lifetime;
        let issued = authority.issue(&SvidRequest {
            id: &self.id,
            dns_names: &self.dns_names,
            addresses: &[],
            not_before: now - chrono::TimeDelta::seconds(BACKDATE),
            not_after,
            serial: CertificateSerial::unbound(random()?),
        })?;
        self.metrics.certificate_ends("doors", not_after.timestamp());
        Ok(issued)
    }
}

/// What all listeners show, and whom the authenticator trusts.
pub struct Listeners {
    leaf: Leaf,
    authorities: Authorities,
    certificate: Arc<ServerCertificate>,
    authenticator: Arc<Authenticator>,
    /// Digest of the roots that this replica verifies by.
    in_force: watch::Sender<Option<Digest>>,
}

impl Listeners {
    pub fn new(leaf: Leaf, authorities: Authorities, authenticator: Arc<Authenticator>) -> Result<Self, Failure> {
        let trust = authorities.current();
        let issued = leaf.issue(&trust.active)?;
        Ok(Self {
            certificate: ServerCertificate::new(&issued.chain_pem, &issued.key_pem)?,
            authenticator,
            in_force: watch::Sender::new(Some(trust.digest())),
            leaf,
            authorities,
        })
    }

    pub fn tls(&self) -> Result<Arc<ServerConfig>, Failure> {
        self.tls_with(Arc::clone(&self.certificate))
    }

    /// A listener that shows another certificate than the others.
    pub(crate) fn tls_with(&self, certificate: Arc<ServerCertificate>) -> Result<Arc<ServerConfig>, Failure> {
        Ok(server_config(
            certificate,
            WorkloadClients::verifier(Arc::clone(&self.authenticator)),
            rustls::DEFAULT_VERSIONS,
        )?)
    }

    pub fn in_force(&self) -> watch::Receiver<Option<Digest>> {
        self.in_force.subscribe()
    }

    /// Replaces the certificate at half of its lifetime, with some jitter, and follows every change of the authorities,
    /// until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut changes = self.authorities.changes();
        let mut signed_by = Arc::clone(&self.authorities.current().active);
        let mut renewal = Instant::now() + self.pause()?;
        loop {
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = sleep_until(renewal) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let trust = Arc::clone(&changes.borrow_and_update());
            self.trust(&trust);
            if renewal <= Instant::now() || signed_by.certificate() != trust.active.certificate() {
                let issued = self.leaf.issue(&trust.active)?;
                self.certificate.replace(&issued.chain_pem, &issued.key_pem)?;
                signed_by = Arc::clone(&trust.active);
                renewal = Instant::now() + self.pause()?;
            }
        }
    }

    fn trust(&self, trust: &Trust) {
        let (roots, digest) = (trust.roots(), trust.digest());
        if *self.in_force.borrow() != Some(digest) {
            self.authenticator.change_domain(|domain| domain.roots.clone_from(&roots));
            self.in_force.send_replace(Some(digest));
        }
    }

    /// Between 45 % and 55 % of the lifetime, so that replicas don't do it at once.
    fn pause(&self) -> Result<Duration, Failure> {
        let [dice] = random::<1>()?;
        Ok(self.leaf.lifetime.mul_f64(0.45 + 0.1 * f64::from(dice) / 255.0))
    }
}
