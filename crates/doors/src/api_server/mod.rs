//! Authentication of the API server at its webhooks, by the client certificate or the token of its kubeconfig file.
//!
//! The webhooks answer for any user that their client names. Where neither is configured, every client in reach of the
//! listener can ask, and records name it by its address alone.

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use durward_core::digest::Digest;
use durward_engine::audit::ReviewPeer;
use durward_engine::metrics::Metrics;
use durward_pki::client_roots::{ClientRoots, ClientRootsError, common_name};
use durward_runtime::Failure;
use durward_runtime::peers::Peer;
use rustls_pki_types::UnixTime;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Shortest token, in bytes: what a generator of 128 bits makes.
const MIN_TOKEN: usize = 22;
/// Interval of reading the tokens again. The kubelet updates a mounted Secret about as often.
const READ_INTERVAL: Duration = Duration::from_secs(15);

/// How the API server authenticates at its webhooks.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ApiServerSettings {
    /// File of tokens, one a line, one of which the API server has to send to the webhooks, from its kubeconfig file
    #[arg(long, value_name = "FILE")]
    pub webhook_token_file: Option<PathBuf>,
    /// File of the CAs, in PEM, that issue client certificates of the API server for the webhooks
    #[arg(long, value_name = "FILE", requires = "webhook_client_name")]
    pub webhook_client_ca_file: Option<PathBuf>,
    /// Common name of the API server in its client certificate for the webhooks. Repeatable
    #[arg(long, value_name = "NAME", requires = "webhook_client_ca_file")]
    pub webhook_client_name: Vec<String>,
}

/// The settings can't be used.
#[derive(Debug, Error)]
pub enum ApiServerSettingsError {
    #[error("can't read `{file}`: {source}")]
    File { file: PathBuf, source: io::Error },
    #[error("`{file}` has no CA of API servers: {source}")]
    Roots { file: PathBuf, source: ClientRootsError },
    #[error(
        "`{0}` must have one token a line, each of at least {MIN_TOKEN} characters, such as from `openssl rand -hex 32`"
    )]
    Tokens(PathBuf),
}

/// The clients that the webhooks accept.
#[derive(Debug, Clone)]
pub struct ApiServerClients {
    tokens: Option<Arc<TokenFile>>,
    certificates: Option<Arc<ClientCertificates>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct TokenFile {
    file: PathBuf,
    /// Digests, so that comparing takes the same time for every token.
    accepted: RwLock<Vec<Digest>>,
}

#[derive(Debug)]
struct ClientCertificates {
    roots: Arc<ClientRoots>,
    names: Vec<String>,
}

impl ApiServerClients {
    /// Reads the files of the settings.
    ///
    /// # Errors
    /// When a file can't be read or has no token or certificate.
    pub fn open(settings: &ApiServerSettings, metrics: Arc<Metrics>) -> Result<Self, ApiServerSettingsError> {
        let tokens = settings.webhook_token_file.clone().map(|file| {
            let accepted = RwLock::new(read_tokens(&file)?);
            Ok(Arc::new(TokenFile { file, accepted }))
        });
        let certificates = settings.webhook_client_ca_file.clone().map(|file| {
            let pem =
                std::fs::read(&file).map_err(|source| ApiServerSettingsError::File { file: file.clone(), source })?;
            let roots = ClientRoots::parse(&pem).map_err(|source| ApiServerSettingsError::Roots { file, source })?;
            Ok(Arc::new(ClientCertificates { roots: Arc::new(roots), names: settings.webhook_client_name.clone() }))
        });
        Ok(Self { tokens: tokens.transpose()?, certificates: certificates.transpose()?, metrics })
    }

    /// The roots of client certificates, for the handshake.
    pub fn roots(&self) -> Option<Arc<ClientRoots>> {
        self.certificates.as_ref().map(|certificates| Arc::clone(&certificates.roots))
    }

    /// Lets only these clients reach the routes, which find the client as [`ReviewPeer`].
    pub fn protect(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, authenticate))
    }

    /// Reads the tokens again from time to time, until `shutdown`.
    ///
    /// # Errors
    /// Never; the signature is that of a supervised task.
    pub async fn follow(self, shutdown: CancellationToken) -> Result<(), Failure> {
        loop {
            tokio::select! {
                () = sleep(READ_INTERVAL) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            if let Some(tokens) = &self.tokens {
                tokens.read_again();
            }
        }
    }

    /// The client, if it is accepted.
    fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Option<ReviewPeer> {
        let authenticated = if self.tokens.is_none() && self.certificates.is_none() {
            None
        } else {
            Some(self.by_certificate(peer).or_else(|| self.by_token(headers))?)
        };
        Some(ReviewPeer { address: peer.address.ip(), authenticated })
    }

    /// The handshake verified the chain, by these roots or by those of workloads, so it is verified again.
    fn by_certificate(&self, peer: &Peer) -> Option<Arc<str>> {
        let certificates = self.certificates.as_ref()?;
        let chain = peer.certificate.as_deref()?;
        let name = common_name(chain.first()?)?;
        let accepted = certificates.names.contains(&name) && certificates.roots.verify(chain, UnixTime::now());
        accepted.then(|| format!("certificate {name}").into())
    }

    fn by_token(&self, headers: &HeaderMap) -> Option<Arc<str>> {
        let tokens = self.tokens.as_ref()?;
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let token = values.next()?.as_bytes().strip_prefix(b"Bearer ")?;
        if values.next().is_some() {
            return None;
        }
        tokens.accepts(token).then(|| "token".into())
    }
}

impl TokenFile {
    fn accepts(&self, token: &[u8]) -> bool {
        let presented = Digest::of([token]);
        let accepted = self.accepted.read().unwrap_or_else(PoisonError::into_inner);
        let equal = accepted.iter().map(|token| token.as_bytes().ct_eq(presented.as_bytes()));
        equal.fold(Choice::from(0), |any, equal| any | equal).into()
    }

    fn read_again(&self) {
        match read_tokens(&self.file) {
            Ok(tokens) => *self.accepted.write().unwrap_or_else(PoisonError::into_inner) = tokens,
            Err(error) => tracing::warn!(%error, "the webhook tokens can't be read again; keeping the previous ones"),
        }
    }
}

fn read_tokens(file: &PathBuf) -> Result<Vec<Digest>, ApiServerSettingsError> {
    let text =
        std::fs::read_to_string(file).map_err(|source| ApiServerSettingsError::File { file: file.clone(), source })?;
    let tokens: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if tokens.is_empty() || tokens.iter().any(|token| token.len() < MIN_TOKEN) {
        return Err(ApiServerSettingsError::Tokens(file.clone()));
    }
    Ok(tokens.iter().map(|token| Digest::of([token.as_bytes()])).collect())
}

async fn authenticate(
    State(clients): State<ApiServerClients>,
    Extension(peer): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    match clients.identify(&peer, request.headers()) {
        Some(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        None => {
            let missing = peer.certificate.is_none() && !request.headers().contains_key(header::AUTHORIZATION);
            clients.metrics.authentication_failure(missing);
            tracing::info!(address = %peer.address, "refused a client of the webhooks that is not the API server");
            let challenge = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))];
            (StatusCode::UNAUTHORIZED, challenge, "the webhooks are for the API server\n").into_response()
        }
    }
}

#[cfg(test)]
mod tests;
