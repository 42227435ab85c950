//! Callers with access tokens of our own token service.

use super::Authenticator;
use crate::access_token::read_caller;
use crate::bearer::{Bearer, TokenUse};
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::credentials::{Credentials, Expectation, PresentedCredentials};
use crate::jwt::{TokenVerification, UnverifiedToken, has_access_token_type};
use chrono::{DateTime, Utc};
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::Principal;
use serde_json::{Map, Value};
use std::sync::Arc;

impl Authenticator {
    /// The caller of one of our access tokens; `None` without such a token. Other credentials of the request are
    /// ignored, except for the certificate that the token may be bound to.
    pub(super) fn by_access_token(
        &self,
        presented: &PresentedCredentials<'_>,
        expect: &Expectation<'_>,
        now: DateTime<Utc>,
    ) -> Option<Result<Arc<Principal>, Cause>> {
        let bearer = presented.bearer().ok()??;
        let caller = self.access_token(bearer, presented.credentials, expect.audience, now)?;
        let caller = caller.and_then(|caller| self.check_source(caller, expect.methods, now));
        Some(caller.map(|caller| caller.principal))
    }

    /// The caller of one of our access tokens for an audience; `None` for another token.
    pub(super) fn access_token(
        &self,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Option<Result<VerifiedCaller, Cause>> {
        let domain = self.domain.load();
        let workloads = domain.workloads.as_ref()?;
        if workloads.is_foreign(&bearer.cache_key(TokenUse::Credential, audience)) {
            return None;
        }
        let cache_key = bearer.cache_key(TokenUse::AccessToken, audience);
        if let Some(caller) = workloads.cached(&cache_key, now) {
            return Some(Ok(caller));
        }
        if !has_access_token_type(bearer.text) {
            return None;
        }
        let token = UnverifiedToken::parse(bearer.text).ok()?;
        let keys = workloads.own_keys(token.kid.as_deref())?;
        let verification = TokenVerification { keys, cache_key, credentials, now };
        Some(verification.verify(token, [audience].into_iter(), |claims, is_bound| {
            read_caller(claims, is_bound, &domain.settings.name)
        }))
    }

    /// Refuses a caller if the credential that its token was exchanged for would be refused now: by the accepted
    /// methods, by its provider, or because its pod was deleted.
    pub(super) fn check_source(
        &self,
        caller: VerifiedCaller,
        methods: &[AuthenticationMethod],
        now: DateTime<Utc>,
    ) -> Result<VerifiedCaller, Cause> {
        let identity = caller.principal.identity();
        if !methods.iter().any(|method| method.admits(identity)) {
            return Err(Cause::NotAccepted);
        }
        if let Some(name) = identity.provider() {
            let providers = self.providers.load();
            if !providers.get(name).is_some_and(|provider| provider.can_vouch_for(identity)) {
                return Err(Cause::Provider(name.to_owned()));
            }
        }
        self.check_liveness(caller, now)
    }

    /// The claims and the caller of one of our access tokens, for a service that does not verify tokens itself (RFC
    /// 7662).
    ///
    /// The service has to check whether the bearer holds the key that the token may be bound to.
    ///
    /// # Errors
    /// When the token is not a valid access token of our own.
    pub fn introspect(
        &self,
        text: &str,
        expect: &Expectation<'_>,
        now: DateTime<Utc>,
    ) -> Result<(Map<String, Value>, Arc<Principal>), Cause> {
        let domain = self.domain.load();
        let token = UnverifiedToken::parse(text)?;
        let own = domain.workloads.as_ref().and_then(|workloads| workloads.own_keys(token.kid.as_deref()));
        let keys = own.ok_or(Cause::Issuer)?;
        if !token.is_access_token {
            return Err(Cause::Issuer);
        }
        let claims = token.verify(keys, now)?;
        claims.demand_audience([expect.audience].into_iter())?;
        let caller = read_caller(&claims, claims.get("cnf").is_some(), &domain.settings.name)?;
        let caller = self.check_source(caller, expect.methods, now)?;
        Ok((claims.all().clone(), caller.principal))
    }
}
