//! The pod's identity, renewed in time: a key that never leaves this process, its certificate, and the trust bundles.

use crate::client::{ControllerClient, ControllerError};
use crate::retry::{FIRST_PAUSE, RetryPauses};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use durward_pki::bundle::{BundleContents, read};
use durward_protocol::bundles::Bundles;
use durward_protocol::mint::{CertificateRequest, CertificateResponse, TokenRequest, TokenResponse};
use durward_runtime::Failure;
use quick_cache::sync::Cache;
use rcgen::{CertificateParams, KeyPair};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Limit for cached tokens.
const MAX_TOKENS: usize = 256;

/// A certificate and its key.
pub struct IssuedIdentity {
    /// SPIFFE ID.
    pub id: String,
    /// Certificates, leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8, DER.
    pub key: Zeroizing<Vec<u8>>,
    /// PKCS #8, PEM.
    pub key_pem: Zeroizing<String>,
}

/// Shows only the type name: the key is secret.
impl std::fmt::Debug for IssuedIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedIdentity").finish_non_exhaustive()
    }
}

/// The identity and the bundles at one time.
#[derive(Debug, Clone, Default)]
pub struct IdentityState {
    /// The current certificate, once there is one.
    pub issued: Option<Arc<IssuedIdentity>>,
    /// Bundles by the SPIFFE ID of the trust domain.
    pub bundles: Arc<BTreeMap<String, BundleContents>>,
    /// Why the controller last refused a certificate: no policy gives this pod an identity.
    pub refusal: Option<String>,
}

impl IdentityState {
    /// The certificate, the SPIFFE ID of its trust domain, and the bundle of that domain; `None` until all are there.
    pub fn ready(&self) -> Option<(&IssuedIdentity, &str, &BundleContents)> {
        let issued = self.issued.as_deref()?;
        let trust_domain = trust_domain(&issued.id);
        self.bundles.get_key_value(trust_domain).map(|(name, bundle)| (issued, name.as_str(), bundle))
    }
}

/// SPIFFE ID of the trust domain of a SPIFFE ID.
pub fn trust_domain(id: &str) -> &str {
    let path = id.strip_prefix("spiffe://").and_then(|rest| rest.find('/'));
    path.and_then(|at| id.get(..at + "spiffe://".len())).unwrap_or(id)
}

/// Tokens by audiences, each with the time until which it is reused.
type TokenCache = Cache<Vec<String>, (Arc<TokenResponse>, DateTime<Utc>)>;

/// Obtains the identity from the controller. Clones share it.
#[derive(Debug, Clone)]
pub struct IdentitySource {
    controller: ControllerClient,
    ttl_seconds: Option<u32>,
    state: watch::Sender<IdentityState>,
    tokens: Arc<TokenCache>,
}

impl IdentitySource {
    /// A source without an identity yet. `ttl_seconds` limits the lifetime of certificates, where shorter than the
    /// policy's.
    pub fn new(controller: ControllerClient, ttl_seconds: Option<u32>) -> Self {
        let tokens = Arc::new(Cache::new(MAX_TOKENS));
        Self { controller, ttl_seconds, state: watch::Sender::new(IdentityState::default()), tokens }
    }

    /// The state, and each change of it.
    pub fn state(&self) -> watch::Receiver<IdentityState> {
        self.state.subscribe()
    }

    /// A JWT-SVID. The previous one for the same audiences is reused until half of its lifetime has passed.
    ///
    /// # Errors
    /// When the pod has no identity, or the request fails.
    pub async fn token(&self, audience: &[String]) -> Result<Arc<TokenResponse>, ControllerError> {
        let mut audience = audience.to_vec();
        audience.sort_unstable();
        if let Some((token, reuse_until)) = self.tokens.get(&audience)
            && reuse_until > Utc::now()
        {
            tracing::debug!(%reuse_until, "reusing a cached token");
            return Ok(token);
        }
        let request = TokenRequest { audience: audience.clone() };
        let token = Arc::new(self.controller.request_token(&request).await?);
        let reuse_until = Utc::now() + (token.expires_at - Utc::now()) / 2;
        self.tokens.insert(audience, (Arc::clone(&token), reuse_until));
        Ok(token)
    }

    /// Obtains a certificate and renews it in time, until `shutdown`.
    ///
    /// # Errors
    /// Never: failed requests are retried.
    pub async fn renew_certificate(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut pauses = RetryPauses::new();
        loop {
            let pause = match self.request_certificate().await {
                Ok(refresh_at) => {
                    pauses.reset();
                    (refresh_at - Utc::now()).to_std().unwrap_or(FIRST_PAUSE)
                }
                Err(error) => {
                    tracing::warn!(%error, "requesting a certificate failed; trying again");
                    if let ControllerError::NoIdentity(reason) = error {
                        self.refuse(reason);
                    }
                    pauses.next_pause()
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Publishes why there is no certificate. A certificate issued earlier stays until it expires.
    fn refuse(&self, reason: String) {
        self.state.send_if_modified(|state| {
            let changed = state.refusal.as_ref() != Some(&reason);
            state.refusal = Some(reason);
            changed
        });
    }

    /// Requests and publishes one certificate. Returns when to request the next.
    async fn request_certificate(&self) -> Result<DateTime<Utc>, ControllerError> {
        let key = KeyPair::generate().map_err(ControllerError::Key)?;
        let request = CertificateParams::default().serialize_request(&key).map_err(ControllerError::Key)?;
        let request = CertificateRequest { csr: STANDARD.encode(request.der()), ttl_seconds: self.ttl_seconds };
        let CertificateResponse { spiffe_id, chain, not_after, refresh_at } =
            self.controller.request_certificate(&request).await?;
        let chain: Result<Vec<_>, _> = chain.iter().map(|certificate| STANDARD.decode(certificate)).collect();
        let chain = chain.map_err(|_| ControllerError::Undecodable("a certificate in it is not base64".to_owned()))?;
        tracing::info!(id = spiffe_id, until = %not_after, "certificate issued");
        let issued = IssuedIdentity {
            id: spiffe_id,
            chain,
            key: Zeroizing::new(key.serialize_der()),
            key_pem: Zeroizing::new(key.serialize_pem()),
        };
        self.state.send_modify(|state| {
            state.issued = Some(Arc::new(issued));
            state.refusal = None;
        });
        Ok(refresh_at)
    }

    /// Follows the trust bundles until `shutdown`.
    ///
    /// # Errors
    /// Never: failed requests are retried.
    pub async fn follow_bundles(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut known = String::new();
        let mut pauses = RetryPauses::new();
        loop {
            let polled = tokio::select! {
                polled = self.controller.poll_bundles(&known) => polled,
                () = shutdown.cancelled() => return Ok(()),
            };
            match polled {
                Ok(Bundles { digest, bundles }) => {
                    pauses.reset();
                    if digest != known {
                        let contents = bundles.into_iter().filter_map(|(name, bundle)| contents(name, &bundle));
                        let contents = Arc::new(contents.collect());
                        self.state.send_modify(|state| state.bundles = contents);
                        known = digest;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "requesting the trust bundles failed; trying again");
                    tokio::select! {
                        () = sleep(pauses.next_pause()) => {}
                        () = shutdown.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }
}

/// The contents of a bundle. A bundle that can't be read is left out; the others stay valid.
fn contents(name: String, bundle: &serde_json::Value) -> Option<(String, BundleContents)> {
    match read(bundle.to_string().as_bytes()) {
        Ok(contents) => Some((name, contents)),
        Err(error) => {
            tracing::warn!(trust_domain = name, %error, "a trust bundle can't be read; leaving it out");
            None
        }
    }
}
