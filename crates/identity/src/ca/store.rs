//! The store of the authorities: a Secret that all replicas follow.

use crate::ca::authorities::{Authorities, TrustState};
use crate::ca::secret::{CaSecretError, RotationRequest, decode, decode_provided, encode};
use chrono::Utc;
use durward_kubernetes::requests::{RequestError, follow_secret};
use durward_pki::authority::{AuthorityError, CertificateAuthority};
use durward_pki::serial::CertificateSerial;
use durward_runtime::Failure;
use durward_runtime::random::{RandomnessUnavailable, random_bytes};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Interval between checks for a provided authority at start-up.
const PROVIDED_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Where the authority comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum CaSource {
    /// Durward generates the CA.
    #[default]
    Generated,
    /// An administrator or another tool provides the CA in Secret SERVICE-ca.
    Provided,
}

/// Names of the Secrets that can hold the authorities of a Service. If the first Secret exists, it holds them, and the
/// second is the one in which an authority is provided.
pub fn ca_secret_names(service: &str) -> [String; 2] {
    [format!("{service}-ca-active"), format!("{service}-ca")]
}

/// The Secret with the authorities, and the Secret from which a provided authority is copied.
#[derive(Debug, Clone)]
pub struct CaStore {
    secrets: Api<Secret>,
    name: String,
    provided_name: Option<String>,
    trust_domain: String,
}

/// The state of the Secret as the watch last reported it.
#[derive(Debug, Clone, Default)]
pub struct CaSecretState {
    /// Whether the Secret exists.
    pub exists: bool,
    /// The rotation that an administrator requested.
    pub rotation_request: Option<RotationRequest>,
}

