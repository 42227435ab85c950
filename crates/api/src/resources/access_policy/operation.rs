//! Operations of a service, and the requests that match them.

use super::rules::CallerSelector;
use crate::resources::schema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One operation of the service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.http) || has(self.grpc) || has(self.kubernetes)",
     "message": "an operation needs at least one of `http`, `grpc` and `kubernetes`"},
    {"rule": "!has(self.public) || !self.public || !has(self.scopes)",
     "message": "a public operation can't require scopes: remove `scopes` or `public`", "fieldPath": ".scopes"},
    {"rule": "!has(self.public) || !self.public || !has(self.stepUp)",
     "message": "a public operation can't require a second factor: remove `stepUp` or `public`", "fieldPath": ".stepUp"},
    {"rule": "!has(self.public) || !self.public || !has(self.risk) || self.risk != 'High'",
     "message": "a public operation can't have `risk: High`", "fieldPath": ".risk"},
    {"rule": "!has(self.stepUp) || (has(self.risk) && self.risk == 'High')",
     "message": "`stepUp` is only for `risk: High`", "fieldPath": ".stepUp"},
    {"rule": "!has(self.approval) || (has(self.risk) && self.risk == 'High')",
     "message": "`approval` is only for `risk: High`", "fieldPath": ".approval"},
]))]
pub struct Operation {
    /// Name of the operation, unique in the service. It is also the scope of the operation, unless `scopes` is set.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// HTTP requests that match this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub http: Vec<HttpRequestMatch>,
    /// gRPC calls that match this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub grpc: Vec<GrpcCallMatch>,
    /// Kubernetes API requests in the policy's own namespace that match this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub kubernetes: Vec<KubernetesRequestMatch>,
    /// Scopes that a caller needs; all of them are required. Default: the operation's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::scopes")]
    pub scopes: Vec<String>,
    /// Damage if the wrong caller gets through; it determines which credentials are accepted. Default `Standard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// Maximum age of a person's second factor, for `risk: High`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up: Option<StepUpRule>,
    /// People who must approve the operation for each caller before the call, for `risk: High`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRule>,
    /// Whether the operation is open to every caller, without authentication.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
}

/// HTTP requests, by method and path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRequestMatch {
    /// Methods in upper case; `*` means any.
    #[schemars(schema_with = "schema::http_methods")]
    pub methods: Vec<String>,
    /// Path patterns: `/orders`, `/orders/{id}` (one segment, captured), `/static/*` (one or more segments at the end).
    #[schemars(schema_with = "schema::paths")]
    pub paths: Vec<String>,
}

/// gRPC calls, by service and method.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcCallMatch {
    /// Full name of the gRPC service, such as `shop.v1.Orders`.
    #[schemars(schema_with = "schema::grpc_service")]
    pub service: String,
    /// Method names; `*` means any.
    #[schemars(schema_with = "schema::grpc_methods")]
    pub methods: Vec<String>,
}

/// Kubernetes API requests, by group, resource and verb.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesRequestMatch {
    /// API groups; `""` is the core group.
    #[schemars(schema_with = "schema::api_groups")]
    pub api_groups: Vec<String>,
    /// Resources, with a subresource if there is one: `pods`, `pods/exec`.
    #[schemars(schema_with = "schema::api_resources")]
    pub resources: Vec<String>,
    /// Admission operations (`CREATE`, `UPDATE`, `DELETE`, `CONNECT`).
    #[schemars(schema_with = "schema::admission_verbs")]
    pub verbs: Vec<String>,
}

/// Damage if the wrong caller gets through; it determines which credentials are accepted. Default `Standard`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Risk {
    /// Any credential is accepted, including an API key.
    Low,
    /// A token of a trusted issuer, or a stronger credential. API keys are refused.
    #[default]
    Standard,
    /// A workload must prove possession of its key; a person must have a recent second factor.
    High,
}

/// Maximum age of a person's second factor.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepUpRule {
    /// Maximum age of the second factor, such as `5m` (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub max_age: Option<String>,
}

/// People who must approve an operation before a caller may perform it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApprovalRule {
    /// Approvers. Any one of them may approve, with a second factor of the last five minutes. Each is a `provider`,
    /// with or without `group` and `claims`, or a `principal`.
    #[schemars(length(min = 1, max = 8))]
    pub by: Vec<CallerSelector>,
    /// Validity of an approval, from `1m` to `24h`. Default `30m`.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub lasts: Option<String>,
}
