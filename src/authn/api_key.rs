//! API keys, of which only hashes are kept.
//!
//! A key is 256 random bits, so a fast hash is as good as a slow one: nobody can try them all, and there is no
//! dictionary. A slow hash would only let strangers make us work.

use crate::authn::bearer::single;
use crate::authn::cause::Cause;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use durward_api::compile::FieldError;
use durward_api::resources::ApiKeyProvider;
use durward_core::principal::{Identity, Principal, PrincipalId, is_dns_label};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use http::HeaderMap;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Label of Secrets that hold keys; its value names the provider.
pub const LABEL: &str = "durward.dev/api-keys";
const PREFIX: &str = "dwk_";
const DEFAULT_HEADER: &str = "x-api-key";
/// Longest key: prefix, the longest name, and the secret.
const MAX_KEY: usize = 128;
type Hash = [u8; 32];

/// The keys of one provider.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    pub(crate) header: String,
    keys: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    hash: Hash,
    principal: Arc<Principal>,
    expires_at: Option<DateTime<Utc>>,
}

impl ApiKeys {
    /// The keys of the provider `name` among `secrets`. A Secret that can't be used is left out and reported.
    pub(crate) fn new(
        name: &str,
        spec: &ApiKeyProvider,
        secrets: &[Secret],
    ) -> Result<(Self, Vec<FieldError>), FieldError> {
        let header = spec.header.as_deref().unwrap_or(DEFAULT_HEADER).to_ascii_lowercase();
        if http::HeaderName::try_from(&header).is_err() || header == "authorization" || header == "cookie" {
            let message = format!("`{header}` can't carry a key; use a header of its own, such as `{DEFAULT_HEADER}`");
            return Err(FieldError { field: "spec.apiKey.header".to_owned(), message });
        }
        let (mut keys, mut problems, mut twice) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for secret in secrets.iter().filter(|secret| selects(&spec.selector, secret)) {
            let secret_name = secret.metadata.name.clone().unwrap_or_default();
            match read(name, secret) {
                Ok((key, stored)) => {
                    if keys.insert(key.clone(), stored).is_some() {
                        twice.insert(key);
                    }
                }
                Err(message) => problems.push(FieldError { field: format!("Secret {secret_name}"), message }),
            }
        }
        for key in twice {
            // nobody can tell which one is meant
            keys.remove(&key);
            let message = format!("two Secrets hold a key `{key}`; neither counts until one is renamed");
            problems.push(FieldError { field: "spec.apiKey.selector".to_owned(), message });
        }
        Ok((Self { header, keys }, problems))
    }

    /// The principal of the key in a request; `None` if it has none.
    pub(crate) fn authenticate(
        &self,
        headers: &HeaderMap,
        now: DateTime<Utc>,
    ) -> Result<Option<Arc<Principal>>, Cause> {
        let Some(value) = single(headers, &self.header)? else { return Ok(None) };
        if value.len() > MAX_KEY {
            return Err(Cause::TooLong);
        }
        let text = value.to_str().map_err(|_| Cause::KeyMalformed)?;
        let name = name_of(text).ok_or(Cause::KeyMalformed)?;
        let hash = hash_of(text);
        // an unknown name costs the same comparison as a wrong secret
        let stored = self.keys.get(name);
        let right = stored.map_or(&[0; 32], |stored| &stored.hash).ct_eq(&hash);
        match stored {
            Some(stored) if bool::from(right) => match stored.expires_at {
                Some(end) if end <= now => Err(Cause::KeyExpired),
                _ => Ok(Some(Arc::clone(&stored.principal))),
            },
            _ => Err(Cause::KeyWrong),
        }
    }
}

fn name_of(text: &str) -> Option<&str> {
    let (name, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).ok()?);
    (is_dns_label(name) && decoded.len() == 32).then_some(name)
}

fn hash_of(text: &str) -> Hash {
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest(&SHA256, text.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

fn read(provider: &str, secret: &Secret) -> Result<(String, Stored), String> {
    let field = |name: &str| -> Result<Option<String>, String> {
        let plain = secret.string_data.as_ref().and_then(|data| data.get(name)).cloned();
        let encoded = secret.data.as_ref().and_then(|data| data.get(name));
        let decoded = encoded
            .map(|bytes| String::from_utf8(bytes.0.clone()).map_err(|_| format!("`{name}` is not UTF-8")))
            .transpose()?;
        Ok(plain.or(decoded))
    };
    let name = field("name")?.or_else(|| secret.metadata.name.clone()).unwrap_or_default();
    if !is_dns_label(&name) {
        return Err(format!("`name` is `{name}`, not a DNS label"));
    }
    if field("key")?.is_some() {
        return Err("it holds the key itself; store only its `hash`, and make the key anew".to_owned());
    }
    let text = field("hash")?.ok_or("it has no `hash`; make one with `durward mint api-key`")?;
    let hash =
        text.strip_prefix("sha256:").and_then(unhex).ok_or("its `hash` is not `sha256:` and 64 hexadecimal digits")?;
    let id = PrincipalId::key(provider, &name).map_err(|error| error.to_string())?;
    let expires_at = field("expiresAt")?
        .map(|text| text.parse::<DateTime<Utc>>().map_err(|_| "its `expiresAt` is no RFC 3339 time".to_owned()))
        .transpose()?;
    let scopes = field("scopes")?
        .map(|text| {
            text.split_whitespace()
                .map(Scope::parse)
                .collect::<Result<BTreeSet<_>, _>>()
                .map_err(|error| error.to_string())
        })
        .transpose()?;
    let attributes = field("attributes")?
        .map(|text| serde_json::from_str(&text).map_err(|_| "its `attributes` are no JSON object".to_owned()))
        .transpose()?;
    let identity = Identity {
        groups: field("groups")?.unwrap_or_default().split_whitespace().map(ToOwned::to_owned).collect(),
        attributes: attributes.unwrap_or_default(),
        scopes,
        expires_at,
        ..Identity::new(id, Assurance::SharedSecret)
    };
    Ok((name, Stored { hash, principal: Arc::new(Principal::authenticated(identity)), expires_at }))
}

fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(hash)
}

/// Whether the selector takes the Secret. An empty selector takes none: it says nothing, so it means nothing.
pub(crate) fn selects(selector: &LabelSelector, secret: &Secret) -> bool {
    let empty = BTreeMap::new();
    let labels = secret.metadata.labels.as_ref().unwrap_or(&empty);
    let wanted = selector.match_labels.iter().flatten();
    let expressions = selector.match_expressions.iter().flatten();
    if wanted.clone().next().is_none() && expressions.clone().next().is_none() {
        return false;
    }
    wanted.into_iter().all(|(label, value)| labels.get(label) == Some(value))
        && expressions.into_iter().all(|expression| {
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

/// Makes a key from 32 random bytes, and the Secret that stores its hash. The key itself is nowhere else.
#[must_use]
pub fn generate(provider: &str, name: &str, random: &[u8; 32]) -> (Zeroizing<String>, Secret) {
    let key = Zeroizing::new(format!("{PREFIX}{name}_{}", URL_SAFE_NO_PAD.encode(random)));
    let hash = hash_of(&key).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"));
    let mut secret = Secret { type_: Some("durward.dev/api-key".to_owned()), ..Secret::default() };
    secret.metadata.name = Some(format!("{provider}-{name}"));
    secret.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), provider.to_owned())]));
    secret.string_data = Some(BTreeMap::from([("name".to_owned(), name.to_owned()), ("hash".to_owned(), hash)]));
    (key, secret)
}
