//! The keys of an issuer: read from a JWKS (RFC 7517), fetched, kept.

use crate::VerifiedCaller;
use crate::bearer::Reading;
use crate::cause::Cause;
use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::digest::Digest;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use quick_cache::sync::Cache;
use serde::Deserialize;
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use url::Url;

/// Largest JWKS or discovery document, in bytes; the largest of public issuers has about 10 kB.
pub(crate) const MAX_DOCUMENT: usize = 256 * 1024;
/// Most keys of one issuer; common ones have two to five.
const MAX_KEYS: usize = 100;
/// Smallest RSA modulus, in bytes: 2048 bits (RFC 7518, section 3.3).
const MIN_MODULUS: usize = 256;
/// How often keys are refreshed without being asked for.
const REFRESH: Duration = Duration::from_secs(300);
/// Shortest time between two fetches because of an unknown key: what a storm of bad tokens can cost the issuer.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);
/// How long a request waits for keys that it needs.
const WAIT: Duration = Duration::from_secs(2);
/// How long one fetch may take.
pub(crate) const FETCH: Duration = Duration::from_secs(5);
/// For how long keys count when the issuer can't be reached: over a weekend's night, not over a forgotten week.
const MAX_AGE: TimeDelta = TimeDelta::hours(24);
/// Tokens that are remembered as verified, at about 1 kB each.
const REMEMBERED: usize = 10_000;

/// One key.
#[derive(Debug)]
pub struct Key {
    kid: Option<String>,
    pub key: DecodingKey,
    /// The algorithms that go with it.
    pub algorithms: Vec<Algorithm>,
}

/// The keys of an issuer at one time, and the tokens that were verified with them.
pub struct KeySet {
    keys: Vec<Key>,
    digest: Digest,
    /// Keyed by everything that the outcome depends on; gone with these keys.
    pub verified: Cache<Reading<Box<str>>, VerifiedCaller>,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JWKS. Keys of unknown types, or for encryption, are passed over.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let document: Document = serde_json::from_slice(json).map_err(|error| format!("it is no JWKS: {error}"))?;
        if document.keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys; at most {MAX_KEYS} are read", document.keys.len()));
        }
        let keys: Vec<Key> = document
            .keys
            .into_iter()
            .filter_map(|jwk| serde_json::from_value(jwk).ok())
            .filter_map(|jwk| key(&jwk))
            .collect();
        if keys.is_empty() {
            return Err(
                "it has no key that can verify a token (RSA of 2048 bits and more, P-256, P-384, Ed25519)".to_owned()
            );
        }
        Ok(Self { keys, digest: Digest::of([json]), verified: Cache::new(REMEMBERED) })
    }

    /// The key that a token names; without a name, the only one.
    pub fn find(&self, kid: Option<&str>) -> Result<&Key, Cause> {
        match kid {
            Some(kid) => self.keys.iter().find(|key| key.kid.as_deref() == Some(kid)).ok_or(Cause::UnknownKey),
            None => match self.keys.as_slice() {
                [only] => Ok(only),
                _ => Err(Cause::UnnamedKey),
            },
        }
    }
}

impl KeySet {
    /// Whom a token was read to be, if it was verified with these keys and has not ended.
    pub fn remembered(&self, token: &Reading<&str>, now: DateTime<Utc>) -> Option<VerifiedCaller> {
        let verified = self.verified.get(token)?;
        verified.principal.identity().expires_at.is_some_and(|end| end > now).then_some(verified)
    }

    /// Whether it was read from this JWKS.
    pub fn is_of(&self, json: &[u8]) -> bool {
        self.digest == Digest::of([json])
    }
}

/// A key with the algorithms that go with its type and curve, and with its `alg` if it has one.
fn key(jwk: &Jwk) -> Option<Key> {
    if matches!(&jwk.common.public_key_use, Some(usage) if *usage != PublicKeyUse::Signature) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            use base64::Engine;
            let modulus = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
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
    if let Some(own) = &jwk.common.key_algorithm {
        algorithms.retain(|algorithm| stated(own) == Some(*algorithm));
    }
    (!algorithms.is_empty()).then(|| DecodingKey::from_jwk(jwk).ok()).flatten().map(|key| Key {
        kid: jwk.common.key_id.clone(),
        key,
        algorithms,
    })
}

fn stated(algorithm: &KeyAlgorithm) -> Option<Algorithm> {
    algorithm.to_string().parse().ok()
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The JWKS itself, as JSON.
    Inline(String),
    /// URL of a JWKS.
    Url(Url),
    /// URL of an issuer whose discovery document names the JWKS (OpenID Connect Discovery, section 4).
    Issuer(Url),
}

