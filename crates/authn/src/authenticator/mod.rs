//! The authenticator: the settings and keys of all authentication methods, and the order in which they are tried.

mod access_tokens;
mod exchange;
mod pod_token;
mod provider;
mod refresh;
mod vouched;

pub use pod_token::LocalVerdict;
pub use provider::{ProviderProblem, check_provider};

use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::certificate::{CertificateVerifier, FORWARDED_CLIENT_CERT};
use crate::credentials::{AuthenticationFailure, Credentials, Expectation, PresentedCredentials};
use crate::federation::FederatedTrustDomain;
use crate::key_uses::KeyUses;
use crate::liveness::LivenessIndex;
use crate::trust_domain::{ServiceAccountIssuer, TrustDomain};
use crate::workload::WorkloadTokens;
use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use durward_api::resources::IdentityProvider;
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::{Principal, PrincipalId};
use durward_pki::serial::UidTag;
use durward_pki::svid;
use http::header::AUTHORIZATION;
use k8s_openapi::api::core::v1::Secret;
use provider::{ConfiguredProvider, ProviderMap};
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// Authenticates callers of every kind.
#[derive(Debug)]
pub struct Authenticator {
    domain: ArcSwap<DomainVerifiers>,
    providers: ArcSwap<ProviderMap>,
    liveness: Arc<LivenessIndex>,
    /// Notified when the providers were replaced.
    providers_replaced: Notify,
    /// Notified when a bundle of a federated trust domain may have changed.
    bundles: watch::Sender<()>,
}

/// The trust domain, and what verifies credentials by its keys and roots.
struct DomainVerifiers {
    settings: TrustDomain,
    workloads: Option<Arc<WorkloadTokens>>,
    certificates: CertificateVerifier,
}

impl Authenticator {
    /// An authenticator for a trust domain, without providers. `liveness` ends credentials of deleted pods.
    #[must_use]
    pub fn new(domain: TrustDomain, liveness: Arc<LivenessIndex>) -> Self {
        Self {
            domain: ArcSwap::from_pointee(DomainVerifiers::new(domain, None)),
            providers: ArcSwap::default(),
            liveness,
            providers_replaced: Notify::new(),
            bundles: watch::Sender::new(()),
        }
    }

    /// Changes the trust domain. Keys that stay the same keep their caches.
    pub fn change_domain(&self, change: impl Fn(&mut TrustDomain)) {
        self.domain.rcu(|old| {
            let mut settings = old.settings.clone();
            change(&mut settings);
            if settings == old.settings { Arc::clone(old) } else { Arc::new(DomainVerifiers::new(settings, Some(old))) }
        });
    }

    /// Pods and service accounts that were deleted recently.
    pub fn recently_deleted(&self) -> BTreeSet<UidTag> {
        self.liveness.recently_deleted()
    }

    /// Issuer of the cluster's service-account tokens, once it is known.
    pub fn service_account_issuer(&self) -> Option<ServiceAccountIssuer> {
        self.domain.load().settings.service_accounts.clone()
    }

    /// Whether a provider reads API keys from the header of this name.
    pub fn is_api_key_header(&self, header: &str) -> bool {
        self.providers.load().values().filter_map(ConfiguredProvider::api_keys).any(|keys| keys.header == header)
    }

    /// Replaces the providers. Unusable providers authenticate no caller and are reported. Providers that stay the same
    /// keep their keys and caches.
    pub fn replace_providers(&self, resources: &[IdentityProvider], secrets: &[Secret]) -> Vec<ProviderProblem> {
        let old = self.providers.load_full();
        let own = self.domain.load().settings.name.clone();
        let (providers, problems) = provider::configure_all(resources, secrets, &own, &old);
        self.providers.store(Arc::new(providers));
        self.providers_replaced.notify_one();
        self.bundles.send_replace(());
        problems
    }

    /// All API keys, with the times of their last use at this replica.
    pub fn key_uses(&self) -> KeyUses {
        let providers = self.providers.load();
        let keys = providers.iter().filter_map(|(provider, configured)| Some((provider, configured.api_keys()?)));
        let uses = keys.flat_map(|(provider, keys)| {
            keys.uses().map(move |(name, used)| ((provider.clone(), name.to_owned()), used))
        });
        uses.collect()
    }

    /// Records that an API key was used at another replica, in seconds since 1970. Unknown keys are ignored.
    pub fn record_key_use(&self, provider: &str, name: &str, at: i64) {
        if let Some(keys) = self.providers.load().get(provider).and_then(ConfiguredProvider::api_keys) {
            keys.record_use(name, at);
        }
    }

    /// The federated trust domain of this name, with the name of its provider.
    fn federation(&self, trust_domain: &str) -> Option<(Arc<str>, Arc<FederatedTrustDomain>)> {
        self.providers.load().iter().find_map(|(name, provider)| {
            let federation = provider.federation().filter(|federation| federation.trust_domain() == trust_domain)?;
            Some((name.as_str().into(), Arc::clone(federation)))
        })
    }

