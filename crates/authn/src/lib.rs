//! Authentication: credentials in, a `Principal` out.
//!
//! Every failure is the same to the caller. What was really wrong is a [`Cause`], for the audit log alone.

pub mod access_token;
pub mod api_key;
pub mod bearer;
mod cause;
pub mod certificate;
mod endpoint;
mod factor;
mod federation;
mod issuer;
pub mod jwt;
pub mod key_uses;
pub mod keys;
mod kubernetes;
pub mod liveness;
mod subject;
pub mod tls;
mod vouched;
mod workload;

pub use cause::Cause;
pub use factor::{Factor, FactorProof};
pub use issuer::{scopes as carried_scopes, thumbprint};
pub use keys::KeySource;
pub use keys::{restricted_client, is_secure};
pub use kubernetes::{CREDENTIAL_ID, FACTOR, FACTOR_TIME, kubernetes_user};
pub use liveness::LivenessIndex;
pub use subject::{AuthenticatedSubject, SubjectToken};
pub use workload::ServiceAccountIssuer;

use api_key::ApiKeys;
use arc_swap::ArcSwap;
use bearer::Bearer;
use certificate::Certificates;
use chrono::{DateTime, Utc};
use durward_api::field_error::FieldError;
use durward_api::resources::IdentityProvider;
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::{KUBERNETES, Principal, PrincipalId};
use durward_pki::serial::UidTag;
use durward_pki::svid;
use federation::Federation;
use futures::stream::{self, StreamExt};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use issuer::Issuer;
use k8s_openapi::api::core::v1::Secret;
use liveness::Binding;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use workload::WorkloadTokens;

/// How often it is looked whether keys are due for a refresh.
const TICK: Duration = Duration::from_secs(1);
/// Issuers and trust domains that are asked at once: a slow one must not keep the others waiting.
const ASKED_AT_ONCE: usize = 8;

/// What a caller brought.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Headers of the request.
    pub headers: &'a HeaderMap,
    /// Certificate chain of the caller, leaf first, verified in its handshake.
    pub certificate: Option<&'a [CertificateDer<'a>]>,
    /// Whether the peer is trusted to say which certificate its own client showed.
    pub client_cert_header_trusted: bool,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// What a caller brought, its token read once for all methods in that are tried.
pub(crate) struct PresentedCredentials<'c> {
    pub credentials: &'c Credentials<'c>,
    bearer: Result<Option<Bearer<'c>>, Cause>,
}

impl PresentedCredentials<'_> {
    pub fn bearer(&self) -> Result<Option<&Bearer<'_>>, Cause> {
        self.bearer.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }
}

/// What a service expects of callers.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// Audience that tokens are for.
    pub audience: &'a str,
    /// Accepted methods in, in the order in which they are tried.
    pub methods: &'a [AuthenticationMethod],
}

/// A failed authentication. What it displays is for the audit log, never for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct AuthenticationFailure(#[from] Cause);

impl AuthenticationFailure {
    /// Whether there was no credential at all.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.0 == Cause::NoCredential
    }

    /// What was really wrong.
    #[must_use]
    pub const fn cause(&self) -> &Cause {
        &self.0
    }
}

/// The workloads' own trust domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustDomain {
    /// Its name.
    pub name: String,
    /// Roots of its certificates.
    pub roots: Vec<CertificateDer<'static>>,
    /// Keys of its JWT-SVIDs, as a JWKS in JSON.
    pub own_keys: Option<String>,
    /// Issuer of the cluster's service-account tokens.
    pub service_accounts: Option<ServiceAccountIssuer>,
}

/// A caller whose credential was verified.
#[derive(Debug, Clone)]
pub struct VerifiedCaller {
    pub principal: Arc<Principal>,
    /// For whom it was issued, if that is known.
    pub binding: Option<Binding>,
}

/// Authenticates every kind of caller.
#[derive(Debug)]
pub struct Authenticator {
    domain: ArcSwap<Domain>,
    providers: ArcSwap<Providers>,
    living: Arc<LivenessIndex>,
    /// Told when there are other providers to be asked.
    asked: Notify,
    /// Told when bundles of other trust domains are others.
    bundles: watch::Sender<()>,
}

/// The trust domain, and what was verified with its roots.
struct Domain {
    settings: TrustDomain,
    workloads: Option<Arc<WorkloadTokens>>,
    certificates: Certificates,
}

type Providers = BTreeMap<String, Provider>;
/// When API keys were last used, in seconds since 1970, by provider and name.
pub type KeyUses = BTreeMap<(String, String), i64>;

