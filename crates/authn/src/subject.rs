//! Whom an access token is to be about: who shows a token of another kind, or a certificate, for it (RFC 8693).

use crate::bearer::Bearer;
use crate::cause::Cause;
use crate::jwt::{LEEWAY, UnverifiedToken};
use crate::liveness::Binding;
use crate::{Authenticator, Credentials, Expectation, AuthenticationFailure, Provider, VerifiedCaller};
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::{Principal, PrincipalId};
use durward_pki::svid;
use http::HeaderMap;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// A token that is to be exchanged, as its bearer names its type (RFC 8693, section 3).
#[derive(Clone, Copy)]
pub enum SubjectToken<'t> {
    /// Any token in JWT form.
    Jwt(&'t str),
    /// An access token: of an outside issuer, or one of ours.
    AccessToken(&'t str),
}

/// Names the type alone: what it holds is secret or large.
impl std::fmt::Debug for SubjectToken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubjectToken").finish_non_exhaustive()
    }
}

/// Somebody who has proved who they are.
#[derive(Debug, Clone)]
pub struct AuthenticatedSubject {
    pub principal: Arc<Principal>,
    pub binding: Option<Binding>,
    /// End of the credential. Clocks' differences are not counted in, or they would add up with each exchange.
    pub ends: DateTime<Utc>,
    /// Ways in which the subject has authenticated (RFC 8176), if the token says so.
    pub methods: Vec<String>,
}

impl Authenticator {
    /// Who shows a token, in a way that a service accepts. The token is meant for that service, or for one of `meant`,
    /// which are names of our own: one that is meant for another service is that service's to keep, not to pass on.
    ///
    /// # Errors
    /// When the token is not good for that.
    pub async fn authenticate_subject(
        &self,
        token: SubjectToken<'_>,
        certificate: Option<&[CertificateDer<'_>]>,
        expect: &Expectation<'_>,
        meant: &[&str],
        now: DateTime<Utc>,
    ) -> Result<AuthenticatedSubject, AuthenticationFailure> {
        let (text, access) = match token {
            SubjectToken::Jwt(text) => (text, false),
            SubjectToken::AccessToken(text) => (text, true),
        };
        let parsed = UnverifiedToken::parse(text)?;
        let bearer = Bearer::new(text);
        let headers = HeaderMap::new();
        let credentials = Credentials { headers: &headers, certificate, client_cert_header_trusted: false };
        let verified = match self.access_token(&bearer, &credentials, expect.audience, now) {
            Some(own) => self.comes_in(own?, expect.methods, now)?,
            None => {
                let audience = meant.iter().copied().find(|audience| parsed.claims_audience(audience));
                let expect = Expectation { audience: audience.unwrap_or(expect.audience), methods: expect.methods };
                self.foreign(&bearer, access, &credentials, &expect, now).await?
            }
        };
        let ends = verified.principal.identity().expires_at.unwrap_or(now) - TimeDelta::seconds(LEEWAY);
        if ends <= now {
            return Err(Cause::Expired((now - ends).num_seconds()).into());
        }
        let VerifiedCaller { principal, binding } = verified;
        Ok(AuthenticatedSubject { principal, binding, ends, methods: parsed.claimed_methods() })
    }

    /// Who shows a token that is no access token of ours, by the first way in that it fits.
    async fn foreign(
        &self,
        bearer: &Bearer<'_>,
        access: bool,
        credentials: &Credentials<'_>,
        expect: &Expectation<'_>,
        now: DateTime<Utc>,
    ) -> Result<VerifiedCaller, Cause> {
        let (domain, providers) = (self.domain.load_full(), self.providers.load_full());
        let mut cause = Cause::NotAccepted;
        for way in expect.methods {
            let found = match way {
                AuthenticationMethod::Workload => match &domain.workloads {
                    Some(workloads) => workloads.authenticate(bearer, credentials, expect.audience, now).await,
                    None => Err(Cause::Provider("workload".to_owned())),
                },
                AuthenticationMethod::Provider(name) => match providers.get(name.as_ref()) {
                    Some(Provider::Issuer(issuer)) => issuer
                        .authenticate(bearer, credentials, expect.audience, now)
                        .await
                        .map(|principal| VerifiedCaller { principal, binding: None }),
                    Some(Provider::Federation(of)) => {
                        let principal = of.by_token(bearer, credentials, expect.audience, now);
                        principal.map(|principal| VerifiedCaller { principal, binding: None })
                    }
                    // a key is no token
                    Some(Provider::ApiKeys(_)) => continue,
                    Some(Provider::Broken) | None => Err(Cause::Provider(name.to_string())),
                },
            };
            match found {
                // service-account tokens and JWT-SVIDs are no access tokens
                Ok(found) if access && found.principal.identity().id.is_workload() => return Err(Cause::SubjectType),
                Ok(verified) if self.living.is_live(verified.binding.as_ref(), now) => return Ok(verified),
                Ok(_) => return Err(Cause::Gone),
                Err(found) if found.weight() > cause.weight() => cause = found,
                Err(_) => {}
            }
        }
        Err(cause)
    }

    /// Who shows a certificate of our trust domain, or of a federated one.
    ///
    /// # Errors
    /// When it is none, or does not count any more.
    pub fn authenticate_certificate(&self, certificate: &[CertificateDer<'_>], now: DateTime<Utc>) -> Result<AuthenticatedSubject, AuthenticationFailure> {
        let headers = HeaderMap::new();
        let credentials =
            Credentials { headers: &headers, certificate: Some(certificate), client_cert_header_trusted: false };
        let leaf = certificate.first().and_then(|leaf| svid::parse(leaf).ok());
        let id = leaf.and_then(|svid| svid.id.parse::<PrincipalId>().ok());
        let verified = match id.as_ref().and_then(PrincipalId::trust_domain).and_then(|name| self.federation(name)) {
            Some((name, of)) => of
                .with_certificates(now, |certificates| certificates.authenticate(&credentials, now))
                .ok_or_else(|| Cause::Provider(name.to_string()))?,
            None => self.domain.load().certificates.authenticate(&credentials, now),
        };
        let verified = verified?.ok_or(Cause::NoCredential)?;
        if !self.living.is_live(verified.binding.as_ref(), now) {
            return Err(Cause::Gone.into());
        }
        let ends = verified.principal.identity().expires_at.unwrap_or(now);
        Ok(AuthenticatedSubject { principal: verified.principal, binding: verified.binding, ends, methods: Vec::new() })
    }
}