    /// The valid bundles of federated trust domains in SPIFFE's format, by the SPIFFE IDs of the trust domains.
    #[must_use]
    pub fn federated_bundles(&self) -> BTreeMap<String, serde_json::Value> {
        let providers = self.providers.load();
        let now = Utc::now();
        let bundles = providers.values().filter_map(ConfiguredProvider::federation).filter_map(|federation| {
            Some((format!("spiffe://{}", federation.trust_domain()), federation.bundle(now)?))
        });
        bundles.collect()
    }

    /// Receives a notification when [`Authenticator::federated_bundles`] may have changed.
    #[must_use]
    pub fn federated_changes(&self) -> watch::Receiver<()> {
        self.bundles.subscribe()
    }

    /// The verifier for a client's handshake: that of the trust domain in the certificate if it is federated, else our
    /// own.
    pub(crate) fn verifier_for(&self, leaf: &CertificateDer<'_>) -> Option<Arc<dyn ClientCertVerifier>> {
        let id = svid::parse(leaf).ok().and_then(|svid| svid.id.parse::<PrincipalId>().ok());
        match id.as_ref().and_then(PrincipalId::trust_domain).and_then(|domain| self.federation(domain)) {
            Some((_, federation)) => {
                federation.with_certificates(Utc::now(), |certificates| certificates.handshake.clone())?
            }
            None => self.domain.load().certificates.handshake.clone(),
        }
    }

    /// Authenticates a caller, by the first accepted method for which the caller has a valid credential.
    ///
    /// # Errors
    /// When no credential is valid. The failure holds the most specific cause.
    pub async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
        expect: &Expectation<'_>,
        now: DateTime<Utc>,
    ) -> Result<Arc<Principal>, AuthenticationFailure> {
        let presented = PresentedCredentials::new(credentials);
        if let Some(by_token) = self.by_access_token(&presented, expect, now) {
            return Ok(by_token?);
        }
        let has_credential = has_credential(&self.providers.load(), credentials);
        let mut cause = if has_credential { Cause::NotAccepted } else { Cause::NoCredential };
        for method in expect.methods {
            match self.try_method(method, &presented, expect.audience, now).await {
                Ok(Some(principal)) => return Ok(principal),
                // without a credential the cause stays, so that the challenge reveals nothing about providers
                Err(found) if has_credential && found.weight() > cause.weight() => cause = found,
                Ok(None) | Err(_) => {}
            }
        }
        Err(cause.into())
    }

    /// Tries one method; `None` if the caller has no credential for it.
    async fn try_method(
        &self,
        method: &AuthenticationMethod,
        presented: &PresentedCredentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Arc<Principal>>, Cause> {
        let caller = match method {
            AuthenticationMethod::Workload => self.workload(presented, audience, now).await,
            AuthenticationMethod::Provider(name) => match self.providers.load_full().get(name.as_ref()) {
                Some(provider) => provider.authenticate(name, presented, audience, now).await,
                None => Err(Cause::Provider(name.to_string())),
            },
        };
        Ok(caller?.map(|caller| caller.principal))
    }

    /// The workload of this trust domain that a certificate or token names.
    async fn workload(
        &self,
        presented: &PresentedCredentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<VerifiedCaller>, Cause> {
        let domain = self.domain.load_full();
        let caller = match domain.certificates.authenticate(presented.credentials, now)? {
            Some(caller) => caller,
            None => match (presented.bearer()?, &domain.workloads) {
                (Some(bearer), Some(workloads)) => {
                    workloads.authenticate(bearer, presented.credentials, audience, now).await?
                }
                (Some(_), None) => return Err(Cause::Provider("workload".to_owned())),
                (None, _) => return Ok(None),
            },
        };
        self.check_liveness(caller, now).map(Some)
    }

    /// Refuses a caller whose pod or service account was deleted. The caches of verified credentials don't know that,
    /// so this is checked for each request.
    fn check_liveness(&self, caller: VerifiedCaller, now: DateTime<Utc>) -> Result<VerifiedCaller, Cause> {
        if self.liveness.is_live(caller.binding.as_ref(), now) { Ok(caller) } else { Err(Cause::Gone) }
    }
}

/// Whether the request has a credential of any kind.
fn has_credential(providers: &ProviderMap, credentials: &Credentials<'_>) -> bool {
    let headers = credentials.headers;
    headers.contains_key(AUTHORIZATION)
        || credentials.certificate.is_some()
        || (credentials.client_cert_header_trusted && headers.contains_key(FORWARDED_CLIENT_CERT))
        || providers.values().filter_map(ConfiguredProvider::api_keys).any(|keys| headers.contains_key(&keys.header))
}

impl DomainVerifiers {
    fn new(settings: TrustDomain, old: Option<&Self>) -> Self {
        let workloads = WorkloadTokens::new(&settings, old.and_then(|old| old.workloads.as_deref()));
        let workloads = workloads
            .inspect_err(
                |error| tracing::error!(%error, "the keys of workload tokens are not usable; refusing the tokens"),
            )
            .ok()
            .map(Arc::new);
        let certificates = CertificateVerifier::own(&settings.name, settings.roots.clone());
        Self { settings, workloads, certificates }
    }
}

impl fmt::Debug for DomainVerifiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainVerifiers").field("settings", &self.settings.name).finish_non_exhaustive()
    }
}
