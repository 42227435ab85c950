//! The OpenFGA server's program, built from its Go module.

use super::module;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

/// Runs `go` in the folder of the module, and returns what it prints.
pub(super) fn go(arguments: &[&str]) -> String {
    let mut go = Command::new("go");
    go.env("GOFLAGS", "-mod=readonly -buildvcs=false").env("GOWORK", "off").env("CGO_ENABLED", "0");
    let output = go.current_dir(module()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The path of the program. The first build takes minutes; later ones find that nothing changed.
pub fn program() -> PathBuf {
    let folder = durward_cluster::cargo::scratch_folder().unwrap();
    fs::create_dir_all(&folder).unwrap();
    // tests that start together must not build it twice
    let lock = File::create(folder.join("openfga.lock")).unwrap();
    lock.lock().unwrap();
    let program = folder.join("openfga");
    let output = program.display().to_string();
    go(&["build", "-trimpath", "-ldflags", "-s -w", "-o", &output, "github.com/openfga/openfga/cmd/openfga"]);
    program
}
