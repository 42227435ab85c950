//! An installation that the tests of a module share, one at a time.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Installed;
use crate::turn::Turn;

/// The current installation and the number of its turn.
static NEWEST: Mutex<Option<(usize, Installed)>> = Mutex::new(None);

/// The installation of a module, for one test at a time.
pub struct SharedInstallation {
    // dropped before the turn
    newest: MutexGuard<'static, Option<(usize, Installed)>>,
    _turn: Turn,
}

impl SharedInstallation {
    /// Waits for the installation of `module`. The first test of the module makes it by `install`.
    pub fn of(module: &'static str, install: impl FnOnce() -> Installed) -> Self {
        let turn = Turn::take(module);
        // a failed test must not affect the next one
        let mut newest = NEWEST.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_none_or(|(number, _)| *number != turn.number) {
            *newest = None;
            *newest = Some((turn.number, install()));
        }
        Self { newest, _turn: turn }
    }
}

impl Deref for SharedInstallation {
    type Target = Installed;

    fn deref(&self) -> &Installed {
        let (_, installed) = self.newest.as_ref().expect("the installation");
        installed
    }
}
