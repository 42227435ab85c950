//! The keys of one issuer, kept fresh.

use crate::bearer::TokenCacheKey;
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::keys::fetch::{FETCH_TIMEOUT, FetchError, fetch_issuer_jwks};
use crate::keys::key_set::{KeySet, KeySetError};
use crate::keys::source::KeySource;
use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Interval of scheduled refreshes.
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Minimum time between two fetches because of an unknown key. It limits the load that forged tokens put on the issuer.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);
/// How long a request waits for keys. The fetch goes on without it.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Time-out of an attempt: a discovery document, and the keys.
const ATTEMPT_TIMEOUT: Duration = FETCH_TIMEOUT.saturating_mul(2);
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
#[derive(Debug)]
struct KeyFetchAttempt {
    started: Option<Instant>,
    outcome: watch::Receiver<FetchOutcome>,
}

/// The outcome of an attempt: `None` while it lasts.
type FetchOutcome = Option<Result<(), Arc<str>>>;

impl KeyFetchAttempt {
    /// Whether it started a shorter time ago than `pause`.
    fn is_recent(&self, pause: Duration) -> bool {
        self.started.is_some_and(|started| started.elapsed() < pause)
    }

    /// Whether it still lasts.
    fn lasts(&self) -> bool {
        self.outcome.borrow().is_none() && self.outcome.has_changed().is_ok()
    }
}

impl Default for KeyFetchAttempt {
    fn default() -> Self {
        Self { started: None, outcome: watch::channel(None).1 }
    }
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
    pub async fn get(self: &Arc<Self>, kid: Option<&str>, now: DateTime<Utc>) -> Result<Arc<KeySet>, Cause> {
        if let Some(fetched) = self.current.load_full() {
            let is_unknown = kid.is_some_and(|kid| !fetched.keys.has(kid));
            if fetched.is_fresh(now) && (!is_unknown || fetched.at.is_none()) {
                return Ok(Arc::clone(&fetched.keys));
            }
        }
        let mut outcome = self.start_fetch(UNKNOWN_KEY_PAUSE, now);
        let error = match timeout(MAX_WAIT, outcome.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().and_then(Result::err),
            Ok(Err(_)) | Err(_) => Some(FetchError::Timeout.to_string().into()),
        };
        match self.current.load_full() {
            Some(fetched) if fetched.is_fresh(now) => Ok(Arc::clone(&fetched.keys)),
            Some(_) => Err(Cause::StaleKeys),
            None => Err(Cause::NoKeys(error.unwrap_or_default().to_string())),
        }
    }

    /// The caller of a token that these keys verified before, as [`KeySet::cached`], while the keys are fresh.
    pub(crate) fn cached(&self, token: &TokenCacheKey<&str>, now: DateTime<Utc>) -> Option<VerifiedCaller> {
        let fetched = self.current.load();
        let fetched = fetched.as_ref().filter(|fetched| fetched.is_fresh(now))?;
        fetched.keys.cached(token, now)
    }

    /// Fetches the keys in the background, once for all waiting requests, so that no request that ends takes the fetch
    /// with it. Returns the last attempt instead if it lasts, or is more recent than `pause`.
    fn start_fetch(self: &Arc<Self>, pause: Duration, now: DateTime<Utc>) -> watch::Receiver<FetchOutcome> {
        let mut attempt = self.attempt.lock().unwrap_or_else(PoisonError::into_inner);
        if attempt.is_recent(pause) || attempt.lasts() {
            return attempt.outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        *attempt = KeyFetchAttempt { started: Some(Instant::now()), outcome: outcome.clone() };
        let keys = Arc::clone(self);
        tokio::spawn(async move { sender.send_replace(Some(keys.fetch(now).await)) });
        outcome
    }

    async fn fetch(&self, now: DateTime<Utc>) -> Result<(), Arc<str>> {
        let fetched = timeout(ATTEMPT_TIMEOUT, fetch_issuer_jwks(&self.issuer, &self.source)).await;
        let fetched = fetched.unwrap_or(Err(FetchError::Timeout));
        let Err(error) = fetched.and_then(|json| Ok(self.store(&json, now)?)) else { return Ok(()) };
        let next = match self.current.load_full() {
            Some(fetched) if fetched.is_fresh(now) => "keeping the previous keys",
            _ => "refusing its tokens until a fetch succeeds",
        };
        tracing::warn!(issuer = self.issuer, %error, "fetching the issuer's keys failed; {next}");
        Err(error.to_string().into())
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
    pub async fn refresh(self: &Arc<Self>) {
        if matches!(self.source, KeySource::Inline(_)) {
            return;
        }
        let mut outcome = self.start_fetch(REFRESH_INTERVAL, Utc::now());
        // an error means that the fetch ended without an outcome; the next refresh is due as usual
        let _ = outcome.wait_for(Option::is_some).await;
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
        let keys = Arc::new(IssuerKeys::new("https://id.example", source).expect("keys"));
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
