//! Whether this process is ready to serve requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

/// Readiness of the process: policies are loaded, identities can be verified, and shutdown has not begun.
#[derive(Debug, Default)]
pub struct Readiness {
    policies_loaded: AtomicBool,
    /// Unix seconds until which identities can be verified; 0 before the first.
    identities_ready_until: AtomicU64,
    closing: AtomicBool,
    manifests: RwLock<Arc<ManifestHealth>>,
}

/// The state of the manifests in files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ManifestHealth {
    /// The mistakes, each with its file and line.
    pub problems: Vec<String>,
    /// What follows from the mistakes, and which files are not read.
    pub notices: Vec<String>,
    /// Whether every request is denied, because a manifest that can't be read may concern any service.
    pub all_closed: bool,
}

impl Readiness {
    /// Whether the process is ready for new requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.policies_loaded.load(Ordering::Acquire)
            && self.identities_ready_at(SystemTime::now())
            && !self.closing.load(Ordering::Acquire)
            && !self.manifest_health().all_closed
    }

    fn identities_ready_at(&self, now: SystemTime) -> bool {
        let until = Duration::from_secs(self.identities_ready_until.load(Ordering::Acquire));
        now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|now| now < until)
    }

    /// The state of the manifests. Empty in a cluster, where the status of each resource reports it.
    #[must_use]
    pub fn manifest_health(&self) -> Arc<ManifestHealth> {
        Arc::clone(&self.manifests.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the state of the manifests.
    pub fn set_manifest_health(&self, health: ManifestHealth) {
        *self.manifests.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(health);
    }

    /// Marks that shutdown has begun: the process is no longer ready.
    pub fn mark_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Marks that identities can be verified: all pods and service accounts are listed.
    pub fn mark_identities_ready(&self) {
        self.identities_ready_until.store(u64::MAX, Ordering::Release);
    }

    /// Marks that identities can be verified until the clock shows `until`: the certificate of this process expires then.
    pub fn mark_identities_ready_until(&self, until: SystemTime) {
        let seconds = until.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |until| until.as_secs());
        self.identities_ready_until.store(seconds, Ordering::Release);
    }

    /// Marks that the loaded policies are no longer in force.
    pub fn mark_policies_unloaded(&self) {
        self.policies_loaded.store(false, Ordering::Release);
    }

    /// Marks that policies are loaded and in force.
    pub fn mark_policies_loaded(&self) {
        self.policies_loaded.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_ready_until_the_certificate_expires() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let ready = |readiness: &Readiness| [9, 10, 11].map(|seconds| readiness.identities_ready_at(at(seconds)));
        let readiness = Readiness::default();
        assert_eq!(ready(&readiness), [false; 3]);
        readiness.mark_identities_ready_until(at(10));
        assert_eq!(ready(&readiness), [true, false, false]);
        readiness.mark_identities_ready_until(at(11));
        assert_eq!(ready(&readiness), [true, true, false], "a renewed certificate");
        readiness.mark_identities_ready();
        assert_eq!(ready(&readiness), [true; 3]);
    }
}
