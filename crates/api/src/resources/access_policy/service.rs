//! The protected service: names, pods, identity, tokens and accepted authentication methods.

use crate::resources::schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The service that a policy protects.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// `aud` of tokens for this service. Default: `<name>.<namespace>` of the policy. Another value needs the
    /// Namespace's annotation `durward.dev/allowed-audiences`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::audience")]
    pub audience: Option<String>,
    /// Host names of the service, without a port. Names outside the namespace need the Namespace's annotation
    /// `durward.dev/allowed-hosts`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::hosts")]
    pub hosts: Vec<String>,
    /// The pods of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub pod_selector: Option<LabelSelector>,
}

/// Certificates of the service's pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MintedIdentity {
    /// Lifetime of a certificate, from `5m` to `24h`, such as `1h`. Kubernetes itself delivers certificates with a
    /// lifetime of an hour or more; the agent also delivers shorter ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
    /// DNS names in the certificates, in addition to the SPIFFE ID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::dns_names")]
    pub dns_names: Vec<String>,
}

/// Access tokens for the service (RFC 9068). If several policies share a service, the shortest lifetime applies, and
/// the algorithm of the first policy by name that sets one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenProfile {
    /// Signature algorithm. Default `RS256`, which every JWT library supports; `ES256` makes shorter tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<TokenAlgorithm>,
    /// Maximum lifetime, from `1m` to `1h`. Default `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub ttl: Option<String>,
}

/// Signature algorithm of tokens (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum TokenAlgorithm {
    /// RSA of 2048 bits, with SHA-256.
    Rs256,
    /// ECDSA on P-256, with SHA-256.
    Es256,
}

/// One accepted authentication method: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.workload) != has(self.provider)",
     "message": "exactly one of `workload` and `provider` must be given"},
]))]
pub struct AuthenticationEntry {
    /// Certificates, JWT-SVIDs and service-account tokens of this trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadAuthentication>,
    /// Name of an IdentityProvider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub provider: Option<String>,
}

/// Settings of workload authentication; none yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadAuthentication {}
