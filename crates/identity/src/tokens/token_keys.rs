//! Keys that sign JWT-SVIDs, access tokens and the audit log. In a cluster they are in Secrets that every replica follows and
//! the leader renews.

use chrono::{DateTime, Utc};
use durward_authn::Authenticator;
use durward_engine::audit::LogSigner;
use durward_kubernetes::requests::{follow_secret, redacted};
use durward_pki::rotation::{TokenKeySchedule, TokenKeyTerm, signing_key, token_key_changes};
use durward_pki::token::{Jwk, SigningAlgorithm, TokenKey, TokenKeyError, jwks};
use durward_runtime::Failure;
use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How token keys follow one another: verifiers keep keys for minutes, tokens live for an hour at most.
pub const TOKEN_KEY_SCHEDULE: TokenKeySchedule = TokenKeySchedule {
    algorithms: &SigningAlgorithm::ALL,
    signs: Duration::from_secs(7 * 24 * 3600),
    ahead: Duration::from_secs(24 * 3600),
    after: Duration::from_secs(2 * 3600),
};

/// How often it is looked whether a key is due.
pub const TOKEN_KEY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The keys at one time.
#[derive(Debug, Default)]
pub struct TokenKeyRing(BTreeMap<TokenKeyTerm, TokenKey>);

impl TokenKeyRing {
    /// The key that signs now.
    pub fn signing_key(&self, algorithm: SigningAlgorithm, now: DateTime<Utc>) -> Option<&TokenKey> {
        self.0.get(&signing_key(self.0.keys().copied(), algorithm, now.timestamp())?)
    }

    /// All public keys (RFC 7517, section 5).
    pub fn jwks(&self) -> String {
        jwks(self.public())
    }

    /// The public keys.
    pub fn public(&self) -> impl Iterator<Item = &Jwk> {
        self.0.values().map(TokenKey::jwk)
    }

    /// A number that grows with each key that comes or goes.
    pub fn sequence(&self) -> i64 {
        let from = || self.0.keys().map(|term| term.from);
        from().max().unwrap_or_default().saturating_add(from().min().unwrap_or_default())
    }

    fn terms(&self) -> Vec<TokenKeyTerm> {
        self.0.keys().copied().collect()
    }

    /// Keys by the names of their files.
    pub fn read<'f>(files: impl IntoIterator<Item = (&'f str, &'f [u8])>) -> Result<Self, Failure> {
        let mut ring = BTreeMap::new();
        for (name, pem) in files {
            let term = term(name).ok_or_else(|| format!("`{name}` is no name of a token key"))?;
            let pem = std::str::from_utf8(pem).map_err(|_| format!("`{name}` is no PEM"))?;
            let key = TokenKey::from_pem(term.algorithm, pem).map_err(|error| format!("`{name}`: {error}"))?;
            ring.insert(term, key);
        }
        Ok(Self(ring))
    }

    /// The keys as files.
    pub fn files(&self) -> impl Iterator<Item = (String, Zeroizing<String>)> {
        self.0.iter().map(|(term, key)| (file(*term), key.to_pem()))
    }

    /// Makes keys that are due and drops those that are over; tells whether there were any.
    pub fn renew(&mut self, schedule: &TokenKeySchedule, now: DateTime<Utc>) -> Result<bool, TokenKeyError> {
        let (made, gone) = token_key_changes(&self.terms(), schedule, now.timestamp());
        let changed = !(made.is_empty() && gone.is_empty());
        gone.iter().for_each(|term| drop(self.0.remove(term)));
        for term in made {
            self.0.insert(term, TokenKey::generate(term.algorithm)?);
        }
        Ok(changed)
    }

    fn decode(secret: &Secret) -> Result<Self, Failure> {
        Self::read(secret.data.iter().flatten().map(|(name, pem)| (name.as_str(), pem.0.as_slice())))
    }

    fn encode(&self, name: &str, version: Option<String>) -> Secret {
        let data = self.files().map(|(name, pem)| (name, ByteString(pem.as_bytes().to_vec())));
        Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), resource_version: version, ..ObjectMeta::default() },
            data: Some(data.collect()),
            ..Secret::default()
        }
    }
}

/// Name of a key's file: how it signs, and from when on in seconds since 1970.
fn file(term: TokenKeyTerm) -> String {
    format!("{}-{}.pem", term.algorithm.as_str().to_ascii_lowercase(), term.from)
}

