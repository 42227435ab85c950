//! The pod's identity, renewed in time: a key that never leaves this process, its certificate, and the trust bundles.

use crate::client::{ControllerClient, ControllerError};
use crate::retry::{FIRST_PAUSE, RetryPauses};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use durward_pki::bundle::{BundleContents, read};
use durward_protocol::bundles::Bundles;
use durward_protocol::mint::{CertificateRequest, CertificateResponse, TokenRequest, TokenResponse};
use durward_runtime::Failure;
use durward_runtime::wall_clock::sleep_until;
use quick_cache::sync::Cache;
use rcgen::{CertificateParams, KeyPair};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Limit for cached tokens.
const MAX_TOKENS: usize = 256;

/// A certificate and its key.
pub struct IssuedIdentity {
    /// SPIFFE ID.
    pub id: String,
    /// Certificates, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// When the certificate expires.
    pub not_after: DateTime<Utc>,
    /// PKCS #8, DER.
    pub key: Zeroizing<Vec<u8>>,
    /// PKCS #8, PEM.
    pub key_pem: Zeroizing<String>,
}

/// Shows only the type name: the key is secret.
impl std::fmt::Debug for IssuedIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedIdentity").finish_non_exhaustive()
    }
}

/// The identity and the bundles at one time.
#[derive(Debug, Clone, Default)]
pub struct IdentityState {
    /// The current certificate, once there is one.
    pub issued: Option<Arc<IssuedIdentity>>,
    /// Bundles by the SPIFFE ID of the trust domain.
    pub bundles: Arc<BTreeMap<String, BundleContents>>,
    /// Why the controller last refused a certificate: no policy gives this pod an identity.
    pub refusal: Option<String>,
}

impl IdentityState {
    /// The certificate, the SPIFFE ID of its trust domain, and the bundle of that domain; `None` until all are there,
    /// and once the certificate has expired at `now`.
    pub fn valid_identity(&self, now: DateTime<Utc>) -> Option<(&IssuedIdentity, &str, &BundleContents)> {
        let issued = self.issued.as_deref().filter(|issued| issued.not_after > now)?;
        let trust_domain = trust_domain(&issued.id);
        self.bundles.get_key_value(trust_domain).map(|(name, bundle)| (issued, name.as_str(), bundle))
    }

    /// The last certificate, even if expired, and the bundles; `None` until there is an identity with its own bundle.
    pub fn trusted_bundles(&self) -> Option<(&IssuedIdentity, &BTreeMap<String, BundleContents>)> {
        let issued = self.issued.as_deref()?;
        self.bundles.contains_key(trust_domain(&issued.id)).then_some((issued, &*self.bundles))
    }
}

/// SPIFFE ID of the trust domain of a SPIFFE ID.
pub fn trust_domain(id: &str) -> &str {
    let path = id.strip_prefix("spiffe://").and_then(|rest| rest.find('/'));
    path.and_then(|at| id.get(..at + "spiffe://".len())).unwrap_or(id)
}

/// A token, and when to request the next.
type CachedToken = (Arc<TokenResponse>, DateTime<Utc>);

/// Tokens by audiences.
type TokenCache = Cache<Vec<String>, CachedToken>;

/// Time for the controller to answer while a previous token is still valid.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time for which a valid token is reused after its renewal failed, so that callers don't wait again for a silent
/// controller.
const RENEWAL_PAUSE: TimeDelta = TimeDelta::seconds(5);

/// Obtains the identity from the controller. Clones share it.
#[derive(Debug, Clone)]
pub struct IdentitySource {
    controller: ControllerClient,
    ttl_seconds: Option<u32>,
    state: watch::Sender<IdentityState>,
    tokens: Arc<TokenCache>,
}

