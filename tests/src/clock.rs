//! A clock that a test sets forward for a running program, by libfaketime.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub struct Clock {
    directory: TempDir,
    ahead: Cell<i64>,
}

impl Clock {
    /// A clock with the time of the system.
    pub fn with_system_time() -> Self {
        let clock = Self { directory: tempfile::tempdir().unwrap(), ahead: Cell::new(0) };
        clock.advance(0);
        clock
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("clock")
    }

    /// Makes a program use this clock. Timers are not affected.
    pub fn give(&self, command: &mut Command) {
        let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
        assert!(Path::new(&library).exists(), "{library} is missing: run `make test-deps`");
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", self.file());
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    }

    /// Sets the clock forward by `seconds`.
    pub fn advance(&self, seconds: i64) {
        self.ahead.set(self.ahead.get() + seconds);
        let fresh = self.file().with_extension("new");
        fs::write(&fresh, format!("+{}", self.ahead.get())).unwrap();
        // readers never see an incomplete file
        fs::rename(fresh, self.file()).unwrap();
    }

    /// Seconds ahead of the system.
    pub fn ahead(&self) -> i64 {
        self.ahead.get()
    }
}
