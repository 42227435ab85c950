//! Turns at the test cluster: tests of one module may overlap, tests of two modules never do.
//!
//! A cluster holds one installation of Durward, and each module installs it with other values.

use std::sync::{Condvar, Mutex, PoisonError};

/// The module whose tests are running.
struct TurnHolder {
    module: &'static str,
    /// The number of its running tests.
    tests: usize,
    /// The number of the current turn.
    number: usize,
}

static HOLDER: Mutex<TurnHolder> = Mutex::new(TurnHolder { module: "", tests: 0, number: 0 });
static RELEASED: Condvar = Condvar::new();

/// Keeps the turn with the module of a test; ends when dropped.
pub struct Turn {
    /// The number of this turn.
    pub(crate) number: usize,
}

impl Turn {
    /// Waits until no test of another module runs. Call it first, by `Turn::take(module_path!())`.
    pub fn take(module: &'static str) -> Self {
        let holder = HOLDER.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |holder: &mut TurnHolder| holder.tests > 0 && holder.module != module;
        let mut holder = RELEASED.wait_while(holder, waiting).unwrap_or_else(PoisonError::into_inner);
        if holder.module != module {
            holder.module = module;
            holder.number += 1;
        }
        holder.tests += 1;
        Self { number: holder.number }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        HOLDER.lock().unwrap_or_else(PoisonError::into_inner).tests -= 1;
        RELEASED.notify_all();
    }
}
