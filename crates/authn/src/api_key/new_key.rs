//! New API keys, and the Secrets that store their hashes.

use super::secret::{
    ApiKeySecretError, CREATED, EXPIRES, FORMER_HASH, FORMER_UNTIL, GROUPS, HASH, LABEL, NAME, fields, time,
};
use super::{PREFIX, hash_of};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// A new API key. There is no other copy of the key.
pub struct NewApiKey {
    /// The key.
    pub key: Zeroizing<String>,
    hash: String,
}

/// Writes the type's name alone; the key is secret.
impl std::fmt::Debug for NewApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewApiKey").finish_non_exhaustive()
    }
}

impl NewApiKey {
    /// A key from 32 random bytes.
    #[must_use]
    pub fn new(name: &str, random: &[u8; 32]) -> Self {
        let key = Zeroizing::new(format!("{PREFIX}{name}_{}", URL_SAFE_NO_PAD.encode(random)));
        let hash = format!("sha256:{}", hex::encode(hash_of(&key)));
        Self { key, hash }
    }

    /// The Secret with the hash of the key.
    #[must_use]
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

    /// Replaces the key of a Secret. The old key is accepted for `overlap` longer, or until its own end.
    ///
    /// The new key ends after `ttl`; without `ttl`, it has the lifetime of the old one.
    ///
    /// # Errors
    /// When the Secret is not a usable API key, or `ttl` is missing and the old lifetime unknown.
    pub fn replace(
        &self,
        secret: &mut Secret,
        overlap: TimeDelta,
        ttl: Option<TimeDelta>,
        now: DateTime<Utc>,
    ) -> Result<(), ApiKeySecretError> {
        let mut fields = fields(secret)?;
        let created = time(&fields, CREATED)?;
        let end = time(&fields, EXPIRES)?;
        let old_ttl = created.zip(end).map(|(created, end)| end - created).filter(|ttl| *ttl > TimeDelta::zero());
        let ttl = ttl.or(old_ttl);
        if end.is_some() && ttl.is_none() {
            return Err(ApiKeySecretError::UnknownLifetime);
        }
        let until = end.into_iter().chain([now + overlap]).min().filter(|until| *until > now);
        let old_hash = fields.insert(HASH.to_owned(), self.hash.clone()).ok_or(ApiKeySecretError::NoHash)?;
        fields.remove(FORMER_HASH);
        fields.remove(FORMER_UNTIL);
        if let Some(until) = until {
            fields.insert(FORMER_HASH.to_owned(), old_hash);
            fields.insert(FORMER_UNTIL.to_owned(), seconds(until));
        }
        fields.insert(CREATED.to_owned(), seconds(now));
        fields.extend(ttl.map(|ttl| (EXPIRES.to_owned(), seconds(now + ttl))));
        secret.data = None;
        secret.string_data = Some(fields);
        Ok(())
    }
}

fn seconds(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Name of the Secret of a key.
#[must_use]
pub fn secret_name(provider: &str, name: &str) -> String {
    format!("{provider}-{name}")
}
