//! What gRPC reflection tells is what the door speaks: the committed descriptors are those of the definitions that the
//! code is made from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test says what it expects")]

use prost::Message;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the definitions of the crate that brings Envoy's types are.
fn definitions() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let envoy = packages.iter().find(|package| package["name"] == "envoy-types").expect("envoy-types");
    Path::new(envoy["manifest_path"].as_str().unwrap()).parent().unwrap().join("proto")
}

#[test]
fn the_descriptors_are_not_stale() {
    let root = definitions();
    let folders = [
        "data-plane-api",
        "xds",
        "protoc-gen-validate",
        "googleapis",
        "opentelemetry-proto",
        "client_model",
        "cel-spec/proto",
    ];
    let mut compiler = protox::Compiler::new(folders.map(|folder| root.join(folder))).expect("folders");
    compiler.include_imports(true).include_source_info(false);
    compiler.open_file("envoy/service/auth/v3/external_auth.proto").expect("the definition");
    let now = compiler.file_descriptor_set().encode_to_vec();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/doors/ext_authz.descriptors.bin");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &now).expect("written");
    }
    let committed = std::fs::read(&file).expect("the descriptors");
    assert!(committed == now, "{} is stale: run this test with UPDATE=1", file.display());
}
