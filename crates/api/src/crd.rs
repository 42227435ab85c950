//! The CustomResourceDefinitions, for the API server and for the files in `crds/`.

use crate::resources::{AccessPolicy, Approval, IdentityProvider, Relationship};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::{fs, io};
use thiserror::Error;

/// Why CRDs can't be generated or written.
#[derive(Debug, Error)]
pub enum CrdError {
    /// The generated schema is not a valid CRD.
    #[error("the schema of `{name}` is not a valid CRD: {source}")]
    Schema {
        /// Name of the CRD.
        name: String,
        /// The error of the decoder.
        source: serde_json::Error,
    },
    /// A CRD can't be written as YAML.
    #[error("`{name}` can't be written as YAML: {source}")]
    Yaml {
        /// Name of the CRD.
        name: String,
        /// The error of the serializer.
        source: serde_saphyr::ser::Error,
    },
    /// A file can't be written.
    #[error("can't write `{}`: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
}

/// All CRDs, in order of their names.
///
/// # Errors
/// When the schema of a resource type is not a valid CRD; a test prevents that.
pub fn crds() -> Result<Vec<CustomResourceDefinition>, CrdError> {
    [AccessPolicy::crd(), Approval::crd(), IdentityProvider::crd(), Relationship::crd()]
        .into_iter()
        .map(tidied)
        .collect()
}

/// One CRD as YAML, the same bytes on every machine.
///
/// # Errors
/// When the serializer fails.
pub fn to_yaml(crd: &CustomResourceDefinition) -> Result<String, CrdError> {
    let name = crd.metadata.name.clone().unwrap_or_default();
    let value = serde_json::to_value(crd).map_err(|source| CrdError::Schema { name: name.clone(), source })?;
    let yaml = serde_saphyr::to_string(&sorted(value)).map_err(|source| CrdError::Yaml { name, source })?;
    Ok(format!("# Generated from crates/api by `make crds`; change the types there.\n{yaml}"))
}

/// Writes each CRD to `<dir>/<name>.yaml` and returns the files in order.
///
/// # Errors
/// When the folder or a file can't be written.
pub fn write_crds(dir: &Path) -> Result<Vec<PathBuf>, CrdError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| CrdError::Write { path, source }
    };
    fs::create_dir_all(dir).map_err(failed(dir))?;
    let mut files = Vec::new();
    for crd in crds()? {
        let path = dir.join(file_name(&crd));
        fs::write(&path, to_yaml(&crd)?).map_err(failed(&path))?;
        files.push(path);
    }
    Ok(files)
}

/// Name of a CRD's file.
#[must_use]
pub fn file_name(crd: &CustomResourceDefinition) -> String {
    format!("{}.yaml", crd.metadata.name.as_deref().unwrap_or_default())
}

fn tidied(crd: CustomResourceDefinition) -> Result<CustomResourceDefinition, CrdError> {
    let name = crd.metadata.name.clone().unwrap_or_default();
    let rewritten = serde_json::to_value(crd).and_then(|mut value| {
        if let Some(schemas) = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
            schemas.iter_mut().filter_map(|version| version.pointer_mut("/schema/openAPIV3Schema")).for_each(tidy);
        }
        serde_json::from_value(value)
    });
    rewritten.map_err(|source| CrdError::Schema { name, source })
}

/// Removes what an API server does not need.
///
/// A nullable field that is null would satisfy `has()` in a rule. Without `nullable` the API server drops the null, and
/// the field reads as [`None`].
fn tidy(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("nullable");
    if schema.get("additionalProperties").is_some_and(Value::is_boolean) {
        // the API server prunes unknown fields or, with strict field validation, refuses them
        schema.remove("additionalProperties");
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(inner) {
            tidy(inner);
        }
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(tidy);
    }
}

/// The same value with the members of every object sorted, whether or not `serde_json` preserves the order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(Map::from_iter(fields))
        }
        other => other,
    }
}
