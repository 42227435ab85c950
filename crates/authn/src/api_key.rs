//! API keys, of which only hashes are kept.
//!
//! A key is 256 random bits, so a fast hash is as good as a slow one: nobody can try them all, and there is no
//! dictionary. A slow hash would only let strangers make us work. For the same reason the hash has no key of its own (a
//! pepper): it could keep nothing secret that the hash gives away. It could keep those who may write the Secrets from
//! putting keys of their own in, but whoever makes keys has to be able to do that.

use crate::bearer::single;
use crate::cause::Cause;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use durward_api::field_error::FieldError;
use durward_api::resources::{ApiKeyProvider, KEY_HEADER};
use durward_core::principal::{Identity, Principal, PrincipalId, is_dns_label};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use http::HeaderMap;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Label of Secrets that hold keys; its value names the provider.
pub const LABEL: &str = "durward.dev/api-keys";
const PREFIX: &str = "dwk_";
/// Longest key: prefix, the longest name, and the secret.
const MAX_KEY: usize = 128;
type Hash = [u8; 32];

/// Fields of a Secret with a key.
pub const NAME: &str = "name";
pub const GROUPS: &str = "groups";
const HASH: &str = "hash";
pub const CREATED: &str = "createdAt";
pub const EXPIRES: &str = "expiresAt";
const FORMER_HASH: &str = "formerHash";
pub const FORMER_UNTIL: &str = "formerUntil";

/// The keys of one provider.
#[derive(Debug)]
pub struct ApiKeys {
    pub header: String,
    keys: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    newest: Secure,
    /// The key before it, which still counts for a while.
    former: Option<Secure>,
    /// When either was last used, in seconds since 1970; 0 for never. Shared with what is read of the same key later.
    used: Arc<AtomicI64>,
}

/// A key's hash, and whose it is for how long.
#[derive(Debug)]
struct Secure {
    hash: Hash,
    principal: Arc<Principal>,
}

