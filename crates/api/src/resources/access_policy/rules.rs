//! Roles, grants and denials, and the callers they apply to.

use crate::resources::schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A named set of scopes.
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
    /// Scopes of the role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::scopes")]
    pub scopes: Vec<String>,
    /// Other roles of this policy whose scopes the role includes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::role_names")]
    pub includes: Vec<String>,
}

/// Scopes for some callers, optionally under a condition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.scopes) || has(self.roles)",
     "message": "a grant needs at least one of `scopes` and `roles`"},
]))]
pub struct GrantRule {
    /// Name of the grant, unique in the policy. Decisions contain it.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// Callers that the grant applies to: any of these.
    #[schemars(length(min = 1, max = 64))]
    pub to: Vec<CallerSelector>,
    /// Scopes that the grant gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::scopes")]
    pub scopes: Vec<String>,
    /// Roles of this policy whose scopes the grant gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::role_names")]
    pub roles: Vec<String>,
    /// Whether the grant gives a scope only if the caller's token also carries it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_token: bool,
    /// Condition in CEL over `principal`, `request`, `kubernetes` and `resource`. When it fails to evaluate, nothing is
    /// granted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::condition")]
    pub when: Option<String>,
    /// Relation that the caller must have to the object (ReBAC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation: Option<RelationRequirement>,
}

/// A relation to one object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelationRequirement {
    /// The object, such as `order:{id}` with `{id}` captured from the path.
    #[schemars(schema_with = "schema::object_pattern")]
    pub object: String,
    /// The relation that the caller must have to it.
    #[schemars(schema_with = "schema::relation_name")]
    pub relation: String,
}

/// Denies some callers, optionally under a condition. A denial overrides every grant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DenialRule {
    /// Name of the denial, unique in the policy. Decisions contain it.
    #[schemars(schema_with = "schema::name")]
    pub name: String,
    /// Callers that the denial applies to: any of these.
    #[schemars(length(min = 1, max = 64))]
    pub to: Vec<CallerSelector>,
    /// Condition in CEL over `principal`, `request`, `kubernetes` and `resource`. When it fails to evaluate, the denial
    /// applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::condition")]
    pub when: Option<String>,
    /// Reason, for the audit record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::sentence")]
    pub reason: Option<String>,
}

/// Some callers: exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, `spiffe`, `principal`, `provider`
/// (alone, or with `group` and `claims`) and `authenticated`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.serviceAccount), has(self.__namespace__), has(self.namespaceSelector), has(self.spiffe), has(self.principal), has(self.provider) || has(self.group) || has(self.claims), has(self.authenticated)].exists_one(given, given)",
     "message": "exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, `spiffe`, `principal`, `provider` (with or without `group` and `claims`) and `authenticated` must be given"},
    {"rule": "!(has(self.group) || has(self.claims)) || has(self.provider)",
     "message": "`group` and `claims` need their `provider`", "fieldPath": ".provider"},
    {"rule": "!has(self.authenticated) || self.authenticated",
     "message": "`authenticated` can only be `true`", "fieldPath": ".authenticated"},
]))]
pub struct CallerSelector {
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
    /// Workloads by SPIFFE ID; `*` matches any one segment: `spiffe://cluster.local/ns/*/sa/billing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::principal")]
    pub spiffe: Option<String>,
    /// One principal by its ID, such as `user:corporate/alice` or `key:partners/acme`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::principal")]
    pub principal: Option<String>,
    /// Every caller that this IdentityProvider authenticates; with `group`, the members of the group; with `claims`,
    /// the callers with all of these claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub provider: Option<String>,
    /// A group of the given `provider`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::group")]
    pub group: Option<String>,
    /// Attributes that the given `provider` maps from claims, with these values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::claims")]
    pub claims: Option<BTreeMap<String, String>>,
    /// Every caller that authenticates with a method this policy accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated: Option<bool>,
}

/// A Kubernetes service account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceAccount {
    /// Namespace of the service account.
    #[schemars(schema_with = "schema::namespace")]
    pub namespace: String,
    /// Name of the service account.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}
