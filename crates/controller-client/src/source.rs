//! The pod's identity, kept fresh: a key that never leaves this process, its certificate, and the bundles that count.

use crate::controller::{Controller, Refusal};
use backon::{BackoffBuilder, ExponentialBuilder};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use durward_pki::bundle::{BundleContents, read};
use durward_protocol::bundles::Bundles;
use durward_protocol::mint::{CertificateAnswer, CertificateRequest, TokenAnswer, TokenRequest};
use durward_runtime::Failure;
use quick_cache::sync::Cache;
use rcgen::{CertificateParams, KeyPair};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Pauses after failures: short at first, for a pod waits to start.
pub const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(15)];
/// Tokens that are kept until half of their life is over.
const TOKENS: usize = 256;

/// A certificate and its key.
pub struct Svid {
    pub id: String,
    /// Leaf first, DER.
    pub chain: Vec<Vec<u8>>,
    /// PKCS #8, DER.
    pub key: Zeroizing<Vec<u8>>,
    /// The same in PEM.
    pub key_pem: Zeroizing<String>,
}

/// Names the type alone: what it holds is secret or large.
impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid").finish_non_exhaustive()
    }
}

/// Everything at one time.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub svid: Option<Arc<Svid>>,
    /// Bundles by SPIFFE ID of the trust domain.
    pub bundles: Arc<BTreeMap<String, BundleContents>>,
    /// Why there is no identity: no policy is about this pod.
    pub refused: Option<String>,
}

impl State {
    /// The own trust domain, by its SPIFFE ID, once there is a certificate and its bundle.
    pub fn ready(&self) -> Option<(&Svid, &str, &BundleContents)> {
        let svid = self.svid.as_deref()?;
        let own = trust_domain(&svid.id);
        self.bundles.get_key_value(own).map(|(name, bundle)| (svid, name.as_str(), bundle))
    }
}

/// SPIFFE ID of the trust domain of an ID.
pub fn trust_domain(id: &str) -> &str {
    let path = id.strip_prefix("spiffe://").and_then(|rest| rest.find('/'));
    path.and_then(|at| id.get(..at + "spiffe://".len())).unwrap_or(id)
}

/// Tokens by their audiences, and until when they are young.
type Tokens = Cache<Vec<String>, (Arc<TokenAnswer>, DateTime<Utc>)>;

/// Where the identity comes from.
#[derive(Debug, Clone)]
pub struct Source {
    controller: Controller,
    ttl_seconds: Option<u32>,
    state: watch::Sender<State>,
    tokens: Arc<Tokens>,
}

impl Source {
    pub fn new(controller: Controller, ttl_seconds: Option<u32>) -> Self {
        let tokens = Arc::new(Cache::new(TOKENS));
        Self { controller, ttl_seconds, state: watch::Sender::new(State::default()), tokens }
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// A JWT-SVID: the last one for these audiences while it is young.
    pub async fn token(&self, audience: &[String]) -> Result<Arc<TokenAnswer>, Refusal> {
        let mut audience = audience.to_vec();
        audience.sort_unstable();
        if let Some((token, until)) = self.tokens.get(&audience).filter(|(_, until)| *until > Utc::now()) {
            tracing::debug!(%until, "a token is used again");
            return Ok(token);
        }
        let token = Arc::new(self.controller.token(&TokenRequest { audience: audience.clone() }).await?);
        let until = Utc::now() + (token.expires_at - Utc::now()) / 2;
        self.tokens.insert(audience, (Arc::clone(&token), until));
        Ok(token)
    }

    /// Keeps the certificate fresh until `shutdown`.
    pub async fn certificates(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut pauses = pauses();
        loop {
            let pause = match self.certificate().await {
                Ok(refresh_at) => {
                    pauses = self::pauses();
                    (refresh_at - Utc::now()).to_std().unwrap_or(PAUSES[0])
                }
                Err(refusal) => {
                    tracing::warn!(%refusal, "no certificate");
                    if let Refusal::NoIdentity(why) = &refusal {
                        // what was given stays until it ends; who waits is told why
                        self.state.send_if_modified(|state| {
                            let news = state.refused.as_ref() != Some(why);
                            state.refused = Some(why.clone());
                            news
                        });
                    }
                    pauses.next().unwrap_or(PAUSES[1])
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// One certificate; tells when to get the next.
    async fn certificate(&self) -> Result<DateTime<Utc>, Refusal> {
        let later = |error: &dyn std::fmt::Display| Refusal::Later(format!("a key can't be made: {error}"));
        let key = KeyPair::generate().map_err(|error| later(&error))?;
        let request = CertificateParams::default().serialize_request(&key).map_err(|error| later(&error))?;
        let request = CertificateRequest { csr: STANDARD.encode(request.der()), ttl_seconds: self.ttl_seconds };
        let CertificateAnswer { spiffe_id, chain, not_after, refresh_at } =
            self.controller.certificate(&request).await?;
        let chain: Result<Vec<_>, _> = chain.iter().map(|certificate| STANDARD.decode(certificate)).collect();
        let chain = chain.map_err(|_| Refusal::Later("the controller's certificate is no base64".to_owned()))?;
        tracing::info!(id = spiffe_id, until = %not_after, "certificate");
        let (der, pem) = (Zeroizing::new(key.serialize_der()), Zeroizing::new(key.serialize_pem()));
        let svid = Svid { id: spiffe_id, chain, key: der, key_pem: pem };
        self.state.send_modify(|state| {
            state.svid = Some(Arc::new(svid));
            state.refused = None;
        });
        Ok(refresh_at)
    }

    /// Follows the bundles until `shutdown`.
    pub async fn bundles(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let (mut known, mut pauses) = (String::new(), pauses());
        loop {
            let asked = tokio::select! {
                asked = self.controller.bundles(&known) => asked,
                () = shutdown.cancelled() => return Ok(()),
            };
            match asked {
                Ok(Bundles { digest, bundles }) => {
                    pauses = self::pauses();
                    if digest != known {
                        let contents = bundles.into_iter().filter_map(|(name, bundle)| contents(name, &bundle));
                        let contents = Arc::new(contents.collect());
                        self.state.send_modify(|state| state.bundles = contents);
                        known = digest;
                    }
                }
                Err(refusal) => {
                    tracing::warn!(%refusal, "no bundles");
                    tokio::select! {
                        () = sleep(pauses.next().unwrap_or(PAUSES[1])) => {}
                        () = shutdown.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }
}

/// One that can't be read is left out; the others count.
fn contents(name: String, bundle: &serde_json::Value) -> Option<(String, BundleContents)> {
    let read = read(bundle.to_string().as_bytes());
    let read = read.inspect_err(|error| tracing::warn!(trust_domain = name, %error, "a bundle can't be used"));
    Some((name, read.ok()?))
}

pub fn pauses() -> backon::ExponentialBackoff {
    let [first, longest] = PAUSES;
    ExponentialBuilder::default()
        .with_min_delay(first)
        .with_max_delay(longest)
        .with_jitter()
        .without_max_times()
        .build()
}
