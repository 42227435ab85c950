//! The relation model of a service (ReBAC).

use crate::resources::schema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One type of object and its relations (ReBAC).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectType {
    /// Name of the type, such as `order`.
    #[schemars(schema_with = "schema::relation_name")]
    pub object: String,
    /// Relations of the type, by name. `{}` is a direct relation, which tuples state.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub relations: BTreeMap<String, RelationRule>,
}

/// The engine that looks up the relations of a service, instead of Durward itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelationEngine {
    /// The OpenFGA server of the installation.
    pub openfga: OpenFgaReference,
}

/// The store and the model of a service on an OpenFGA server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenFgaReference {
    /// ID of the store. It needs the Namespace's annotation `durward.dev/allowed-openfga-stores`.
    #[schemars(schema_with = "schema::ulid")]
    pub store: String,
    /// ID of the authorization model, which OpenFGA returned when you wrote the output of `durward relations model`.
    #[schemars(schema_with = "schema::ulid")]
    pub model: String,
}

/// Rule of a relation; `{}` if tuples state it directly.
///
/// Nested rules are checked when the policy is compiled, since a CRD schema can't be recursive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.union), has(self.intersection), has(self.exclusion), has(self.this), has(self.relation)].filter(given, given).size() <= 1",
     "message": "at most one of `union`, `intersection`, `exclusion`, `this` and `relation` can be given"},
    {"rule": "!has(self.from) || has(self.relation)",
     "message": "`from` needs `relation`: the relation to look up on the other object", "fieldPath": ".from"},
]))]
pub struct RelationRule {
    /// The relation holds if any of these rules holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::open_objects")]
    pub union: Option<Vec<Map<String, Value>>>,
    /// The relation holds if all of these rules hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::open_objects")]
    pub intersection: Option<Vec<Map<String, Value>>>,
    /// The relation holds if the first rule holds and none of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::open_objects")]
    pub exclusion: Option<Vec<Map<String, Value>>>,
    /// Tuples that state the relation directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub this: Option<DirectTuples>,
    /// Another relation of the same object; with `from`, a relation of the object that `from` leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::relation_name")]
    pub relation: Option<String>,
    /// The relation that leads to the other object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::relation_name")]
    pub from: Option<String>,
}

/// Tuples that state a relation directly.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectTuples {}
