//! Turns at the cluster and at this machine's cores: tests of one module may overlap, those of two never do.
//!
//! An installation is one per cluster, and the modules install Durward by different values.

use std::sync::{Condvar, Mutex, PoisonError};

/// The module whose tests run.
struct TurnHolder {
    module: &'static str,
    /// How many of its tests run.
    tests: usize,
    /// How many modules held the turn so far.
    number: usize,
}

static HOLDER: Mutex<TurnHolder> = Mutex::new(TurnHolder { module: "", tests: 0, number: 0 });
static RELEASED: Condvar = Condvar::new();

/// A test's part in the turn of its module; ends when dropped.
pub struct Turn {
    /// Another one whenever the turn passes from module to module.
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
