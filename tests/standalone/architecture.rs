//! The rule of the layers: dependencies point one way, `core` is pure, and only the authenticator makes principals.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The dependencies of `package` with their versions and, for our own, folders. Leaves out what only `pruned` ones need.
fn built_from(package: &str, pruned: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}"])
        .args(pruned.iter().flat_map(|name| ["--prune", name]))
        .current_dir(durward_tests::repository(""))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo tree prints UTF-8");
    text.lines().map(ToOwned::to_owned).collect()
}

/// The names of the dependencies.
fn dependencies(package: &str, pruned: &[&str]) -> Vec<String> {
    let all = built_from(package, pruned);
    all.iter().filter_map(|line| line.split(' ').next()).map(ToOwned::to_owned).collect()
}

fn assert_without(package: &str, forbidden: &[&str]) {
    let dependencies = dependencies(package, &[]);
    assert_none(package, &dependencies, forbidden);
}

fn assert_none(package: &str, dependencies: &[String], forbidden: &[&str]) {
    assert!(dependencies.iter().any(|name| name == package), "cargo tree of {package} was not understood");
    let found: Vec<_> = dependencies.iter().filter(|name| forbidden.contains(&name.as_str())).collect();
    assert!(found.is_empty(), "{package} must not depend on {found:?}");
}

#[test]
fn core_is_pure() {
    assert_without(
        "durward-core",
        &[
            "tokio",
            "kube",
            "kube-core",
            "k8s-openapi",
            "hyper",
            "axum",
            "tonic",
            "rustls",
            "durward-api",
            "durward-pki",
            "durward",
        ],
    );
}

#[test]
fn api_has_no_client_and_no_runtime() {
    assert_without(
        "durward-api",
        &["tokio", "kube-client", "kube-runtime", "hyper", "rustls", "durward-pki", "durward"],
    );
}

#[test]
fn pki_has_no_runtime_and_no_client() {
    assert_without("durward-pki", &["tokio", "kube", "kube-core", "k8s-openapi", "hyper", "durward-api", "durward"]);
}

#[test]
fn wire_has_no_decision_logic() {
    assert_without(
        "durward-wire",
        &["durward-core", "durward-api", "durward-pki", "durward", "kube", "kube-core", "k8s-openapi", "rustls"],
    );
}

#[test]
fn time_zones_are_the_small_ones() {
    // cargo only warns about a patch that no longer fits
    let all = built_from("durward", &[]);
    let zones: Vec<_> = all.iter().filter(|line| line.starts_with("chrono-tz ")).collect();
    assert!(!zones.is_empty() && zones.iter().all(|line| line.contains("crates/chrono-tz")), "{zones:?}");
}

#[test]
fn there_is_one_crypto_provider() {
    assert_without("durward", &["ring", "openssl", "openssl-sys", "native-tls"]);
    // webauthn-rs verifies passkeys by RustCrypto; nothing else does, and nothing signs by it
    let without_passkeys = dependencies("durward", &["webauthn-rs"]);
    assert_none("durward", &without_passkeys, &["rsa", "p256", "webauthn-rs-core", "crypto-glue"]);
}

/// Rust sources below `directory`.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("readable").map(|entry| entry.expect("readable").path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found
}

/// Files below `src`, except in `rooms`, that mention `name`.
fn mentions(name: &str, rooms: &[&str]) -> Vec<PathBuf> {
    let root = durward_tests::repository("src");
    let outside = |file: &PathBuf| !rooms.iter().any(|room| file.starts_with(root.join(room)));
    let all = sources(&root);
    assert!(all.iter().any(|file| !outside(file)), "no room of {rooms:?} exists");
    all.into_iter().filter(outside).filter(|file| fs::read_to_string(file).expect("UTF-8").contains(name)).collect()
}

#[test]
fn only_the_authenticator_makes_principals() {
    assert_eq!(mentions("Principal::authenticated", &["authn"]), Vec::<PathBuf>::new());
}

#[test]
fn only_explanations_assume_principals() {
    assert_eq!(mentions("Principal::assumed", &["cli", "audit/replay.rs"]), Vec::<PathBuf>::new());
}

#[test]
fn doors_decide_nothing() {
    for name in [".decide(", "Reason::Granted", "Condition::"] {
        let root = durward_tests::repository("src/doors");
        let found: Vec<_> =
            sources(&root).into_iter().filter(|file| fs::read_to_string(file).expect("UTF-8").contains(name)).collect();
        assert_eq!(found, Vec::<PathBuf>::new(), "{name}");
    }
}