#[derive(Debug)]
enum Provider {
    Issuer(Arc<Issuer>),
    ApiKeys(ApiKeys),
    Federation(Arc<Federation>),
    /// Not usable: no way in, until it is mended.
    Broken,
}

/// A provider that can't be used, or not in full: its name and what is wrong.
pub type ProviderProblem = (String, FieldError);

impl Authenticator {
    /// Sets authentication up for a trust domain, without any outside provider. `living` knows whose credentials count.
    #[must_use]
    pub fn new(domain: TrustDomain, living: Arc<LivenessIndex>) -> Self {
        let domain = ArcSwap::from_pointee(Domain::new(domain, None));
        let (providers, asked, bundles) = (ArcSwap::default(), Notify::new(), watch::Sender::new(()));
        Self { domain, providers, living, asked, bundles }
    }

    /// Changes the trust domain. Keys that stay the same keep what was verified with them.
    pub fn change_domain(&self, change: impl Fn(&mut TrustDomain)) {
        self.domain.rcu(|old| {
            let mut settings = old.settings.clone();
            change(&mut settings);
            if settings == old.settings { Arc::clone(old) } else { Arc::new(Domain::new(settings, Some(old))) }
        });
    }

    /// Pods and service accounts that were lately seen to be gone.
    pub fn recently_deleted(&self) -> BTreeSet<UidTag> {
        self.living.recently_deleted()
    }

    /// Issuer of the cluster's service-account tokens, once it is known.
    pub fn service_account_issuer(&self) -> Option<ServiceAccountIssuer> {
        self.domain.load().settings.service_accounts.clone()
    }

    /// Whether callers send API keys in the header of this name.
    pub fn is_api_key_header(&self, header: &str) -> bool {
        let is_key = |provider: &Provider| matches!(provider, Provider::ApiKeys(keys) if keys.header == header);
        self.providers.load().values().any(is_key)
    }

    /// Sets the outside providers. What can't be used is no way in, and is reported; the rest works. The keys of providers
    /// that stay the same are kept.
    pub fn replace_providers(&self, resources: &[IdentityProvider], secrets: &[Secret]) -> Vec<ProviderProblem> {
        let (old, own) = (self.providers.load_full(), self.domain.load().settings.name.clone());
        let (mut providers, mut problems) = (BTreeMap::new(), Vec::new());
        for resource in resources {
            let name = resource.metadata.name.clone().unwrap_or_default();
            let (provider, found) = match contested(resource, resources) {
                Some(problem) => (Provider::Broken, vec![problem]),
                None => Provider::new(&name, resource, secrets, &own, old.get(&name)),
            };
            problems.extend(found.into_iter().map(|problem| (name.clone(), problem)));
            providers.insert(name, provider);
        }
        self.providers.store(Arc::new(providers));
        self.asked.notify_one();
        self.bundles.send_replace(());
        problems
    }

    /// The API keys that there are, each as provider and name, and when each was last used here, in seconds since 1970; 0
    /// for never.
    pub fn key_uses(&self) -> KeyUses {
        let providers = self.providers.load();
        let keys = providers.iter().filter_map(|(provider, one)| match one {
            Provider::ApiKeys(keys) => Some((provider, keys)),
            _ => None,
        });
        keys.flat_map(|(provider, keys)| {
            keys.uses().map(move |(name, used)| ((provider.clone(), name.to_owned()), used))
        })
        .collect()
    }

    /// Notes that an API key was used elsewhere, in seconds since 1970; one that there is not is passed over.
    pub fn record_key_use(&self, provider: &str, name: &str, at: i64) {
        if let Some(Provider::ApiKeys(keys)) = self.providers.load().get(provider) {
            keys.used(name, at);
        }
    }

    /// The trust domain that a provider vouches for, and the provider's name.
    fn federation(&self, trust_domain: &str) -> Option<(Arc<str>, Arc<Federation>)> {
        self.providers.load().iter().find_map(|(name, provider)| match provider {
            Provider::Federation(federation) if federation.trust_domain() == trust_domain => {
                Some((name.as_str().into(), Arc::clone(federation)))
            }
            _ => None,
        })
    }

    /// Bundles of the other trust domains that count now, as SPIFFE has them, by the domains' SPIFFE IDs.
    #[must_use]
    pub fn federated_bundles(&self) -> BTreeMap<String, serde_json::Value> {
        let (providers, now) = (self.providers.load(), Utc::now());
        let bundles = providers.values().filter_map(|provider| match provider {
            Provider::Federation(federation) => {
                Some((format!("spiffe://{}", federation.trust_domain()), federation.bundle(now)?))
            }
            _ => None,
        });
        bundles.collect()
    }

