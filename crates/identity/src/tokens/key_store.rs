//! The Secret with the token keys. All replicas follow it; the leader renews the keys.

use crate::tokens::key_ring::{TokenKeyFileError, TokenKeyRing};
use crate::tokens::token_keys::TokenKeys;
use chrono::Utc;
use durward_kubernetes::requests::{RequestError, follow_secret};
use durward_pki::rotation::TokenKeySchedule;
use durward_pki::token::{SigningAlgorithm, TokenKeyError};
use durward_runtime::Failure;
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Rotation of the token keys. Verifiers cache keys for minutes; tokens are valid for an hour at most.
pub const TOKEN_KEY_SCHEDULE: TokenKeySchedule = TokenKeySchedule {
    algorithms: &SigningAlgorithm::ALL,
    signs: Duration::from_secs(7 * 24 * 3600),
    ahead: Duration::from_secs(24 * 3600),
    after: Duration::from_secs(2 * 3600),
};

/// Interval between checks whether a key is due.
pub const TOKEN_KEY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A Secret with token keys.
#[derive(Debug, Clone)]
pub struct TokenKeyStore {
    pub secrets: Api<Secret>,
    /// Name of the Secret.
    pub name: String,
    pub schedule: TokenKeySchedule,
}

/// The token keys can't be read or renewed.
#[derive(Debug, Error)]
pub enum TokenKeyStoreError {
    /// The API server did not read or write the Secret.
    #[error("the token keys in Secret `{secret}` can't be read or written: {source}")]
    Request {
        /// Name of the Secret.
        secret: String,
        /// Why the request failed.
        source: RequestError,
    },
    /// The Secret does not hold valid keys.
    #[error("the token keys in Secret `{secret}` are not valid: {source}")]
    Keys {
        /// Name of the Secret.
        secret: String,
        /// The invalid entry.
        source: TokenKeyFileError,
    },
    /// A key can't be generated.
    #[error("a token key can't be generated: {0}")]
    Generate(#[from] TokenKeyError),
}

impl TokenKeyStore {
    /// Reads the keys, or generates the first ones.
    ///
    /// # Errors
    /// If the Secret can't be read or created, or does not hold valid keys.
    pub async fn open(&self) -> Result<TokenKeys, TokenKeyStoreError> {
        self.renew().await?;
        let secret = self.secrets.get(&self.name).await.map_err(|error| self.request_error(error))?;
        Ok(TokenKeys::new(self.decode(&secret)?))
    }

    /// Applies each change of the Secret to `keys`, and renews the keys while `leading`, until `shutdown`.
    pub async fn run(
        self,
        keys: TokenKeys,
        leading: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut versions = follow_secret(&self.secrets, &self.name);
        loop {
            tokio::select! {
                Some(version) = versions.next() => match version.map(|secret| self.decode(&secret)) {
                    Some(Ok(ring)) => keys.replace(ring),
                    Some(Err(error)) => {
                        tracing::error!(%error, "token key reload failed; keeping the previous keys");
                    }
                    // the Secret was removed: signed tokens stay valid, and the leader generates new keys
                    None => {}
                },
                () = sleep(TOKEN_KEY_CHECK_INTERVAL) => {
                    let due = *leading.borrow() && keys.current().is_due(&self.schedule, Utc::now());
                    if due && let Err(error) = self.renew().await {
                        tracing::warn!(%error, "token key renewal failed; trying again");
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Generates the keys that are due and removes the expired ones, based on the stored keys.
    async fn renew(&self) -> Result<(), TokenKeyStoreError> {
        let stored = self.secrets.get_opt(&self.name).await.map_err(|error| self.request_error(error))?;
        let mut ring = stored.as_ref().map(|secret| self.decode(secret)).transpose()?.unwrap_or_default();
        if !ring.renew(&self.schedule, Utc::now())? {
            return Ok(());
        }
        let parameters = PostParams::default();
        let written = match stored {
            Some(stored) => {
                let secret = self.encode(&ring, stored.metadata.resource_version);
                self.secrets.replace(&self.name, &parameters, &secret).await
            }
            None => self.secrets.create(&parameters, &self.encode(&ring, None)).await,
        };
        match written {
            Ok(_) => Ok(()),
            // another replica wrote first; its keys are as good
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(self.request_error(error)),
        }
    }

    fn decode(&self, secret: &Secret) -> Result<TokenKeyRing, TokenKeyStoreError> {
        let files = secret.data.iter().flatten().map(|(name, pem)| (name.as_str(), pem.0.as_slice()));
        let ring = TokenKeyRing::from_files(files);
        ring.map_err(|source| TokenKeyStoreError::Keys { secret: self.name.clone(), source })
    }

    fn encode(&self, ring: &TokenKeyRing, resource_version: Option<String>) -> Secret {
        let data = ring.files().map(|(name, pem)| (name, ByteString(pem.as_bytes().to_vec())));
        Secret {
            metadata: ObjectMeta { name: Some(self.name.clone()), resource_version, ..ObjectMeta::default() },
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    fn request_error(&self, error: kube::Error) -> TokenKeyStoreError {
        TokenKeyStoreError::Request { secret: self.name.clone(), source: error.into() }
    }
}
