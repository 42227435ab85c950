//! The steps of a token exchange: find the service, authenticate the client and the subject, apply the second factor,
//! look up the scopes, sign.

use crate::names::DURWARD_AUDIENCE;
use crate::tokens::exchange::claims::AccessTokenContents;
use crate::tokens::exchange::error::RefusedExchange;
use crate::tokens::exchange::{AccessToken, ExchangeError, ExchangeRequest, FactorEvidence, TokenService};
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::access_token::FirstCredential;
use durward_authn::bearer::MAX_TOKEN;
use durward_authn::{AuthenticatedSubject, Expectation, FactorProof, SubjectToken};
use durward_core::policy::TokenSignature;
use durward_core::principal::{Identity, PrincipalId};
use durward_core::scope::Scope;
use durward_core::service::CompiledService;
use durward_core::snapshot::Snapshot;
use durward_core::token::TokenScopes;
use durward_engine::audit::issuance::IssuanceRecord;
use durward_engine::outcome::IssuanceOutcome;
use durward_pki::token::SigningAlgorithm;
use durward_runtime::random::random_bytes;
use durward_step_up::StepUpCaller;
use rustls_pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Lifetime of a token if the policies set none. A grant that is revoked ends at most this much later.
const DEFAULT_LIFETIME: TimeDelta = TimeDelta::minutes(5);