impl KeySource {
    /// A URL that keys may be fetched from: https, or http on this very host.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn url(text: &str) -> Result<Url, String> {
        let url = Url::parse(text).map_err(|error| format!("`{text}` is no URL: {error}"))?;
        if is_secure(&url) {
            Ok(url)
        } else {
            Err(format!("keys are fetched by https only, but for this host; `{text}` is neither"))
        }
    }
}

/// Whether nobody on the way reads what goes there: by https, or on this host.
pub fn is_secure(url: &Url) -> bool {
    let here = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || url.scheme() == "http" && here
}

/// The keys of one issuer, kept fresh.
#[derive(Debug)]
pub struct Keys {
    issuer: String,
    source: KeySource,
    current: ArcSwapOption<Fetched>,
    attempt: Mutex<Attempt>,
}

#[derive(Debug)]
struct Fetched {
    keys: Arc<KeySet>,
    /// When the issuer was last heard; `None` for keys that need no fetching.
    at: Option<DateTime<Utc>>,
}

#[derive(Debug, Default)]
struct Attempt {
    last: Option<Instant>,
    error: String,
}

impl Keys {
    /// Keys of `issuer` from `source`; fetched when they are first needed, or by [`Keys::refresh`].
    pub fn new(issuer: &str, source: KeySource) -> Result<Self, String> {
        let current = match &source {
            KeySource::Inline(json) => {
                Some(Arc::new(Fetched { keys: Arc::new(KeySet::parse(json.as_bytes())?), at: None }))
            }
            KeySource::Url(_) | KeySource::Issuer(_) => None,
        };
        Ok(Self { issuer: issuer.to_owned(), source, current: ArcSwapOption::new(current), attempt: Mutex::default() })
    }

    /// Whether these are the keys of the same issuer from the same source.
    pub fn is_of(&self, issuer: &str, source: &KeySource) -> bool {
        self.issuer == issuer && self.source == *source
    }

    /// The keys, with the one that is named if the issuer has it by now.
    pub async fn get(&self, kid: Option<&str>, now: DateTime<Utc>) -> Result<Arc<KeySet>, Cause> {
        if let Some(fetched) = self.current.load_full() {
            let fresh = fetched.at.is_none_or(|at| now - at <= MAX_AGE);
            let unknown = matches!(fetched.keys.find(kid), Err(Cause::UnknownKey));
            if fresh && (!unknown || fetched.at.is_none()) {
                return Ok(Arc::clone(&fetched.keys));
            }
        }
        let error = timeout(WAIT, self.fetch_again(now))
            .await
            .unwrap_or_else(|_| Some("the issuer did not answer in time".to_owned()));
        match self.current.load_full() {
            Some(fetched) if fetched.at.is_none_or(|at| now - at <= MAX_AGE) => Ok(Arc::clone(&fetched.keys)),
            Some(_) => Err(Cause::StaleKeys),
            None => Err(Cause::NoKeys(error.unwrap_or_default())),
        }
    }

    /// As [`KeySet::remembered`], as long as the keys count.
    pub fn remembered(&self, token: &Reading<&str>, now: DateTime<Utc>) -> Option<VerifiedCaller> {
        let fetched = self.current.load();
        let fetched = fetched.as_ref().filter(|fetched| fetched.at.is_none_or(|at| now - at <= MAX_AGE))?;
        fetched.keys.remembered(token, now)
    }

    /// One fetch for everybody who waits, and not too soon after the last one.
    async fn fetch_again(&self, now: DateTime<Utc>) -> Option<String> {
        let mut attempt = self.attempt.lock().await;
        if attempt.last.is_some_and(|last| last.elapsed() < UNKNOWN_KEY_PAUSE) {
            return Some(attempt.error.clone());
        }
        attempt.last = Some(Instant::now());
        attempt.error = match timeout(FETCH, fetch(&self.issuer, &self.source)).await {
            Ok(Ok(json)) => match self.take(&json, now) {
                Ok(()) => return None,
                Err(error) => error,
            },
            Ok(Err(error)) => error,
            Err(_) => "the issuer did not answer in time".to_owned(),
        };
        tracing::warn!(
            issuer = self.issuer,
            error = attempt.error,
            "the issuer's keys could not be fetched; the last good ones are kept"
        );
        Some(attempt.error.clone())
    }

