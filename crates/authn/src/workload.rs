//! Workloads of this trust domain: JWT-SVIDs and Kubernetes service-account tokens.

use crate::bearer::{Bearer, Kind, Reading};
use crate::cause::Cause;
use crate::issuer::{bound_to, scopes};
use crate::jwt::{VerifiedClaims, UnverifiedToken};
use crate::keys::{KeySet, KeySource, Keys};
use crate::liveness::Binding;
use crate::{Credentials, TrustDomain, VerifiedCaller};
use chrono::{DateTime, Utc};
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;
use durward_pki::serial::UidTag;
use quick_cache::sync::Cache;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// The cluster's issuer of service-account tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountIssuer {
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// Where its keys come from.
    pub keys: KeySource,
}

/// Tokens that are remembered as those of other issuers, at about 50 bytes each.
const REMEMBERED_STRANGERS: usize = 10_000;

/// Tokens of the trust domain's own workloads.
pub struct WorkloadTokens {
    trust_domain: String,
    own: Option<Arc<KeySet>>,
    cluster: Option<(String, Arc<Keys>)>,
    /// Tokens of none of these issuers: they need not be taken apart again before the next way in is tried.
    strangers: Cache<Reading<Box<str>>, ()>,
}

impl fmt::Debug for WorkloadTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadTokens").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl WorkloadTokens {
    /// Tokens by the keys of a trust domain; those of `old` that stay the same keep what was verified with them.
    pub fn new(domain: &TrustDomain, old: Option<&Self>) -> Result<Self, String> {
        let own = match (&domain.own_keys, old.and_then(|old| old.own.as_ref())) {
            (Some(json), Some(old)) if old.is_of(json.as_bytes()) => Some(Arc::clone(old)),
            (Some(json), _) => Some(Arc::new(KeySet::parse(json.as_bytes())?)),
            (None, _) => None,
        };
        let cluster = match (&domain.service_accounts, old.and_then(|old| old.cluster.as_ref())) {
            (Some(new), Some(old)) if old.1.is_of(&new.issuer, &new.keys) => Some(old.clone()),
            (Some(new), _) => Some((new.issuer.clone(), Arc::new(Keys::new(&new.issuer, new.keys.clone())?))),
            (None, _) => None,
        };
        let strangers = Cache::new(REMEMBERED_STRANGERS);
        Ok(Self { trust_domain: domain.name.clone(), own, cluster, strangers })
    }

    /// The keys that are to be kept fresh.
    pub fn keys(&self) -> Option<&Arc<Keys>> {
        self.cluster.as_ref().map(|(_, keys)| keys)
    }

    /// The principal of a token.
    pub async fn authenticate(
        &self,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<VerifiedCaller, Cause> {
        let reading = bearer.read_as(Kind::Credential, audience);
        let remembered = self.own.as_ref().and_then(|keys| keys.remembered(&reading, now));
        if let Some(verified) = remembered.or_else(|| self.cluster.as_ref()?.1.remembered(&reading, now)) {
            return Ok(verified);
        }
        if self.is_stranger(&reading) {
            return Err(Cause::Issuer);
        }
        let token = UnverifiedToken::parse(bearer.text)?;
        let cluster = self.cluster.as_ref().filter(|(issuer, _)| token.claimed_issuer() == Some(issuer));
        let (keys, from_cluster) = match (cluster, &self.own) {
            (Some((_, keys)), _) => (keys.get(token.kid.as_deref(), now).await?, true),
            // our own tokens always name their key; access tokens are read elsewhere
            (None, Some(own)) if token.kid.is_some() && own.find(token.kid.as_deref()).is_ok() => {
                if token.access {
                    return Err(Cause::Type);
                }
                (Arc::clone(own), false)
            }
            _ => {
                self.strangers.insert(reading.kept(), ());
                return Err(Cause::Issuer);
            }
        };
        let claims = token.verify(&keys, now)?;
        claims.demand_audience([audience].into_iter())?;
        let bound = bound_to(&claims, credentials)?;
        let id = if from_cluster { self.service_account(&claims)? } else { self.svid(&claims)? };
        let identity = Identity {
            scopes: scopes(claims.get("scope")),
            expires_at: claims.end(),
            ..Identity::new(id, if bound { Assurance::ProofOfPossession } else { Assurance::Bearer })
        };
        let verified = VerifiedCaller { principal: Arc::new(Principal::authenticated(identity)), binding: binding(&claims)? };
        if !bound {
            keys.verified.insert(reading.kept(), verified.clone());
        }
        Ok(verified)
    }

    /// Whether this is remembered as a token of other issuers.
    pub(crate) fn is_stranger(&self, token: &Reading<&str>) -> bool {
        self.strangers.get(token).is_some()
    }

    /// Whom a token of our own was once verified to be.
    pub fn remembered(&self, token: &Reading<&str>, now: DateTime<Utc>) -> Option<VerifiedCaller> {
        self.own.as_ref()?.remembered(token, now)
    }

    /// The keys of our own tokens, if the token names one of them.
    pub fn own(&self, kid: Option<&str>) -> Option<&Arc<KeySet>> {
        self.own.as_ref().filter(|own| kid.is_some() && own.find(kid).is_ok())
    }

    /// The subject of a JWT-SVID (SPIFFE JWT-SVID, section 3.1).
    fn svid(&self, claims: &VerifiedClaims) -> Result<PrincipalId, Cause> {
        match claims.text("sub")?.parse() {
            Ok(id @ PrincipalId::Workload { .. }) if id.trust_domain() == Some(&self.trust_domain) => Ok(id),
            _ => Err(Cause::Subject("not a workload of this trust domain")),
        }
    }

    /// The subject of a service-account token; what `kubernetes.io` says has to agree.
    fn service_account(&self, claims: &VerifiedClaims) -> Result<PrincipalId, Cause> {
        let wrong = Cause::Subject("not a service account");
        let subject = claims.text("sub")?;
        let (namespace, name) = subject
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'))
            .ok_or(wrong.clone())?;
        if let Some(details) = claims.get("kubernetes.io") {
            let said = |pointer: &str| details.pointer(pointer).and_then(Value::as_str);
            if said("/namespace") != Some(namespace) || said("/serviceaccount/name") != Some(name) {
                return Err(Cause::Subject("its `kubernetes.io` claim names another service account"));
            }
        }
        PrincipalId::workload(&self.trust_domain, namespace, name).map_err(|_| wrong)
    }
}

/// For whom a token was issued: `kubernetes.io` says so in the cluster's tokens, and in our own.
fn binding(claims: &VerifiedClaims) -> Result<Option<Binding>, Cause> {
    let Some(details) = claims.get("kubernetes.io") else { return Ok(None) };
    let tag = |pointer: &str| details.pointer(pointer).and_then(Value::as_str).map(UidTag::from_uid);
    let since = claims.time("iat")?.and_then(|at| DateTime::from_timestamp(at, 0)).unwrap_or_default();
    Ok(Some(Binding { pod: tag("/pod/uid"), service_account: tag("/serviceaccount/uid"), since }))
}
