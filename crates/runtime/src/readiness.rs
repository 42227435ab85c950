//! Whether this process is ready to answer.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether everything was loaded once, and the end has not begun.
#[derive(Debug, Default)]
pub struct Readiness {
    loaded: AtomicBool,
    /// Whether it is known who lives, or need not be.
    living: AtomicBool,
    closing: AtomicBool,
}

impl Readiness {
    /// Whether decisions are made from what was loaded, and will be for a while.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
            && self.living.load(Ordering::Acquire)
            && !self.closing.load(Ordering::Acquire)
    }

    /// From now on nobody new is to come.
    pub fn closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// From now on it is known who lives.
    pub fn living(&self) {
        self.living.store(true, Ordering::Release);
    }

    /// What was loaded counts no more.
    pub fn unloaded(&self) {
        self.loaded.store(false, Ordering::Release);
    }

    /// From now on decisions are made from what was loaded.
    pub fn loaded(&self) {
        self.loaded.store(true, Ordering::Release);
    }
}