    /// Takes new keys over. The same keys keep what was verified with them.
    fn take(&self, json: &[u8], now: DateTime<Utc>) -> Result<(), String> {
        let current = self.current.load_full();
        let keys = match current {
            Some(fetched) if fetched.keys.is_of(json) => Arc::clone(&fetched.keys),
            _ => Arc::new(KeySet::parse(json)?),
        };
        self.current.store(Some(Arc::new(Fetched { keys, at: Some(now) })));
        Ok(())
    }

    /// Fetches the keys if they are due.
    pub async fn refresh(&self) {
        if matches!(self.source, KeySource::Inline(_)) {
            return;
        }
        let due = self.attempt.lock().await.last.is_none_or(|last| last.elapsed() >= REFRESH);
        if due {
            self.fetch_again(Utc::now()).await;
        }
    }
}

/// A JWKS as it is served, once.
pub async fn fetch_jwks(source: &KeySource) -> Result<Vec<u8>, String> {
    fetch("", source).await
}

async fn fetch(issuer: &str, source: &KeySource) -> Result<Vec<u8>, String> {
    match source {
        KeySource::Inline(json) => Ok(json.clone().into_bytes()),
        KeySource::Url(url) => get(client()?, url).await,
        KeySource::Issuer(url) => {
            #[derive(Deserialize)]
            struct Discovery {
                issuer: String,
                jwks_uri: String,
            }
            let document =
                Url::parse(&format!("{}/.well-known/openid-configuration", url.as_str().trim_end_matches('/')))
                    .map_err(|error| error.to_string())?;
            let discovery: Discovery = serde_json::from_slice(&get(client()?, &document).await?)
                .map_err(|error| format!("its discovery document is not readable: {error}"))?;
            if discovery.issuer != issuer {
                return Err("its discovery document is of another issuer".to_owned());
            }
            get(client()?, &KeySource::url(&discovery.jwks_uri)?).await
        }
    }
}

/// A document, bounded.
pub async fn get(client: &reqwest::Client, url: &Url) -> Result<Vec<u8>, String> {
    let mut response = client.get(url.clone()).send().await.map_err(|error| format!("{}", root_cause(&error)))?;
    if !response.status().is_success() {
        return Err(format!("{url} answered {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| format!("{}", root_cause(&error)))? {
        if body.len() + chunk.len() > MAX_DOCUMENT {
            return Err(format!("{url} answered with more than {MAX_DOCUMENT} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn root_cause(error: &dyn std::error::Error) -> &dyn std::error::Error {
    error.source().map_or(error, root_cause)
}

/// The client that fetches keys, which trusts the web's authorities.
pub fn client() -> Result<&'static reqwest::Client, String> {
    static CLIENT: OnceLock<Result<reqwest::Client, String>> = OnceLock::new();
    let client = CLIENT.get_or_init(|| restricted_client().build().map_err(|error| error.to_string()));
    client.as_ref().map_err(Clone::clone)
}

/// A client without redirects, which could lead inside, and without proxies but those of the environment.
pub fn restricted_client() -> reqwest::ClientBuilder {
    // the library asks for a provider of the whole process; there is but the one
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    builder.timeout(FETCH).connect_timeout(WAIT).user_agent(concat!("durward/", env!("CARGO_PKG_VERSION")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWKS: &[u8] = br#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "alg": "ES256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

    #[tokio::test]
    async fn keys_of_an_issuer_that_is_away_count_for_a_day() {
        // nobody listens there
        let source = KeySource::Url(Url::parse("http://127.0.0.1:1/jwks").expect("a URL"));
        let keys = Keys::new("https://id.example", source).expect("keys");
        let heard = Utc::now();
        assert!(matches!(keys.get(Some("one"), heard).await, Err(Cause::NoKeys(_))));
        keys.take(JWKS, heard).expect("a JWKS");
        for (age, counts) in [(0, true), (24 * 3600, true), (24 * 3600 + 1, false), (7 * 24 * 3600, false)] {
            let told = keys.get(Some("one"), heard + TimeDelta::seconds(age)).await;
            assert_eq!(told.is_ok(), counts, "{age} s");
            assert!(counts || matches!(told, Err(Cause::StaleKeys)), "{age} s");
        }
        // what is no JWKS takes nothing away, and makes nothing younger
        keys.take(b"<html>", heard + TimeDelta::hours(23)).expect_err("no JWKS");
        assert!(keys.get(Some("one"), heard + TimeDelta::hours(24)).await.is_ok());
        assert!(keys.get(Some("one"), heard + TimeDelta::hours(25)).await.is_err());
        keys.take(JWKS, heard + TimeDelta::hours(25)).expect("a JWKS");
        assert!(keys.get(Some("one"), heard + TimeDelta::hours(25)).await.is_ok());
    }
}
