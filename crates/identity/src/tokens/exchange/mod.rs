//! The token service: exchanges a credential for an access token with the scopes that policies grant at one service
//! (RFC 8693, RFC 9068). Services verify these tokens themselves.

mod claims;
mod error;
mod grant;
mod introspection;

pub use error::ExchangeError;

use crate::tokens::exchange::error::RefusedExchange;
use crate::tokens::token_keys::TokenKeys;
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::{AuthenticatedSubject, Authenticator, FactorProof, SubjectToken};
use durward_core::principal::PrincipalId;
use durward_core::scope::Scope;
use durward_engine::Engine;
use durward_engine::audit::issuance::{CredentialKind, IssuanceRecord};
use durward_engine::outcome::{IssuanceOutcome, IssuedBy};
use durward_runtime::slots::SourceSlots;
use durward_step_up::{PresentedFactor, StepUpService};
use rustls_pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Tokens that are issued at the same time: each may look up a second factor, and makes a signature.
const CONCURRENCY: usize = 256;

/// Issues and introspects access tokens.
#[derive(Debug, Clone)]
pub struct TokenService {
    engine: Arc<Engine>,
    authenticator: Arc<Authenticator>,
    keys: TokenKeys,
    issuer: Arc<str>,
    step_up: Option<StepUpService>,
    slots: SourceSlots,
}

/// A request for an access token.
#[derive(Debug)]
pub struct ExchangeRequest<'w> {
    /// The token to exchange. Without one, the client requests a token for itself by its certificate (RFC 8705).
    pub subject: Option<SubjectToken<'w>>,
    /// Audience of the service.
    pub audience: &'w str,
    /// The requested scopes; `None` requests all that are granted.
    pub scopes: Option<BTreeSet<Scope>>,
    /// The client, as the request states it.
    pub client: Option<&'w str>,
    /// A second factor in addition to the token.
    pub factor: Option<FactorEvidence<'w>>,
    /// The only operation for which the second factor is valid.
    pub operation: Option<&'w str>,
    /// Source address of the request.
    pub source: IpAddr,
}

/// A second factor in addition to a first token.
#[derive(Debug, Clone)]
pub enum FactorEvidence<'w> {
    /// The factor is in the request.
    Presented(PresentedFactor<'w>),
    /// The step-up page has just verified the factor of this person.
    Verified(&'w PrincipalId, FactorProof),
}

/// An access token.
pub struct AccessToken {
    pub text: String,
    pub scopes: Vec<Scope>,
    pub lifetime: TimeDelta,
}

/// Shows only the type name: the token is secret.
impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessToken").finish_non_exhaustive()
    }
}

impl TokenService {
    /// A service whose tokens have this issuer URL.
    pub fn new(engine: Arc<Engine>, authenticator: Arc<Authenticator>, keys: TokenKeys, issuer: &str) -> Self {
        let slots = SourceSlots::new("exchange", CONCURRENCY, engine.metrics().listeners().clone());
        Self { engine, authenticator, keys, issuer: issuer.into(), step_up: None, slots }
    }

    /// Accepts second factors.
    pub fn with_step_up(self, step_up: StepUpService) -> Self {
        Self { step_up: Some(step_up), ..self }
    }

    /// Issues a token, or refuses it; both are recorded. A request that could not be parsed is recorded as well.
    ///
    /// # Errors
    /// The reason of the refusal.
    pub async fn exchange(
        &self,
        request: Result<ExchangeRequest<'_>, ExchangeError>,
        certificate: Option<&[CertificateDer<'_>]>,
    ) -> Result<AccessToken, ExchangeError> {
        let now = Utc::now();
        let granted = match request {
            Ok(request) => self.grant(&request, certificate, now).await,
            Err(error) => Err(error.into()),
        };
        let RefusedExchange { error, principal } = match granted {
            Ok(token) => return Ok(token),
            Err(refused) => refused,
        };
        let record = self.new_record(IssuanceOutcome::Refused, now);
        let record = IssuanceRecord { reason: Some(error.to_string().into()), principal, ..record };
        if self.engine.record(&record) { Err(error) } else { Err(ExchangeError::NOT_RECORDED) }
    }

    /// Authenticates the subject of a first token for a service.
    ///
    /// # Errors
    /// If the service does not accept the token.
    pub async fn authenticate_subject(
        &self,
        token: &str,
        audience: &str,
    ) -> Result<AuthenticatedSubject, ExchangeError> {
        let now = Utc::now();
        let snapshot = self.engine.snapshot();
        let service = self.service(&snapshot, audience)?;
        self.authenticate_token(SubjectToken::Jwt(token), audience, service, None, now).await
    }

    fn new_record<'i>(&self, outcome: IssuanceOutcome, requested_at: DateTime<Utc>) -> IssuanceRecord<'i> {
        let revision = self.engine.snapshot().revision().to_string();
        IssuanceRecord::new(IssuedBy::Exchange, CredentialKind::Token, outcome, revision, requested_at)
    }
}
