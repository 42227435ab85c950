//! The authorities of the installation, as this replica last read them.

use durward_core::digest::Digest;
use durward_pki::authority::{CertificateAuthority, pem};
use durward_pki::rotation::RotationStep;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use tokio::sync::watch;

/// The signing authority, the trusted roots, and the progress of a rotation.
#[derive(Debug, Clone)]
pub struct TrustState {
    /// Signs certificates.
    pub active: Arc<CertificateAuthority>,
    /// Replaces the active authority when the rotation activates it. Its roots are already trusted.
    pub next: Option<Arc<CertificateAuthority>>,
    /// Roots of previous authorities that are still trusted.
    pub(crate) retiring: Vec<CertificateDer<'static>>,
    /// Progress of the rotation.
    pub step: RotationStep,
    /// When the rotation reached this step, in Unix seconds.
    pub since: i64,
}

impl TrustState {
    /// One authority, and no rotation.
    pub fn steady(active: Arc<CertificateAuthority>) -> Self {
        let since = chrono::Utc::now().timestamp();
        Self { active, next: None, retiring: Vec::new(), step: RotationStep::Steady, since }
    }

    /// All trusted roots, without duplicates.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        let next = self.next.iter().flat_map(|next| next.roots());
        let mut roots: Vec<_> = self.active.roots().iter().chain(next).chain(&self.retiring).cloned().collect();
        roots.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        roots.dedup();
        roots
    }

    /// The trusted roots in PEM.
    pub fn roots_pem(&self) -> String {
        self.roots().iter().map(pem).collect()
    }

    /// The digest of the trusted roots: equal for equal sets of roots.
    pub fn digest(&self) -> Digest {
        Digest::of(self.roots().iter().map(AsRef::as_ref))
    }
}

/// The current [`TrustState`], shared by all signers and verifiers of this process.
#[derive(Debug, Clone)]
pub struct Authorities(watch::Sender<Arc<TrustState>>);

impl Authorities {
    pub fn new(state: TrustState) -> Self {
        Self(watch::Sender::new(Arc::new(state)))
    }

    pub fn current(&self) -> Arc<TrustState> {
        Arc::clone(&self.0.borrow())
    }

    /// The authority that signs.
    pub fn active(&self) -> Arc<CertificateAuthority> {
        Arc::clone(&self.0.borrow().active)
    }

    pub fn replace(&self, state: TrustState) {
        self.0.send_replace(Arc::new(state));
    }

    pub fn changes(&self) -> watch::Receiver<Arc<TrustState>> {
        self.0.subscribe()
    }
}
