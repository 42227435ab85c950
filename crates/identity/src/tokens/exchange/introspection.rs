//! Token introspection (RFC 7662).

use crate::names::DURWARD_AUDIENCE;
use crate::tokens::exchange::claims::scope_claim;
use crate::tokens::exchange::{ExchangeError, TokenService};
use chrono::Utc;
use durward_authn::access_token::DETAILS_CLAIM;
use durward_authn::jwt::UnverifiedToken;
use durward_authn::{Credentials, Expectation, carried_scopes};
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::PrincipalId;
use serde_json::{Map, Value};

impl TokenService {
    /// The claims of an access token, for a workload in the namespace of the token's service. `None` if the token is
    /// not valid, or if the workload is in another namespace.
    ///
    /// # Errors
    /// If the caller does not authenticate as a workload.
    pub async fn introspect(
        &self,
        credentials: &Credentials<'_>,
        token: &str,
    ) -> Result<Option<Map<String, Value>>, ExchangeError> {
        let now = Utc::now();
        let expectation = Expectation { audience: DURWARD_AUDIENCE, methods: &[AuthenticationMethod::Workload] };
        let caller = self.authenticator.authenticate(credentials, &expectation, now).await;
        let caller = caller.map_err(ExchangeError::InvalidSubject)?;
        let PrincipalId::Workload { namespace, .. } = &caller.identity().id else { return Ok(None) };

        let snapshot = self.engine.snapshot();
        let unverified = UnverifiedToken::parse(token).ok();
        let audience = unverified.as_ref().and_then(UnverifiedToken::claimed_audience);
        let service = audience.and_then(|audience| snapshot.by_audience(audience));
        let Some(service) = service.filter(|service| service.key().namespace == *namespace) else { return Ok(None) };
        let expectation = Expectation { audience: &service.key().audience, methods: service.authentication_methods() };
        let Ok((mut claims, holder)) = self.authenticator.introspect(token, &expectation, now) else {
            return Ok(None);
        };

        // report only the scopes that the policies still grant
        let carried = carried_scopes(claims.get("scope"));
        let labels = snapshot.labels_of(holder.identity());
        let scopes = service.token_scopes(&holder, labels, carried.as_ref(), now).scopes;
        if scopes.is_empty() {
            return Ok(None);
        }
        claims.remove(DETAILS_CLAIM);
        claims.insert("scope".to_owned(), scope_claim(&scopes).into());
        claims.insert("active".to_owned(), true.into());
        claims.insert("token_type".to_owned(), "Bearer".into());
        Ok(Some(claims))
    }
}
