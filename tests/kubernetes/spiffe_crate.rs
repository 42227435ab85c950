//! The Workload API tests of the crate `spiffe`, run against the agent's socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use durward_cluster::paths;
use durward_tests::installation::agent::{AgentPod, printed};
use durward_tests::installation::{Installed, policy};
use durward_tests::repository;
use durward_tests::turn::Turn;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::{Value, json};

/// Its test files for a Workload API.
const FILES: [&str; 3] = ["workload_api_client", "x509_source", "jwt_source"];

/// Names in the tests, and their replacements here.
const NAMES: [(&str, &str); 3] = [
    (r#""spiffe://example.org/myservice2""#, r#"&std::env::var("WORKLOAD").unwrap()"#),
    (r#""spiffe://example.org/myservice""#, r#"&std::env::var("WORKLOAD").unwrap()"#),
    (r#""unix:/tmp/spire-agent/public/api.sock""#, r#"&std::env::var("SPIFFE_ENDPOINT_SOCKET").unwrap()"#),
];

/// Tests that need two identities of one workload. A pod of Durward has the identity of its service account only.
const TWO_IDENTITIES: [&str; 5] = [
    "fetch_all_jwt_svids_includes_hints",
    "fetch_all_x509_svids",
    "fetch_x509_context_includes_hints_on_all_svids",
    "test_picker_selection",
    "test_x509_source_with_custom_picker_and_client",
];

/// The number of remaining tests, to notice a lost one.
const LEFT: usize = 55;

fn cargo(folder: &Path, args: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(folder).env("CARGO_TARGET_DIR", paths::repository().join("target/spiffe-tests")).args(args);
    cargo
}

/// Writes the tests to a package with the manifest of this repository.
fn package() -> PathBuf {
    let folder = paths::repository().join("target/spiffe-tests/package");
    fs::create_dir_all(folder.join("tests")).expect("a folder");
    for file in ["Cargo.toml", "Cargo.lock", "lib.rs"] {
        let source = repository("tests/kubernetes/spiffe-tests").join(file);
        fs::write(folder.join(file), fs::read(source).expect("a file")).expect("written");
    }
    let metadata = cargo(&folder, &["metadata", "--locked", "--format-version=1"]).output().expect("cargo runs");
    assert!(metadata.status.success(), "{}", printed(&metadata));
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let published = packages.iter().find(|package| package["name"] == "spiffe").expect("the crate");
    let manifest = PathBuf::from(published["manifest_path"].as_str().expect("a path"));
    for file in FILES {
        let tests = manifest.with_file_name("tests").join(file).with_extension("rs");
        let text = fs::read_to_string(&tests).unwrap_or_else(|error| panic!("{}: {error}", tests.display()));
        let text = NAMES.iter().fold(text, |text, (theirs, ours)| text.replace(theirs, ours));
        let target = folder.join("tests").join(file).with_extension("rs");
        // unchanged files are not compiled again
        if fs::read_to_string(&target).ok().as_ref() != Some(&text) {
            fs::write(target, text).expect("written");
        }
    }
    folder
}

/// The bundle of another trust domain.
fn root() -> String {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem()
}

#[test]
fn e2e_the_tests_of_the_spiffe_crate_pass() {
    let _turn = Turn::take(module_path!());
    let package = package();
    let built = cargo(&package, &["test", "--locked", "--quiet", "--tests", "--no-run"]).output().expect("cargo runs");
    assert!(built.status.success(), "{}", printed(&built));

    let installed = Installed::new(&["trustDomain=example.org"]);
    let namespace = installed.cluster.namespace("crate").expect("a namespace");
    let name = namespace.name();
    let provider = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": "federated"},
        "spec": {"x509": {"trustDomain": "example-federated.org", "bundle": root()}},
    });
    namespace.apply(&provider.to_string()).expect("applied");
    let spec = json!({
        "service": {"podSelector": {"matchLabels": {"app": "agent"}}},
        "authentication": [{"workload": {}}, {"provider": "federated"}],
    });
    namespace.apply(&policy(name, "agent", spec)).expect("applied");
    installed.in_force(name, "agent");
    let agent = AgentPod::start(&namespace, "myservice2", "example.org");

    let mut tests = cargo(&package, &["test", "--locked", "--no-fail-fast", "--tests", "--", "--ignored"]);
    let tests = tests
        .args(TWO_IDENTITIES.iter().flat_map(|test| ["--skip", test]))
        .env("SPIFFE_ENDPOINT_SOCKET", format!("unix:{}", agent.socket().display()))
        .env("WORKLOAD", &agent.id)
        .output()
        .expect("cargo runs");
    let passed = printed(&tests).lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
    assert!(tests.status.success() && passed == LEFT, "{passed} passed\n{}", printed(&tests));
    namespace.kubectl(["delete", "identityprovider", "federated"]).expect("deleted");
}
