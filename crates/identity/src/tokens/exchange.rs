//! Access tokens for services that verify tokens on their own (RFC 8693, RFC 9068): somebody who has proved who they are
//! gets the scopes that policies grant them at one service, for some minutes.

use durward_authn::access_token::{AccessTokenDetails, DETAILS_CLAIM, FirstCredential};
use durward_authn::jwt::UnverifiedToken;
use durward_authn::{
    AuthenticatedSubject, AuthenticationFailure, Authenticator, Credentials, Expectation, FactorProof, SubjectToken,
    carried_scopes, thumbprint,
};
use durward_engine::Engine;
use durward_engine::audit::issuance::{By, Issuance, Kind, Outcome};

use crate::{AUDIENCE, TokenKeys};
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::authentication::AuthenticationMethod;
use durward_core::policy::TokenSignature;
use durward_core::principal::PrincipalId;
use durward_core::scope::Scope;
use durward_core::service::CompiledService;
use durward_core::snapshot::Snapshot;
use durward_core::token::TokenScopes;
use durward_pki::token::SigningAlgorithm;
use durward_runtime::random::random_bytes;
use durward_step_up::{PresentedFactor, StepUpCaller, StepUpError, StepUpService};
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Semaphore;

/// Lifetime where policies say nothing: whatever they take back is gone after that.
const TTL: TimeDelta = TimeDelta::minutes(5);
/// Longest token, in bytes, that doors and common servers read.
const LONGEST: usize = durward_authn::bearer::MAX_TOKEN;
/// Requests that are worked on at once; each is some signatures, made or verified, and at most one fetch of keys.
const CONCURRENCY: usize = 256;

/// Gives tokens out, and tells of them.
#[derive(Debug, Clone)]
pub struct TokenService {
    engine: Arc<Engine>,
    authenticator: Arc<Authenticator>,
    keys: TokenKeys,
    issuer: Arc<str>,
    step_up: Option<StepUpService>,
    slots: Arc<Semaphore>,
}

/// What somebody asks for.
#[derive(Debug)]
pub struct ExchangeRequest<'w> {
    /// The token to be exchanged; without one the caller asks for itself, by its certificate (RFC 8705).
    pub subject: Option<SubjectToken<'w>>,
    /// The service.
    pub audience: &'w str,
    /// Scopes, if not all that can be had.
    pub scopes: Option<BTreeSet<Scope>>,
    /// Who says to be asking.
    pub client: Option<&'w str>,
    /// A second factor beside the token.
    pub factor: Option<FactorEvidence<'w>>,
    /// The one operation that the second factor is for.
    pub operation: Option<&'w str>,
    /// Where the request comes from.
    pub source: IpAddr,
}

/// A second factor beside a first token.
#[derive(Debug, Clone)]
pub enum FactorEvidence<'w> {
    /// It is shown now.
    Presented(PresentedFactor<'w>),
    /// It was shown a moment ago, on the step-up page, and by whom.
    Verified(&'w PrincipalId, FactorProof),
}

/// An access token.
pub struct AccessToken {
    pub text: String,
    pub scopes: Vec<Scope>,
    pub lifetime: TimeDelta,
}

/// Names the type alone: what it holds is secret or large.
impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessToken").finish_non_exhaustive()
    }
}