impl ApiKeys {
    /// The keys of the provider `name` among `secrets`. A Secret that can't be used is left out and reported. When keys
    /// were last used is known from `old`.
    pub fn new(
        name: &str,
        spec: &ApiKeyProvider,
        secrets: &[Secret],
        old: Option<&Self>,
    ) -> Result<(Self, Vec<FieldError>), FieldError> {
        let header = spec.header.as_deref().unwrap_or(KEY_HEADER).to_ascii_lowercase();
        if http::HeaderName::try_from(&header).is_err() || header == "authorization" || header == "cookie" {
            let message = format!("`{header}` can't carry a key; use a header of its own, such as `{KEY_HEADER}`");
            return Err(FieldError { field: "spec.apiKey.header".to_owned(), message });
        }
        let (mut keys, mut problems, mut twice) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for secret in secrets.iter().filter(|secret| selects(&spec.selector, secret)) {
            let secret_name = secret.metadata.name.clone().unwrap_or_default();
            match read(name, secret) {
                Ok((key, mut stored)) => {
                    if let Some(old) = old.and_then(|old| old.keys.get(&key)) {
                        stored.used = Arc::clone(&old.used);
                    }
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
    pub fn authenticate(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Result<Option<Arc<Principal>>, Cause> {
        let Some(value) = single(headers, &self.header)? else { return Ok(None) };
        if value.len() > MAX_KEY {
            return Err(Cause::TooLong);
        }
        let text = value.to_str().map_err(|_| Cause::KeyMalformed)?;
        let name = name_of(text).ok_or(Cause::KeyMalformed)?;
        let hash = hash_of(text);
        // an unknown name costs the same comparisons as a wrong secret
        let stored = self.keys.get(name);
        let right = |key: Option<&Secure>| bool::from(key.map_or(&[0; 32], |key| &key.hash).ct_eq(&hash));
        let newest = stored.map(|stored| &stored.newest);
        let former = stored.and_then(|stored| stored.former.as_ref());
        let (is_newest, is_former) = (right(newest), right(former));
        let key = newest.filter(|_| is_newest).or(former.filter(|_| is_former)).ok_or(Cause::KeyWrong)?;
        if key.principal.identity().expires_at.is_some_and(|end| end <= now) {
            return Err(Cause::KeyExpired);
        }
        if let Some(stored) = stored.filter(|stored| stored.used.load(Ordering::Relaxed) < now.timestamp()) {
            stored.used.store(now.timestamp(), Ordering::Relaxed);
        }
        Ok(Some(Arc::clone(&key.principal)))
    }

    /// Notes that a key was used elsewhere.
    pub fn used(&self, name: &str, at: i64) {
        if let Some(stored) = self.keys.get(name) {
            stored.used.fetch_max(at, Ordering::Relaxed);
        }
    }

    /// The keys that there are, and when each was last used, as far as it is known here, in seconds since 1970; 0 for never.
    pub fn uses(&self) -> impl Iterator<Item = (&str, i64)> {
        self.keys.iter().map(|(name, stored)| (name.as_str(), stored.used.load(Ordering::Relaxed)))
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
    let fields = fields(secret)?;
    let field = |name: &str| fields.get(name);
    let name = field("name").or(secret.metadata.name.as_ref()).cloned().unwrap_or_default();
    if !is_dns_label(&name) {
        return Err(format!("`name` is `{name}`, not a DNS label"));
    }
    if field("key").is_some() {
        return Err("it holds the key itself; store only its `hash`, and make the key anew".to_owned());
    }
    let hash = |name: &str| {
        let of = |text: &String| text.strip_prefix("sha256:").and_then(unhex);
        let bad = || format!("its `{name}` is not `sha256:` and 64 hexadecimal digits");
        field(name).map(|text| of(text).ok_or_else(bad)).transpose()
    };
    let time = |name: &str| field(name).map(|text| time(name, text)).transpose();
    let newest = hash(HASH)?.ok_or("it has no `hash`; make one with `durward mint api-key`")?;
    let id = PrincipalId::key(provider, &name).map_err(|error| error.to_string())?;
    let expires_at = time(EXPIRES)?;
    let scopes = field("scopes")
        .map(|text| {
            text.split_whitespace()
                .map(Scope::parse)
                .collect::<Result<BTreeSet<_>, _>>()
                .map_err(|error| error.to_string())
        })
        .transpose()?;
    let attributes = field("attributes")
        .map(|text| serde_json::from_str(text).map_err(|_| "its `attributes` are no JSON object".to_owned()))
        .transpose()?;
    let identity = Identity {
        groups: field("groups").into_iter().flat_map(|text| text.split_whitespace()).map(ToOwned::to_owned).collect(),
        attributes: attributes.unwrap_or_default(),
        scopes,
        expires_at,
        ..Identity::new(id, Assurance::SharedSecret)
    };
    let until = |hash, end: Option<DateTime<Utc>>| {
        let expires_at = identity.expires_at.into_iter().chain(end).min();
        let identity = Identity { expires_at, ..identity.clone() };
        Secure { hash, principal: Arc::new(Principal::authenticated(identity)) }
    };
    let former = match (hash(FORMER_HASH)?, time(FORMER_UNTIL)?) {
        (Some(hash), Some(end)) => Some(until(hash, Some(end))),
        (None, None) => None,
        _ => return Err(format!("`{FORMER_HASH}` and `{FORMER_UNTIL}` say something together only")),
    };
    Ok((name, Stored { newest: until(newest, None), former, used: Arc::default() }))
}

/// What a Secret says, whether it was written as text or not.
pub fn fields(secret: &Secret) -> Result<BTreeMap<String, String>, String> {
    let mut fields = BTreeMap::new();
    for (name, bytes) in secret.data.iter().flatten() {
        let text = String::from_utf8(bytes.0.clone()).map_err(|_| format!("`{name}` is not UTF-8"))?;
        fields.insert(name.clone(), text);
    }
    fields.extend(secret.string_data.iter().flatten().map(|(name, text)| (name.clone(), text.clone())));
    Ok(fields)
}

fn time(name: &str, text: &str) -> Result<DateTime<Utc>, String> {
    text.parse().map_err(|_| format!("its `{name}` is no RFC 3339 time"))
}

fn seconds(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
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
pub fn selects(selector: &LabelSelector, secret: &Secret) -> bool {
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

/// A key that was made just now. The key itself is nowhere else.
pub struct NewApiKey {
    pub key: Zeroizing<String>,
    hash: String,
}

/// Names the type alone: what it holds is secret or large.
impl std::fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewApiKey").finish_non_exhaustive()
    }
}

impl NewApiKey {
    /// A key from 32 random bytes.
    pub fn new(name: &str, random: &[u8; 32]) -> Self {
        let key = Zeroizing::new(format!("{PREFIX}{name}_{}", URL_SAFE_NO_PAD.encode(random)));
        let hash = format!("sha256:{}", hex::encode(hash_of(&key)));
        Self { key, hash }
    }

    /// The Secret that stores its hash.
    pub fn secret(
        &self,
        provider: &str,
        name: &str,
        groups: &[String],
        ttl: Option<TimeDelta>,
        now: DateTime<Utc>,
    ) -> Secret {
        let mut fields = BTreeMap::from([
            (NAME.to_owned(), name.to_owned()),
            (HASH.to_owned(), self.hash.clone()),
            (CREATED.to_owned(), seconds(now)),
        ]);
        if !groups.is_empty() {
            fields.insert(GROUPS.to_owned(), groups.join(" "));
        }
        fields.extend(ttl.map(|ttl| (EXPIRES.to_owned(), seconds(now + ttl))));
        let mut secret = Secret { type_: Some("durward.dev/api-key".to_owned()), ..Secret::default() };
        secret.metadata.name = Some(secret_name(provider, name));
        secret.metadata.labels = Some(BTreeMap::from([(LABEL.to_owned(), provider.to_owned())]));
        secret.string_data = Some(fields);
        secret
    }

    /// Puts this key in the place of the one that a Secret stores, which counts for `overlap` longer, or until its own end.
    /// The new one ends after `ttl`; without it, it lives as long as the one before was to.
    pub fn replace(
        &self,
        secret: &mut Secret,
        overlap: TimeDelta,
        ttl: Option<TimeDelta>,
        now: DateTime<Utc>,
    ) -> Result<(), String> {
        let mut fields = fields(secret)?;
        let at = |name: &str| fields.get(name).map(|text| time(name, text)).transpose();
        let (made, end) = (at(CREATED)?, at(EXPIRES)?);
        let lived = made.zip(end).map(|(made, end)| end - made).filter(|ttl| *ttl > TimeDelta::zero());
        if end.is_some() && ttl.or(lived).is_none() {
            return Err(format!("it ends, but does not say when it was made (`{CREATED}`); say --expires"));
        }
        let until = end.into_iter().chain([now + overlap]).min().filter(|until| *until > now);
        let hash = fields.insert(HASH.to_owned(), self.hash.clone()).ok_or("it has no `hash`")?;
        let former = until.map(|until| [(FORMER_HASH.to_owned(), hash), (FORMER_UNTIL.to_owned(), seconds(until))]);
        [FORMER_HASH, FORMER_UNTIL].iter().for_each(|name| drop(fields.remove(*name)));
        fields.extend(former.into_iter().flatten());
        fields.insert(CREATED.to_owned(), seconds(now));
        fields.extend(ttl.or(lived).map(|ttl| (EXPIRES.to_owned(), seconds(now + ttl))));
        secret.data = None;
        secret.string_data = Some(fields);
        Ok(())
    }
}

/// Name of the Secret of a key.
pub fn secret_name(provider: &str, name: &str) -> String {
    format!("{provider}-{name}")
}