impl IdentitySource {
    /// A source without an identity yet. `ttl_seconds` limits the lifetime of certificates, where shorter than the
    /// policy's.
    pub fn new(controller: ControllerClient, ttl_seconds: Option<u32>) -> Self {
        let tokens = Arc::new(Cache::new(MAX_TOKENS));
        Self { controller, ttl_seconds, state: watch::Sender::new(IdentityState::default()), tokens }
    }

    /// The state, and each change of it.
    pub fn state(&self) -> watch::Receiver<IdentityState> {
        self.state.subscribe()
    }

    /// A JWT-SVID. The previous one for the same audiences is reused until half of its lifetime has passed, and while it
    /// is valid also if the controller can't be reached or is silent for a second.
    ///
    /// # Errors
    /// When the pod has no identity, or the request fails and no previous token is valid.
    pub async fn token(&self, audience: &[String]) -> Result<Arc<TokenResponse>, ControllerError> {
        let mut audience = audience.to_vec();
        audience.sort_unstable();
        let cached = self.tokens.get(&audience).filter(|(token, _)| token.expires_at > Utc::now());
        let Some((previous, renew_at)) = cached else { return self.request_token(audience).await };
        if renew_at > Utc::now() {
            tracing::debug!(%renew_at, "reusing a cached token");
            return Ok(previous);
        }
        let error = match timeout(PATIENCE, self.request_token(audience.clone())).await {
            Ok(Ok(token)) => return Ok(token),
            // not a failure: the pod has no identity any more
            Ok(Err(error @ ControllerError::NoIdentity(_))) => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => ControllerError::Silent,
        };
        if previous.expires_at <= Utc::now() {
            return Err(error);
        }
        tracing::warn!(%error, "renewing a token failed; reusing the previous one while it is valid");
        self.tokens.insert(audience, (Arc::clone(&previous), Utc::now() + RENEWAL_PAUSE));
        Ok(previous)
    }

    async fn request_token(&self, audience: Vec<String>) -> Result<Arc<TokenResponse>, ControllerError> {
        let request = TokenRequest { audience: audience.clone() };
        let token = Arc::new(self.controller.request_token(&request).await?);
        let renew_at = Utc::now() + (token.expires_at - Utc::now()) / 2;
        self.tokens.insert(audience, (Arc::clone(&token), renew_at));
        Ok(token)
    }

