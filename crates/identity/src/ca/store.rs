//! Where the authorities are kept, and how every replica comes to know them.

use crate::ca::authorities::{Authorities, TrustState};
use crate::ca::secret::{RotationRequest, decode, encode, provided};
use durward_kubernetes::requests::{follow_secret, redacted};
use durward_pki::authority::CertificateAuthority;
use durward_pki::rotation::RotationStep;
use durward_pki::serial::CertificateSerial;
use durward_runtime::Failure;
use durward_runtime::random::random_bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the authority that somebody else provides is there.
const PROVIDED_PAUSE: Duration = Duration::from_secs(2);

/// Where the authority comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum CaSource {
    /// Made by Durward.
    #[default]
    Generated,
    /// Put into Secret SERVICE-ca by somebody else.
    Provided,
}

/// Secrets that can hold the authorities of a Service: where there is the first, the second is what somebody else provides.
pub fn ca_secret_names(service: &str) -> [String; 2] {
    [format!("{service}-ca-active"), format!("{service}-ca")]
}

/// The Secret with the authorities, and the one that they are taken from if somebody else provides them.
#[derive(Debug, Clone)]
pub struct CaStore {
    secrets: Api<Secret>,
    name: String,
    source: Option<String>,
    trust_domain: String,
}

/// The Secret as it was last seen.
#[derive(Debug, Clone, Default)]
pub struct CaSecretState {
    /// Whether it is there.
    pub there: bool,
    /// What a person asks for.
    pub wish: Option<RotationRequest>,
}

impl CaStore {
    /// What belongs to a Service. One authority is enough for a Secret that Durward alone writes to; what somebody else
    /// writes is taken over into a Secret of our own, so that the old authority is not lost with the new one's coming.
    pub fn new(secrets: Api<Secret>, service: &str, origin: CaSource, trust_domain: &str) -> Self {
        let [own, given] = ca_secret_names(service);
        let (name, source) = match origin {
            CaSource::Generated => (given, None),
            CaSource::Provided => (own, Some(given)),
        };
        Self { secrets, name, source, trust_domain: trust_domain.to_owned() }
    }

    /// Reads the authorities, or makes the first one: the API server lets only one be created, whoever asks first.
    pub async fn open(&self) -> Result<TrustState, Failure> {
        loop {
            let failed = |error: kube::Error| {
                Failure::from(format!("the CA in Secret `{}` can't be read or made: {}", self.name, redacted(&error)))
            };
            if let Some(secret) = self.secrets.get_opt(&self.name).await.map_err(failed)? {
                return decode(&self.name, &secret, &self.trust_domain, chrono::Utc::now());
            }
            let Some(active) = self.fresh().await? else {
                tracing::info!(secret = self.source, "waiting for the CA that somebody else provides");
                sleep(PROVIDED_PAUSE).await;
                continue;
            };
            match self.create(&TrustState::steady(active)).await {
                Ok(trust) => return Ok(trust),
                // another replica was quicker: its authority is the one
                Err(CaStoreError::Conflict) => {}
                Err(CaStoreError::Other(error)) => return Err(error),
            }
        }
    }

    /// An authority to begin with, or to change to: a new one, or the one that somebody else has put there.
    pub async fn fresh(&self) -> Result<Option<Arc<CertificateAuthority>>, Failure> {
        let now = chrono::Utc::now();
        let Some(source) = &self.source else {
            let made =
                CertificateAuthority::create(&self.trust_domain, now, CertificateSerial::unbound(random_bytes()?))?;
            return Ok(Some(Arc::new(made)));
        };
        let secret = self.secrets.get_opt(source).await;
        let secret = secret.map_err(|error| format!("Secret `{source}` can't be read: {}", redacted(&error)))?;
        secret.map(|secret| provided(source, &secret, &self.trust_domain, now).map(Arc::new)).transpose()
    }

    /// Whether somebody else decides when there is another authority.
    pub(crate) fn is_provided(&self) -> bool {
        self.source.is_some()
    }

    /// Stores what is not stored yet.
    pub async fn create(&self, trust: &TrustState) -> Result<TrustState, CaStoreError> {
        let secret = encode(&self.name, trust, None)?;
        self.secrets.create(&PostParams::default(), &secret).await?;
        Ok(trust.clone())
    }

    /// Changes what is stored, by what is stored; `None` leaves it as it is.
    pub async fn change(
        &self,
        change: impl FnOnce(&TrustState, Option<RotationRequest>) -> Option<TrustState>,
    ) -> Result<(), CaStoreError> {
        let secret = self.secrets.get(&self.name).await?;
        let stored = decode(&self.name, &secret, &self.trust_domain, chrono::Utc::now())?;
        if let Some(wanted) = change(&stored, RotationRequest::of(&secret)) {
            // the resource version makes sure that nobody else was quicker; a wish goes with the change that grants it
            let wanted = encode(&self.name, &wanted, Some(secret))?;
            self.secrets.replace(&self.name, &PostParams::default(), &wanted).await?;
        }
        Ok(())
    }

    /// Brings every change of the Secret to `authorities` until `shutdown`. What can't be read changes nothing.
    pub async fn follow(
        self,
        authorities: Authorities,
        seen: watch::Sender<CaSecretState>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut versions = follow_secret(&self.secrets, &self.name);
        loop {
            tokio::select! {
                Some(version) = versions.next() => match version {
                    Some(secret) => {
                        match decode(&self.name, &secret, &self.trust_domain, chrono::Utc::now()) {
                            Ok(trust) => authorities.replace(trust),
                            Err(error) => tracing::error!(%error, "the authorities stay what they were"),
                        }
                        seen.send_replace(CaSecretState { there: true, wish: RotationRequest::of(&secret) });
                    }
                    None => {
                        tracing::error!(secret = self.name, "the Secret with the CA was removed; the leader puts it back");
                        seen.send_replace(CaSecretState::default());
                    }
                },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}

impl TrustState {
    /// One authority and no other.
    pub fn steady(active: Arc<CertificateAuthority>) -> Self {
        let since = chrono::Utc::now().timestamp();
        Self { active, next: None, retiring: Vec::new(), step: RotationStep::Steady, since }
    }
}

/// What is stored could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum CaStoreError {
    /// Somebody else was quicker.
    #[error("somebody else was quicker")]
    Conflict,
    /// Anything else.
    #[error("{0}")]
    Other(#[from] Failure),
}

impl From<kube::Error> for CaStoreError {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 409 => Self::Conflict,
            error => Self::Other(redacted(error).into()),
        }
    }
}
