//! Claims of access tokens that our own token service issues (RFC 9068).
//!
//! An access token stands for the credential that it was exchanged for. It is accepted where that credential is, proves
//! no more than it, ends with the same pod, and is limited to the scopes that it carries.

use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::jwt::{VerifiedClaims, carried_scopes};
use crate::liveness::Binding;
use chrono::{DateTime, Utc};
use durward_core::principal::{CompletedStepUp, Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use durward_core::unknown_facts::UnknownFacts;
use durward_pki::serial::UidTag;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Name of the claim with everything for which there is no registered claim.
pub const DETAILS_CLAIM: &str = "durward.dev";

/// Content of the claim `durward.dev`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessTokenDetails {
    /// Pod of the first credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    /// Service account of the first credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service_account: Option<String>,
    /// When the first credential was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
    /// The IdentityProvider that federates the workload's trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<Arc<str>>,
    /// Mapped claims of an external issuer's token.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    attributes: Map<String, Value>,
    /// What the external issuer's token did not show.
    #[serde(default, skip_serializing_if = "UnknownFacts::is_empty")]
    unknown: UnknownFacts,
    /// The only operation for which `acr` and `auth_time` are valid; `None` for all operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<Arc<str>>,
    /// The first credential, if the token was issued for a second factor too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<FirstCredential>,
}

/// The first credential of a caller with a second factor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FirstCredential {
    acr: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_time: Option<i64>,
    /// The credential's own scopes. Doors decide by them as they do without a second factor, since the scopes of the
    /// token alone can't name all that the credential may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scopes: Option<BTreeSet<Scope>>,
    /// Whether the credential is limited to these scopes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    narrowed: bool,
}

impl FirstCredential {
    /// The credential before any second factor.
    #[must_use]
    pub fn of(identity: &Identity) -> Self {
        Self {
            acr: identity.assurance.acr().to_owned(),
            auth_time: identity.authenticated_at.map(|at| at.timestamp()),
            scopes: identity.scopes.clone(),
            narrowed: identity.narrowed,
        }
    }

    /// The credential before any second factor, limited to the scopes of the token.
    #[must_use]
    pub fn narrowed(identity: &Identity) -> Self {
        Self { narrowed: true, ..Self::of(identity) }
    }

    /// The credential in a token with these scopes.
    #[must_use]
    pub fn within(self, carried: &BTreeSet<Scope>) -> Self {
        if self.narrowed { Self { scopes: Some(carried.clone()), ..self } } else { self }
    }
}

impl AccessTokenDetails {
    /// The claim for an identity. `first` is the credential to which a second factor was added.
    #[must_use]
    pub fn of(identity: &Identity, binding: Option<&Binding>, first: Option<FirstCredential>) -> Self {
        Self {
            operation: identity.step_up.as_ref().map(|step_up| Arc::clone(&step_up.operation)),
            first,
            pod: binding.and_then(|binding| binding.pod).map(|tag| tag.to_string()),
            service_account: binding.and_then(|binding| binding.service_account).map(|tag| tag.to_string()),
            since: binding.map(|binding| binding.issued_at.timestamp()),
            provider: identity.federation.clone(),
            attributes: identity.attributes.clone(),
            unknown: identity.unknown.clone(),
        }
    }

    fn binding(&self) -> Result<Option<Binding>, Cause> {
        let Some(since) = self.since else { return Ok(None) };
        let tag = |text: &Option<String>| -> Result<Option<UidTag>, Cause> {
            text.as_deref().map(str::parse).transpose().map_err(|_| Cause::ClaimType(DETAILS_CLAIM))
        };
        let issued_at = DateTime::from_timestamp(since, 0).ok_or(Cause::ClaimType(DETAILS_CLAIM))?;
        Ok(Some(Binding { pod: tag(&self.pod)?, service_account: tag(&self.service_account)?, issued_at }))
    }
}

/// The caller of an access token of our own.
pub(crate) fn read_caller(
    claims: &VerifiedClaims,
    is_bound: bool,
    trust_domain: &str,
) -> Result<VerifiedCaller, Cause> {
    let details: AccessTokenDetails = match claims.get(DETAILS_CLAIM) {
        Some(details) => serde_json::from_value(details.clone()).map_err(|_| Cause::ClaimType(DETAILS_CLAIM))?,
        None => AccessTokenDetails::default(),
    };
    let id = subject(claims, &details, trust_domain)?;
    let groups = match claims.get("groups") {
        Some(groups) => serde_json::from_value(groups.clone()).map_err(|_| Cause::ClaimType("groups"))?,
        None => BTreeSet::new(),
    };
    let binding = details.binding()?;
    let stated = assurance(claims.text("acr")?, is_bound)?;
    let stated_at = time(claims.time("auth_time")?);
    let carried = carried_scopes(claims.get("scope")).ok_or(Cause::MissingClaim("scope"))?;
    let (scopes, narrowed) = match &details.first {
        // with a second factor, the scopes are those of the first credential
        Some(first) => (first.scopes.clone(), first.narrowed),
        None => (Some(carried), true),
    };
    let (step_up, proved, authenticated_at) = match (details.operation, &details.first) {
        (None, _) => (None, stated, stated_at),
        (Some(operation), Some(first)) => {
            let authenticated_at = stated_at.ok_or(Cause::MissingClaim("auth_time"))?;
            let step_up = CompletedStepUp { operation, assurance: stated, authenticated_at };
            (Some(step_up), assurance(&first.acr, is_bound)?, time(first.auth_time))
        }
        (Some(_), None) => return Err(Cause::ClaimType(DETAILS_CLAIM)),
    };
    let identity = Identity {
        federation: details.provider,
        groups,
        attributes: details.attributes,
        unknown: details.unknown,
        scopes,
        narrowed,
        authenticated_at,
        expires_at: claims.end(),
        step_up,
        ..Identity::new(id, proved)
    };
    Ok(VerifiedCaller { principal: Arc::new(Principal::authenticated(identity)), binding })
}

/// The subject: a user, a workload of this trust domain, or one of a federated trust domain.
fn subject(claims: &VerifiedClaims, details: &AccessTokenDetails, trust_domain: &str) -> Result<PrincipalId, Cause> {
    let id: PrincipalId = claims.text("sub")?.parse().map_err(|_| Cause::Subject("not a principal"))?;
    let is_valid = match (&id, &details.provider) {
        (PrincipalId::User { .. }, None) => true,
        (PrincipalId::Workload { .. }, None) => id.trust_domain() == Some(trust_domain),
        (PrincipalId::Workload { .. } | PrincipalId::Spiffe { .. }, Some(_)) => id.trust_domain() != Some(trust_domain),
        _ => false,
    };
    if is_valid { Ok(id) } else { Err(Cause::Subject("neither a workload nor a user of a provider")) }
}

/// The assurance of an `acr`. The bearer of a token that is bound to no key has not proved to hold one.
fn assurance(acr: &str, is_bound: bool) -> Result<Assurance, Cause> {
    match Assurance::of_acr(acr).ok_or(Cause::ClaimType("acr"))? {
        Assurance::ProofOfPossession if !is_bound => Ok(Assurance::Bearer),
        stated => Ok(stated),
    }
}

fn time(at: Option<i64>) -> Option<DateTime<Utc>> {
    at.and_then(|at| DateTime::from_timestamp(at, 0))
}
