//! The authorities of the installation, as this replica knows them now.

use durward_core::digest::Digest;
use durward_pki::authority::{CertificateAuthority, pem};
use durward_pki::rotation::RotationStep;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use tokio::sync::watch;

/// Who signs, and whom everybody trusts.
#[derive(Debug, Clone)]
pub struct TrustState {
    /// Signs.
    pub active: Arc<CertificateAuthority>,
    /// Takes over from it; its roots are trusted already.
    pub next: Option<Arc<CertificateAuthority>>,
    /// Roots of those before it, which still count.
    pub(crate) retiring: Vec<CertificateDer<'static>>,
    /// How far the change from one to the next is.
    pub step: RotationStep,
    /// When that was reached, in seconds since 1970.
    pub since: i64,
}

impl TrustState {
    /// Every root that counts, each once.
    pub fn roots(&self) -> Vec<CertificateDer<'static>> {
        let next = self.next.iter().flat_map(|next| next.roots());
        let mut roots: Vec<_> = self.active.roots().iter().chain(next).chain(&self.retiring).cloned().collect();
        roots.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        roots.dedup();
        roots
    }

    /// As [`TrustState::roots`], in PEM.
    pub fn roots_pem(&self) -> String {
        self.roots().iter().map(pem).collect()
    }

    /// Tells sets of roots apart.
    pub fn digest(&self) -> Digest {
        Digest::of(self.roots().iter().map(AsRef::as_ref))
    }
}

/// The authorities, shared by everything that signs or trusts.
#[derive(Debug, Clone)]
pub struct Authorities(watch::Sender<Arc<TrustState>>);

impl Authorities {
    pub fn new(trust: TrustState) -> Self {
        Self(watch::Sender::new(Arc::new(trust)))
    }

    pub fn current(&self) -> Arc<TrustState> {
        Arc::clone(&self.0.borrow())
    }

    /// Who signs.
    pub fn active(&self) -> Arc<CertificateAuthority> {
        Arc::clone(&self.0.borrow().active)
    }

    pub fn replace(&self, trust: TrustState) {
        self.0.send_replace(Arc::new(trust));
    }

    pub fn changes(&self) -> watch::Receiver<Arc<TrustState>> {
        self.0.subscribe()
    }
}
