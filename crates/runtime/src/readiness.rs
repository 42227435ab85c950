//! Whether this process is ready to serve requests.

use std::sync::atomic::{AtomicBool, Ordering};

/// Readiness of the process: policies are loaded, identities can be verified, and shutdown has not begun.
#[derive(Debug, Default)]
pub struct Readiness {
    policies_loaded: AtomicBool,
    identities_ready: AtomicBool,
    closing: AtomicBool,
}

impl Readiness {
    /// Whether the process is ready for new requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.policies_loaded.load(Ordering::Acquire)
            && self.identities_ready.load(Ordering::Acquire)
            && !self.closing.load(Ordering::Acquire)
    }

    /// Marks that shutdown has begun: the process is no longer ready.
    pub fn mark_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Marks that identities can be verified. In the controller, all pods and service accounts are listed; in a gate,
    /// its certificate is loaded.
    pub fn mark_identities_ready(&self) {
        self.identities_ready.store(true, Ordering::Release);
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