    /// Obtains a certificate and renews it in time, until `shutdown`.
    ///
    /// # Errors
    /// Never: failed requests are retried.
    pub async fn renew_certificate(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut pauses = RetryPauses::new();
        loop {
            let requested = tokio::select! {
                requested = self.request_certificate() => requested,
                () = shutdown.cancelled() => return Ok(()),
            };
            let pause = match requested {
                Ok(refresh_at) => {
                    pauses.reset();
                    SystemTime::from(refresh_at).max(SystemTime::now() + FIRST_PAUSE)
                }
                Err(error) => {
                    tracing::warn!(%error, "requesting a certificate failed; trying again");
                    if let ControllerError::NoIdentity(reason) = error {
                        self.refuse(reason);
                    }
                    SystemTime::now() + pauses.next_pause()
                }
            };
            tokio::select! {
                () = sleep_until(pause) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Publishes why there is no certificate. A certificate issued earlier stays until it expires.
    fn refuse(&self, reason: String) {
        self.state.send_if_modified(|state| {
            let changed = state.refusal.as_ref() != Some(&reason);
            state.refusal = Some(reason);
            changed
        });
    }

    /// Requests and publishes one certificate. Returns when to request the next.
    async fn request_certificate(&self) -> Result<DateTime<Utc>, ControllerError> {
        let key = KeyPair::generate().map_err(ControllerError::Key)?;
        let request = CertificateParams::default().serialize_request(&key).map_err(ControllerError::Key)?;
        let request = CertificateRequest { csr: STANDARD.encode(request.der()), ttl_seconds: self.ttl_seconds };
        let CertificateResponse { spiffe_id, chain, not_after, refresh_at } =
            self.controller.request_certificate(&request).await?;
        let chain: Result<Vec<_>, _> = chain.iter().map(|certificate| STANDARD.decode(certificate)).collect();
        let chain = chain.map_err(|_| ControllerError::Undecodable("a certificate in it is not base64".to_owned()))?;
        tracing::info!(id = spiffe_id, until = %not_after, "certificate issued");
        let issued = IssuedIdentity {
            id: spiffe_id,
            chain,
            not_after,
            key: Zeroizing::new(key.serialize_der()),
            key_pem: Zeroizing::new(key.serialize_pem()),
        };
        self.state.send_modify(|state| {
            state.issued = Some(Arc::new(issued));
            state.refusal = None;
        });
        Ok(refresh_at)
    }

    /// Follows the trust bundles until `shutdown`.
    ///
    /// # Errors
    /// Never: failed requests are retried.
    pub async fn follow_bundles(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut known = String::new();
        let mut pauses = RetryPauses::new();
        loop {
            let polled = tokio::select! {
                polled = self.controller.poll_bundles(&known) => polled,
                () = shutdown.cancelled() => return Ok(()),
            };
            match polled {
                Ok(Bundles { digest, bundles }) => {
                    pauses.reset();
                    if digest != known {
                        self.state.send_modify(|state| state.bundles = Arc::new(read_bundles(bundles, &state.bundles)));
                        known = digest;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "requesting the trust bundles failed; trying again");
                    tokio::select! {
                        () = sleep(pauses.next_pause()) => {}
                        () = shutdown.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }
}

/// The contents of bundles. One that can't be read keeps its previous contents; without any it is left out.
fn read_bundles(
    bundles: impl IntoIterator<Item = (String, serde_json::Value)>,
    previous: &BTreeMap<String, BundleContents>,
) -> BTreeMap<String, BundleContents> {
    let contents = bundles.into_iter().filter_map(|(name, bundle)| match read(bundle.to_string().as_bytes()) {
        Ok(contents) => Some((name, contents)),
        Err(error) => {
            tracing::warn!(trust_domain = name, %error, "a trust bundle can't be read; keeping the previous one, if any");
            previous.get(&name).cloned().map(|contents| (name, contents))
        }
    });
    contents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_unreadable_bundle_keeps_its_previous_contents() {
        let bundle = |sequence: u64| json!({"keys": [], "spiffe_sequence": sequence});
        let sequences = |bundles: &BTreeMap<String, BundleContents>| {
            bundles.iter().map(|(name, contents)| (name.clone(), contents.sequence)).collect::<Vec<_>>()
        };
        let named = |name: &str, bundle| (name.to_owned(), bundle);
        let first = read_bundles([named("a", bundle(1)), named("b", bundle(2))], &BTreeMap::new());
        let next = read_bundles([named("a", json!("?")), named("c", json!({}))], &first);
        assert_eq!(sequences(&next), [("a".to_owned(), Some(1))], "b has ended, c was never readable");
    }

    #[test]
    fn an_identity_is_valid_until_its_certificate_expires() {
        let not_after = DateTime::UNIX_EPOCH + TimeDelta::hours(1);
        let issued = IssuedIdentity {
            id: "spiffe://cluster.local/ns/a/sa/b".to_owned(),
            chain: Vec::new(),
            not_after,
            key: Zeroizing::new(Vec::new()),
            key_pem: Zeroizing::default(),
        };
        let bundles = BTreeMap::from([("spiffe://cluster.local".to_owned(), BundleContents::default())]);
        let state = IdentityState { issued: Some(Arc::new(issued)), bundles: Arc::new(bundles), refusal: None };
        for (seconds, valid) in [(-1, true), (0, false), (1, false)] {
            let now = not_after + TimeDelta::seconds(seconds);
            assert_eq!(state.valid_identity(now).is_some(), valid, "{seconds}");
        }
    }
}
