//! `AccessPolicy`: one service, its operations and who may call them.

mod operation;
mod relation_model;
mod rules;
mod service;

pub use operation::*;
pub use relation_model::*;
pub use rules::*;
pub use service::*;

use crate::resources::{LastGood, schema};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Protects one service: its operations, who may call them, and which identity its pods get.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "durward.dev",
    version = "v1alpha1",
    kind = "AccessPolicy",
    plural = "accesspolicies",
    shortname = "ap",
    category = "durward",
    namespaced,
    status = "AccessPolicyStatus",
    derive = "PartialEq",
    doc = "Protects one service: its operations, who may call them, and which identity its pods get.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Programmed\")].status"}"#,
    printcolumn = r#"{"name":"Service","type":"string","jsonPath":".status.service"}"#,
    printcolumn = r#"{"name":"Operations","type":"integer","jsonPath":".status.operations"}"#,
    printcolumn = r#"{"name":"Mode","type":"string","jsonPath":".spec.mode"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessPolicySpec {
    /// The service that this policy protects.
    #[serde(default)]
    pub service: ServiceSpec,
    /// Certificates of the service's pods. A pod gets a certificate if the `podSelector` of a policy selects it, or if
    /// a grant or a denial names its service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<MintedIdentity>,
    /// Accepted authentication methods, tried in this order. Methods that are not listed are refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub authentication: Vec<AuthenticationEntry>,
    /// Access tokens that the token service issues for the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenProfile>,
    /// Operations of the service. Requests that match no operation are denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub operations: Vec<Operation>,
    /// Named sets of scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub roles: Vec<Role>,
    /// The relation model of the service's objects (ReBAC).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["object"]))]
    pub relations: Vec<ObjectType>,
    /// Engine that looks the relations up. Default: Durward itself, from `Relationship`s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation_engine: Option<RelationEngine>,
    /// Request headers that conditions can read as `request.headers`, in lower case. Conditions can't read other
    /// headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::condition_headers")]
    pub headers: Vec<String>,
    /// Scopes for callers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub grants: Vec<GrantRule>,
    /// Callers to deny, whatever is granted to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub denials: Vec<DenialRule>,
    /// Whether decisions are enforced, or only recorded.
    #[serde(default)]
    pub mode: PolicyMode,
}

impl AccessPolicySpec {
    /// The scopes of a role and of every role that it includes.
    #[must_use]
    pub fn scopes_of_role(&self, name: &str) -> BTreeSet<&str> {
        let mut scopes = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut waiting = vec![name];
        while let Some(name) = waiting.pop() {
            let Some(role) = self.roles.iter().find(|role| role.name == name) else { continue };
            if seen.insert(name) {
                scopes.extend(role.scopes.iter().map(String::as_str));
                waiting.extend(role.includes.iter().map(String::as_str));
            }
        }
        scopes
    }

    /// Every IdentityProvider that the policy names, with the field.
    #[must_use]
    pub fn providers(&self) -> Vec<(String, &str)> {
        let methods =
            self.authentication.iter().enumerate().filter_map(|(i, entry)| {
                Some((format!("spec.authentication[{i}].provider"), entry.provider.as_deref()?))
            });
        let lists = self.grants.iter().map(|grant| &grant.to).enumerate().map(|(i, to)| (format!("grants[{i}]"), to));
        let denials =
            self.denials.iter().map(|denial| &denial.to).enumerate().map(|(i, to)| (format!("denials[{i}]"), to));
        let approvals =
            self.operations.iter().enumerate().filter_map(|(i, operation)| {
                Some((format!("operations[{i}].approval"), &operation.approval.as_ref()?.by))
            });
        let subjects = lists.chain(denials).map(|(list, to)| (format!("{list}.to"), to));
        let subjects = subjects.chain(approvals.map(|(rule, by)| (format!("{rule}.by"), by))).flat_map(|(list, to)| {
            to.iter().enumerate().filter_map(move |(j, subject)| {
                Some((format!("spec.{list}[{j}].provider"), subject.provider.as_deref()?))
            })
        });
        methods.chain(subjects).collect()
    }
}

/// Whether decisions are enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyMode {
    /// Decide, record, and refuse what is denied.
    #[default]
    Enforce,
    /// Decide and record, but never refuse.
    Audit,
}

/// Status of an AccessPolicy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyStatus {
    /// `Accepted` (the policy compiles, and its namespace owns what it claims) and `Programmed` (the policy is in force
    /// on every ready replica).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Revision of the snapshot in which the policy is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Audience of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Number of operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<i32>,
    /// Number of grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<i32>,
    /// Record of the last good version. A replica that starts while the policy is invalid does not know that version,
    /// and uses the record to close the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
    /// Number of requests on all replicas that this generation would have denied without `mode: Audit`. Updated twice a
    /// minute; the last requests before a replica stops can be missing. The audit log has every request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audited_denials: Option<i64>,
    /// Number of decisions on all replicas that used up their budget of work at a rule of this generation: its condition
    /// or relation failed, and so did all further ones. Updated twice a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exhausted_decisions: Option<i64>,
    /// Number of pods that hold a certificate because of this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minted_pods: Option<i32>,
}
