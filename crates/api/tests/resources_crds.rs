//! The CRDs in `crds/`: up to date, documented and structural.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation fails the test"
)]

use durward_api::crd;
use serde_json::Value;
use std::path::Path;

fn schemas() -> Vec<(String, Value)> {
    let crds = crd::crds().expect("CRDs");
    crds.iter()
        .map(|crd| {
            let crd = serde_json::to_value(crd).expect("JSON");
            let kind = crd["spec"]["names"]["kind"].as_str().expect("kind").to_owned();
            (kind, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())
        })
        .collect()
}

/// Calls `look` with each schema and its path, the root first.
fn walk(path: &str, schema: &Value, look: &mut dyn FnMut(&str, &Value)) {
    look(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), inner, look);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&format!("{path}{mark}"), &schema[key], look);
        }
    }
}

/// Complaints about the schemas, as `kind.path: complaint`.
fn complaints(judge: impl Fn(&str, &Value) -> Option<&'static str>) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, schema) in schemas() {
        walk(&kind, &schema, &mut |path, schema| {
            found.extend(judge(path, schema).map(|complaint| format!("{path}: {complaint}")));
        });
    }
    found
}

#[test]
fn the_files_are_not_stale() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    if std::env::var_os("UPDATE").is_some() {
        crd::write_crds(&dir).expect("crds/ is writable");
    }
    let mut generated = Vec::new();
    for crd in crd::crds().expect("CRDs") {
        let name = crd::file_name(&crd);
        let text = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        let fresh = crd::to_yaml(&crd).expect("YAML");
        assert!(text == fresh, "crds/{name} is stale: run `make crds` (or this test with UPDATE=1)");
        let read: Value = serde_saphyr::from_str(&text).expect("YAML");
        assert_eq!(read, serde_json::to_value(&crd).expect("JSON"), "crds/{name} round-trips");
        generated.push(name);
    }
    let mut present: Vec<_> = std::fs::read_dir(dir)
        .expect("crds/")
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    present.sort();
    assert_eq!(present, generated, "crds/ holds a file for each kind and no other");
}

#[test]
fn every_field_is_described() {
    let missing = complaints(|path, schema| {
        let is_field = path.contains('.') && !path.ends_with("[]") && !path.ends_with("{}");
        (is_field && schema["description"].as_str().is_none_or(|text| text.len() < 8)).then_some("no description")
    });
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn the_schemas_are_structural() {
    let wrong = complaints(|_, schema| {
        let free = schema["x-kubernetes-int-or-string"] == true;
        if !free && !schema["type"].is_string() {
            return Some("no type");
        }
        for keyword in ["$ref", "oneOf", "anyOf", "allOf", "not", "definitions", "nullable"] {
            if !schema[keyword].is_null() {
                return Some("a keyword that a structural schema can't have, or not with types in it");
            }
        }
        (!schema["properties"].is_null() && !schema["additionalProperties"].is_null())
            .then_some("`additionalProperties` beside `properties`")
    });
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn lists_and_strings_of_a_spec_are_bounded() {
    let unbounded = complaints(|path, schema| {
        // label selectors are Kubernetes' own, and no rule reads them
        let ours = path.contains(".spec") && !path.contains("elector.") && !path.contains("elector{");
        let list = schema["type"] == "array" && schema["maxItems"].is_null();
        let text = schema["type"] == "string" && schema["maxLength"].is_null() && schema["enum"].is_null();
        let map = !schema["additionalProperties"].is_null() && schema["maxProperties"].is_null();
        (ours && (list || text || map)).then_some("no bound")
    });
    assert_eq!(unbounded, Vec::<String>::new());
}

#[test]
fn named_lists_are_maps() {
    for (kind, path, key) in [
        ("AccessPolicy", "/properties/spec/properties/operations", "name"),
        ("AccessPolicy", "/properties/spec/properties/roles", "name"),
        ("AccessPolicy", "/properties/spec/properties/relations", "object"),
        ("AccessPolicy", "/properties/spec/properties/grants", "name"),
        ("AccessPolicy", "/properties/spec/properties/denials", "name"),
        ("AccessPolicy", "/properties/status/properties/conditions", "type"),
        ("IdentityProvider", "/properties/status/properties/conditions", "type"),
        ("Relationship", "/properties/status/properties/conditions", "type"),
    ] {
        let schemas = schemas();
        let (_, schema) = schemas.iter().find(|(name, _)| name == kind).expect(kind);
        let list = schema.pointer(path).expect(path);
        assert_eq!(list["x-kubernetes-list-type"], "map", "{kind}{path}");
        assert_eq!(list["x-kubernetes-list-map-keys"], serde_json::json!([key]), "{kind}{path}");
    }
}

#[test]
fn kinds_have_short_names_and_columns() {
    let expected = [
        ("ap", "Namespaced", "Ready"),
        ("apr", "Namespaced", "Principal"),
        ("idp", "Cluster", "Ready"),
        ("rel", "Namespaced", "Ready"),
    ];
    let crds = crd::crds().expect("CRDs");
    assert_eq!(crds.len(), expected.len());
    for (crd, (short, scope, first)) in crds.iter().zip(expected) {
        assert_eq!(crd.spec.names.short_names, Some(vec![short.to_owned()]));
        assert_eq!(crd.spec.names.categories, Some(vec!["durward".to_owned()]));
        assert_eq!(crd.spec.scope, scope);
        let version = &crd.spec.versions[0];
        assert!(version.subresources.as_ref().is_some_and(|sub| sub.status.is_some()));
        let columns: Vec<_> = version.additional_printer_columns.iter().flatten().map(|c| c.name.as_str()).collect();
        assert_eq!((columns.first(), columns.last()), (Some(&first), Some(&"Age")));
    }
}

#[test]
fn defaults_are_in_the_schema() {
    let (_, policy) = &schemas()[0];
    let spec = &policy["properties"]["spec"]["properties"];
    assert_eq!(spec["mode"]["default"], "Enforce");
    // an unset risk differs from the default: lint reports an operation that deletes without stating a risk
    assert!(spec["operations"]["items"]["properties"]["risk"].get("default").is_none());
}