impl TokenService {
    pub(super) async fn grant(
        &self,
        request: &ExchangeRequest<'_>,
        certificate: Option<&[CertificateDer<'_>]>,
        now: DateTime<Utc>,
    ) -> Result<AccessToken, RefusedExchange> {
        let snapshot = self.engine.snapshot();
        let service = self.service(&snapshot, request.audience)?;
        let holder = self.certificate_holder(certificate, now)?;
        let subject = self.subject(request, service, certificate, holder.as_ref(), now).await?;
        let step_up_age = service.step_up_age(request.operation);
        if request.operation.is_some() && step_up_age.is_none() {
            return Err(ExchangeError::InvalidTarget("no policy declares the operation").into());
        }
        // only a caller whose credential is valid takes a slot
        let slot = self.slots.try_acquire(request.source).ok_or(ExchangeError::TOO_MANY_REQUESTS);
        let _slot = slot.map_err(RefusedExchange::of(&subject.principal.identity().id))?;
        let (subject, first) = self.apply_factor(subject, request, now).await?;

        let identity = subject.principal.identity();
        let refused = RefusedExchange::of(&identity.id);
        let client = holder.as_ref().map_or(&identity.id, |holder| &holder.principal.identity().id);
        if request.client.is_some_and(|stated| stated != client.to_string()) {
            return Err(refused(ExchangeError::InvalidClient("`client_id` names another client".to_owned())));
        }
        let labels = snapshot.labels_of(identity);
        let TokenScopes { scopes, valid_until } =
            service.token_scopes(&subject.principal, labels, request.scopes.as_ref(), now);
        check_scopes(request, &scopes, first.as_ref()).map_err(&refused)?;

        let certificate_end = holder.as_ref().map(|holder| holder.ends);
        // without a stated operation, the strictest operation of the service limits the age of the second factor
        let step_up_end = first.as_ref().and(step_up_age).and_then(|age| step_up_end(identity, age));
        let latest = now + service.token_settings().ttl.unwrap_or(DEFAULT_LIFETIME);
        let ends = [Some(subject.ends), valid_until, certificate_end, step_up_end];
        let contents = AccessTokenContents {
            subject: &subject,
            client,
            service,
            scopes: &scopes,
            first,
            certificate: certificate.and_then(<[_]>::first),
            issued_at: now,
            expires_at: ends.into_iter().flatten().fold(latest, DateTime::min),
        };
        self.sign(&contents).map_err(refused)
    }

    /// The service of an audience, if it can have tokens.
    ///
    /// A service that a policy closes has none. Durward's own audiences have none either: their tokens could be
    /// exchanged for others.
    pub(super) fn service<'s>(
        &self,
        snapshot: &'s Snapshot,
        audience: &str,
    ) -> Result<&'s Arc<CompiledService>, ExchangeError> {
        let open = |service: &&Arc<CompiledService>| service.closed_by().is_empty() && !self.is_own_audience(audience);
        let service = snapshot.by_audience(audience).filter(open);
        service.ok_or(ExchangeError::InvalidTarget("no policy speaks for the audience"))
    }

    fn is_own_audience(&self, audience: &str) -> bool {
        audience == DURWARD_AUDIENCE || audience == &*self.issuer
    }

    /// Authenticates the client by its certificate, if it has one.
    fn certificate_holder(
        &self,
        certificate: Option<&[CertificateDer<'_>]>,
        now: DateTime<Utc>,
    ) -> Result<Option<AuthenticatedSubject>, ExchangeError> {
        let holder = certificate.map(|certificate| self.authenticator.authenticate_certificate(certificate, now));
        holder.transpose().map_err(|failure| ExchangeError::InvalidClient(failure.to_string()))
    }

    /// The subject of the token: the subject of the exchanged token, or else the client.
    async fn subject(
        &self,
        request: &ExchangeRequest<'_>,
        service: &CompiledService,
        certificate: Option<&[CertificateDer<'_>]>,
        holder: Option<&AuthenticatedSubject>,
        now: DateTime<Utc>,
    ) -> Result<AuthenticatedSubject, ExchangeError> {
        match request.subject {
            Some(token) => self.authenticate_token(token, request.audience, service, certificate, now).await,
            // the policies check the authentication method, operation by operation
            None => holder.cloned().ok_or(ExchangeError::InvalidClient("there is no client certificate".to_owned())),
        }
    }

    /// Authenticates the subject of a token for the service or for Durward.
    pub(super) async fn authenticate_token(
        &self,
        token: SubjectToken<'_>,
        audience: &str,
        service: &CompiledService,
        certificate: Option<&[CertificateDer<'_>]>,
        now: DateTime<Utc>,
    ) -> Result<AuthenticatedSubject, ExchangeError> {
        let expectation = Expectation { audience, methods: service.authentication_methods() };
        let own_audiences = [DURWARD_AUDIENCE, &*self.issuer];
        let subject =
            self.authenticator.authenticate_subject(token, certificate, &expectation, &own_audiences, now).await;
        subject.map_err(ExchangeError::InvalidSubject)
    }

    /// Adds the second factor of the request to the subject. The second value is the credential of the subject without
    /// the factor.
    async fn apply_factor(
        &self,
        subject: AuthenticatedSubject,
        request: &ExchangeRequest<'_>,
        now: DateTime<Utc>,
    ) -> Result<(AuthenticatedSubject, Option<FirstCredential>), RefusedExchange> {
        let identity = subject.principal.identity();
        let Some(factor) = &request.factor else {
            let first = identity.step_up.is_some().then(|| FirstCredential::narrowed(identity));
            return Ok((subject, first));
        };
        let proof = self.verify_factor(factor, &identity.id, request, now).await;
        let proof = proof.map_err(RefusedExchange::of(&identity.id))?;
        let first =
            if request.scopes.is_some() { FirstCredential::narrowed(identity) } else { FirstCredential::of(identity) };
        Ok((subject.with_factor(&proof), Some(first)))
    }

    async fn verify_factor(
        &self,
        factor: &FactorEvidence<'_>,
        id: &PrincipalId,
        request: &ExchangeRequest<'_>,
        now: DateTime<Utc>,
    ) -> Result<FactorProof, ExchangeError> {
        let operation = request.operation.map(Arc::from);
        match factor {
            FactorEvidence::Verified(owner, proof) if **owner == *id => Ok(FactorProof { operation, ..proof.clone() }),
            FactorEvidence::Verified(..) => Err(ExchangeError::InvalidRequest("the second factor is another person's")),
            FactorEvidence::Presented(presented) => {
                let step_up = self.step_up.as_ref();
                let step_up = step_up.ok_or(ExchangeError::InvalidRequest("there is no step-up here"))?;
                let caller = StepUpCaller { id, source: request.source, verified_at: None };
                Ok(FactorProof { factor: step_up.verify(&caller, *presented).await?, at: now, operation })
            }
        }
    }

    /// Signs and records a token. A token that can't be recorded is not handed out.
    fn sign(&self, contents: &AccessTokenContents<'_>) -> Result<AccessToken, ExchangeError> {
        let lifetime = TimeDelta::seconds(contents.expires_at.timestamp() - contents.issued_at.timestamp());
        if lifetime <= TimeDelta::zero() {
            return Err(ExchangeError::InvalidRequest("what the token would stand on ends now"));
        }
        let token_id: [u8; 16] =
            random_bytes().map_err(|_| ExchangeError::Unavailable("there are no random numbers"))?;
        let token_id = hex::encode(token_id);
        let algorithm = match contents.service.token_settings().signature {
            None | Some(TokenSignature::Rs256) => SigningAlgorithm::Rs256,
            Some(TokenSignature::Es256) => SigningAlgorithm::Es256,
        };
        let ring = self.keys.current();
        let key = ring.signing_key(algorithm, contents.issued_at);
        let key = key.ok_or(ExchangeError::Unavailable("there is no key"))?;
        let claims = contents.claims(&self.issuer, &token_id);
        let text = key.sign(&claims, "at+jwt").map_err(|_| ExchangeError::Unavailable("it can't be signed"))?;
        if text.len() > MAX_TOKEN {
            return Err(ExchangeError::InvalidRequest(
                "groups and attributes of the subject are too large for a token",
            ));
        }

        let scopes: Vec<Scope> = contents.scopes.iter().cloned().collect();
        let id = &contents.subject.principal.identity().id;
        let audiences = [contents.service.key().audience.to_string()];
        let record = IssuanceRecord {
            principal: Some(id.to_string()),
            client: (contents.client != id).then(|| contents.client.to_string()),
            serial: Some(key.kid().to_owned()),
            token: Some(&token_id),
            lifetime: Some(lifetime.num_seconds()),
            audiences: &audiences,
            scopes: &scopes,
            ..self.new_record(IssuanceOutcome::Issued, contents.issued_at)
        };
        if !self.engine.record(&record) {
            return Err(ExchangeError::NOT_RECORDED);
        }
        Ok(AccessToken { text, scopes, lifetime })
    }
}

/// Refuses a token without scopes. After a step-up without requested scopes it is accepted: enforcement points then use
/// the scopes of the first credential.
fn check_scopes(
    request: &ExchangeRequest<'_>,
    scopes: &BTreeSet<Scope>,
    first: Option<&FirstCredential>,
) -> Result<(), ExchangeError> {
    if !scopes.is_empty() || (first.is_some() && request.scopes.is_none()) {
        return Ok(());
    }
    Err(match request.scopes {
        Some(_) => ExchangeError::InvalidScope("policies grant none of these scopes"),
        None => ExchangeError::InvalidTarget("policies grant no scope that a token can carry"),
    })
}

/// When the authentication becomes older than `age`.
fn step_up_end(identity: &Identity, age: TimeDelta) -> Option<DateTime<Utc>> {
    let step_up = identity.step_up.as_ref().map(|step_up| step_up.authenticated_at);
    step_up.or(identity.authenticated_at)?.checked_add_signed(age)
}
