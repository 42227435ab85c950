use super::rules;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

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
    /// The service that this policy is about.
    #[serde(default)]
    pub service: Service,
    /// The identity that the pods of the service are minted. Not minted unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<MintedIdentity>,
    /// Accepted ways in, tried in this order. A way that is not listed is not accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub authentication: Vec<Way>,
    /// What can be done with the service. What is not declared here is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 512), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub operations: Vec<Operation>,
    /// Names for sets of scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub roles: Vec<Role>,
    /// The relation model of the service's objects (ReBAC).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["object"]))]
    pub relations: Vec<ObjectType>,
    /// Who gets which scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub grants: Vec<Grant>,
    /// Who gets nothing, whatever is granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub denials: Vec<Denial>,
    /// Whether decisions are enforced, or only recorded.
    #[serde(default)]
    pub mode: Mode,
}

/// The service that a policy is about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("!has(self.hosts) || self.hosts.all(h, !h.contains(':') || h.startsWith('['))", "a host has no port"),
    ("!has(self.hosts) || self.hosts.all(h, !h.contains('*') && !h.contains('/'))", "a host has no wildcard and no path"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// `aud` of tokens for this service. Default: `<name>.<namespace>` of the policy. Another value needs the
    /// Namespace's annotation `durward.dev/allowed-audiences`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub audience: Option<String>,
    /// Host names under which the service is called, without port. Names outside the namespace's own need the
    /// Namespace's annotation `durward.dev/allowed-hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub hosts: Vec<String>,
    /// The pods that are this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// What the pods of the service are minted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MintedIdentity {
    /// Lifetime of a certificate, such as `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// DNS names that certificates carry beside the SPIFFE ID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub dns_names: Vec<String>,
}

/// One accepted way in: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("has(self.workload) != has(self.provider)", "say exactly one of workload and provider"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Way {
    /// Certificates, JWT-SVIDs and service-account tokens of this trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadWay>,
    /// Name of an IdentityProvider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub provider: Option<String>,
}

/// Settings of the workload way in; none yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadWay {}

/// One thing that can be done with the service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("has(self.http) || has(self.grpc) || has(self.kubernetes)", "say which requests it is: http, grpc or kubernetes"),
    ("!has(self.public) || !self.public || !(has(self.scopes) || has(self.stepUp) || (has(self.risk) && self.risk == 'High'))", "a public operation asks nobody for scopes, risk or step-up"),
    ("!has(self.stepUp) || (has(self.risk) && self.risk == 'High')", "a step-up is asked for at risk High only"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// Name of the operation, unique in the service; also its scope, unless `scopes` says otherwise.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub name: String,
    /// HTTP requests that are this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    pub http: Vec<HttpMatch>,
    /// gRPC calls that are this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    pub grpc: Vec<GrpcMatch>,
    /// Kubernetes API requests in the policy's own namespace that are this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64))]
    pub kubernetes: Vec<KubernetesMatch>,
    /// Scopes that a caller needs, all of them. Default: the operation's own name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 128), regex(pattern = r"^[\x21\x23-\x5b\x5d-\x7e]+$"))
    )]
    pub scopes: Vec<String>,
    /// What the operation can cost; decides which credentials are good enough.
    #[serde(default)]
    pub risk: Risk,
    /// How fresh a person's second factor must be, for `risk: High`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up: Option<StepUp>,
    /// Open to everybody, without any authentication.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub public: bool,
}

/// HTTP requests, by method and path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("self.methods.size() == 1 || !self.methods.exists(m, m == '*')", "* means any method, so it stands alone"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// Methods in upper case; `*` means any.
    #[schemars(length(min = 1, max = 16), inner(length(max = 32), regex(pattern = r"^([A-Z][A-Z-]*|\*)$")))]
    pub methods: Vec<String>,
    /// Path patterns: `/orders`, `/orders/{id}` (one segment, captured), `/static/*` (one or more segments at the end).
    #[schemars(length(min = 1, max = 64), inner(length(max = 1024), regex(pattern = r"^/")))]
    pub paths: Vec<String>,
}

/// gRPC calls, by service and method.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("self.methods.size() == 1 || !self.methods.exists(m, m == '*')", "* means any method, so it stands alone"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcMatch {
    /// Full name of the gRPC service, such as `shop.v1.Orders`.
    #[schemars(length(min = 1, max = 253))]
    pub service: String,
    /// Method names; `*` means any.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 128)))]
    pub methods: Vec<String>,
}

/// Kubernetes API requests, by group, resource and verb.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesMatch {
    /// API groups; `""` is the core group.
    #[schemars(length(min = 1, max = 64), inner(length(max = 253)))]
    pub api_groups: Vec<String>,
    /// Resources, with subresource where it matters: `pods`, `pods/exec`.
    #[schemars(length(min = 1, max = 64), inner(length(max = 253)))]
    pub resources: Vec<String>,
    /// Admission operations (`CREATE`, `UPDATE`, `DELETE`, `CONNECT`).
    #[schemars(length(min = 1, max = 64), inner(length(max = 253)))]
    pub verbs: Vec<String>,
}

