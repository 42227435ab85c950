//! Access tokens that our own token service has given out (RFC 9068).
//!
//! Such a token stands for the credential that it was exchanged for: it comes in by that one's way, proves no more than
//! that one did, counts as long as the pod that had it lives, and is good for the scopes that it carries and no others.

use crate::bearer::{Bearer, Kind};
use crate::cause::Cause;
use crate::issuer::{bound_to, scopes};
use crate::jwt::{VerifiedClaims, UnverifiedToken, is_access_token};
use crate::liveness::Binding;
use crate::{Authenticator, Credentials, Expectation, Provider, PresentedCredentials, VerifiedCaller};
use chrono::{DateTime, Utc};
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::{CompletedStepUp, Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use durward_pki::serial::UidTag;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The claim with what no registered claim is for.
pub const DETAILS_CLAIM: &str = "durward.dev";

/// What our own doors need to know beside registered claims.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessTokenDetails {
    /// For which pod and service account the first credential was issued, and when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_account: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
    /// The IdentityProvider that vouches for a workload of another trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<Arc<str>>,
    /// Mapped claims of an outside issuer's token.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    attributes: Map<String, Value>,
    /// The one operation at which `acr` and `auth_time` count, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<Arc<str>>,
    /// What the first credential says, where a second factor was shown beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<FirstCredential>,
}

/// The first credential of somebody who has shown a second factor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirstCredential {
    acr: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_time: Option<i64>,
    /// Its own scopes, if it says anything of them. Doors go by these, as they would without a second factor: what a
    /// request has to say first is more than scopes can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scopes: Option<BTreeSet<Scope>>,
    /// Whether it is narrowed to them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    narrowed: bool,
}

impl FirstCredential {
    /// The credential as it was, before any second factor.
    pub fn of(identity: &Identity) -> Self {
        Self {
            acr: identity.assurance.acr().to_owned(),
            auth_time: identity.authenticated_at.map(|at| at.timestamp()),
            scopes: identity.scopes.clone(),
            narrowed: identity.narrowed,
        }
    }

    /// The same, but narrowed to the scopes that the token will carry.
    pub fn narrowed(identity: &Identity) -> Self {
        Self { narrowed: true, ..Self::of(identity) }
    }

    /// The same, in a token that carries these scopes.
    pub fn within(self, carried: &BTreeSet<Scope>) -> Self {
        if self.narrowed { Self { scopes: Some(carried.clone()), ..self } } else { self }
    }
}

impl AccessTokenDetails {
    /// `first` is the credential beside which a second factor was shown.
    pub fn of(identity: &Identity, binding: Option<&Binding>, first: Option<FirstCredential>) -> Self {
        Self {
            operation: identity.step_up.as_ref().map(|step_up| Arc::clone(&step_up.operation)),
            first,
            pod: binding.and_then(|binding| binding.pod).map(|tag| tag.to_string()),
            service_account: binding.and_then(|binding| binding.service_account).map(|tag| tag.to_string()),
            since: binding.map(|binding| binding.since.timestamp()),
            provider: identity.federation.clone(),
            attributes: identity.attributes.clone(),
        }
    }

    fn binding(&self) -> Result<Option<Binding>, Cause> {
        let Some(since) = self.since else { return Ok(None) };
        let tag = |text: &Option<String>| -> Result<Option<UidTag>, Cause> {
            text.as_deref().map(str::parse).transpose().map_err(|_| Cause::ClaimType(DETAILS_CLAIM))
        };
        let since = DateTime::from_timestamp(since, 0).ok_or(Cause::ClaimType(DETAILS_CLAIM))?;
        Ok(Some(Binding { pod: tag(&self.pod)?, service_account: tag(&self.service_account)?, since }))
    }
}

/// Whom the claims of an access token of ours speak of.
fn read(claims: &VerifiedClaims, bound: bool, trust_domain: &str) -> Result<VerifiedCaller, Cause> {
    let details: AccessTokenDetails = match claims.get(DETAILS_CLAIM) {
        Some(details) => serde_json::from_value(details.clone()).map_err(|_| Cause::ClaimType(DETAILS_CLAIM))?,
        None => AccessTokenDetails::default(),
    };
    let id: PrincipalId = claims.text("sub")?.parse().map_err(|_| Cause::Subject("not a principal"))?;
    let known = match (&id, &details.provider) {
        (PrincipalId::User { .. }, None) => true,
        (PrincipalId::Workload { .. }, None) => id.trust_domain() == Some(trust_domain),
        (PrincipalId::Workload { .. } | PrincipalId::Spiffe { .. }, Some(_)) => id.trust_domain() != Some(trust_domain),
        _ => false,
    };
    if !known {
        return Err(Cause::Subject("neither a workload nor a user of a provider"));
    }
    let groups = match claims.get("groups") {
        Some(groups) => serde_json::from_value(groups.clone()).map_err(|_| Cause::ClaimType("groups"))?,
        None => BTreeSet::new(),
    };
    let binding = details.binding()?;
    // whoever holds a token that is bound to no key has not proved to have one
    let assurance = |acr: &str| -> Result<Assurance, Cause> {
        match Assurance::of_acr(acr).ok_or(Cause::ClaimType("acr"))? {
            Assurance::ProofOfPossession if !bound => Ok(Assurance::Bearer),
            stated => Ok(stated),
        }
    };
    let time = |at: Option<i64>| at.and_then(|at| DateTime::from_timestamp(at, 0));
    let (stated, at) = (assurance(claims.text("acr")?)?, time(claims.time("auth_time")?));
    let carried = scopes(claims.get("scope")).ok_or(Cause::MissingClaim("scope"))?;
    let base = match &details.first {
        // as good as its first credential, but for the factor
        Some(FirstCredential { scopes, narrowed, .. }) => (scopes.clone(), *narrowed),
        None => (Some(carried), true),
    };
    let (step_up, proved, authenticated_at) = match (details.operation, &details.first) {
        (None, _) => (None, stated, at),
        (Some(operation), Some(first)) => {
            let authenticated_at = at.ok_or(Cause::MissingClaim("auth_time"))?;
            let step_up = CompletedStepUp { operation, assurance: stated, authenticated_at };
            (Some(step_up), assurance(&first.acr)?, time(first.auth_time))
        }
        (Some(_), None) => return Err(Cause::ClaimType(DETAILS_CLAIM)),
    };
    let identity = Identity {
        federation: details.provider,
        groups,
        attributes: details.attributes,
        scopes: base.0,
        narrowed: base.1,
        authenticated_at,
        expires_at: claims.end(),
        step_up,
        ..Identity::new(id, proved)
    };
    Ok(VerifiedCaller { principal: Arc::new(Principal::authenticated(identity)), binding })
}

