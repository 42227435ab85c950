use super::schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// ReBAC tuples: each says that a subject stands in a relation to an object.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "durward.dev",
    version = "v1alpha1",
    kind = "Relationship",
    plural = "relationships",
    shortname = "rel",
    category = "durward",
    namespaced,
    status = "RelationshipStatus",
    derive = "PartialEq",
    doc = "ReBAC tuples: each says that a subject stands in a relation to an object.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.service"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelationshipSpec {
    /// Audience of the service whose objects these are, in this namespace.
    #[schemars(schema_with = "schema::audience")]
    pub service: String,
    /// The tuples.
    #[schemars(length(max = 5000))]
    pub tuples: Vec<StatedTuple>,
}

/// `object # relation @ subject`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatedTuple {
    /// The object, `type:id`.
    #[schemars(schema_with = "schema::object_id")]
    pub object: String,
    /// The relation.
    #[schemars(schema_with = "schema::relation_name")]
    pub relation: String,
    /// The subject: a principal id, another object, or a set `type:id#relation`.
    #[schemars(schema_with = "schema::principal")]
    pub subject: String,
}

/// What became of a Relationship.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelationshipStatus {
    /// `Accepted`: the tuples fit the model of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is remembered of the version that was last in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGoodTuples>,
}

/// What is remembered of the version of a Relationship that was last in force: enough to let nobody pass by whom it may exclude,
/// where that version is not known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastGoodTuples {
    /// Its generation, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Audience of the service that it was about.
    pub service: String,
}
