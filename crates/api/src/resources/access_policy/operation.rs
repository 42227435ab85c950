//! Operations of a service, and the requests that match them.

use super::rules::CallerSelector;
use crate::resources::schema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One thing that can be done with the service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.http) || has(self.grpc) || has(self.kubernetes)",
     "message": "an operation needs at least one of `http`, `grpc` and `kubernetes`"},
    {"rule": "!has(self.public) || !self.public || !has(self.scopes)",
     "message": "a public operation asks for no scopes: remove `scopes` or `public`", "fieldPath": ".scopes"},
    {"rule": "!has(self.public) || !self.public || !has(self.stepUp)",
     "message": "a public operation asks for no second factor: remove `stepUp` or `public`", "fieldPath": ".stepUp"},
    {"rule": "!has(self.public) || !self.public || !has(self.risk) || self.risk != 'High'",
     "message": "a public operation can't have `risk: High`", "fieldPath": ".risk"},
    {"rule": "!has(self.stepUp) || (has(self.risk) && self.risk == 'High')",
     "message": "`stepUp` is only for `risk: High`", "fieldPath": ".stepUp"},
    {"rule": "!has(self.approval) || (has(self.risk) && self.risk == 'High')",
     "message": "`approval` is only for `risk: High`", "fieldPath": ".approval"},
]))]
pub struct Operation {
    /// Name of the operation, unique in the service; also its scope, unless `scopes` says otherwise.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// HTTP requests that are this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub http: Vec<HttpRequestMatch>,
    /// gRPC calls that are this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub grpc: Vec<GrpcCallMatch>,
    /// Kubernetes API requests in the policy's own namespace that are this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub kubernetes: Vec<KubernetesRequestMatch>,
    /// Scopes that a caller needs, all of them. Default: the operation's own name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::scopes")]
    pub scopes: Vec<String>,
    /// What the operation can cost; decides which credentials are good enough. `Standard` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// How fresh a person's second factor must be, for `risk: High`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up: Option<StepUpRule>,
    /// Who has to approve it first, each time for one caller, for `risk: High`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRule>,
    /// Open to everybody, without any authentication.
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
    /// Resources, with subresource where it matters: `pods`, `pods/exec`.
    #[schemars(schema_with = "schema::api_resources")]
    pub resources: Vec<String>,
    /// Admission operations (`CREATE`, `UPDATE`, `DELETE`, `CONNECT`).
    #[schemars(schema_with = "schema::admission_verbs")]
    pub verbs: Vec<String>,
}

/// What an operation can cost when the wrong caller gets through; decides which credentials are good enough.
/// `Standard` unless said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Risk {
    /// Any credential is enough, an API key included.
    Low,
    /// A token of a trusted issuer, or better. API keys are refused.
    #[default]
    Standard,
    /// A workload proves possession of its key; a person has a fresh second factor.
    High,
}

/// How fresh a person's second factor must be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepUpRule {
    /// Oldest accepted second factor, such as `5m` (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub max_age: Option<String>,
}

/// Who has to approve an operation before a caller may do it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApprovalRule {
    /// People, any of whom may approve, with a second factor of the last five minutes: a `provider`, with or without `group`
    /// and `claims`, or a `principal`.
    #[schemars(length(min = 1, max = 8))]
    pub by: Vec<CallerSelector>,
    /// For how long an approval counts, from `1m` to `24h`; `30m` unless said.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub lasts: Option<String>,
}
