//! Secrets with the hashes of API keys.

use chrono::{DateTime, Utc};
use durward_api::resources::IdentityProviderSpec;
use durward_core::principal::{Identity, Principal, PrincipalId, PrincipalIdError, is_dns_label};
use durward_core::risk::Assurance;
use durward_core::scope::{Scope, ScopeError};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thiserror::Error;

/// Label of Secrets with API keys; its value is the name of the provider.
pub const LABEL: &str = "durward.dev/api-keys";
/// Field with the name of the key. The default is the name of the Secret.
pub const NAME: &str = "name";
/// Field with the groups of the key, separated by spaces.
pub const GROUPS: &str = "groups";
/// Field with the hash of the key.
pub(super) const HASH: &str = "hash";
/// Field with the time of creation.
pub const CREATED: &str = "createdAt";
/// Field with the end of the key.
pub const EXPIRES: &str = "expiresAt";
/// Field with the hash of the former key.
pub(super) const FORMER_HASH: &str = "formerHash";
/// Field with the end of the former key.
pub const FORMER_UNTIL: &str = "formerUntil";

/// A Secret is not a usable API key.
#[derive(Debug, Error)]
pub enum ApiKeySecretError {
    /// A field is not UTF-8.
    #[error("`{0}` is not UTF-8")]
    NotUtf8(String),
    /// The name of the key is not a DNS label.
    #[error("`name` is `{0}`, not a DNS label")]
    Name(String),
    /// The Secret holds the key itself.
    #[error("it holds the key itself; create a new key, and store only its `hash`")]
    PlainKey,
    /// The Secret has no hash.
    #[error("it has no `hash`; create one with `durward mint api-key`")]
    NoHash,
    /// A hash is malformed.
    #[error("its `{0}` is not `sha256:` and 64 hexadecimal digits")]
    Hash(&'static str),
    /// A time is malformed.
    #[error("its `{0}` is not an RFC 3339 time")]
    Time(&'static str),
    /// Provider and name are not a valid principal.
    #[error(transparent)]
    Principal(#[from] PrincipalIdError),
    /// A scope is malformed.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// The attributes are malformed.
    #[error("its `attributes` are not a JSON object")]
    Attributes,
    /// Only one of the fields of the former key is set.
    #[error("`{FORMER_HASH}` and `{FORMER_UNTIL}` must be set together")]
    Former,
    /// The lifetime of the key is unknown, so that of the next one is too.
    #[error("it has an end, but no time of creation (`{CREATED}`); set the lifetime with --expires")]
    UnknownLifetime,
}

/// A key as its Secret stores it.
#[derive(Debug)]
pub(super) struct StoredApiKey {
    pub newest: ApiKeyHash,
    /// The previous key, which is still accepted for a time.
    pub former: Option<ApiKeyHash>,
}

/// Hash of a key, with the key's principal and end.
#[derive(Debug)]
pub(super) struct ApiKeyHash {
    pub hash: [u8; 32],
    pub principal: Arc<Principal>,
}

/// Reads the key of a provider from its Secret; returns the name of the key too.
pub(super) fn read(provider: &str, secret: &Secret) -> Result<(String, StoredApiKey), ApiKeySecretError> {
    let fields = fields(secret)?;
    let field = |name: &str| fields.get(name);
    let name = field(NAME).or(secret.metadata.name.as_ref()).cloned().unwrap_or_default();
    if !is_dns_label(&name) {
        return Err(ApiKeySecretError::Name(name));
    }
    if field("key").is_some() {
        return Err(ApiKeySecretError::PlainKey);
    }
    let hash = |name: &'static str| {
        let decode = |text: &String| text.strip_prefix("sha256:").and_then(decode_hash);
        field(name).map(|text| decode(text).ok_or(ApiKeySecretError::Hash(name))).transpose()
    };
    let newest = hash(HASH)?.ok_or(ApiKeySecretError::NoHash)?;
    let id = PrincipalId::key(provider, &name)?;
    let expires_at = time(&fields, EXPIRES)?;
    let scopes = field("scopes")
        .map(|text| text.split_whitespace().map(Scope::parse).collect::<Result<BTreeSet<_>, _>>())
        .transpose()?;
    let attributes = field("attributes")
        .map(|text| serde_json::from_str(text).map_err(|_| ApiKeySecretError::Attributes))
        .transpose()?;
    let identity = Identity {
        groups: field(GROUPS).into_iter().flat_map(|text| text.split_whitespace()).map(ToOwned::to_owned).collect(),
        attributes: attributes.unwrap_or_default(),
        scopes,
        expires_at,
        ..Identity::new(id, Assurance::SharedSecret)
    };
    let until = |hash, end: Option<DateTime<Utc>>| {
        let expires_at = identity.expires_at.into_iter().chain(end).min();
        let identity = Identity { expires_at, ..identity.clone() };
        ApiKeyHash { hash, principal: Arc::new(Principal::authenticated(identity)) }
    };
    let former = match (hash(FORMER_HASH)?, time(&fields, FORMER_UNTIL)?) {
        (Some(hash), Some(end)) => Some(until(hash, Some(end))),
        (None, None) => None,
        _ => return Err(ApiKeySecretError::Former),
    };
    Ok((name, StoredApiKey { newest: until(newest, None), former }))
}

/// The fields of a Secret as text, from `data` and `stringData`.
///
/// # Errors
/// When a field is not UTF-8.
pub fn fields(secret: &Secret) -> Result<BTreeMap<String, String>, ApiKeySecretError> {
    let mut fields = BTreeMap::new();
    for (name, bytes) in secret.data.iter().flatten() {
        let text = String::from_utf8(bytes.0.clone()).map_err(|_| ApiKeySecretError::NotUtf8(name.clone()))?;
        fields.insert(name.clone(), text);
    }
    fields.extend(secret.string_data.iter().flatten().map(|(name, text)| (name.clone(), text.clone())));
    Ok(fields)
}

/// The time in a field.
pub(super) fn time(
    fields: &BTreeMap<String, String>,
    name: &'static str,
) -> Result<Option<DateTime<Utc>>, ApiKeySecretError> {
    fields.get(name).map(|text| text.parse().map_err(|_| ApiKeySecretError::Time(name))).transpose()
}

fn decode_hash(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// Whether a provider reads API keys from a Secret.
#[must_use]
pub fn provider_selects(provider: &IdentityProviderSpec, secret: &Secret) -> bool {
    provider.api_key.as_ref().is_some_and(|keys| selects(&keys.selector, secret))
}

/// Whether a selector matches a Secret. Unlike in Kubernetes, an empty selector matches none.
pub(super) fn selects(selector: &LabelSelector, secret: &Secret) -> bool {
    let empty = BTreeMap::new();
    let labels = secret.metadata.labels.as_ref().unwrap_or(&empty);
    let mut required = selector.match_labels.iter().flatten();
    let mut expressions = selector.match_expressions.iter().flatten();
    if required.clone().next().is_none() && expressions.clone().next().is_none() {
        return false;
    }
    required.all(|(label, value)| labels.get(label) == Some(value))
        && expressions.all(|expression| {
            let value = labels.get(&expression.key);
            let listed = |value: &String| expression.values.iter().flatten().any(|listed| listed == value);
            match expression.operator.as_str() {
                "In" => value.is_some_and(listed),
                "NotIn" => !value.is_some_and(listed),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
