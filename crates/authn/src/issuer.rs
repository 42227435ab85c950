//! Tokens of an external issuer: an `IdentityProvider` of kind `jwt`.

use crate::bearer::{Bearer, TokenUse};
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::credentials::Credentials;
use crate::jwt::{
    MappedClaims, TokenVerification, UnverifiedToken, VerifiedClaims, carried_scopes, second_factor, token_assurance,
};
use crate::keys::{IssuerKeys, KeySource};
use chrono::{DateTime, Utc};
use durward_api::field_error::FieldError;
use durward_api::resources::JwtProvider;
use durward_core::principal::{Identity, Principal, PrincipalId};
use std::sync::Arc;

/// An external issuer of tokens.
#[derive(Debug)]
pub struct TokenIssuer {
    name: String,
    spec: JwtProvider,
    pub keys: Arc<IssuerKeys>,
}

impl TokenIssuer {
    /// The issuer of an `IdentityProvider`. With the same settings, it keeps the keys of `old` and their cache.
    pub fn new(name: &str, spec: &JwtProvider, old: Option<&Self>) -> Result<Self, FieldError> {
        let error = |field: &str, message: String| FieldError { field: format!("spec.jwt.{field}"), message };
        let url = |field: &str, text: &str| KeySource::url(text).map_err(|wrong| error(field, wrong.to_string()));
        let source = match (&spec.jwks, &spec.jwks_uri) {
            (Some(jwks), None) => KeySource::Inline(serde_json::to_string(jwks).unwrap_or_default()),
            (None, Some(uri)) => KeySource::Url(url("jwksUri", uri)?),
            (None, None) => KeySource::Issuer(url("issuer", &spec.issuer)?),
            (Some(_), Some(_)) => return Err(error("jwksUri", "`jwks` and `jwksUri` exclude each other".to_owned())),
        };
        let kept = old.filter(|old| old.keys.is_of(&spec.issuer, &source)).map(|old| Arc::clone(&old.keys));
        let keys = match kept {
            // the cache holds principals that the old settings mapped, so all settings must be the same
            Some(keys) if old.is_some_and(|old| old.spec == *spec) => keys,
            _ => Arc::new(IssuerKeys::new(&spec.issuer, source).map_err(|wrong| error("jwks", wrong.to_string()))?),
        };
        Ok(Self { name: name.to_owned(), spec: spec.clone(), keys })
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
        if let Some(caller) = self.keys.cached(&cache_key, now) {
            return Ok(caller);
        }
        let token = UnverifiedToken::parse(bearer.text)?;
        if token.claimed_issuer() != Some(&self.spec.issuer) {
            return Err(Cause::Issuer);
        }
        let keys = self.keys.get(token.kid.as_deref(), now).await?;
        let audiences = match self.spec.audiences.as_slice() {
            [] => vec![audience],
            own => own.iter().map(String::as_str).collect(),
        };
        let verification = TokenVerification { keys: &keys, cache_key, credentials, now };
        verification.verify(token, audiences.into_iter(), |claims, is_bound| {
            let principal = Principal::authenticated(self.identity(claims, is_bound)?);
            Ok(VerifiedCaller::unbound(Arc::new(principal)))
        })
    }

    fn identity(&self, claims: &VerifiedClaims, is_bound: bool) -> Result<Identity, Cause> {
        let names = &self.spec.claims;
        let subject = claims.get(names.subject.as_deref().unwrap_or("sub")).ok_or(Cause::MissingClaim("sub"))?;
        let subject = subject.as_str().ok_or(Cause::ClaimType("sub"))?;
        let id = PrincipalId::user(&self.name, subject)
            .map_err(|_| Cause::Subject("empty, too long, or with control characters"))?;
        let MappedClaims { groups, attributes, unknown } = MappedClaims::read(claims, names);
        let assurance = token_assurance(is_bound).max(second_factor(claims, self.spec.assurance.as_ref()));
        Ok(Identity {
            groups,
            attributes,
            unknown,
            scopes: carried_scopes(claims.get(names.scope.as_deref().unwrap_or("scope"))),
            authenticated_at: claims.time("auth_time")?.and_then(|at| DateTime::from_timestamp(at, 0)),
            expires_at: claims.end(),
            ..Identity::new(id, assurance)
        })
    }
}
