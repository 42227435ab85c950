//! Architecture rules: crates depend on lower layers only, `core` is pure, modules form no circle, and only the
//! authenticator creates principals.

mod house;
mod modules;
mod types;

use durward_tests::repository;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lowest layer first. A crate may use the crates of the layers below its own, never one beside or above it.
const LAYERS: [&[&str]; 12] = [
    &["core"],
    &["api", "pki"],
    &["runtime", "protocol"],
    &["kubernetes", "authn"],
    &["engine"],
    &["step-up", "manifests", "controller-client"],
    &["identity"],
    &["approvals"],
    &["state"],
    &["doors"],
    &["controller", "agent", "gate", "standalone"],
    &["durward"],
];

/// A crate of the program.
struct Package {
    /// Its name without `durward-`.
    name: String,
    folder: PathBuf,
    /// The crates of the program that it uses, outside of its tests.
    uses: Vec<String>,
}

/// The crates of the program, by name.
fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--no-deps"])
        .current_dir(repository(""))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let short = |name: &str| name.strip_prefix("durward-").unwrap_or(name).to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    let ours = packages.iter().filter(|package| {
        !matches!(package["name"].as_str(), Some("durward-tests" | "durward-cluster" | "durward-model"))
    });
    ours.map(|package| {
        let name = short(package["name"].as_str().expect("a name"));
        let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        let normal = dependencies.iter().filter(|dependency| dependency["kind"].is_null());
        let names = normal.filter_map(|dependency| dependency["name"].as_str());
        let uses = names.filter(|name| name.starts_with("durward-")).map(short).collect();
        let folder = manifest.parent().expect("a folder").to_owned();
        (name.clone(), Package { name, folder, uses })
    })
    .collect()
}

/// The layer of a crate.
fn layer(name: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&name))
        .unwrap_or_else(|| panic!("crate `{name}` has no layer: add it to LAYERS, as low as its dependencies allow"))
}

/// The Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
    found.sort_unstable();
    found
}

#[test]
fn a_crate_uses_only_the_layers_below_it() {
    for package in packages().values() {
        for used in &package.uses {
            assert!(layer(used) < layer(&package.name), "`{}` must not use `{used}`", package.name);
        }
    }
}

/// The names of all dependencies of a crate, without the `pruned` ones and those that only they need.
fn dependencies(package: &str, pruned: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}"])
        .args(pruned.iter().flat_map(|name| ["--prune", name]))
        .current_dir(repository(""))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo tree prints UTF-8");
    text.lines().filter_map(|line| line.split(' ').next()).map(ToOwned::to_owned).collect()
}

fn assert_none(package: &str, dependencies: &[String], forbidden: &[&str]) {
    assert!(dependencies.iter().any(|name| name == package), "cargo tree of {package} was not understood");
    let found: Vec<_> = dependencies.iter().filter(|name| forbidden.contains(&name.as_str())).collect();
    assert!(found.is_empty(), "{package} must not depend on {found:?}");
}

#[test]
fn core_is_pure() {
    let forbidden = ["tokio", "kube", "kube-core", "k8s-openapi", "hyper", "axum", "tonic", "rustls"];
    assert_none("durward-core", &dependencies("durward-core", &[]), &forbidden);
}

#[test]
fn api_has_no_client_and_no_runtime() {
    let forbidden = ["tokio", "kube-client", "kube-runtime", "hyper", "rustls", "durward-pki"];
    assert_none("durward-api", &dependencies("durward-api", &[]), &forbidden);
}

#[test]
fn pki_has_no_runtime_and_no_client() {
    let forbidden = ["tokio", "kube", "kube-core", "k8s-openapi", "hyper", "durward-api"];
    assert_none("durward-pki", &dependencies("durward-pki", &[]), &forbidden);
}

#[test]
fn there_is_one_crypto_provider() {
    assert_none("durward", &dependencies("durward", &[]), &["ring", "openssl", "openssl-sys", "native-tls"]);
    // webauthn-rs verifies passkeys with RustCrypto; no other code verifies or signs with it
    let without_passkeys = dependencies("durward", &["webauthn-rs"]);
    assert_none("durward", &without_passkeys, &["rsa", "p256", "webauthn-rs-core", "crypto-glue"]);
}

/// Source files of the program, except those below the `allowed` folders, that mention `name`.
fn mentions(name: &str, allowed: &[&str]) -> Vec<PathBuf> {
    let allowed: Vec<PathBuf> = allowed.iter().map(|folder| repository(folder)).collect();
    assert!(allowed.iter().all(|folder| folder.exists()), "one of {allowed:?} does not exist");
    let all = packages().into_values().flat_map(|package| sources(&package.folder.join("src")));
    all.filter(|file| !allowed.iter().any(|folder| file.starts_with(folder)))
        .filter(|file| fs::read_to_string(file).expect("UTF-8").contains(name))
        .collect()
}

#[test]
fn only_the_authenticator_creates_principals() {
    assert_eq!(mentions("Principal::authenticated", &["crates/authn", "crates/core"]), Vec::<PathBuf>::new());
}

#[test]
fn only_explanations_create_assumed_principals() {
    let allowed = ["src/cli", "crates/engine/src/audit/replay.rs", "crates/core"];
    assert_eq!(mentions("Principal::assumed", &allowed), Vec::<PathBuf>::new());
}

#[test]
fn doors_make_no_decisions() {
    for name in [".decide(", "Reason::Granted", "Condition::"] {
        let files = sources(&repository("crates/doors/src"));
        let found: Vec<_> =
            files.iter().filter(|file| fs::read_to_string(file).expect("UTF-8").contains(name)).collect();
        assert_eq!(found, Vec::<&PathBuf>::new(), "{name}");
    }
}
