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
    pub service: String,
    /// The tuples.
    #[schemars(length(min = 1, max = 10000))]
    pub tuples: Vec<Tuple>,
}

/// `object # relation @ subject`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tuple {
    /// The object, `type:id`.
    pub object: String,
    /// The relation.
    pub relation: String,
    /// The subject: a principal id, another object, or a set `type:id#relation`.
    pub subject: String,
}

/// What became of a Relationship.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelationshipStatus {
    /// `Accepted`: the tuples fit the model of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