/// Why there is none. What it displays is for the audit log; callers are told the kind alone.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The request is not one.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// A way of asking that there is not.
    #[error("the grant type is none of the supported ones")]
    UnsupportedGrantType,
    /// Who asks is not who it says, or shows no certificate where one is needed.
    #[error("{0}")]
    InvalidClient(String),
    /// Whose token it is to be is not known.
    #[error("{0}")]
    InvalidSubject(AuthenticationFailure),
    /// No such service, or nothing that its policies grant.
    #[error("{0}")]
    InvalidTarget(&'static str),
    /// Nothing of what was asked for can be had.
    #[error("{0}")]
    InvalidScope(&'static str),
    /// The second factor does not count.
    #[error("{0}")]
    InvalidFactor(StepUpError),
    /// It may come right.
    #[error("{0}")]
    Unavailable(&'static str),
}

impl From<StepUpError> for ExchangeError {
    fn from(refused: StepUpError) -> Self {
        match refused {
            StepUpError::Unavailable(why) => {
                tracing::error!(why, "second factors can't be looked up");
                Self::Unavailable("second factors can't be looked up")
            }
            refused => Self::InvalidFactor(refused),
        }
    }
}

impl TokenService {
    /// `issuer` is the URL under which tokens are verified.
    pub fn new(engine: Arc<Engine>, authenticator: Arc<Authenticator>, keys: TokenKeys, issuer: &str) -> Self {
        Self {
            engine,
            authenticator,
            keys,
            issuer: issuer.into(),
            step_up: None,
            slots: Arc::new(Semaphore::new(CONCURRENCY)),
        }
    }

    /// With people's second factors.
    pub fn with_step_up(self, step_up: StepUpService) -> Self {
        Self { step_up: Some(step_up), ..self }
    }

    /// Gives a token out, or tells why not; both are recorded. One that could not be read is recorded too.
    pub async fn exchange(
        &self,
        request: Result<ExchangeRequest<'_>, ExchangeError>,
        certificate: Option<&[CertificateDer<'_>]>,
    ) -> Result<AccessToken, ExchangeError> {
        let now = Utc::now();
        let asked = match request {
            Ok(request) => match self.slots.try_acquire() {
                Ok(_slot) => self.granted(&request, certificate, now).await,
                Err(_) => Err((ExchangeError::Unavailable("too many ask at once"), None)),
            },
            Err(refusal) => Err((refusal, None)),
        };
        let (refusal, who) = match asked {
            Ok(token) => return Ok(token),
            Err(refused) => refused,
        };
        let issuance = self.issuance(Outcome::Refused);
        let refused = Issuance { reason: Some(refusal.to_string().into()), principal: who, ..issuance };
        if self.engine.issuance(&refused, now) { Err(refusal) } else { Err(ExchangeError::Unavailable(UNRECORDED)) }
    }

    async fn granted(
        &self,
        request: &ExchangeRequest<'_>,
        certificate: Option<&[CertificateDer<'_>]>,
        now: DateTime<Utc>,
    ) -> Result<AccessToken, (ExchangeError, Option<String>)> {
        let snapshot = self.engine.snapshot();
        let nobody = |refusal| (refusal, None);
        let service = self.service(&snapshot, request.audience);
        let service = service.ok_or(nobody(ExchangeError::InvalidTarget("no policy speaks for the audience")))?;
        let holder =
            certificate.map(|certificate| self.authenticator.authenticate_certificate(certificate, now)).transpose();
        let holder = holder.map_err(|failure| nobody(ExchangeError::InvalidClient(failure.to_string())))?;
        let subject = self.subject(request, service, certificate, holder.as_ref(), now).await.map_err(nobody)?;
        let step_up_age = service.step_up_age(request.operation);
        if request.operation.is_some() && step_up_age.is_none() {
            return Err(nobody(ExchangeError::InvalidTarget("no policy declares the operation")));
        }
        let (subject, first) = self.stepped_up(subject, request, now).await?;
        let id = &subject.principal.identity().id;
        let named = |refusal| (refusal, Some(id.to_string()));
        let client = holder.as_ref().map_or(id, |holder| &holder.principal.identity().id);
        if request.client.is_some_and(|stated| stated != client.to_string()) {
            return Err(named(ExchangeError::InvalidClient("`client_id` names somebody else".to_owned())));
        }
        let labels = snapshot.labels_of(subject.principal.identity());
        let TokenScopes { scopes, valid_until } =
            service.token_scopes(&subject.principal, labels, request.scopes.as_ref(), now);
        // with a second factor our own doors go by the first token's scopes, and by what requests say
        if scopes.is_empty() && (first.is_none() || request.scopes.is_some()) {
            return Err(named(match request.scopes {
                Some(_) => ExchangeError::InvalidScope("policies grant none of these scopes"),
                None => ExchangeError::InvalidTarget("policies grant no scope that a token can carry"),
            }));
        }
        let longest = now + service.token_settings().ttl.unwrap_or(TTL);
        let of_key = holder.as_ref().map(|holder| holder.ends);
        // the strictest operation decides, as long as nobody says which one it is to be
        let too_old = first.as_ref().and(step_up_age).and_then(|age| {
            let identity = subject.principal.identity();
            identity
                .step_up
                .as_ref()
                .map(|one| one.authenticated_at)
                .or(identity.authenticated_at)?
                .checked_add_signed(age)
        });
        let end = [Some(subject.ends), valid_until, of_key, too_old].into_iter().flatten().fold(longest, DateTime::min);
        let order = Order {
            subject: &subject,
            client,
            service,
            scopes: &scopes,
            first,
            certificate: certificate.and_then(<[_]>::first),
            now,
            end,
        };
        self.signed(&order).map_err(named)
    }

    /// Who is to have the token: whom the exchanged token speaks of, or the caller itself.
    async fn subject(
        &self,
        request: &ExchangeRequest<'_>,
        service: &CompiledService,
        certificate: Option<&[CertificateDer<'_>]>,
        holder: Option<&AuthenticatedSubject>,
        now: DateTime<Utc>,
    ) -> Result<AuthenticatedSubject, ExchangeError> {
        let Some(token) = request.subject else {
            let holder = holder.ok_or(ExchangeError::InvalidClient("there is no client certificate".to_owned()))?;
            // policies decide which ways in count, operation by operation
            return Ok(holder.clone());
        };
        self.meant(token, request.audience, service, certificate, now).await
    }

    /// The subject with the second factor that is shown beside its token, and what the token alone says.
    async fn stepped_up(
        &self,
        subject: AuthenticatedSubject,
        request: &ExchangeRequest<'_>,
        now: DateTime<Utc>,
    ) -> Result<(AuthenticatedSubject, Option<FirstCredential>), (ExchangeError, Option<String>)> {
        let identity = subject.principal.identity();
        let Some(factor) = &request.factor else {
            let bound = identity.step_up.is_some();
            return Ok((subject.clone(), bound.then(|| FirstCredential::narrowed(identity))));
        };
        let named = |refusal| (refusal, Some(identity.id.to_string()));
        let operation = request.operation.map(Arc::from);
        let proof = match factor {
            FactorEvidence::Verified(id, proof) if **id == identity.id => FactorProof { operation, ..proof.clone() },
            FactorEvidence::Verified(..) => {
                return Err(named(ExchangeError::InvalidRequest("the second factor is another person's")));
            }
            FactorEvidence::Presented(shown) => {
                let step_up = self.step_up.as_ref().ok_or(ExchangeError::InvalidRequest("there is no step-up here"));
                let visitor = StepUpCaller { id: &identity.id, source: request.source, proved_at: None };
                let factor = step_up.map_err(named)?.prove(&visitor, *shown).await;
                FactorProof { factor: factor.map_err(|refused| named(refused.into()))?, at: now, operation }
            }
        };
        let first =
            if request.scopes.is_some() { FirstCredential::narrowed(identity) } else { FirstCredential::of(identity) };
        Ok((subject.with(&proof), Some(first)))
    }

    /// Who shows a first token for a service.
    ///
    /// # Errors
    /// When the service does not accept the token.
    pub async fn authenticate_subject(
        &self,
        token: &str,
        audience: &str,
    ) -> Result<AuthenticatedSubject, ExchangeError> {
        let now = Utc::now();
        let Ok(_slot) = self.slots.try_acquire() else {
            return Err(ExchangeError::Unavailable("too many ask at once"));
        };
        let snapshot = self.engine.snapshot();
        let service = self.service(&snapshot, audience);
        let service = service.ok_or(ExchangeError::InvalidTarget("no policy speaks for the audience"))?;
        self.meant(SubjectToken::Jwt(token), audience, service, None, now).await
    }

    /// Whom a token speaks of, if it is meant for the service or for us.
    async fn meant(
        &self,
        token: SubjectToken<'_>,
        audience: &str,
        service: &CompiledService,
        certificate: Option<&[CertificateDer<'_>]>,
        now: DateTime<Utc>,
    ) -> Result<AuthenticatedSubject, ExchangeError> {
        let expect = Expectation { audience, methods: service.authentication_methods() };
        let meant = [AUDIENCE, &*self.issuer];
        let subject = self.authenticator.authenticate_subject(token, certificate, &expect, &meant, now).await;
        subject.map_err(ExchangeError::InvalidSubject)
    }

    /// The service that a token can be for; none that is closed.
    fn service<'s>(&self, snapshot: &'s Snapshot, audience: &str) -> Option<&'s Arc<CompiledService>> {
        let open = |service: &&Arc<CompiledService>| service.closed_by().is_empty() && !self.is_ours(audience);
        snapshot.by_audience(audience).filter(open)
    }

    /// Whether an audience is our own: a token for it could be exchanged for others.
    fn is_ours(&self, audience: &str) -> bool {
        audience == AUDIENCE || audience == &*self.issuer
    }

    fn signed(&self, order: &Order<'_>) -> Result<AccessToken, ExchangeError> {
        let lifetime = TimeDelta::seconds(order.end.timestamp() - order.now.timestamp());
        if lifetime <= TimeDelta::zero() {
            return Err(ExchangeError::InvalidRequest("what the token would stand on ends now"));
        }
        let name: [u8; 16] = random_bytes().map_err(|_| ExchangeError::Unavailable("there are no random numbers"))?;
        let name = hex::encode(name);
        let algorithm = match order.service.token_settings().signature {
            None | Some(TokenSignature::Rs256) => SigningAlgorithm::Rs256,
            Some(TokenSignature::Es256) => SigningAlgorithm::Es256,
        };
        let ring = self.keys.current();
        let key = ring.signing_key(algorithm, order.now).ok_or(ExchangeError::Unavailable("there is no key"))?;
        let claims = order.claims(&self.issuer, &name);
        let text = key.sign(&claims, "at+jwt").map_err(|_| ExchangeError::Unavailable("it can't be signed"))?;
        if text.len() > LONGEST {
            return Err(ExchangeError::InvalidRequest(
                "groups and attributes of the subject are too large for a token",
            ));
        }
        let scopes: Vec<Scope> = order.scopes.iter().cloned().collect();
        let (id, audiences) = (&order.subject.principal.identity().id, [order.service.key().audience.to_string()]);
        let issuance = Issuance {
            principal: Some(id.to_string()),
            client: (order.client != id).then(|| order.client.to_string()),
            serial: Some(key.kid().to_owned()),
            token: Some(&name),
            lifetime: Some(lifetime.num_seconds()),
            audiences: &audiences,
            scopes: &scopes,
            ..self.issuance(Outcome::Issued)
        };
        if !self.engine.issuance(&issuance, order.now) {
            return Err(ExchangeError::Unavailable(UNRECORDED));
        }
        Ok(AccessToken { text, scopes, lifetime })
    }

    fn issuance<'i>(&self, outcome: Outcome) -> Issuance<'i> {
        Issuance::new(By::Exchange, Kind::Token, outcome, self.engine.snapshot().revision().to_string())
    }
}

const UNRECORDED: &str = "it can't be recorded";

/// A token that is to be made.
struct Order<'o> {
    subject: &'o AuthenticatedSubject,
    client: &'o PrincipalId,
    service: &'o CompiledService,
    scopes: &'o BTreeSet<Scope>,
    /// What the subject's credential says without the second factor.
    first: Option<FirstCredential>,
    certificate: Option<&'o CertificateDer<'o>>,
    now: DateTime<Utc>,
    end: DateTime<Utc>,
}

impl Order<'_> {
    /// The claims (RFC 9068, section 2.2).
    fn claims(&self, issuer: &str, name: &str) -> Value {
        let identity = self.subject.principal.identity();
        // what counts at one operation is what the token is for
        let identity =
            &*identity.step_up.as_ref().map_or(Cow::Borrowed(identity), |one| identity.at_operation(&one.operation));
        let first = self.first.clone().map(|first| first.within(self.scopes));
        let mut claims = json!({
            "iss": issuer,
            "sub": identity.id,
            "aud": &*self.service.key().audience,
            "exp": self.end.timestamp(),
            "iat": self.now.timestamp(),
            "jti": name,
            "client_id": self.client,
            "scope": words(self.scopes),
            "acr": identity.assurance.acr(),
        });
        let details = AccessTokenDetails::of(identity, self.subject.binding.as_ref(), first);
        let details =
            (details != AccessTokenDetails::default()).then(|| serde_json::to_value(details).unwrap_or_default());
        let methods = &self.subject.methods;
        let more = [
            ("auth_time", identity.authenticated_at.map(|at| at.timestamp().into())),
            ("amr", (!methods.is_empty()).then(|| json!(methods))),
            ("groups", (!identity.groups.is_empty()).then(|| json!(identity.groups))),
            ("cnf", self.certificate.map(|leaf| json!({"x5t#S256": thumbprint(leaf)}))),
            (DETAILS_CLAIM, details),
        ];
        if let Some(claims) = claims.as_object_mut() {
            claims.extend(more.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        }
        claims
    }
}

/// Scopes as tokens write them (RFC 8693, section 4.2).
fn words(scopes: &BTreeSet<Scope>) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
}

impl TokenService {
    /// What is known of a token, for a workload of the namespace whose service it is for (RFC 7662); `None` if it does not
    /// count, or is nothing to whoever asks.
    ///
    /// # Errors
    /// When who asks is no workload that is known.
    pub async fn introspect(
        &self,
        credentials: &Credentials<'_>,
        token: &str,
    ) -> Result<Option<Map<String, Value>>, ExchangeError> {
        let now = Utc::now();
        let Ok(_slot) = self.slots.try_acquire() else {
            return Err(ExchangeError::Unavailable("too many ask at once"));
        };
        let expect = Expectation { audience: AUDIENCE, methods: &[AuthenticationMethod::Workload] };
        let asks = self.authenticator.authenticate(credentials, &expect, now).await;
        let asks = asks.map_err(ExchangeError::InvalidSubject)?;
        let PrincipalId::Workload { namespace, .. } = &asks.identity().id else { return Ok(None) };
        let snapshot = self.engine.snapshot();
        let parsed = UnverifiedToken::parse(token).ok();
        let audience = parsed.as_ref().and_then(UnverifiedToken::claimed_audience);
        let service = audience.and_then(|audience| snapshot.by_audience(audience));
        let Some(service) = service.filter(|service| service.key().namespace == *namespace) else { return Ok(None) };
        let expect = Expectation { audience: &service.key().audience, methods: service.authentication_methods() };
        let Ok((mut claims, holder)) = self.authenticator.introspect(token, &expect, now) else {
            return Ok(None);
        };
        // what policies have taken back since is gone
        let carried = carried_scopes(claims.get("scope"));
        let labels = snapshot.labels_of(holder.identity());
        let scopes = service.token_scopes(&holder, labels, carried.as_ref(), now).scopes;
        if scopes.is_empty() {
            return Ok(None);
        }
        claims.remove(DETAILS_CLAIM);
        claims.insert("scope".to_owned(), words(&scopes).into());
        claims.insert("active".to_owned(), true.into());
        claims.insert("token_type".to_owned(), "Bearer".into());
        Ok(Some(claims))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_words_in_order() {
        let scopes = ["b", "a"].map(|text| Scope::parse(text).expect(text)).into();
        assert_eq!(words(&scopes), "a b");
        assert_eq!(words(&BTreeSet::new()), "");
    }
}
