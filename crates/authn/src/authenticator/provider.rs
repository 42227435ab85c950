//! The configured `IdentityProvider`s. The only module that distinguishes kinds of providers.

use crate::api_key::ApiKeyVerifier;
use crate::bearer::Bearer;
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::credentials::{Credentials, PresentedCredentials};
use crate::federation::FederatedTrustDomain;
use crate::issuer::TokenIssuer;
use chrono::{DateTime, Utc};
use durward_api::field_error::FieldError;
use durward_api::resources::{IdentityProvider, ProviderKind};
use durward_core::principal::{Identity, KUBERNETES};
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A problem of a provider, with the provider's name. The provider is not usable, or only in part.
pub type ProviderProblem = (String, FieldError);

/// All providers by name.
pub(super) type ProviderMap = BTreeMap<String, ConfiguredProvider>;

/// A provider as its resource configures it.
#[derive(Debug)]
pub(super) enum ConfiguredProvider {
    Issuer(Arc<TokenIssuer>),
    ApiKeys(ApiKeyVerifier),
    Federation(Arc<FederatedTrustDomain>),
    /// The resource is not valid; the provider authenticates no caller.
    Invalid,
}

/// Configures all providers. Providers that stay the same keep the keys and caches of `old`.
pub(super) fn configure_all(
    resources: &[IdentityProvider],
    secrets: &[Secret],
    own: &str,
    old: &ProviderMap,
) -> (ProviderMap, Vec<ProviderProblem>) {
    let mut providers = ProviderMap::new();
    let mut problems = Vec::new();
    for resource in resources {
        let name = resource.metadata.name.clone().unwrap_or_default();
        let (provider, found) = match contested_trust_domain(resource, resources) {
            Some(problem) => (ConfiguredProvider::Invalid, vec![problem]),
            None => ConfiguredProvider::new(&name, resource, secrets, own, old.get(&name)),
        };
        problems.extend(found.into_iter().map(|problem| (name.clone(), problem)));
        providers.insert(name, provider);
    }
    (providers, problems)
}

/// Problems of a provider beside the `others`, without a look at Secrets. `own` is the trust domain of this
/// installation.
#[must_use]
pub fn check_provider(provider: &IdentityProvider, others: &[IdentityProvider], own: &str) -> Vec<FieldError> {
    let name = provider.metadata.name.as_deref().unwrap_or_default();
    let (_, problems) = ConfiguredProvider::new(name, provider, &[], own, None);
    contested_trust_domain(provider, others).into_iter().chain(problems).collect()
}

/// Whether an older provider has the same trust domain. Two bundles must not be valid for one trust domain.
fn contested_trust_domain(provider: &IdentityProvider, all: &[IdentityProvider]) -> Option<FieldError> {
    let trust_domain = |provider: &IdentityProvider| Some(provider.spec.x509.as_ref()?.trust_domain.clone());
    let age = |provider: &IdentityProvider| {
        let created = provider.metadata.creation_timestamp.as_ref().map_or(i64::MAX, |at| at.0.as_second());
        (created, provider.metadata.name.clone())
    };
    let wanted = trust_domain(provider)?;
    let same = all.iter().filter(|other| trust_domain(other).as_ref() == Some(&wanted));
    let oldest = same.filter(|other| age(other) < age(provider)).min_by_key(|other| age(other))?;
    let holder = oldest.metadata.name.as_deref().unwrap_or_default();
    let message = format!("the older IdentityProvider `{holder}` already has trust domain `{wanted}`");
    Some(FieldError { field: "spec.x509.trustDomain".to_owned(), message })
}

impl ConfiguredProvider {
    fn new(
        name: &str,
        resource: &IdentityProvider,
        secrets: &[Secret],
        own: &str,
        old: Option<&Self>,
    ) -> (Self, Vec<FieldError>) {
        match Self::configure(name, resource, secrets, own, old) {
            Ok(configured) => configured,
            Err(problem) => (Self::Invalid, vec![problem]),
        }
    }