fn term(file: &str) -> Option<TokenKeyTerm> {
    let (algorithm, from) = file.strip_suffix(".pem")?.split_once('-')?;
    let algorithm = SigningAlgorithm::ALL.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(algorithm))?;
    Some(TokenKeyTerm { algorithm, from: from.parse().ok()? })
}

/// The keys, shared by everything that signs or verifies.
#[derive(Debug, Clone)]
pub struct TokenKeys(watch::Sender<Arc<TokenKeyRing>>);

impl TokenKeys {
    pub fn new(ring: TokenKeyRing) -> Self {
        Self(watch::Sender::new(Arc::new(ring)))
    }

    pub fn replace(&self, ring: TokenKeyRing) {
        self.0.send_replace(Arc::new(ring));
    }

    /// Lets tokens be verified by the keys that there are, until `shutdown`.
    pub async fn sync_authenticator(
        self,
        authenticator: Arc<Authenticator>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut changes = self.changes();
        loop {
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let jwks = changes.borrow_and_update().jwks();
            authenticator.change_domain(|domain| domain.own_keys = Some(jwks.clone()));
        }
    }

    pub fn current(&self) -> Arc<TokenKeyRing> {
        Arc::clone(&self.0.borrow())
    }

    pub fn changes(&self) -> watch::Receiver<Arc<TokenKeyRing>> {
        self.0.subscribe()
    }

    /// Signs the audit log with the key that is to sign at the time.
    pub fn log_signer(&self) -> LogSigner {
        let keys = self.clone();
        LogSigner::new(move |claims, typ| match keys.current().signing_key(SigningAlgorithm::Es256, Utc::now()) {
            Some(key) => key.sign(claims, typ),
            None => Err(TokenKeyError::Key),
        })
    }
}

/// The Secret with the keys.
#[derive(Debug, Clone)]
pub struct TokenKeyStore {
    pub secrets: Api<Secret>,
    pub name: String,
    pub schedule: TokenKeySchedule,
}

impl TokenKeyStore {
    /// Reads the keys, or makes the first ones.
    pub async fn open(&self) -> Result<TokenKeys, Failure> {
        self.renew().await?;
        let secret = self.secrets.get(&self.name).await.map_err(|error| self.failed(&error))?;
        let ring = TokenKeyRing::decode(&secret).map_err(|error| format!("Secret `{}`: {error}", self.name))?;
        Ok(TokenKeys::new(ring))
    }

    fn failed(&self, error: &kube::Error) -> Failure {
        format!("the token keys in Secret `{}` can't be read or made: {}", self.name, redacted(error)).into()
    }

    /// Brings every change of the Secret to `keys`, and renews them while `leading`, until `shutdown`.
    pub async fn run(
        self,
        keys: TokenKeys,
        leading: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut versions = follow_secret(&self.secrets, &self.name);
        loop {
            tokio::select! {
                Some(version) = versions.next() => match version.as_ref().map(TokenKeyRing::decode) {
                    Some(Ok(ring)) => keys.replace(ring),
                    Some(Err(error)) => tracing::error!(%error, "the token keys stay what they were"),
                    // what was signed stays valid; the leader makes new keys
                    None => {}
                },
                () = sleep(TOKEN_KEY_CHECK_INTERVAL) => {
                    let (made, gone) = token_key_changes(&keys.current().terms(), &self.schedule, Utc::now().timestamp());
                    let due = *leading.borrow() && !(made.is_empty() && gone.is_empty());
                    if due && let Err(error) = self.renew().await {
                        tracing::warn!(%error, "the token keys could not be renewed");
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Makes keys that are due and removes those that are over, by what is stored.
    async fn renew(&self) -> Result<(), Failure> {
        let stored = self.secrets.get_opt(&self.name).await.map_err(|error| self.failed(&error))?;
        let mut ring = stored.as_ref().map(TokenKeyRing::decode).transpose()?.unwrap_or_default();
        if !ring.renew(&self.schedule, Utc::now())? {
            return Ok(());
        }
        let parameters = PostParams::default();
        let written = match stored {
            Some(stored) => {
                let secret = ring.encode(&self.name, stored.metadata.resource_version);
                self.secrets.replace(&self.name, &parameters, &secret).await
            }
            None => self.secrets.create(&parameters, &ring.encode(&self.name, None)).await,
        };
        match written {
            Ok(_) => Ok(()),
            // another replica was quicker
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }
}
