use super::rules;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// An outside source of identity: exactly one of `jwt`, `apiKey` and `x509`.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "durward.dev",
    version = "v1alpha1",
    kind = "IdentityProvider",
    plural = "identityproviders",
    shortname = "idp",
    category = "durward",
    status = "IdentityProviderStatus",
    derive = "PartialEq",
    doc = "An outside source of identity: JWTs of an issuer, API keys, or a federated trust domain.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Accepted\")].status"}"#,
    printcolumn = r#"{"name":"Issuer","type":"string","jsonPath":".spec.jwt.issuer"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("(has(self.jwt) ? 1 : 0) + (has(self.apiKey) ? 1 : 0) + (has(self.x509) ? 1 : 0) == 1", "say exactly one of jwt, apiKey and x509"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IdentityProviderSpec {
    /// Tokens of an outside issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtProvider>,
    /// API keys in labelled Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeyProvider>,
    /// A federated trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509: Option<X509Provider>,
}

/// Tokens of an outside issuer (RFC 7519, checked as RFC 8725 asks).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules(&[
    ("!(has(self.jwks) && has(self.jwksUri))", "jwks and jwksUri exclude each other"),
    ("!has(self.jwksUri) || self.jwksUri.startsWith('https://') || self.jwksUri.startsWith('http://127.0.0.1') || self.jwksUri.startsWith('http://localhost') || self.jwksUri.startsWith('http://[::1]')", "keys are fetched by https only, but for this host"),
    ("has(self.jwks) || has(self.jwksUri) || self.issuer.startsWith('https://') || self.issuer.startsWith('http://127.0.0.1') || self.issuer.startsWith('http://localhost') || self.issuer.startsWith('http://[::1]')", "keys are found through an https issuer only; else say jwks or jwksUri"),
])))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtProvider {
    /// The exact `iss` of its tokens. Unless `jwksUri` or `jwks` is given, its keys are found through
    /// `<issuer>/.well-known/openid-configuration`.
    #[schemars(length(min = 1, max = 2048))]
    pub issuer: String,
    /// URL of its keys (RFC 7517), when discovery is not wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub jwks_uri: Option<String>,
    /// Its keys themselves (RFC 7517, section 5), for issuers that can't be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "jwks_schema")]
    pub jwks: Option<Map<String, Value>>,
    /// Accepted `aud` values. Default: the audience of the service that is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub audiences: Vec<String>,
    /// Which claims become what.
    #[serde(default)]
    pub claims: ClaimMapping,
    /// What second factors its tokens vouch for. Nothing said means `Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<AssuranceMapping>,
}

/// Which claims of a token become what of the principal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimMapping {
    /// Claim that names the subject. Default `sub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Claim with the list of groups. Default `groups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<String>,
    /// Claim with the scopes, a string separated by spaces or a list. Default `scope`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Claims that become `principal.attributes`: attribute name to claim name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// How claims of a token show a second factor (OpenID Connect `acr`, RFC 8176 `amr`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssuranceMapping {
    /// Values of `acr` or `amr` that mean a second factor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub multi_factor: Vec<String>,
    /// Values of `acr` or `amr` that mean a factor which can't be relayed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub phishing_resistant: Vec<String>,
}

/// API keys, stored as hashes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeyProvider {
    /// Secrets that hold keys of this provider.
    pub selector: LabelSelector,
    /// Request header that carries the key. Default `x-api-key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

/// Another trust domain whose certificates are believed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct X509Provider {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Its trust bundle: certificates in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
}

fn jwks_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// What became of an IdentityProvider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityProviderStatus {
    /// `Accepted`: it is understood and its keys are there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
