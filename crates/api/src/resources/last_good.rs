use super::KubernetesRequestMatch;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Record of a policy's last good version. A replica that does not know that version uses the record to close the
/// service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastGood {
    /// Generation of the version, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Audience of the service.
    pub audience: String,
    /// Hosts of the service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Kubernetes API requests that the version governed; empty for `mode: Audit`, which refuses nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes: Vec<KubernetesRequestMatch>,
    /// Workloads that the version denied by name and without a condition. They get no certificates and no tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub denials: Vec<NamedDenial>,
}

/// Workloads that a denial names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedDenial {
    /// Name of the denial.
    pub name: String,
    /// SPIFFE IDs of the workloads.
    pub workloads: Vec<String>,
}
