//! Tokens of workloads of this trust domain: JWT-SVIDs and Kubernetes service-account tokens.

use crate::bearer::{Bearer, TokenCacheKey, TokenUse};
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::credentials::Credentials;
use crate::jwt::{TokenVerification, UnverifiedToken, VerifiedClaims, carried_scopes, token_assurance};
use crate::keys::{IssuerKeys, KeySet, KeySetError};
use crate::liveness::Binding;
use crate::trust_domain::TrustDomain;
use chrono::{DateTime, Utc};
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_pki::serial::UidTag;
use quick_cache::sync::Cache;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// Maximum number of remembered foreign tokens, at about 50 bytes each.
const MAX_FOREIGN_TOKENS: usize = 10_000;

/// Verifies tokens of the trust domain's own workloads.
pub struct WorkloadTokens {
    trust_domain: String,
    own: Option<Arc<KeySet>>,
    cluster: Option<(String, Arc<IssuerKeys>)>,
    /// Tokens of other issuers. They are not parsed again before the next authentication method is tried.
    foreign: Cache<TokenCacheKey<Box<str>>, ()>,
}

impl fmt::Debug for WorkloadTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadTokens").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl WorkloadTokens {
    /// Verification by the keys of a trust domain. Keys that are the same in `old` keep their caches.
    pub fn new(domain: &TrustDomain, old: Option<&Self>) -> Result<Self, KeySetError> {
        let own = match (&domain.own_keys, old.and_then(|old| old.own.as_ref())) {
            (Some(json), Some(old)) if old.is_of(json.as_bytes()) => Some(Arc::clone(old)),
            (Some(json), _) => Some(Arc::new(KeySet::parse(json.as_bytes())?)),
            (None, _) => None,
        };
        let cluster = match (&domain.service_accounts, old.and_then(|old| old.cluster.as_ref())) {
            (Some(new), Some(old)) if old.1.is_of(&new.issuer, &new.keys) => Some(old.clone()),
            (Some(new), _) => Some((new.issuer.clone(), Arc::new(IssuerKeys::new(&new.issuer, new.keys.clone())?))),
            (None, _) => None,
        };
        let foreign = Cache::new(MAX_FOREIGN_TOKENS);
        Ok(Self { trust_domain: domain.name.clone(), own, cluster, foreign })
    }

    /// The keys of the cluster's issuer, which need to be kept fresh.
    pub fn cluster_keys(&self) -> Option<&Arc<IssuerKeys>> {
        self.cluster.as_ref().map(|(_, keys)| keys)
    }

    /// The caller of a token.
    pub async fn authenticate(
        &self,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<VerifiedCaller, Cause> {
        let cache_key = bearer.cache_key(TokenUse::Credential, audience);
        let cached = self.cached(&cache_key, now);
        if let Some(caller) = cached.or_else(|| self.cluster_keys()?.cached(&cache_key, now)) {
            return Ok(caller);
        }
        if self.is_foreign(&cache_key) {
            return Err(Cause::Issuer);
        }
        let token = UnverifiedToken::parse(bearer.text)?;
        let cluster = self.cluster.as_ref().filter(|(issuer, _)| token.claimed_issuer() == Some(issuer));
        let (keys, from_cluster) = match (cluster, self.own_keys(token.kid.as_deref())) {
            (Some((_, keys)), _) => (keys.get(token.kid.as_deref(), now).await?, true),
            // access tokens have their own verification
            (None, Some(_)) if token.is_access_token => return Err(Cause::Type),
            (None, Some(own)) => (Arc::clone(own), false),
            (None, None) => {
                self.foreign.insert(cache_key.to_stored(), ());
                return Err(Cause::Issuer);
            }
        };
        let verification = TokenVerification { keys: &keys, cache_key, credentials, now };
        verification.verify(token, [audience].into_iter(), |claims, is_bound| {
            let id = if from_cluster { self.service_account(claims)? } else { self.svid(claims)? };
            let identity = Identity {
                scopes: carried_scopes(claims.get("scope")),
                expires_at: claims.end(),
                ..Identity::new(id, token_assurance(is_bound))
            };
            let principal = Arc::new(Principal::authenticated(identity));
            Ok(VerifiedCaller { principal, binding: binding(claims)? })
        })
    }

    /// Whether this is remembered as a token of another issuer.
    pub(crate) fn is_foreign(&self, token: &TokenCacheKey<&str>) -> bool {
        self.foreign.get(token).is_some()
    }

    /// The caller of a token that our own keys verified before.
    pub fn cached(&self, token: &TokenCacheKey<&str>, now: DateTime<Utc>) -> Option<VerifiedCaller> {
        self.own.as_ref()?.cached(token, now)
    }

    /// Our own keys, if `kid` is one of them. Our own tokens always have a `kid`.
    pub fn own_keys(&self, kid: Option<&str>) -> Option<&Arc<KeySet>> {
        self.own.as_ref().filter(|own| kid.is_some_and(|kid| own.has(kid)))
    }

    /// The subject of a JWT-SVID (SPIFFE JWT-SVID, section 3.1).
    fn svid(&self, claims: &VerifiedClaims) -> Result<PrincipalId, Cause> {
        match claims.text("sub")?.parse() {
            Ok(id @ PrincipalId::Workload { .. }) if id.trust_domain() == Some(&self.trust_domain) => Ok(id),
            _ => Err(Cause::Subject("not a workload of this trust domain")),
        }
    }

    /// The subject of a service-account token. The claim `kubernetes.io` must name the same service account.
    fn service_account(&self, claims: &VerifiedClaims) -> Result<PrincipalId, Cause> {
        let wrong = Cause::Subject("not a service account");
        let subject = claims.text("sub")?;
        let (namespace, name) = subject
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'))
            .ok_or(wrong.clone())?;
        if let Some(details) = claims.get("kubernetes.io") {
            let stated = |pointer: &str| details.pointer(pointer).and_then(Value::as_str);
            if stated("/namespace") != Some(namespace) || stated("/serviceaccount/name") != Some(name) {
                return Err(Cause::Subject("its `kubernetes.io` claim names another service account"));
            }
        }
        PrincipalId::workload(&self.trust_domain, namespace, name).map_err(|_| wrong)
    }
}

/// The pod and service account in the claim `kubernetes.io`, which the cluster's tokens and our own have.
fn binding(claims: &VerifiedClaims) -> Result<Option<Binding>, Cause> {
    let Some(details) = claims.get("kubernetes.io") else { return Ok(None) };
    let tag = |pointer: &str| details.pointer(pointer).and_then(Value::as_str).map(UidTag::from_uid);
    let issued_at = claims.time("iat")?.and_then(|at| DateTime::from_timestamp(at, 0)).unwrap_or_default();
    Ok(Some(Binding { pod: tag("/pod/uid"), service_account: tag("/serviceaccount/uid"), issued_at }))
}
