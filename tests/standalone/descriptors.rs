//! The committed descriptors, which gRPC reflection serves, match the definitions that the code is generated from.

use durward_tests::repository;
use prost::Message;
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with Envoy's definitions, from the crate with Envoy's types.
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
fn the_descriptors_are_up_to_date() {
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
    let file = repository("crates/doors/src/ext_authz/descriptors.bin");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, &now).expect("written");
    }
    let committed = std::fs::read(&file).expect("the descriptors");
    assert!(committed == now, "{} is stale: run this test with UPDATE=1", file.display());
}

/// Messages and enums of some definitions by their full names (`.package.Message`).
#[derive(Default)]
struct Definitions {
    messages: BTreeMap<String, DescriptorProto>,
    enums: BTreeMap<String, EnumDescriptorProto>,
}

impl Definitions {
    fn of(set: FileDescriptorSet) -> Self {
        let mut all = Self::default();
        for file in set.file {
            let package = format!(".{}", file.package());
            all.add(&package, file.message_type, file.enum_type);
        }
        all
    }

    fn add(&mut self, within: &str, messages: Vec<DescriptorProto>, enums: Vec<EnumDescriptorProto>) {
        for kind in enums {
            self.enums.insert(format!("{within}.{}", kind.name()), kind);
        }
        for message in messages {
            let name = format!("{within}.{}", message.name());
            self.add(&name, message.nested_type.clone(), message.enum_type.clone());
            self.messages.insert(name, message);
        }
    }
}

/// Compares every field of our message, and of messages within it, with Envoy's field of that name. Returns the number
/// of fields.
fn compare_fields(ours: &Definitions, name: &str, theirs: &Definitions, their_name: &str) -> usize {
    let (message, envoys) = (&ours.messages[name], &theirs.messages[their_name]);
    let mut fields = 0;
    for field in &message.field {
        let what = format!("{name}.{}", field.name());
        let envoy = envoys.field.iter().find(|envoy| envoy.name() == field.name());
        let envoy = envoy.unwrap_or_else(|| panic!("{what}: {their_name} has no such field"));
        assert_eq!(field.number, envoy.number, "{what}");
        assert_eq!(field.label, envoy.label, "{what}");
        let oneof = |message: &DescriptorProto, field: &FieldDescriptorProto| {
            let declared = field.oneof_index.and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?));
            declared.map(|oneof| oneof.name().to_owned())
        };
        // `optional` generates a oneof of one field, which the definition does not contain
        if let Some(oneof_name) = oneof(message, field).filter(|_| !field.proto3_optional()) {
            assert_eq!(Some(oneof_name), oneof(envoys, envoy), "{what}");
        }
        fields += 1;
        match (field.r#type(), envoy.r#type()) {
            (Type::Message, Type::Message) => {
                fields += compare_fields(ours, field.type_name(), theirs, envoy.type_name());
            }
            (Type::Enum, Type::Enum) => {
                let numbers = |kind: &EnumDescriptorProto| -> Vec<_> {
                    kind.value.iter().map(|value| (value.name().to_owned(), value.number())).collect()
                };
                let known = numbers(&theirs.enums[envoy.type_name()]);
                for value in numbers(&ours.enums[field.type_name()]) {
                    assert!(known.contains(&value), "{what}: {value:?}");
                }
            }
            // both have the same bytes
            (Type::Bytes, Type::String) | (Type::Int32, Type::Enum) => {}
            (our_type, their_type) => assert_eq!(our_type, their_type, "{what}"),
        }
    }
    fields
}

#[test]
fn our_check_definitions_match_those_of_envoy() {
    let folder = repository("crates/doors/proto");
    let ours = Definitions::of(protox::compile([folder.join("check.proto")], [folder]).expect("the definition"));
    let envoys = std::fs::read(repository("crates/doors/src/ext_authz/descriptors.bin")).expect("the descriptors");
    let envoys = Definitions::of(FileDescriptorSet::decode(&*envoys).expect("descriptors"));
    for message in ["CheckRequest", "CheckResponse"] {
        let name = format!(".envoy.service.auth.v3.{message}");
        let fields = compare_fields(&ours, &name, &envoys, &name);
        assert!(fields > 10, "{message}: {fields} fields");
    }
}
