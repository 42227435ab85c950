//! Another trust domain: an `IdentityProvider` of kind `x509`. Its bundle is accepted for its own workloads alone.

mod endpoint;
#[cfg(test)]
mod tests;

use crate::bearer::{Bearer, TokenUse};
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::certificate::CertificateVerifier;
use crate::credentials::{Credentials, PresentedCredentials};
use crate::jwt::{TokenVerification, UnverifiedToken, VerifiedClaims, carried_scopes, token_assurance};
use crate::keys::{FETCH_TIMEOUT, KeySet};
use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use durward_api::field_error::FieldError;
use durward_api::resources::X509Provider;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_pki::authority::certificates;
use durward_pki::bundle::{BundleContents, read};
use endpoint::{BundleEndpointClient, BundleUpdateError};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// Refresh interval of bundles that state none (SPIFFE Trust Domain and Bundle, section 4.1.2).
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);
/// Minimum interval, whatever the bundle states.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// Maximum interval, whatever the bundle states.
const MAX_REFRESH: Duration = Duration::from_secs(3600);
/// For how long a bundle is accepted if its endpoint can't be reached; the same as for keys of an issuer.
const MAX_AGE: TimeDelta = TimeDelta::hours(24);

/// A federated trust domain.
pub struct FederatedTrustDomain {
    provider: Arc<str>,
    spec: X509Provider,
    endpoint: Option<BundleEndpointClient>,
    current: ArcSwapOption<CurrentBundle>,
    attempt: Mutex<BundleFetchAttempt>,
}

/// A bundle, and what verifies credentials by it.
struct CurrentBundle {
    contents: BundleContents,
    certificates: CertificateVerifier,
    keys: Option<Arc<KeySet>>,
    /// When the bundle was last fetched; `None` for a bundle without endpoint.
    at: Option<DateTime<Utc>>,
}

/// The last attempt to fetch the bundle.
#[derive(Debug, Default)]
struct BundleFetchAttempt {
    next: Option<Instant>,
    failures: u32,
}

impl FederatedTrustDomain {
    /// The trust domain of an `IdentityProvider`. With the same settings, it is `old`. `own` is the trust domain of
    /// this installation.
    pub fn new(name: &str, spec: &X509Provider, own: &str, old: Option<&Arc<Self>>) -> Result<Arc<Self>, FieldError> {
        let error = |field: &str, message: String| FieldError { field: format!("spec.x509.{field}"), message };
        if spec.trust_domain == own {
            let message = format!("`{own}` is the trust domain of this installation; use another one");
            return Err(error("trustDomain", message));
        }
        if let Some(old) = old.filter(|old| old.spec == *spec) {
            return Ok(Arc::clone(old));
        }
        let endpoint = spec.endpoint.as_ref();
        let endpoint = endpoint.map(|spec_of| BundleEndpointClient::new(spec_of, &spec.trust_domain)).transpose()?;
        let bundle = spec.bundle.as_deref().map(inline_bundle).transpose();
        let bundle = bundle.map_err(|message| error("bundle", message.to_string()))?;
        if bundle.is_none()
            && let Some(message) = missing_bundle(spec)
        {
            return Err(error("bundle", message.to_owned()));
        }
        let this = Self {
            provider: name.into(),
            spec: spec.clone(),
            current: ArcSwapOption::empty(),
            attempt: Mutex::default(),
            endpoint,
        };
        if let Some(bundle) = bundle {
            let at = this.endpoint.as_ref().map(|_| Utc::now());
            this.current.store(Some(Arc::new(this.current_bundle(bundle, at))));
        }
        Ok(Arc::new(this))
    }

