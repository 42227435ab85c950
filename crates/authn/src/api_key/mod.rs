//! API keys. Only their hashes are stored.
//!
//! A key is 256 random bits, so a fast hash is as good as a slow one: an attacker can't try all keys, and there is no
//! dictionary. A slow hash would only let strangers cause load. For the same reason the hash has no secret of its own
//! (a pepper): the hash reveals nothing. A pepper could keep those with write access to the Secrets from adding keys,
//! but creating keys needs that access.

mod new_key;
mod secret;

pub use new_key::{NewApiKey, secret_name};
pub use secret::{ApiKeySecretError, CREATED, EXPIRES, FORMER_UNTIL, GROUPS, LABEL, NAME, fields, provider_selects};

use crate::bearer::single_header;
use crate::cause::Cause;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use durward_api::field_error::FieldError;
use durward_api::resources::{ApiKeyProvider, KEY_HEADER};
use durward_core::principal::{Principal, is_dns_label};
use http::HeaderMap;
use k8s_openapi::api::core::v1::Secret;
use secret::{ApiKeyHash, StoredApiKey, selects};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &str = "dwk_";
/// Maximum length of a key: prefix, the longest name, and the secret.
const MAX_KEY: usize = 128;

/// The API keys of one provider.
#[derive(Debug)]
pub struct ApiKeyVerifier {
    /// Name of the request header with the key, in lower case.
    pub header: String,
    keys: BTreeMap<String, UsedApiKey>,
}

/// A key and the time of its last use.
#[derive(Debug)]
struct UsedApiKey {
    stored: StoredApiKey,
    /// When the key was last used, in seconds since 1970; 0 for never. Shared with later versions of the same key.
    last_used: Arc<AtomicI64>,
}

impl ApiKeyVerifier {
    /// The keys of a provider among `secrets`, with the times of last use of `old`. Unusable Secrets are skipped and
    /// reported.
    pub fn new(
        name: &str,
        spec: &ApiKeyProvider,
        secrets: &[Secret],
        old: Option<&Self>,
    ) -> Result<(Self, Vec<FieldError>), FieldError> {
        let header = spec.header_name();
        if http::HeaderName::try_from(&header).is_err() || header == "authorization" || header == "cookie" {
            let message = format!("`{header}` can't carry API keys; use a separate header, such as `{KEY_HEADER}`");
            return Err(FieldError { field: "spec.apiKey.header".to_owned(), message });
        }
        let mut keys = BTreeMap::new();
        let mut problems = Vec::new();
        let mut duplicates = BTreeSet::new();
        for secret in secrets.iter().filter(|secret| selects(&spec.selector, secret)) {
            match secret::read(name, secret) {
                Ok((key, stored)) => {
                    let old = old.and_then(|old| old.keys.get(&key));
                    let last_used = old.map(|old| Arc::clone(&old.last_used)).unwrap_or_default();
                    if keys.insert(key.clone(), UsedApiKey { stored, last_used }).is_some() {
                        duplicates.insert(key);
                    }
                }
                Err(error) => {
                    let secret_name = secret.metadata.name.as_deref().unwrap_or_default();
                    problems.push(FieldError { field: format!("Secret {secret_name}"), message: error.to_string() });
                }
            }
        }
        for key in duplicates {
            // it is unknown which one is meant
            keys.remove(&key);
            let message = format!("two Secrets hold a key `{key}`; neither is accepted until one is renamed");
            problems.push(FieldError { field: "spec.apiKey.selector".to_owned(), message });
        }
        Ok((Self { header, keys }, problems))
    }

    /// The principal of the key in a request; `None` without a key.
    pub fn authenticate(&self, headers: &HeaderMap, now: DateTime<Utc>) -> Result<Option<Arc<Principal>>, Cause> {
        let Some(value) = single_header(headers, &self.header)? else { return Ok(None) };
        if value.len() > MAX_KEY {
            return Err(Cause::TooLong);
        }
        let text = value.to_str().map_err(|_| Cause::KeyMalformed)?;
        let name = name_of(text).ok_or(Cause::KeyMalformed)?;
        let hash = hash_of(text);
        // an unknown name costs the same comparisons as a wrong secret
        let used = self.keys.get(name);
        let is_right = |key: Option<&ApiKeyHash>| bool::from(key.map_or(&[0; 32], |key| &key.hash).ct_eq(&hash));
        let newest = used.map(|used| &used.stored.newest);
        let former = used.and_then(|used| used.stored.former.as_ref());
        let is_newest = is_right(newest);
        let is_former = is_right(former);
        let key = newest.filter(|_| is_newest).or(former.filter(|_| is_former)).ok_or(Cause::KeyWrong)?;
        if key.principal.identity().expires_at.is_some_and(|end| end <= now) {
            return Err(Cause::KeyExpired);
        }
        if let Some(used) = used.filter(|used| used.last_used.load(Ordering::Relaxed) < now.timestamp()) {
            used.last_used.store(now.timestamp(), Ordering::Relaxed);
        }
        Ok(Some(Arc::clone(&key.principal)))
    }

    /// Records that a key was used at another replica.
    pub fn record_use(&self, name: &str, at: i64) {
        if let Some(used) = self.keys.get(name) {
            used.last_used.fetch_max(at, Ordering::Relaxed);
        }
    }

    /// All keys, with the times of their last use in seconds since 1970; 0 for never.
    pub fn uses(&self) -> impl Iterator<Item = (&str, i64)> {
        self.keys.iter().map(|(name, used)| (name.as_str(), used.last_used.load(Ordering::Relaxed)))
    }
}

/// The name in a key; `None` if the key is malformed.
fn name_of(text: &str) -> Option<&str> {
    let (name, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).ok()?);
    (is_dns_label(name) && decoded.len() == 32).then_some(name)
}

fn hash_of(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest(&SHA256, text.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
    hash
}
