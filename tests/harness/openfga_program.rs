//! The program of a real OpenFGA server, built from its Go module.

#![allow(clippy::unwrap_used, reason = "tests say what they expect")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a command of Go prints in the folder of the module.
pub fn ran(module: &Path, arguments: &[&str]) -> String {
    let mut go = Command::new("go");
    go.current_dir(module).env("GOFLAGS", "-mod=readonly -buildvcs=false").env("GOWORK", "off").env("CGO_ENABLED", "0");
    let output = go.args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The program: minutes once, then Go finds that nothing changed.
pub fn built(module: &Path) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // tests that start together must not build the same thing twice
    let lock = File::create(directory.join("openfga.lock")).unwrap();
    lock.lock().unwrap();
    let program = directory.join("openfga");
    let output = program.display().to_string();
    let package = "github.com/openfga/openfga/cmd/openfga";
    ran(module, &["build", "-trimpath", "-ldflags", "-s -w", "-o", &output, package]);
    program
}
