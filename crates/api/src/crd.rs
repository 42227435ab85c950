//! The custom resource definitions, as a cluster gets them.

use crate::resources::{AccessPolicy, IdentityProvider, Relationship};
use kube::CustomResourceExt;
use serde_json::Value;

/// Every definition, in the order of their names, in the form of JSON.
///
/// # Errors
/// Never, as long as the resource types can be written as JSON.
pub fn crds() -> Result<Vec<Value>, serde_json::Error> {
    let all = [AccessPolicy::crd(), IdentityProvider::crd(), Relationship::crd()];
    all.iter().map(|crd| serde_json::to_value(crd).map(without_nullable)).collect()
}

/// A field that is left out and one that is null would be two cases for every rule; only the first is let in.
fn without_nullable(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.into_iter().filter(|(name, value)| name != "nullable" || !value.is_boolean());
            Value::Object(kept.map(|(name, value)| (name, without_nullable(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nullable).collect()),
        other => other,
    }
}
