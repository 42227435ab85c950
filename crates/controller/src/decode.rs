//! Durward's own resources, each decoded for itself.

use durward_api::catalog::{Change, created};
use durward_api::compile::FieldError;
use durward_api::relationships::RelationshipKey;
use durward_api::resources::LastGood;
use durward_core::policy::PolicyKey;
use kube::api::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// The `spec` of an object. One that another version of the CRD let in is a mistake of that object alone.
pub fn spec<T: DeserializeOwned>(object: &DynamicObject) -> Result<T, FieldError> {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    serde_path_to_error::deserialize(spec).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "spec".to_owned() } else { format!("spec.{path}") };
        FieldError { field, message: error.into_inner().to_string() }
    })
}

/// What the status of a policy remembers of its last good version.
pub fn remembered(key: &PolicyKey, object: &DynamicObject) -> Option<Change> {
    let good = LastGood::of_object(object.metadata.generation, &object.data)?;
    Some(Change::Remembered(key.clone(), created(&object.metadata), Box::new(good)))
}

/// What the status of a Relationship remembers of its last good version.
pub fn remembered_tuples(key: &RelationshipKey, object: &DynamicObject) -> Option<Change> {
    let good = object.data.get("status")?.get("lastGood")?;
    Some(Change::RememberedRelationship(key.clone(), serde_json::from_value(good.clone()).ok()?))
}

/// The `status` as it is stored, in JSON.
pub fn status(object: &DynamicObject) -> Arc<str> {
    object.data.get("status").unwrap_or(&Value::Null).to_string().into()
}