/// What an operation can cost when the wrong caller gets through.
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
pub struct StepUp {
    /// Oldest accepted second factor, such as `5m` (the default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
}

/// A name for a set of scopes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Role {
    /// Name of the role, unique in the policy.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub name: String,
    /// The scopes that it stands for.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 128), regex(pattern = r"^[\x21\x23-\x5b\x5d-\x7e]+$"))
    )]
    pub scopes: Vec<String>,
}

/// One type of object and its relations (ReBAC).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectType {
    /// Name of the type, such as `order`.
    #[schemars(length(min = 1, max = 63))]
    pub object: String,
    /// Its relations by name. `{}` is a plain relation, which tuples state directly.
    #[serde(default)]
    pub relations: BTreeMap<String, RelationRule>,
}

/// How a relation comes about; `{}` when tuples state it directly.
///
/// Nested rules are checked when the policy is compiled: a CRD schema can't be recursive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelationRule {
    /// Any of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_objects")]
    pub union: Option<Vec<Map<String, Value>>>,
    /// All of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_objects")]
    pub intersection: Option<Vec<Map<String, Value>>>,
    /// The first, but none of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_objects")]
    pub exclusion: Option<Vec<Map<String, Value>>>,
    /// Tuples that state the relation directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub this: Option<Direct>,
    /// Another relation of the same object; with `from`, of the object found through that relation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<String>,
    /// The relation that leads to the other object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Tuples that state a relation directly.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Direct {}

/// Nested relation rules, whose shape a structural schema can't say.
fn open_objects(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    })
}

/// Scopes for some callers, under a condition if one is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("has(self.scopes) || has(self.roles)", "a grant gives scopes or roles"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grant {
    /// Name of the grant, unique in the policy; decisions name it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub name: String,
    /// Callers that the grant is for: any of these.
    #[schemars(length(min = 1, max = 64))]
    pub to: Vec<Subject>,
    /// Scopes that it gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 128), regex(pattern = r"^[\x21\x23-\x5b\x5d-\x7e]+$"))
    )]
    pub scopes: Vec<String>,
    /// Roles of this policy whose scopes it gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub roles: Vec<String>,
    /// A scope counts only if the caller's token carries it too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_token: bool,
    /// Condition in CEL over `principal` and `request`. When it fails to evaluate, nothing is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub when: Option<String>,
    /// The caller must stand in this relation to the object (ReBAC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<RelationTo>,
}

/// A relation to one object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelationTo {
    /// The object, such as `order:{id}` with `{id}` captured from the path.
    pub object: String,
    /// The relation that the caller must have to it.
    pub relation: String,
}

/// Nothing for some callers, under a condition if one is given. A denial wins over every grant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Denial {
    /// Name of the denial, unique in the policy; decisions name it.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z0-9._-]+$"))]
    pub name: String,
    /// Callers that the denial is for: any of these.
    #[schemars(length(min = 1, max = 64))]
    pub to: Vec<Subject>,
    /// Condition in CEL over `principal` and `request`. When it fails to evaluate, the denial applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub when: Option<String>,
    /// Why, for the audit record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

/// Some callers: exactly one of `serviceAccount`, `principal`, `provider`, `group` (with its `provider`) and `authenticated`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("(has(self.serviceAccount) ? 1 : 0) + (has(self.principal) ? 1 : 0) + (has(self.provider) ? 1 : 0) + (has(self.authenticated) ? 1 : 0) == 1", "say exactly one of serviceAccount, principal, provider (with or without group) and authenticated"),
    ("!has(self.group) || has(self.provider)", "say whose group it is: provider"),
    ("!has(self.authenticated) || self.authenticated", "only true means anything here"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subject {
    /// A Kubernetes service account of this trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccount>,
    /// One principal by its id, such as `user:corporate/alice` or `key:partners/acme`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 600))]
    pub principal: Option<String>,
    /// Everybody whom this IdentityProvider vouches for; with `group`, the members of that group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub provider: Option<String>,
    /// A group of the given `provider`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub group: Option<String>,
    /// Everybody who is authenticated in a way that this policy accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<bool>,
}

/// A Kubernetes service account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccount {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Whether decisions are enforced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Decide, record, and refuse what is denied.
    #[default]
    Enforce,
    /// Decide and record, but never refuse.
    Audit,
}

/// What became of an AccessPolicy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyStatus {
    /// `Accepted` (it compiles and owns what it claims) and `Programmed` (in force on every ready replica).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation that this status speaks of.
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
    /// Number of pods that hold a certificate because of this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minted_pods: Option<i32>,
}