    /// Told whenever [`Authenticator::federated_bundles`] are others.
    #[must_use]
    pub fn federated_changes(&self) -> watch::Receiver<()> {
        self.bundles.subscribe()
    }

    /// What verifies a client's certificate in the handshake: roots of the trust domain that it names, and our own for
    /// whatever names none that is known.
    pub(crate) fn verifier_for(&self, leaf: &CertificateDer<'_>) -> Option<Arc<dyn ClientCertVerifier>> {
        let id = svid::parse(leaf).ok().and_then(|svid| svid.id.parse::<PrincipalId>().ok());
        match id.as_ref().and_then(PrincipalId::trust_domain).and_then(|domain| self.federation(domain)) {
            Some((_, federation)) => federation.with_certificates(Utc::now(), |of| of.handshake.clone())?,
            None => self.domain.load().certificates.handshake.clone(),
        }
    }

    /// Who is calling, by the first accepted way in that a credential of the caller fits.
    ///
    /// # Errors
    /// When no credential fits; the failure holds the cause that says most.
    pub async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
        expect: &Expectation<'_>,
        now: DateTime<Utc>,
    ) -> Result<Arc<Principal>, AuthenticationFailure> {
        let shown = PresentedCredentials { credentials, bearer: bearer::shown(credentials.headers) };
        if let Some(by_token) = self.by_access_token(&shown, expect, now) {
            return Ok(by_token?);
        }
        let shows_any = shows_any(&self.providers.load(), credentials);
        let mut cause = if shows_any { Cause::NotAccepted } else { Cause::NoCredential };
        for way in expect.methods {
            match self.try_way(way, &shown, expect.audience, now).await {
                Ok(Some(principal)) => return Ok(principal),
                // who shows nothing is told nothing, not even by the shape of the challenge
                Err(found) if shows_any && found.weight() > cause.weight() => cause = found,
                Ok(None) | Err(_) => {}
            }
        }
        Err(AuthenticationFailure(cause))
    }

    async fn try_way(
        &self,
        way: &AuthenticationMethod,
        shown: &PresentedCredentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Arc<Principal>>, Cause> {
        let name = match way {
            AuthenticationMethod::Workload => return self.workload(shown, audience, now).await,
            AuthenticationMethod::Provider(name) => name,
        };
        let providers = self.providers.load_full();
        match providers.get(name.as_ref()) {
            Some(Provider::Issuer(issuer)) => match shown.bearer()? {
                Some(bearer) => issuer.authenticate(bearer, shown.credentials, audience, now).await.map(Some),
                None => Ok(None),
            },
            Some(Provider::ApiKeys(keys)) => keys.authenticate(shown.credentials.headers, now),
            Some(Provider::Federation(federation)) => federation.authenticate(shown, audience, now),
            Some(Provider::Broken) | None => Err(Cause::Provider(name.to_string())),
        }
    }

    async fn workload(
        &self,
        shown: &PresentedCredentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Arc<Principal>>, Cause> {
        let domain = self.domain.load_full();
        let verified = match domain.certificates.authenticate(shown.credentials, now)? {
            Some(verified) => verified,
            None => match (shown.bearer()?, &domain.workloads) {
                (Some(bearer), Some(workloads)) => {
                    workloads.authenticate(bearer, shown.credentials, audience, now).await?
                }
                (Some(_), None) => return Err(Cause::Provider("workload".to_owned())),
                (None, _) => return Ok(None),
            },
        };
        // asked each time: what was verified once is remembered, who lives is not
        if !self.living.is_live(verified.binding.as_ref(), now) {
            return Err(Cause::Gone);
        }
        Ok(Some(verified.principal))
    }

    /// Keeps the keys of all issuers and the bundles of all trust domains fresh until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = self.refresh() => {}
                () = shutdown.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.asked.notified() => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Refreshes what is due.
    async fn refresh(&self) {
        let (domain, providers) = (self.domain.load_full(), self.providers.load_full());
        let (mut keys, mut federations) = (Vec::new(), Vec::new());
        for provider in providers.values() {
            match provider {
                Provider::Issuer(issuer) => keys.push(Arc::clone(&issuer.keys)),
                Provider::Federation(federation) => federations.push(Arc::clone(federation)),
                Provider::ApiKeys(_) | Provider::Broken => {}
            }
        }
        keys.extend(domain.workloads.as_ref().and_then(|workloads| workloads.keys()).cloned());
        let keys = stream::iter(keys).for_each_concurrent(ASKED_AT_ONCE, async |keys| keys.refresh().await);
        let federations = stream::iter(federations).for_each_concurrent(ASKED_AT_ONCE, |federation| {
            let bundles = self.bundles.clone();
            async move {
                if federation.refresh().await {
                    bundles.send_replace(());
                }
            }
        });
        tokio::join!(keys, federations);
    }
}

/// What is wrong with a provider beside the `others`, whatever Secrets there are, where `own` is the trust domain.
#[must_use]
pub fn check_provider(provider: &IdentityProvider, others: &[IdentityProvider], own: &str) -> Vec<FieldError> {
    let name = provider.metadata.name.as_deref().unwrap_or_default();
    let found = Provider::new(name, provider, &[], own, None).1;
    contested(provider, others).into_iter().chain(found).collect()
}

/// A trust domain is the oldest provider's that is for it: two bundles must not vouch for one domain.
fn contested(provider: &IdentityProvider, all: &[IdentityProvider]) -> Option<FieldError> {
    let trust_domain = |provider: &IdentityProvider| Some(provider.spec.x509.as_ref()?.trust_domain.clone());
    let age = |provider: &IdentityProvider| {
        let created = provider.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |at| at.0.as_second());
        (created, provider.metadata.name.clone())
    };
    let wanted = trust_domain(provider)?;
    let of_it = all.iter().filter(|other| trust_domain(other).as_ref() == Some(&wanted));
    let older = of_it.filter(|other| age(other) < age(provider)).min_by_key(|other| age(other))?;
    let holder = older.metadata.name.as_deref().unwrap_or_default();
    let message = format!("the older IdentityProvider `{holder}` is for trust domain `{wanted}` already");
    Some(FieldError { field: "spec.x509.trustDomain".to_owned(), message })
}

