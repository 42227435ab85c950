use super::{LastGood, schema};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

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
    /// What the certificates of the service's pods are like. Pods get one if a policy is about them: its `podSelector` takes
    /// them in, or a grant or a denial names their service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<MintedIdentity>,
    /// Accepted ways in, tried in this order. A way that is not listed is not accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub authentication: Vec<Way>,
    /// What access tokens for the service are like, which the token service gives out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
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
    /// Who knows these relations. Default: Durward itself, by `Relationship`s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation_engine: Option<RelationEngine>,
    /// Request headers that conditions read, as `request.headers`; in lower case. Others are not shown to them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::condition_headers")]
    pub headers: Vec<String>,
    /// Who gets which scopes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub grants: Vec<Grant>,
    /// Who gets nothing, whatever is granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub denials: Vec<Denial>,
    /// Whether decisions are enforced, or only recorded.
    #[serde(default)]
    pub mode: Mode,
}

impl AccessPolicySpec {
    /// The scopes of a role and of every role that it includes.
    #[must_use]
    pub fn scopes_of_role(&self, name: &str) -> BTreeSet<&str> {
        let (mut scopes, mut seen, mut waiting) = (BTreeSet::new(), BTreeSet::new(), vec![name]);
        while let Some(name) = waiting.pop() {
            if let Some(role) = self.roles.iter().find(|role| role.name == name).filter(|_| seen.insert(name)) {
                scopes.extend(role.scopes.iter().map(String::as_str));
                waiting.extend(role.includes.iter().map(String::as_str));
            }
        }
        scopes
    }

    /// Every IdentityProvider that is named, with the field.
    #[must_use]
    pub fn providers(&self) -> Vec<(String, &str)> {
        let ways = self
            .authentication
            .iter()
            .enumerate()
            .filter_map(|(i, way)| Some((format!("spec.authentication[{i}].provider"), way.provider.as_deref()?)));
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
        ways.chain(subjects).collect()
    }
}

/// The service that a policy is about.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Service {
    /// `aud` of tokens for this service. Default: `<name>.<namespace>` of the policy. Another value needs the
    /// Namespace's annotation `durward.dev/allowed-audiences`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::audience")]
    pub audience: Option<String>,
    /// Host names under which the service is called, without port. Names outside the namespace's own need the
    /// Namespace's annotation `durward.dev/allowed-hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::hosts")]
    pub hosts: Vec<String>,
    /// The pods that are this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub pod_selector: Option<LabelSelector>,
}

/// What the pods of the service are minted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MintedIdentity {
    /// Lifetime of a certificate, from `5m` to `24h`, such as `1h`. Kubernetes itself brings pods no certificate of less
    /// than an hour; the agent does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
    /// DNS names that certificates carry beside the SPIFFE ID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::dns_names")]
    pub dns_names: Vec<String>,
}

/// What access tokens for the service are like (RFC 9068). Where several policies share a service, the shortest lifetime
/// holds, and the algorithm of the first policy by name that says one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tokens {
    /// How they are signed: `RS256` unless said, which every JWT library knows; `ES256` makes shorter tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<TokenAlgorithm>,
    /// Longest lifetime, from `1m` to `1h`; `5m` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
}

/// How tokens are signed (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TokenAlgorithm {
    /// RSA of 2048 bits, with SHA-256.
    Rs256,
    /// ECDSA on P-256, with SHA-256.
    Es256,
}

/// One accepted way in: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.workload) != has(self.provider)",
     "message": "exactly one of `workload` and `provider` must be given"},
]))]
pub struct Way {
    /// Certificates, JWT-SVIDs and service-account tokens of this trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadWay>,
    /// Name of an IdentityProvider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub provider: Option<String>,
}

/// Settings of the workload way in; none yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadWay {}

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
    pub http: Vec<HttpMatch>,
    /// gRPC calls that are this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub grpc: Vec<GrpcMatch>,
    /// Kubernetes API requests in the policy's own namespace that are this operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16))]
    pub kubernetes: Vec<KubernetesMatch>,
    /// Scopes that a caller needs, all of them. Default: the operation's own name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::scopes")]
    pub scopes: Vec<String>,
    /// What the operation can cost; decides which credentials are good enough. `Standard` unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<Risk>,
    /// How fresh a person's second factor must be, for `risk: High`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up: Option<StepUp>,
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
pub struct HttpMatch {
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
pub struct GrpcMatch {
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
pub struct KubernetesMatch {
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
pub struct StepUp {
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
    pub by: Vec<Subject>,
    /// For how long an approval counts, from `1m` to `24h`; `30m` unless said.
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub lasts: Option<String>,
}

/// A name for a set of scopes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.scopes) || has(self.includes)",
     "message": "a role needs at least one of `scopes` and `includes`"},
]))]
pub struct Role {
    /// Name of the role, unique in the policy.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// The scopes that it stands for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::scopes")]
    pub scopes: Vec<String>,
    /// Other roles of this policy whose scopes it stands for as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::role_names")]
    pub includes: Vec<String>,
}

/// One type of object and its relations (ReBAC).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectType {
    /// Name of the type, such as `order`.
    #[schemars(schema_with = "schema::relation_name")]
    pub object: String,
    /// Its relations by name. `{}` is a plain relation, which tuples state directly.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 64))]
    pub relations: BTreeMap<String, RelationRule>,
}

/// Who knows the relations of a service, in place of Durward itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelationEngine {
    /// The OpenFGA server that the installation is told of.
    pub openfga: OpenFga,
}

