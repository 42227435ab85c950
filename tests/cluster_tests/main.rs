//! Tests of the test cluster itself.

mod control_plane;
mod control_plane_speed;
mod lifecycle;
mod node;
mod workloads;

use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Tests that restart the shared node, look for traces on this machine or measure time run alone.
static MACHINE: RwLock<()> = RwLock::new(());

/// The command `durward-cluster` of this checkout.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| durward_cluster::cargo::build("durward-cluster").unwrap_or_else(|error| panic!("{error}")))
}

/// Waits until no test runs that must run alone, and keeps such tests waiting.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until no other test runs, and keeps all others waiting.
fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}