impl Authenticator {
    /// Who is calling, if it is by an access token of ours: then nothing else that the caller shows matters but the
    /// certificate that the token may be bound to.
    pub(super) fn by_access_token(
        &self,
        shown: &PresentedCredentials<'_>,
        expect: &Expectation<'_>,
        now: DateTime<Utc>,
    ) -> Option<Result<Arc<Principal>, Cause>> {
        let verified = self.access_token(shown.bearer().ok()??, shown.credentials, expect.audience, now)?;
        Some(verified.and_then(|verified| self.comes_in(verified, expect.methods, now)).map(|verified| verified.principal))
    }

    /// The holder of an access token of ours for an audience; `None` if it is none of ours.
    pub(super) fn access_token(
        &self,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Option<Result<VerifiedCaller, Cause>> {
        let domain = self.domain.load();
        let workloads = domain.workloads.as_ref()?;
        if workloads.is_stranger(&bearer.read_as(Kind::Credential, audience)) {
            return None;
        }
        let reading = bearer.read_as(Kind::AccessToken, audience);
        if let Some(verified) = workloads.remembered(&reading, now) {
            return Some(Ok(verified));
        }
        if !is_access_token(bearer.text) {
            return None;
        }
        let token = UnverifiedToken::parse(bearer.text).ok()?;
        let keys = workloads.own(token.kid.as_deref())?;
        let verify = || {
            let claims = token.verify(keys, now)?;
            claims.demand_audience([audience].into_iter())?;
            let bound = bound_to(&claims, credentials)?;
            let verified = read(&claims, bound, &domain.settings.name)?;
            if !bound {
                keys.verified.insert(reading.kept(), verified.clone());
            }
            Ok(verified)
        };
        Some(verify())
    }

    /// Whether the credential that a token was exchanged for would come in.
    pub(super) fn comes_in(
        &self,
        verified: VerifiedCaller,
        methods: &[AuthenticationMethod],
        now: DateTime<Utc>,
    ) -> Result<VerifiedCaller, Cause> {
        let identity = verified.principal.identity();
        if !methods.iter().any(|way| way.admits(identity)) {
            return Err(Cause::NotAccepted);
        }
        let providers = self.providers.load();
        let vouches = |name: &str| match (providers.get(name), &identity.federation) {
            (Some(Provider::Issuer(_)), None) => true,
            (Some(Provider::Federation(of)), Some(_)) => identity.id.trust_domain() == Some(of.trust_domain()),
            _ => false,
        };
        if let Some(name) = identity.provider().filter(|name| !vouches(name)) {
            return Err(Cause::Provider(name.to_owned()));
        }
        if self.living.is_live(verified.binding.as_ref(), now) { Ok(verified) } else { Err(Cause::Gone) }
    }

    /// VerifiedClaims of an access token of ours that counts, for whoever asks instead of verifying it (RFC 7662), and whom it
    /// speaks of. Whether its holder has the key that it is bound to is theirs to see.
    pub fn introspect(
        &self,
        text: &str,
        expect: &Expectation<'_>,
        now: DateTime<Utc>,
    ) -> Result<(Map<String, Value>, Arc<Principal>), Cause> {
        let domain = self.domain.load();
        let token = UnverifiedToken::parse(text)?;
        let own = domain.workloads.as_ref().and_then(|workloads| workloads.own(token.kid.as_deref()));
        let keys = own.filter(|_| token.access).ok_or(Cause::Issuer)?;
        let claims = token.verify(keys, now)?;
        claims.demand_audience([expect.audience].into_iter())?;
        let verified = read(&claims, claims.get("cnf").is_some(), &domain.settings.name)?;
        let verified = self.comes_in(verified, expect.methods, now)?;
        Ok((claims.all().clone(), verified.principal))
    }
}