/// Whether the caller shows any credential, of whatever kind.
fn shows_any(providers: &Providers, credentials: &Credentials<'_>) -> bool {
    let key = |provider: &Provider| matches!(provider, Provider::ApiKeys(keys) if credentials.headers.contains_key(&keys.header));
    credentials.headers.contains_key(AUTHORIZATION)
        || credentials.certificate.is_some()
        || (credentials.client_cert_header_trusted
            && credentials.headers.contains_key(certificate::FORWARDED_CLIENT_CERT))
        || providers.values().any(key)
}

impl Domain {
    fn new(settings: TrustDomain, old: Option<&Self>) -> Self {
        let workloads = WorkloadTokens::new(&settings, old.and_then(|old| old.workloads.as_deref()));
        let workloads = workloads
            .inspect_err(|error| tracing::error!(error, "the keys of workloads' tokens can't be used"))
            .ok()
            .map(Arc::new);
        let certificates = Certificates::own(&settings.name, settings.roots.clone());
        Self { settings, workloads, certificates }
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("settings", &self.settings.name).finish_non_exhaustive()
    }
}

impl Provider {
    fn new(
        name: &str,
        resource: &IdentityProvider,
        secrets: &[Secret],
        own: &str,
        old: Option<&Self>,
    ) -> (Self, Vec<FieldError>) {
        let spec = &resource.spec;
        let broken = |problem: FieldError| (Self::Broken, vec![problem]);
        let wrong =
            |field: &str, message: &str| broken(FieldError { field: field.to_owned(), message: message.to_owned() });
        if name == KUBERNETES {
            return wrong("metadata.name", "`kubernetes` stands for the API server's own users; use another name");
        }
        match (&spec.jwt, &spec.api_key, &spec.x509) {
            (Some(jwt), None, None) => {
                let old = if let Some(Self::Issuer(old)) = old { Some(old.as_ref()) } else { None };
                Issuer::new(name, jwt, old).map_or_else(broken, |issuer| (Self::Issuer(Arc::new(issuer)), Vec::new()))
            }
            (None, Some(api_key), None) => {
                let old = if let Some(Self::ApiKeys(old)) = old { Some(old) } else { None };
                ApiKeys::new(name, api_key, secrets, old)
                    .map_or_else(broken, |(keys, problems)| (Self::ApiKeys(keys), problems))
            }
            (None, None, Some(x509)) => {
                let old = if let Some(Self::Federation(old)) = old { Some(old) } else { None };
                Federation::new(name, x509, own, old).map_or_else(broken, |of| (Self::Federation(of), Vec::new()))
            }
            _ => wrong("spec", "say exactly one of `jwt`, `apiKey` and `x509`"),
        }
    }
}
