//! OpenFGA, built from its Go module: `tests/openfga/go.mod` pins it.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of its module.
pub fn module() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openfga")
}

/// Its published model tests, as `tests/openfga/main.go` prints them.
pub fn published_tests() -> Vec<u8> {
    let output = go().args(["run", "."]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn go() -> Command {
    let mut command = Command::new("go");
    command.current_dir(module()).env("GOFLAGS", "-mod=readonly -buildvcs=false").env("GOWORK", "off");
    command
}
