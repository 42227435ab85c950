use super::schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// ReBAC tuples: each states that a subject has a relation to an object.
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
    doc = "ReBAC tuples: each states that a subject has a relation to an object.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".spec.service"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelationshipSpec {
    /// Audience of the service that owns the objects, in this namespace.
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
    /// The subject: a principal ID, another object, or a set `type:id#relation`.
    #[schemars(schema_with = "schema::principal")]
    pub subject: String,
}

/// Status of a Relationship.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RelationshipStatus {
    /// `Accepted`: the tuples fit the model of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Record of the last good version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGoodTuples>,
}

/// Record of a Relationship's last good version. A replica that does not know that version uses the record to apply the
/// service's exclusions to every caller.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastGoodTuples {
    /// Generation of the version, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Audience of the service that owns the objects.
    pub service: String,
}