/// Where an OpenFGA server has the relations of a service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OpenFga {
    /// Id of the store. It needs the Namespace's annotation `durward.dev/allowed-openfga-stores`.
    #[schemars(schema_with = "schema::ulid")]
    pub store: String,
    /// Id of the authorization model, as OpenFGA gave it when the model of `durward relations model` was written.
    #[schemars(schema_with = "schema::ulid")]
    pub model: String,
}

/// How a relation comes about; `{}` when tuples state it directly.
///
/// Nested rules are checked when the policy is compiled: a CRD schema can't be recursive.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.union), has(self.intersection), has(self.exclusion), has(self.this), has(self.relation)].filter(given, given).size() <= 1",
     "message": "at most one of `union`, `intersection`, `exclusion`, `this` and `relation` can be given"},
    {"rule": "!has(self.from) || has(self.relation)",
     "message": "`from` needs `relation`: the relation to look up on the other object", "fieldPath": ".from"},
]))]
pub struct RelationRule {
    /// Any of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::open_objects")]
    pub union: Option<Vec<Map<String, Value>>>,
    /// All of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::open_objects")]
    pub intersection: Option<Vec<Map<String, Value>>>,
    /// The first, but none of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::open_objects")]
    pub exclusion: Option<Vec<Map<String, Value>>>,
    /// Tuples that state the relation directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub this: Option<Direct>,
    /// Another relation of the same object; with `from`, of the object found through that relation.
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
pub struct Direct {}

/// Scopes for some callers, under a condition if one is given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.scopes) || has(self.roles)",
     "message": "a grant needs at least one of `scopes` and `roles`"},
]))]
pub struct Grant {
    /// Name of the grant, unique in the policy; decisions name it.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// Callers that the grant is for: any of these.
    #[schemars(length(min = 1, max = 64))]
    pub to: Vec<Subject>,
    /// Scopes that it gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::scopes")]
    pub scopes: Vec<String>,
    /// Roles of this policy whose scopes it gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::role_names")]
    pub roles: Vec<String>,
    /// A scope counts only if the caller's token carries it too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_token: bool,
    /// Condition in CEL over `principal`, `request`, `kubernetes` and `resource`. When it fails to evaluate, nothing is granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::condition")]
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
    #[schemars(schema_with = "schema::object_pattern")]
    pub object: String,
    /// The relation that the caller must have to it.
    #[schemars(schema_with = "schema::relation_name")]
    pub relation: String,
}

/// Nothing for some callers, under a condition if one is given. A denial wins over every grant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Denial {
    /// Name of the denial, unique in the policy; decisions name it.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// Callers that the denial is for: any of these.
    #[schemars(length(min = 1, max = 64))]
    pub to: Vec<Subject>,
    /// Condition in CEL over `principal`, `request`, `kubernetes` and `resource`. When it fails to evaluate, the denial applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::condition")]
    pub when: Option<String>,
    /// Why, for the audit record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::sentence")]
    pub reason: Option<String>,
}

/// Some callers: exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, `spiffe`, `principal`, `provider` (alone, or with
/// `group` and `claims`) and `authenticated`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.serviceAccount), has(self.__namespace__), has(self.namespaceSelector), has(self.spiffe), has(self.principal), has(self.provider) || has(self.group) || has(self.claims), has(self.authenticated)].exists_one(given, given)",
     "message": "exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, `spiffe`, `principal`, `provider` (with or without `group` and `claims`) and `authenticated` must be given"},
    {"rule": "!(has(self.group) || has(self.claims)) || has(self.provider)",
     "message": "`group` and `claims` need the `provider` that vouches for them", "fieldPath": ".provider"},
    {"rule": "!has(self.authenticated) || self.authenticated",
     "message": "`authenticated` can only be `true`", "fieldPath": ".authenticated"},
]))]
pub struct Subject {
    /// A Kubernetes service account of this trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccount>,
    /// Every service account of this Namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::namespace")]
    pub namespace: Option<String>,
    /// Every service account of the Namespaces with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub namespace_selector: Option<LabelSelector>,
    /// Workloads by their SPIFFE IDs, segment by segment, with `*` for any one: `spiffe://cluster.local/ns/*/sa/billing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::principal")]
    pub spiffe: Option<String>,
    /// One principal by its id, such as `user:corporate/alice` or `key:partners/acme`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::principal")]
    pub principal: Option<String>,
    /// Everybody whom this IdentityProvider vouches for; with `group`, the members of that group; with `claims`, those who
    /// have them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub provider: Option<String>,
    /// A group of the given `provider`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::group")]
    pub group: Option<String>,
    /// Attributes that the given `provider` maps from claims, and that equal these texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::claims")]
    pub claims: Option<BTreeMap<String, String>>,
    /// Everybody who is authenticated in a way that this policy accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<bool>,
}

/// A Kubernetes service account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccount {
    /// Its namespace.
    #[schemars(schema_with = "schema::namespace")]
    pub namespace: String,
    /// Its name.
    #[schemars(schema_with = "schema::object_name")]
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
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
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
    /// What is remembered of the version that was last in force. A replica that starts while the policy is broken has never seen
    /// that version: it closes the service by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<LastGood>,
    /// How many requests this generation would have denied, had its `mode` not been `Audit`, on all replicas: told twice a
    /// minute, and less by what was counted right before a replica ended. The audit log has each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audited_denials: Option<i64>,
    /// Number of pods that hold a certificate because of this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minted_pods: Option<i32>,
}
