//! The keys of one issuer, kept fresh.

use crate::bearer::TokenCacheKey;
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::keys::fetch::{FETCH_TIMEOUT, FetchError, fetch_issuer_jwks};
use crate::keys::key_set::{KeySet, KeySetError};
use crate::keys::source::KeySource;
use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// Interval of scheduled refreshes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Minimum time between two fetches because of an unknown key. It limits the load that forged tokens put on the issuer.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);
/// How long a request waits for keys.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// For how long keys are accepted if the issuer can't be reached: long enough for an outage overnight.
const MAX_AGE: TimeDelta = TimeDelta::hours(24);

/// The keys of one issuer, kept fresh.
#[derive(Debug)]
pub struct IssuerKeys {
    issuer: String,
    source: KeySource,
    current: ArcSwapOption<FetchedKeys>,
    attempt: Mutex<KeyFetchAttempt>,
}

#[derive(Debug)]
struct FetchedKeys {
    keys: Arc<KeySet>,
    /// When the keys were last fetched; `None` for inline keys.
    at: Option<DateTime<Utc>>,
}

impl FetchedKeys {
    /// Whether the keys are still accepted.
    fn is_fresh(&self, now: DateTime<Utc>) -> bool {
        self.at.is_none_or(|at| now - at <= MAX_AGE)
    }
}

/// The last attempt to fetch keys.
#[derive(Debug, Default)]
struct KeyFetchAttempt {
    last: Option<Instant>,
    error: String,
}

impl IssuerKeys {
    /// Keys of `issuer` from `source`. They are fetched on first use, or by [`IssuerKeys::refresh`].
    ///
    /// # Errors
    /// When inline keys are not a usable JWKS.
    pub fn new(issuer: &str, source: KeySource) -> Result<Self, KeySetError> {
        let current = match &source {
            KeySource::Inline(json) => {
                Some(Arc::new(FetchedKeys { keys: Arc::new(KeySet::parse(json.as_bytes())?), at: None }))
            }
            KeySource::Url(_) | KeySource::Issuer(_) => None,
        };
        Ok(Self { issuer: issuer.to_owned(), source, current: ArcSwapOption::new(current), attempt: Mutex::default() })
    }

    /// Whether these are the keys of the same issuer from the same source.
    pub fn is_of(&self, issuer: &str, source: &KeySource) -> bool {
        self.issuer == issuer && self.source == *source
    }

    /// The current keys. They are fetched again if they are too old, or have no key `kid`.
    ///
    /// # Errors
    /// When no keys were ever fetched, or the last ones are too old.
    pub async fn get(&self, kid: Option<&str>, now: DateTime<Utc>) -> Result<Arc<KeySet>, Cause> {
        if let Some(fetched) = self.current.load_full() {
            let is_unknown = matches!(fetched.keys.find(kid), Err(Cause::UnknownKey));
            if fetched.is_fresh(now) && (!is_unknown || fetched.at.is_none()) {
                return Ok(Arc::clone(&fetched.keys));
            }
        }
        let error = timeout(MAX_WAIT, self.fetch(now)).await.unwrap_or_else(|_| Some(FetchError::Timeout.to_string()));
        match self.current.load_full() {
            Some(fetched) if fetched.is_fresh(now) => Ok(Arc::clone(&fetched.keys)),
            Some(_) => Err(Cause::StaleKeys),
            None => Err(Cause::NoKeys(error.unwrap_or_default())),
        }
    }

    /// The caller of a token that these keys verified before, as [`KeySet::cached`], while the keys are fresh.
    pub(crate) fn cached(&self, token: &TokenCacheKey<&str>, now: DateTime<Utc>) -> Option<VerifiedCaller> {
        let fetched = self.current.load();
        let fetched = fetched.as_ref().filter(|fetched| fetched.is_fresh(now))?;
        fetched.keys.cached(token, now)
    }

    /// Fetches the keys once for all waiting requests, unless the last attempt was too recent; returns the error.
    async fn fetch(&self, now: DateTime<Utc>) -> Option<String> {
        let mut attempt = self.attempt.lock().await;
        if attempt.last.is_some_and(|last| last.elapsed() < UNKNOWN_KEY_PAUSE) {
            return Some(attempt.error.clone());
        }
        attempt.last = Some(Instant::now());
        let fetched = timeout(FETCH_TIMEOUT, fetch_issuer_jwks(&self.issuer, &self.source)).await;
        let fetched = fetched.unwrap_or(Err(FetchError::Timeout));
        attempt.error = match fetched.and_then(|json| Ok(self.store(&json, now)?)) {
            Ok(()) => return None,
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            issuer = self.issuer,
            error = attempt.error,
            "fetching the issuer's keys failed; keeping the previous keys"
        );
        Some(attempt.error.clone())
    }

    /// Stores fetched keys. Unchanged keys keep their cache of verified tokens.
    fn store(&self, json: &[u8], now: DateTime<Utc>) -> Result<(), KeySetError> {
        let keys = match self.current.load_full() {
            Some(fetched) if fetched.keys.is_of(json) => Arc::clone(&fetched.keys),
            _ => Arc::new(KeySet::parse(json)?),
        };
        self.current.store(Some(Arc::new(FetchedKeys { keys, at: Some(now) })));
        Ok(())
    }

    /// Fetches the keys if a refresh is due.
    pub async fn refresh(&self) {
        if matches!(self.source, KeySource::Inline(_)) {
            return;
        }
        let is_due = self.attempt.lock().await.last.is_none_or(|last| last.elapsed() >= REFRESH_INTERVAL);
        if is_due {
            self.fetch(Utc::now()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    const JWKS: &[u8] = br#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "alg": "ES256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

    #[tokio::test]
    async fn keys_of_an_unreachable_issuer_are_accepted_for_a_day() {
        // no server listens on this port
        let source = KeySource::Url(Url::parse("http://127.0.0.1:1/jwks").expect("a URL"));
        let keys = IssuerKeys::new("https://id.example", source).expect("keys");
        let fetched_at = Utc::now();
        assert!(matches!(keys.get(Some("one"), fetched_at).await, Err(Cause::NoKeys(_))));
        keys.store(JWKS, fetched_at).expect("a JWKS");
        for (age, accepted) in [(0, true), (24 * 3600, true), (24 * 3600 + 1, false), (7 * 24 * 3600, false)] {
            let found = keys.get(Some("one"), fetched_at + TimeDelta::seconds(age)).await;
            assert_eq!(found.is_ok(), accepted, "{age} s");
            assert!(accepted || matches!(found, Err(Cause::StaleKeys)), "{age} s");
        }
        // a document that is not a JWKS neither removes the keys nor renews them
        keys.store(b"<html>", fetched_at + TimeDelta::hours(23)).expect_err("not a JWKS");
        assert!(keys.get(Some("one"), fetched_at + TimeDelta::hours(24)).await.is_ok());
        assert!(keys.get(Some("one"), fetched_at + TimeDelta::hours(25)).await.is_err());
        keys.store(JWKS, fetched_at + TimeDelta::hours(25)).expect("a JWKS");
        assert!(keys.get(Some("one"), fetched_at + TimeDelta::hours(25)).await.is_ok());
    }
}
