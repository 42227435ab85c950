//! The keys of an issuer at one time, and the tokens that they verified.

use crate::bearer::TokenCacheKey;
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use durward_core::digest::Digest;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

/// Maximum number of keys of one issuer; common issuers have two to five.
const MAX_KEYS: usize = 100;
/// Minimum size of an RSA modulus, in bytes: 2048 bits (RFC 7518, section 3.3).
const MIN_MODULUS: usize = 256;
/// Maximum number of cached tokens, at about 1 kB each.
const MAX_CACHED_TOKENS: usize = 10_000;

/// A public key that verifies tokens.
#[derive(Debug)]
pub struct VerificationKey {
    kid: Option<String>,
    /// The key.
    pub key: DecodingKey,
    /// The algorithms for which the key may be used.
    pub algorithms: Vec<Algorithm>,
}

/// The keys of an issuer at one time, and the tokens that they verified.
pub struct KeySet {
    keys: Vec<VerificationKey>,
    digest: Digest,
    /// Verified tokens. The cache is dropped together with the keys.
    pub(crate) verified: Cache<TokenCacheKey<Box<str>>, VerifiedCaller>,
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
    /// Reads a JWKS. Keys of unsupported types and keys for encryption are skipped.
    ///
    /// # Errors
    /// When the document is not a JWKS, has too many keys, or has no usable key.
    pub fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let document: JwksDocument = serde_json::from_slice(json).map_err(KeySetError::NotJwks)?;
        if document.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys(document.keys.len()));
        }
        let jwks = document.keys.into_iter().filter_map(|jwk| serde_json::from_value(jwk).ok());
        let keys: Vec<VerificationKey> = jwks.filter_map(|jwk| verification_key(&jwk)).collect();
        if keys.is_empty() {
            return Err(KeySetError::NoUsableKey);
        }
        Ok(Self { keys, digest: Digest::of([json]), verified: Cache::new(MAX_CACHED_TOKENS) })
    }

    /// The key with the `kid` of a token. A token without `kid` is accepted if there is only one key.
    ///
    /// # Errors
    /// When there is no such key, or several keys and no `kid`.
    pub fn find(&self, kid: Option<&str>) -> Result<&VerificationKey, Cause> {
        match kid {
            Some(kid) => self.keys.iter().find(|key| key.kid.as_deref() == Some(kid)).ok_or(Cause::UnknownKey),
            None => match self.keys.as_slice() {
                [only] => Ok(only),
                _ => Err(Cause::UnnamedKey),
            },
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

/// A key with the algorithms of its type and curve, limited to its own `alg` if it has one.
fn verification_key(jwk: &Jwk) -> Option<VerificationKey> {
    if matches!(&jwk.common.public_key_use, Some(usage) if *usage != PublicKeyUse::Signature) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
            let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
            if significant < MIN_MODULUS {
                return None;
            }
            vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ]
        }
        AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
            EllipticCurve::P256 => vec![Algorithm::ES256],
            EllipticCurve::P384 => vec![Algorithm::ES384],
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        _ => return None,
    };
    if let Some(stated) = &jwk.common.key_algorithm {
        algorithms.retain(|algorithm| signature_algorithm(stated) == Some(*algorithm));
    }
    if algorithms.is_empty() {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(VerificationKey { kid: jwk.common.key_id.clone(), key, algorithms })
}

fn signature_algorithm(algorithm: &KeyAlgorithm) -> Option<Algorithm> {
    algorithm.to_string().parse().ok()
}