    /// Configures a provider. It can be usable in part, and then has problems too.
    fn configure(
        name: &str,
        resource: &IdentityProvider,
        secrets: &[Secret],
        own: &str,
        old: Option<&Self>,
    ) -> Result<(Self, Vec<FieldError>), FieldError> {
        let error = |field: &str, message: &str| FieldError { field: field.to_owned(), message: message.to_owned() };
        if name == KUBERNETES {
            let message = "`kubernetes` is reserved for the users of the API server; use another name";
            return Err(error("metadata.name", message));
        }
        match resource.spec.kind() {
            Some(ProviderKind::Jwt(jwt)) => {
                let issuer = TokenIssuer::new(name, jwt, old.and_then(Self::issuer))?;
                Ok((Self::Issuer(Arc::new(issuer)), Vec::new()))
            }
            Some(ProviderKind::ApiKey(api_key)) => {
                let old = old.and_then(Self::api_keys);
                let (keys, problems) = ApiKeyVerifier::new(name, api_key, secrets, old)?;
                Ok((Self::ApiKeys(keys), problems))
            }
            Some(ProviderKind::X509(x509)) => {
                let federation = FederatedTrustDomain::new(name, x509, own, old.and_then(Self::federation))?;
                Ok((Self::Federation(federation), Vec::new()))
            }
            None => Err(error("spec", "exactly one of `jwt`, `apiKey` and `x509` must be given")),
        }
    }

    /// The issuer of a provider of kind `jwt`.
    pub fn issuer(&self) -> Option<&TokenIssuer> {
        if let Self::Issuer(issuer) = self { Some(issuer) } else { None }
    }

    /// The keys of a provider of kind `apiKey`.
    pub const fn api_keys(&self) -> Option<&ApiKeyVerifier> {
        if let Self::ApiKeys(keys) = self { Some(keys) } else { None }
    }

    /// The trust domain of a provider of kind `x509`.
    pub const fn federation(&self) -> Option<&Arc<FederatedTrustDomain>> {
        if let Self::Federation(federation) = self { Some(federation) } else { None }
    }

    /// Authenticates a caller by the credentials of a request; `None` if the request has none for this provider.
    pub async fn authenticate(
        &self,
        name: &str,
        presented: &PresentedCredentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<VerifiedCaller>, Cause> {
        match self {
            Self::Issuer(issuer) => match presented.bearer()? {
                Some(bearer) => issuer.authenticate(bearer, presented.credentials, audience, now).await.map(Some),
                None => Ok(None),
            },
            Self::ApiKeys(keys) => {
                let principal = keys.authenticate(presented.credentials.headers, now)?;
                Ok(principal.map(VerifiedCaller::unbound))
            }
            Self::Federation(federation) => federation.authenticate(presented, audience, now),
            Self::Invalid => Err(Cause::Provider(name.to_owned())),
        }
    }

    /// Authenticates the subject of an exchange by its token; `None` for a provider of API keys, which are not tokens.
    pub async fn authenticate_token(
        &self,
        name: &str,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Option<Result<VerifiedCaller, Cause>> {
        match self {
            Self::Issuer(issuer) => Some(issuer.authenticate(bearer, credentials, audience, now).await),
            Self::Federation(federation) => Some(federation.authenticate_token(bearer, credentials, audience, now)),
            Self::ApiKeys(_) => None,
            Self::Invalid => Some(Err(Cause::Provider(name.to_owned()))),
        }
    }

    /// Whether the provider can be the source of this identity in an access token.
    pub fn can_vouch_for(&self, identity: &Identity) -> bool {
        match (self, &identity.federation) {
            (Self::Issuer(_), None) => true,
            (Self::Federation(federation), Some(_)) => identity.id.trust_domain() == Some(federation.trust_domain()),
            _ => false,
        }
    }
}
