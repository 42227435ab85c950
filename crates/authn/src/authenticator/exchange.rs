//! Subjects of token exchanges (RFC 8693): the bearers of other tokens, and the holders of certificates.

use super::Authenticator;
use crate::bearer::Bearer;
use crate::caller::{AuthenticatedSubject, VerifiedCaller};
use crate::cause::Cause;
use crate::credentials::{AuthenticationFailure, Credentials, Expectation, SubjectToken};
use crate::jwt::{LEEWAY, UnverifiedToken};
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::PrincipalId;
use durward_pki::svid;
use http::HeaderMap;
use rustls_pki_types::CertificateDer;

impl Authenticator {
    /// Authenticates the bearer of a token, by the methods that a service accepts.
    ///
    /// The token must be for that service, or for one of `own_audiences`, which name this installation. A token for
    /// another service must not be passed on by that service.
    ///
    /// # Errors
    /// When the token is not valid for that.
    pub async fn authenticate_subject(
        &self,
        token: SubjectToken<'_>,
        certificate: Option<&[CertificateDer<'_>]>,
        expect: &Expectation<'_>,
        own_audiences: &[&str],
        now: DateTime<Utc>,
    ) -> Result<AuthenticatedSubject, AuthenticationFailure> {
        let (text, as_access_token) = match token {
            SubjectToken::Jwt(text) => (text, false),
            SubjectToken::AccessToken(text) => (text, true),
        };
        let parsed = UnverifiedToken::parse(text)?;
        let bearer = Bearer::new(text);
        let headers = HeaderMap::new();
        let credentials = Credentials { headers: &headers, certificate, client_cert_header_trusted: false };
        let caller = match self.access_token(&bearer, &credentials, expect.audience, now) {
            Some(caller) => self.check_source(caller?, expect.methods, now)?,
            None => {
                let audience = own_audiences.iter().copied().find(|audience| parsed.claims_audience(audience));
                let expect = Expectation { audience: audience.unwrap_or(expect.audience), methods: expect.methods };
                self.other_token(&bearer, as_access_token, &credentials, &expect, now).await?
            }
        };
        let ends = caller.principal.identity().expires_at.unwrap_or(now) - TimeDelta::seconds(LEEWAY);
        if ends <= now {
            return Err(Cause::Expired((now - ends).num_seconds()).into());
        }
        let VerifiedCaller { principal, binding } = caller;
        Ok(AuthenticatedSubject { principal, binding, ends, methods: parsed.claimed_methods() })
    }

    /// The bearer of a token that is not an access token of our own, by the first method that accepts it.
    async fn other_token(
        &self,
        bearer: &Bearer<'_>,
        as_access_token: bool,
        credentials: &Credentials<'_>,
        expect: &Expectation<'_>,
        now: DateTime<Utc>,
    ) -> Result<VerifiedCaller, Cause> {
        let domain = self.domain.load_full();
        let providers = self.providers.load_full();
        let mut cause = Cause::NotAccepted;
        for method in expect.methods {
            let verified = match method {
                AuthenticationMethod::Workload => match &domain.workloads {
                    Some(workloads) => workloads.authenticate(bearer, credentials, expect.audience, now).await,
                    None => Err(Cause::Provider("workload".to_owned())),
                },
                AuthenticationMethod::Provider(name) => match providers.get(name.as_ref()) {
                    Some(provider) => {
                        match provider.authenticate_token(name, bearer, credentials, expect.audience, now).await {
                            Some(verified) => verified,
                            None => continue,
                        }
                    }
                    None => Err(Cause::Provider(name.to_string())),
                },
            };
            match verified {
                // service-account tokens and JWT-SVIDs are not access tokens
                Ok(caller) if as_access_token && caller.principal.identity().id.is_workload() => {
                    return Err(Cause::SubjectType);
                }
                Ok(caller) => return self.check_liveness(caller, now),
                Err(found) if found.weight() > cause.weight() => cause = found,
                Err(_) => {}
            }
        }
        Err(cause)
    }

    /// Authenticates the holder of a certificate of our own trust domain, or of a federated one.
    ///
    /// # Errors
    /// When the certificate is not valid.
    pub fn authenticate_certificate(
        &self,
        certificate: &[CertificateDer<'_>],
        now: DateTime<Utc>,
    ) -> Result<AuthenticatedSubject, AuthenticationFailure> {
        let headers = HeaderMap::new();
        let credentials =
            Credentials { headers: &headers, certificate: Some(certificate), client_cert_header_trusted: false };
        let leaf = certificate.first().and_then(|leaf| svid::parse(leaf).ok());
        let id = leaf.and_then(|svid| svid.id.parse::<PrincipalId>().ok());
        let caller = match id.as_ref().and_then(PrincipalId::trust_domain).and_then(|name| self.federation(name)) {
            Some((name, federation)) => federation
                .with_certificates(now, |certificates| certificates.authenticate(&credentials, now))
                .ok_or_else(|| Cause::Provider(name.to_string()))?,
            None => self.domain.load().certificates.authenticate(&credentials, now),
        };
        let caller = self.check_liveness(caller?.ok_or(Cause::NoCredential)?, now)?;
        let ends = caller.principal.identity().expires_at.unwrap_or(now);
        let VerifiedCaller { principal, binding } = caller;
        Ok(AuthenticatedSubject { principal, binding, ends, methods: Vec::new() })
    }
}
