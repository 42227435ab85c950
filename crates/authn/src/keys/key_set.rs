//! The keys of an issuer at one time, and the tokens that they verified.

use crate::bearer::TokenCacheKey;
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::keys::token_cache::{CallerCache, caller_cache};
use crate::keys::verification_key::VerificationKey;
use chrono::{DateTime, Utc};
use durward_core::digest::Digest;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Maximum number of keys of one issuer; common issuers have two to five.
const MAX_KEYS: usize = 100;
/// Maximum number of keys that are tried for one token. It limits the work that a forged token causes.
const MAX_TRIES: usize = 10;

/// The keys of an issuer at one time, and the tokens that they verified.
pub struct KeySet {
    keys: Vec<VerificationKey>,
    digest: Digest,
    /// Verified tokens. The cache is dropped together with the keys.
    pub(crate) verified: CallerCache<TokenCacheKey<Box<str>>>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

/// A document is not a usable JWKS.
///
/// The text of the error can become part of an audit record.
#[derive(Debug, Error)]
pub enum KeySetError {
    /// The document is not a JWKS.
    #[error("it is no JWKS: {0}")]
    NotJwks(#[source] serde_json::Error),
    /// The JWKS has too many keys.
    #[error("it has {0} keys; at most {MAX_KEYS} are read")]
    TooManyKeys(usize),
    /// The JWKS has no key of a supported type.
    #[error("it has no key that can verify a token (RSA of 2048 bits and more, P-256, P-384, Ed25519)")]
    NoUsableKey,
}

#[derive(Deserialize)]
struct JwksDocument {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JWKS. Keys of unsupported types and keys for other purposes are skipped.
    ///
    /// # Errors
    /// When the document is not a JWKS, has too many keys, or has no usable key.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let document: JwksDocument = serde_json::from_slice(json).map_err(KeySetError::NotJwks)?;
        if document.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys(document.keys.len()));
        }
        let jwks = document.keys.into_iter().filter_map(|jwk| serde_json::from_value(jwk).ok());
        let keys: Vec<VerificationKey> = jwks.filter_map(|jwk| VerificationKey::of(&jwk)).collect();
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey);
        }
        Ok(Self { keys, digest: Digest::of([json]), verified: caller_cache() })
    }

    /// Whether a key has this name.
    #[must_use]
    pub fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// Verifies a signature by the keys that fit: all with the token's `kid`, or all if it has none, as far as their
    /// type, use and algorithm allow.
    ///
    /// # Errors
    /// When no key fits, too many do, or the signature is of none of them.
    pub fn verify(&self, kid: Option<&str>, algorithm: Algorithm, message: &str, signature: &str) -> Result<(), Cause> {
        if kid.is_some_and(|kid| !self.has(kid)) {
            return Err(Cause::UnknownKey);
        }
        let named = self.keys.iter().filter(|key| kid.is_none() || key.kid.as_deref() == kid);
        let fitting: Vec<&VerificationKey> = named.filter(|key| key.accepts(algorithm)).collect();
        if fitting.is_empty() {
            Err(Cause::AlgorithmOfKey)
        } else if fitting.len() > MAX_TRIES {
            Err(Cause::TooManyKeys)
        } else if fitting.into_iter().any(|key| key.verifies(algorithm, message, signature)) {
            Ok(())
        } else {
            Err(Cause::Signature)
        }
    }

    /// The caller of a token that these keys verified before, if the token has not expired.
    pub(crate) fn cached(&self, token: &TokenCacheKey<&str>, now: DateTime<Utc>) -> Option<VerifiedCaller> {
        let caller = self.verified.get(token)?;
        caller.principal.identity().expires_at.is_some_and(|end| end > now).then_some(caller)
    }

    /// Whether the keys were read from this JWKS.
    #[must_use]
    pub fn is_of(&self, json: &[u8]) -> bool {
        self.digest == Digest::of([json])
    }
}
