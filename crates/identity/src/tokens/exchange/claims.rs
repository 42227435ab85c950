//! The claims of an access token (RFC 9068).

use chrono::{DateTime, Utc};
use durward_authn::access_token::{AccessTokenDetails, DETAILS_CLAIM, FirstCredential};
use durward_authn::{AuthenticatedSubject, thumbprint};
use durward_core::principal::PrincipalId;
use durward_core::scope::Scope;
use durward_core::service::CompiledService;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// The contents of an access token.
pub(super) struct AccessTokenContents<'o> {
    pub(super) subject: &'o AuthenticatedSubject,
    pub(super) client: &'o PrincipalId,
    pub(super) service: &'o CompiledService,
    pub(super) scopes: &'o BTreeSet<Scope>,
    /// The credential of the subject without the second factor.
    pub(super) first: Option<FirstCredential>,
    /// The certificate to which the token is bound.
    pub(super) certificate: Option<&'o CertificateDer<'o>>,
    pub(super) issued_at: DateTime<Utc>,
    pub(super) expires_at: DateTime<Utc>,
}

impl AccessTokenContents<'_> {
    /// The claims (RFC 9068, section 2.2). `token_id` is the value of `jti`.
    pub(super) fn claims(&self, issuer: &str, token_id: &str) -> Value {
        let identity = self.subject.principal.identity();
        // after a step-up, the token has the assurance of the operation for which the second factor was verified
        let identity = &*identity
            .step_up
            .as_ref()
            .map_or(Cow::Borrowed(identity), |step_up| identity.at_operation(&step_up.operation));
        let first = self.first.clone().map(|first| first.within(self.scopes));
        let mut claims = json!({
            "iss": issuer,
            "sub": identity.id,
            "aud": &*self.service.key().audience,
            "exp": self.expires_at.timestamp(),
            "iat": self.issued_at.timestamp(),
            "jti": token_id,
            "client_id": self.client,
            "scope": scope_claim(self.scopes),
            "acr": identity.assurance.acr(),
        });
        let details = AccessTokenDetails::of(identity, self.subject.binding.as_ref(), first);
        let details =
            (details != AccessTokenDetails::default()).then(|| serde_json::to_value(details).unwrap_or_default());
        let methods = &self.subject.methods;
        let optional_claims = [
            ("auth_time", identity.authenticated_at.map(|at| at.timestamp().into())),
            ("amr", (!methods.is_empty()).then(|| json!(methods))),
            ("groups", (!identity.groups.is_empty()).then(|| json!(identity.groups))),
            ("cnf", self.certificate.map(|leaf| json!({"x5t#S256": thumbprint(leaf)}))),
            (DETAILS_CLAIM, details),
        ];
        if let Some(claims) = claims.as_object_mut() {
            claims.extend(optional_claims.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        }
        claims
    }
}

/// The `scope` claim (RFC 8693, section 4.2).
pub(super) fn scope_claim(scopes: &BTreeSet<Scope>) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_claim_lists_the_scopes_in_order() {
        let scopes = ["b", "a"].map(|text| Scope::parse(text).expect(text)).into();
        assert_eq!(scope_claim(&scopes), "a b");
        assert_eq!(scope_claim(&BTreeSet::new()), "");
    }
}
