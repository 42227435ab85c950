//! The test cluster itself: what it promises to the tests that use it.

mod control_plane;
mod control_plane_speed;
mod lifecycle;
mod node;
mod workloads;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tests that restart the shared node, look for traces on this machine or measure time run alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// Waits until no test runs that has to be alone, and keeps such tests waiting.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no other test runs, and keeps all others waiting.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}