    /// Name of the trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.spec.trust_domain
    }

    /// The bundle in SPIFFE's format, unless it is missing or too old.
    pub fn bundle(&self, now: DateTime<Utc>) -> Option<serde_json::Value> {
        self.fresh_bundle(now).ok().map(|bundle| bundle.contents.to_json())
    }

    /// Runs `verify` with the verifier of certificates, unless the bundle is missing or too old.
    pub(crate) fn with_certificates<T>(
        &self,
        now: DateTime<Utc>,
        verify: impl FnOnce(&CertificateVerifier) -> T,
    ) -> Option<T> {
        self.fresh_bundle(now).ok().map(|bundle| verify(&bundle.certificates))
    }

    /// The workload of a caller's certificate or token; `None` without both.
    pub fn authenticate(
        &self,
        presented: &PresentedCredentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<VerifiedCaller>, Cause> {
        let bundle = self.fresh_bundle(now)?;
        if let Some(caller) = bundle.certificates.authenticate(presented.credentials, now)? {
            return Ok(Some(caller));
        }
        match presented.bearer()? {
            Some(bearer) => self.verify_token(&bundle, bearer, presented.credentials, audience, now).map(Some),
            None => Ok(None),
        }
    }

    /// The workload of a token.
    pub fn authenticate_token(
        &self,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<VerifiedCaller, Cause> {
        self.verify_token(&*self.fresh_bundle(now)?, bearer, credentials, audience, now)
    }

    /// The workload of a JWT-SVID (SPIFFE JWT-SVID, sections 3 and 6).
    fn verify_token(
        &self,
        bundle: &CurrentBundle,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<VerifiedCaller, Cause> {
        let keys = bundle.keys.as_ref().ok_or(Cause::Issuer)?;
        let cache_key = bearer.cache_key(TokenUse::Credential, audience);
        if let Some(caller) = keys.cached(&cache_key, now) {
            return Ok(caller);
        }
        let token = UnverifiedToken::parse(bearer.text)?;
        let claimed = token.claimed_subject().and_then(|subject| subject.parse::<PrincipalId>().ok());
        if claimed.as_ref().and_then(PrincipalId::trust_domain) != Some(self.trust_domain()) {
            return Err(Cause::Issuer);
        }
        token.claimed_svid()?;
        let verification = TokenVerification { keys, cache_key, credentials, now };
        verification.verify(token, [audience].into_iter(), |claims, is_bound| {
            let identity = Identity {
                federation: Some(Arc::clone(&self.provider)),
                scopes: carried_scopes(claims.get("scope")),
                expires_at: claims.end(),
                ..Identity::new(self.subject(claims)?, token_assurance(is_bound))
            };
            Ok(VerifiedCaller::unbound(Arc::new(Principal::authenticated(identity))))
        })
    }

    fn subject(&self, claims: &VerifiedClaims) -> Result<PrincipalId, Cause> {
        let id: Option<PrincipalId> = claims.text("sub")?.parse().ok();
        id.filter(|id| id.trust_domain() == Some(self.trust_domain()))
            .ok_or(Cause::Subject("not a workload of the provider's trust domain"))
    }

    fn fresh_bundle(&self, now: DateTime<Utc>) -> Result<Arc<CurrentBundle>, Cause> {
        let bundle = self.current.load_full().ok_or_else(|| Cause::NoBundle(self.provider.to_string()))?;
        match bundle.at {
            Some(at) if now - at > MAX_AGE => Err(Cause::StaleBundle(self.provider.to_string())),
            _ => Ok(bundle),
        }
    }

    fn current_bundle(&self, contents: BundleContents, at: Option<DateTime<Utc>>) -> CurrentBundle {
        // a bundle may have no keys for tokens
        let keys = KeySet::parse(contents.jwks.as_bytes()).ok().map(Arc::new);
        let roots = contents.roots.clone();
        let certificates = CertificateVerifier::federated(&self.provider, self.trust_domain(), roots);
        CurrentBundle { contents, certificates, keys, at }
    }

    /// Fetches the bundle if a refresh is due; returns whether the bundle has changed.
    pub async fn refresh(&self) -> bool {
        let Some(endpoint) = &self.endpoint else { return false };
        let mut attempt = self.attempt.lock().await;
        if attempt.next.is_some_and(|next| next > Instant::now()) {
            return false;
        }
        let current = self.current.load_full();
        let roots = current.as_ref().map(|current| current.contents.roots.as_slice()).unwrap_or_default();
        let fetched = timeout(FETCH_TIMEOUT, endpoint.fetch(roots)).await;
        let fetched = fetched.unwrap_or(Err(BundleUpdateError::Timeout));
        match fetched.and_then(|bytes| self.store(&bytes, current.as_deref())) {
            Ok((changed, interval)) => {
                let next = Some(Instant::now() + interval.clamp(MIN_REFRESH, MAX_REFRESH));
                *attempt = BundleFetchAttempt { next, failures: 0 };
                changed
            }
            Err(error) => {
                let next = match self.fresh_bundle(Utc::now()) {
                    Ok(_) => "keeping the previous bundle",
                    Err(_) => "refusing its workloads until a fetch succeeds",
                };
                tracing::warn!(provider = &*self.provider, %error, "fetching the trust bundle failed; {next}");
                let pause = MIN_REFRESH.saturating_mul(1 << attempt.failures.min(16)).min(REFRESH_INTERVAL);
                let failures = attempt.failures + 1;
                *attempt = BundleFetchAttempt { next: Some(Instant::now() + pause), failures };
                false
            }
        }
    }

    /// Stores a fetched bundle, unless it is older than the current one; returns whether it has changed, and the
    /// interval to the next refresh. An unchanged bundle keeps its caches.
    fn store(&self, bytes: &[u8], current: Option<&CurrentBundle>) -> Result<(bool, Duration), BundleUpdateError> {
        let contents = read(bytes)?;
        match (current.and_then(|current| current.contents.sequence), contents.sequence) {
            (Some(current), Some(fetched)) if fetched < current => {
                return Err(BundleUpdateError::OlderSequence { current, fetched });
            }
            (Some(_), None) => return Err(BundleUpdateError::NoSequence),
            _ => {}
        }
        let interval = contents.refresh_hint.map_or(REFRESH_INTERVAL, Duration::from_secs);
        let at = Some(Utc::now());
        let next = match current {
            Some(current) if current.contents == contents => {
                CurrentBundle { contents, certificates: current.certificates.clone(), keys: current.keys.clone(), at }
            }
            _ => {
                tracing::info!(
                    provider = &*self.provider,
                    sequence = contents.sequence,
                    roots = contents.roots.len(),
                    "the trust bundle has changed; verifying by the new one"
                );
                self.current_bundle(contents, at)
            }
        };
        let changed = current.is_none_or(|current| current.contents != next.contents);
        self.current.store(Some(Arc::new(next)));
        Ok((changed, interval))
    }
}

/// What a provider without `bundle` lacks; `None` if its endpoint suffices.
fn missing_bundle(spec: &X509Provider) -> Option<&'static str> {
    match spec.endpoint.as_ref().map(|endpoint| endpoint.spiffe_id.is_some()) {
        None => Some("set the source of the trust bundle: `bundle`, `endpoint`, or both"),
        Some(true) => Some("profile `https_spiffe` needs an initial `bundle`, which verifies the endpoint"),
        Some(false) => None,
    }
}

/// A bundle in a resource: SPIFFE's JSON, or roots in PEM.
fn inline_bundle(text: &str) -> Result<BundleContents, InlineBundleError> {
    if text.trim_start().starts_with('{') {
        return Ok(read(text.as_bytes())?);
    }
    let roots = certificates(text).map_err(|_| InlineBundleError::UnknownFormat)?;
    Ok(BundleContents { roots, ..BundleContents::default() })
}

/// The bundle in a resource is not usable.
#[derive(Debug, thiserror::Error)]
enum InlineBundleError {
    #[error(transparent)]
    Json(#[from] durward_pki::bundle::BundleError),
    #[error("neither SPIFFE's JSON nor certificates in PEM")]
    UnknownFormat,
}

impl fmt::Debug for FederatedTrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FederatedTrustDomain").field("trust_domain", &self.spec.trust_domain).finish_non_exhaustive()
    }
}
