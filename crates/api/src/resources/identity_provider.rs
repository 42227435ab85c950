use super::schema;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Default header for API keys.
pub const KEY_HEADER: &str = "x-api-key";

/// An external source of identity: exactly one of `jwt`, `apiKey` and `x509`.
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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.jwt), has(self.apiKey), has(self.x509)].exists_one(given, given)",
     "message": "exactly one of `jwt`, `apiKey` and `x509` must be given"},
]))]
pub struct IdentityProviderSpec {
    /// Tokens of an external issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtProvider>,
    /// API keys in labelled Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKeyProvider>,
    /// A federated trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x509: Option<X509Provider>,
}

/// The source of identity that a provider configures. Match on this, not on the members of the specification.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ProviderKind<'s> {
    /// Tokens of an external issuer.
    Jwt(&'s JwtProvider),
    /// API keys in labelled Secrets.
    ApiKey(&'s ApiKeyProvider),
    /// A federated trust domain.
    X509(&'s X509Provider),
}

impl IdentityProviderSpec {
    /// The kind of the provider; `None` unless exactly one is given.
    #[must_use]
    pub const fn kind(&self) -> Option<ProviderKind<'_>> {
        match (&self.jwt, &self.api_key, &self.x509) {
            (Some(jwt), None, None) => Some(ProviderKind::Jwt(jwt)),
            (None, Some(api_key), None) => Some(ProviderKind::ApiKey(api_key)),
            (None, None, Some(x509)) => Some(ProviderKind::X509(x509)),
            _ => None,
        }
    }

    /// The request header with the API key, in lower case; `None` if the provider does not accept API keys.
    #[must_use]
    pub fn key_header(&self) -> Option<String> {
        self.api_key.as_ref().map(ApiKeyProvider::header_name)
    }
}

impl ApiKeyProvider {
    /// The request header with the API key, in lower case.
    #[must_use]
    pub fn header_name(&self) -> String {
        self.header.as_deref().unwrap_or(KEY_HEADER).to_ascii_lowercase()
    }
}

/// Tokens of an external issuer (RFC 7519, checked as RFC 8725 recommends).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.jwksUri) || !has(self.jwks)",
     "message": "`jwksUri` and `jwks` exclude each other", "fieldPath": ".jwks"},
    {"rule": "has(self.jwksUri) || has(self.jwks) || self.issuer.startsWith('https://') || self.issuer.matches('^http://(localhost|127[.]0[.]0[.]1|\\\\[::1\\\\])(:[0-9]+)?(/.*)?$')",
     "message": "`issuer` must be an https URL (http only for localhost) when its keys are discovered; for another issuer give `jwksUri` or `jwks`", "fieldPath": ".issuer"},
]))]
pub struct JwtProvider {
    /// The exact `iss` of the tokens. Without `jwksUri` or `jwks`, keys are discovered at
    /// `<issuer>/.well-known/openid-configuration`.
    #[schemars(schema_with = "schema::issuer")]
    pub issuer: String,
    /// URL of the issuer's keys (RFC 7517), instead of discovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::url")]
    pub jwks_uri: Option<String>,
    /// The issuer's keys (RFC 7517, section 5), for issuers that can't be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::jwks")]
    pub jwks: Option<Map<String, Value>>,
    /// Accepted `aud` values. Default: the audience of the service that is called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::audiences")]
    pub audiences: Vec<String>,
    /// Claims that become the parts of the principal.
    #[serde(default)]
    pub claims: ClaimMapping,
    /// Second factors that the tokens prove. Without it, tokens have assurance `Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assurance: Option<AssuranceMapping>,
}

/// Claims of a token that become the parts of the principal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimMapping {
    /// Claim with the subject. Default `sub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::claim")]
    pub subject: Option<String>,
    /// Claim with the list of groups; a string is one group. Default `groups`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::claim")]
    pub groups: Option<String>,
    /// Claim with the scopes, a string separated by spaces or a list. Default `scope`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::claim")]
    pub scope: Option<String>,
    /// Claims that become `principal.attributes`: claim names by attribute name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::attributes")]
    pub attributes: BTreeMap<String, String>,
}

/// Claim values that prove a second factor (OpenID Connect `acr`, RFC 8176 `amr`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssuranceMapping {
    /// Values of the string `acr`, or of the list `amr`, that mean a second factor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::claim_values")]
    pub multi_factor: Vec<String>,
    /// Values of the string `acr`, or of the list `amr`, that mean a phishing-resistant factor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::claim_values")]
    pub phishing_resistant: Vec<String>,
}

/// API keys, stored as hashes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeyProvider {
    /// Secrets that hold keys of this provider.
    #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
    pub selector: LabelSelector,
    /// Request header that carries the key. Default `x-api-key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::header")]
    pub header: Option<String>,
}

/// Another trust domain, whose X.509-SVIDs and JWT-SVIDs are accepted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.bundle) || has(self.endpoint)", "message": "set the source of the trust bundle: `bundle`, `endpoint`, or both"},
    {"rule": "has(self.bundle) || !has(self.endpoint) || self.endpoint.profile != 'https_spiffe'",
     "message": "profile `https_spiffe` needs an initial `bundle`, which verifies the endpoint"},
]))]
pub struct X509Provider {
    /// SPIFFE trust domain; not the cluster's own.
    #[schemars(schema_with = "schema::trust_domain")]
    pub trust_domain: String,
    /// Trust bundle: SPIFFE's JSON, or roots in PEM. With an `endpoint`, it is the initial bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::pem")]
    pub bundle: Option<String>,
    /// Endpoint at which the trust domain publishes its bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<BundleEndpoint>,
}

/// A bundle endpoint (SPIFFE Federation, section 5).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.spiffeId) == (self.profile == 'https_spiffe')",
     "message": "`spiffeId` is required with profile `https_spiffe`, and allowed only with it", "fieldPath": ".spiffeId"},
]))]
pub struct BundleEndpoint {
    /// An https URL.
    #[schemars(schema_with = "schema::https_url")]
    pub url: String,
    /// Authentication of the endpoint.
    pub profile: BundleProfile,
    /// SPIFFE ID of the endpoint, in the other trust domain. For `https_spiffe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::spiffe_id")]
    pub spiffe_id: Option<String>,
}

/// Authentication of a bundle endpoint (SPIFFE Federation, section 5.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BundleProfile {
    /// By a certificate of a public web authority.
    #[default]
    HttpsWeb,
    /// By an X.509-SVID, verified by the current bundle.
    HttpsSpiffe,
}

/// Status of an IdentityProvider.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IdentityProviderStatus {
    /// `Accepted`: the provider is valid and its keys are available.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Generation that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
