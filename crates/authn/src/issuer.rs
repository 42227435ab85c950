//! Tokens of an outside issuer: an `IdentityProvider` of kind `jwt`.

use crate::bearer::{Bearer, Kind};
use crate::cause::Cause;
use crate::certificate::leaf;
use crate::jwt::{VerifiedClaims, UnverifiedToken};
use crate::keys::{KeySource, Keys};
use crate::{Credentials, VerifiedCaller};
use chrono::{DateTime, Utc};
use durward_api::field_error::FieldError;
use durward_api::resources::{AssuranceMapping, JwtProvider};
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Most groups or scopes that are taken from a token.
const MAX_LIST: usize = 200;
/// Most bytes of all mapped attributes, as JSON.
const MAX_ATTRIBUTES: usize = 8 * 1024;

/// One issuer.
#[derive(Debug)]
pub struct Issuer {
    name: String,
    spec: JwtProvider,
    pub keys: Arc<Keys>,
}

impl Issuer {
    /// An issuer as an `IdentityProvider` describes it; `old` is the one that it replaces, whose keys stay good if they
    /// come from the same place.
    pub fn new(name: &str, spec: &JwtProvider, old: Option<&Self>) -> Result<Self, FieldError> {
        let error = |field: &str, message: String| FieldError { field: format!("spec.jwt.{field}"), message };
        let source = match (&spec.jwks, &spec.jwks_uri) {
            (Some(jwks), None) => KeySource::Inline(serde_json::to_string(jwks).unwrap_or_default()),
            (None, Some(uri)) => KeySource::Url(KeySource::url(uri).map_err(|message| error("jwksUri", message))?),
            (None, None) => {
                KeySource::Issuer(KeySource::url(&spec.issuer).map_err(|message| error("issuer", message))?)
            }
            (Some(_), Some(_)) => return Err(error("jwksUri", "`jwks` and `jwksUri` exclude each other".to_owned())),
        };
        let kept = old.filter(|old| old.keys.is_of(&spec.issuer, &source)).map(|old| Arc::clone(&old.keys));
        let keys = match kept {
            // what was verified was mapped by the old settings, so it only stays if those are the same
            Some(keys) if old.is_some_and(|old| old.spec == *spec) => keys,
            _ => Arc::new(Keys::new(&spec.issuer, source).map_err(|message| error("jwks", message))?),
        };
        Ok(Self { name: name.to_owned(), spec: spec.clone(), keys })
    }

    /// The principal of a token.
    pub async fn authenticate(
        &self,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Arc<Principal>, Cause> {
        let reading = bearer.read_as(Kind::Credential, audience);
        if let Some(verified) = self.keys.remembered(&reading, now) {
            return Ok(verified.principal);
        }
        let token = UnverifiedToken::parse(bearer.text)?;
        if token.claimed_issuer() != Some(&self.spec.issuer) {
            return Err(Cause::Issuer);
        }
        let keys = self.keys.get(token.kid.as_deref(), now).await?;
        let claims = token.verify(&keys, now)?;
        match self.spec.audiences.as_slice() {
            [] => claims.demand_audience([audience].into_iter())?,
            own => claims.demand_audience(own.iter().map(String::as_str))?,
        }
        let bound = bound_to(&claims, credentials)?;
        let principal = Arc::new(Principal::authenticated(self.identity(&claims, bound)?));
        if !bound {
            keys.verified.insert(reading.kept(), VerifiedCaller { principal: Arc::clone(&principal), binding: None });
        }
        Ok(principal)
    }

    fn identity(&self, claims: &VerifiedClaims, bound: bool) -> Result<Identity, Cause> {
        let names = &self.spec.claims;
        let subject = claims.get(names.subject.as_deref().unwrap_or("sub")).ok_or(Cause::MissingClaim("sub"))?;
        let subject = subject.as_str().ok_or(Cause::ClaimType("sub"))?;
        let id = PrincipalId::user(&self.name, subject)
            .map_err(|_| Cause::Subject("empty, too long, or with control characters"))?;
        let groups = claims.get(names.groups.as_deref().unwrap_or("groups")).map(words).unwrap_or_default();
        let mut attributes = Map::new();
        for (attribute, claim) in &names.attributes {
            if let Some(value) = claims.get(claim) {
                attributes.insert(attribute.clone(), value.clone());
            }
        }
        let size = serde_json::to_vec(&attributes).map_or(usize::MAX, |json| json.len());
        if groups.len() > MAX_LIST || size > MAX_ATTRIBUTES {
            return Err(Cause::TooManyClaims);
        }
        let proved = if bound { Assurance::ProofOfPossession } else { Assurance::Bearer };
        Ok(Identity {
            groups: groups.into_iter().map(ToOwned::to_owned).collect(),
            attributes,
            scopes: scopes(claims.get(names.scope.as_deref().unwrap_or("scope"))),
            authenticated_at: claims.time("auth_time")?.and_then(|at| DateTime::from_timestamp(at, 0)),
            expires_at: claims.end(),
            ..Identity::new(id, proved.max(second_factor(claims, self.spec.assurance.as_ref())))
        })
    }
}

/// A list of texts, or one text with spaces between words.
fn words(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => text.split(' ').filter(|word| !word.is_empty()).collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The scopes of a token (RFC 8693, section 4.2); what is no scope is passed over. `None` if it says nothing.
pub fn scopes(claim: Option<&Value>) -> Option<BTreeSet<Scope>> {
    claim.map(|claim| words(claim).into_iter().take(MAX_LIST).filter_map(|word| Scope::parse(word).ok()).collect())
}

/// What `acr` and `amr` (RFC 8176) show, as the provider's settings read them.
fn second_factor(claims: &VerifiedClaims, mapping: Option<&AssuranceMapping>) -> Assurance {
    let Some(mapping) = mapping else { return Assurance::Bearer };
    let said: Vec<&str> = ["acr", "amr"].into_iter().filter_map(|name| claims.get(name)).flat_map(words).collect();
    let any = |values: &[String]| values.iter().any(|value| said.contains(&value.as_str()));
    if any(&mapping.phishing_resistant) {
        Assurance::PhishingResistant
    } else if any(&mapping.multi_factor) {
        Assurance::MultiFactor
    } else {
        Assurance::Bearer
    }
}

/// Whether the token is bound to the certificate that the caller showed (RFC 8705, section 3.1).
pub(crate) fn bound_to(claims: &VerifiedClaims, credentials: &Credentials<'_>) -> Result<bool, Cause> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(false) };
    let of_certificate =
        confirmation.as_object().filter(|members| members.len() == 1).and_then(|members| members.get("x5t#S256"));
    let expected = of_certificate.and_then(Value::as_str).ok_or(Cause::Binding)?;
    let shown = thumbprint(&leaf(credentials)?.ok_or(Cause::Binding)?);
    if bool::from(shown.as_bytes().ct_eq(expected.as_bytes())) { Ok(true) } else { Err(Cause::Binding) }
}

/// How a token names the certificate that it is bound to: `x5t#S256` (RFC 8705, section 3.1).
pub fn thumbprint(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest.as_ref())
}
