use super::KubernetesRequestMatch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is remembered of the version of a policy that was last in force: enough to close its service where that version is
/// not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastGood {
    /// Its generation, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Audience of its service.
    pub audience: String,
    /// Hosts of its service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Kubernetes API requests that it governed; none for `mode: Audit`, which refuses nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes: Vec<KubernetesRequestMatch>,
    /// Workloads that it denied by name and without a condition: they are minted nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denials: Vec<NamedDenial>,
}

/// Workloads that a denial names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedDenial {
    /// Name of the denial.
    pub name: String,
    /// Their SPIFFE IDs.
    pub workloads: Vec<String>,
}