/// The authorities can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum CaStoreError {
    /// Another replica changed the Secret first.
    #[error("another replica changed the Secret with the CA first")]
    Conflict,
    /// The API server did not read or write the Secret.
    #[error("the CA in Secret `{secret}` can't be read or written: {source}")]
    Request {
        /// Name of the Secret.
        secret: String,
        /// Why the request failed.
        source: RequestError,
    },
    /// The Secret does not hold usable authorities.
    #[error(transparent)]
    Secret(#[from] CaSecretError),
    /// No authority can be generated.
    #[error("a new CA can't be generated: {0}")]
    Generate(#[from] AuthorityError),
    /// No serial number can be generated.
    #[error(transparent)]
    Randomness(#[from] RandomnessUnavailable),
    /// A compromised authority has no replacement.
    #[error("the CA is compromised, but no other CA is provided: put a new CA into Secret `{secret}`")]
    NoReplacement {
        /// Name of the Secret in which an authority is provided.
        secret: String,
    },
}

impl CaStore {
    /// The store of a Service.
    ///
    /// A generated authority needs one Secret, since only Durward writes to it. A provided authority is copied into a
    /// second Secret, so that the old authority is still there when the provided one changes.
    pub fn new(secrets: Api<Secret>, service: &str, source: CaSource, trust_domain: &str) -> Self {
        let [own, shared] = ca_secret_names(service);
        let (name, provided_name) = match source {
            CaSource::Generated => (shared, None),
            CaSource::Provided => (own, Some(shared)),
        };
        Self { secrets, name, provided_name, trust_domain: trust_domain.to_owned() }
    }

    /// Reads the authorities, or creates the first one. If several replicas create one, the API server accepts the
    /// first.
    ///
    /// # Errors
    /// If the Secret can't be read or created, or does not hold usable authorities.
    pub async fn open(&self) -> Result<TrustState, CaStoreError> {
        loop {
            let stored = self.secrets.get_opt(&self.name).await;
            if let Some(secret) = stored.map_err(|error| request_error(&self.name, error))? {
                return Ok(decode(&self.name, &secret, &self.trust_domain, Utc::now())?);
            }
            let Some(active) = self.new_authority().await? else {
                tracing::info!(secret = self.provided_name, "no CA is provided yet; waiting for the Secret");
                sleep(PROVIDED_CHECK_INTERVAL).await;
                continue;
            };
            match self.create(&TrustState::steady(active)).await {
                // on a conflict, the authority of the other replica is the one to read
                Err(CaStoreError::Conflict) => {}
                created => return created,
            }
        }
    }

    /// The first or the next authority: generated, or provided. `None` if it is not provided yet.
    ///
    /// # Errors
    /// If the Secret can't be read or does not hold a usable authority, or if no authority can be generated.
    pub async fn new_authority(&self) -> Result<Option<Arc<CertificateAuthority>>, CaStoreError> {
        let now = Utc::now();
        let Some(name) = &self.provided_name else {
            let serial = CertificateSerial::unbound(random_bytes()?);
            return Ok(Some(Arc::new(CertificateAuthority::create(&self.trust_domain, now, serial)?)));
        };
        let secret = self.secrets.get_opt(name).await.map_err(|error| request_error(name, error))?;
        let authority = secret.map(|secret| decode_provided(name, &secret, &self.trust_domain, now)).transpose()?;
        Ok(authority.map(Arc::new))
    }

    /// Whether the authority is provided, and not generated.
    pub(crate) const fn is_provided(&self) -> bool {
        self.provided_name.is_some()
    }

    /// The error for a compromised authority without a replacement.
    pub(crate) fn no_replacement(&self) -> CaStoreError {
        CaStoreError::NoReplacement { secret: self.provided_name.as_ref().unwrap_or(&self.name).clone() }
    }

    /// Creates the Secret.
    ///
    /// # Errors
    /// [`CaStoreError::Conflict`] if the Secret exists.
    pub async fn create(&self, state: &TrustState) -> Result<TrustState, CaStoreError> {
        let secret = encode(&self.name, state, None)?;
        let created = self.secrets.create(&PostParams::default(), &secret).await;
        created.map_err(|error| request_error(&self.name, error))?;
        Ok(state.clone())
    }

    /// Replaces the stored state by the result of `change`; `None` leaves it as it is.
    ///
    /// # Errors
    /// [`CaStoreError::Conflict`] if another replica changed the Secret first.
    pub async fn change(
        &self,
        change: impl FnOnce(&TrustState, Option<RotationRequest>) -> Option<TrustState>,
    ) -> Result<(), CaStoreError> {
        let failed = |error| request_error(&self.name, error);
        let secret = self.secrets.get(&self.name).await.map_err(failed)?;
        let stored = decode(&self.name, &secret, &self.trust_domain, Utc::now())?;
        if let Some(changed) = change(&stored, RotationRequest::of(&secret)) {
            // the resource version detects a concurrent change; the same write removes the request that it fulfils
            let secret = encode(&self.name, &changed, Some(secret))?;
            self.secrets.replace(&self.name, &PostParams::default(), &secret).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Applies each change of the Secret to `authorities`, until `shutdown`. A Secret that can't be decoded changes
    /// nothing.
    pub async fn follow(
        self,
        authorities: Authorities,
        state: watch::Sender<CaSecretState>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut versions = follow_secret(&self.secrets, &self.name);
        loop {
            tokio::select! {
                Some(version) = versions.next() => match version {
                    Some(secret) => {
                        match decode(&self.name, &secret, &self.trust_domain, Utc::now()) {
                            Ok(trust) => authorities.replace(trust),
                            Err(error) => tracing::error!(%error, "CA reload failed; keeping the previous authorities"),
                        }
                        let rotation_request = RotationRequest::of(&secret);
                        state.send_replace(CaSecretState { exists: true, rotation_request });
                    }
                    None => {
                        let secret = &self.name;
                        tracing::error!(secret, "the Secret with the CA was removed; the leader restores it");
                        state.send_replace(CaSecretState::default());
                    }
                },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}

fn request_error(secret: &str, error: kube::Error) -> CaStoreError {
    let source = RequestError::from(error);
    if source.status() == Some(409) {
        return CaStoreError::Conflict;
    }
    CaStoreError::Request { secret: secret.to_owned(), source }
}
