//! Authentication: credentials in, a `Principal` out.
//!
//! Every failure is the same to the caller. What was really wrong is a [`Cause`], for the audit log alone.

pub mod api_key;
pub(crate) mod bearer;
mod cause;
pub mod certificate;
mod issuer;
pub(crate) mod jwt;
pub(crate) mod keys;
mod kubernetes;
pub(crate) mod living;
pub mod tls;
mod vouched;
mod workload;

pub use cause::Cause;
pub use keys::KeySource;
pub use kubernetes::{CREDENTIAL_ID, FACTOR, FACTOR_TIME, kubernetes_user};
pub use living::Living;
pub use vouched::vouched;
pub use workload::ServiceAccountIssuer;

use api_key::ApiKeys;
use arc_swap::ArcSwap;
use certificate::Certificates;
use chrono::{DateTime, Utc};
use durward_api::compile::FieldError;
use durward_api::resources::IdentityProvider;
use durward_core::policy::Way;
use durward_core::principal::{KUBERNETES, Principal};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use issuer::Issuer;
use k8s_openapi::api::core::v1::Secret;
use living::Bond;
use rustls_pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use workload::WorkloadTokens;

/// How often it is looked whether keys are due for a refresh.
const TICK: Duration = Duration::from_secs(5);

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

/// What a service expects of callers.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// Audience that tokens are for.
    pub audience: &'a str,
    /// Accepted ways in, in the order in which they are tried.
    pub ways: &'a [Way],
}

/// A failed authentication. What it displays is for the audit log, never for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Failure(#[from] Cause);

impl Failure {
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
pub(crate) struct Verified {
    pub(crate) principal: Arc<Principal>,
    /// For whom it was issued, if that is known.
    pub(crate) bond: Option<Bond>,
}

/// Authenticates every kind of caller.
#[derive(Debug)]
pub struct Authenticator {
    domain: ArcSwap<Domain>,
    providers: ArcSwap<Providers>,
    living: Arc<Living>,
}

/// The trust domain, and what was verified with its roots.
struct Domain {
    settings: TrustDomain,
    workloads: Option<Arc<WorkloadTokens>>,
    certificates: Certificates,
}

type Providers = BTreeMap<String, Provider>;

#[derive(Debug)]
enum Provider {
    Issuer(Arc<Issuer>),
    ApiKeys(ApiKeys),
    /// Not usable: no way in, until it is mended.
    Broken,
}

/// A provider that can't be used, or not in full: its name and what is wrong.
pub type ProviderProblem = (String, FieldError);

impl Authenticator {
    /// Sets authentication up for a trust domain, without any outside provider. `living` knows whose credentials count.
    #[must_use]
    pub fn new(domain: TrustDomain, living: Arc<Living>) -> Self {
        let domain = ArcSwap::from_pointee(Domain::new(domain, None));
        Self { domain, providers: ArcSwap::default(), living }
    }

    /// Changes the trust domain. Keys that stay the same keep what was verified with them.
    pub fn change_domain(&self, change: impl Fn(&mut TrustDomain)) {
        self.domain.rcu(|old| {
            let mut settings = old.settings.clone();
            change(&mut settings);
            if settings == old.settings { Arc::clone(old) } else { Arc::new(Domain::new(settings, Some(old))) }
        });
    }

    /// Sets the outside providers. What can't be used is no way in, and is reported; the rest works. The keys of providers
    /// that stay the same are kept.
    pub fn replace_providers(&self, resources: &[IdentityProvider], secrets: &[Secret]) -> Vec<ProviderProblem> {
        let old = self.providers.load_full();
        let (mut providers, mut problems) = (BTreeMap::new(), Vec::new());
        for resource in resources {
            let name = resource.metadata.name.clone().unwrap_or_default();
            let (provider, found) = Provider::new(&name, resource, secrets, old.get(&name));
            problems.extend(found.into_iter().map(|problem| (name.clone(), problem)));
            providers.insert(name, provider);
        }
        self.providers.store(Arc::new(providers));
        problems
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
    ) -> Result<Arc<Principal>, Failure> {
        let shown = shows_any(&self.providers.load(), credentials);
        let mut cause = if shown { Cause::NotAccepted } else { Cause::NoCredential };
        for way in expect.ways {
            match self.try_way(way, credentials, expect.audience, now).await {
                Ok(Some(principal)) => return Ok(principal),
                // who shows nothing is told nothing, not even by the shape of the challenge
                Err(found) if shown && found.weight() > cause.weight() => cause = found,
                Ok(None) | Err(_) => {}
            }
        }
        Err(Failure(cause))
    }

    async fn try_way(
        &self,
        way: &Way,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Arc<Principal>>, Cause> {
        let name = match way {
            Way::Workload => return self.workload(credentials, audience, now).await,
            Way::Provider(name) => name,
        };
        let providers = self.providers.load_full();
        match providers.get(name.as_ref()) {
            Some(Provider::Issuer(issuer)) => match bearer::token(credentials.headers)? {
                Some(token) => issuer.authenticate(token, credentials, audience, now).await.map(Some),
                None => Ok(None),
            },
            Some(Provider::ApiKeys(keys)) => keys.authenticate(credentials.headers, now),
            Some(Provider::Broken) | None => Err(Cause::Provider(name.to_string())),
        }
    }

    async fn workload(
        &self,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Arc<Principal>>, Cause> {
        let domain = self.domain.load_full();
        let verified = match domain.certificates.authenticate(credentials, now)? {
            Some(verified) => verified,
            None => match (bearer::token(credentials.headers)?, &domain.workloads) {
                (Some(token), Some(workloads)) => workloads.authenticate(token, credentials, audience, now).await?,
                (Some(_), None) => return Err(Cause::Provider("workload".to_owned())),
                (None, _) => return Ok(None),
            },
        };
        // asked each time: what was verified once is remembered, who lives is not
        if !self.living.counts(verified.bond.as_ref(), now) {
            return Err(Cause::Gone);
        }
        Ok(Some(verified.principal))
    }

    /// Keeps the keys of all issuers fresh until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let (domain, providers) = (self.domain.load_full(), self.providers.load_full());
            let issuers = providers.values().filter_map(|provider| match provider {
                Provider::Issuer(issuer) => Some(&issuer.keys),
                Provider::ApiKeys(_) | Provider::Broken => None,
            });
            let workloads = domain.workloads.as_ref().and_then(|workloads| workloads.keys());
            for keys in issuers.chain(workloads) {
                tokio::select! {
                    () = keys.refresh() => {}
                    () = shutdown.cancelled() => return,
                }
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }
}

/// What is wrong with a provider, whatever Secrets there are.
#[must_use]
pub fn check(provider: &IdentityProvider) -> Vec<FieldError> {
    Provider::new(provider.metadata.name.as_deref().unwrap_or_default(), provider, &[], None).1
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
        let certificates = Certificates::new(&settings.name, settings.roots.clone());
        Self { settings, workloads, certificates }
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("settings", &self.settings.name).finish_non_exhaustive()
    }
}

impl Provider {
    fn new(name: &str, resource: &IdentityProvider, secrets: &[Secret], old: Option<&Self>) -> (Self, Vec<FieldError>) {
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
            (None, Some(api_key), None) => ApiKeys::new(name, api_key, secrets)
                .map_or_else(broken, |(keys, problems)| (Self::ApiKeys(keys), problems)),
            (None, None, Some(_)) => wrong("spec.x509", "not yet supported: federated trust domains; leave it out"),
            _ => wrong("spec", "say exactly one of `jwt`, `apiKey` and `x509`"),
        }
    }
}
