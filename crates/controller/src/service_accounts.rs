//! The cluster's issuer of service-account tokens and its keys, as the API server publishes them
//! (`/.well-known/openid-configuration`, `/openid/v1/jwks`).

use durward_authn::{Authenticator, KeySource, ServiceAccountIssuer};
use durward_kubernetes::requests::{RequestError, with_timeout};
use durward_runtime::Failure;
use kube::Client;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Interval between reads. The API server publishes a new key long before it signs with it.
const PERIOD: Duration = Duration::from_secs(60);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Time limit for one request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why issuer and keys can't be read.
#[derive(Debug, Error)]
pub enum ServiceAccountKeysError {
    #[error("{path}: {source}")]
    Request { path: &'static str, source: RequestError },
    #[error("{path} is not a valid path: {source}")]
    Path { path: &'static str, source: http::Error },
    #[error("the discovery document can't be decoded: {0}")]
    Discovery(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct DiscoveryDocument {
    issuer: String,
}

/// Reads issuer and keys.
pub async fn read(client: &Client) -> Result<ServiceAccountIssuer, ServiceAccountKeysError> {
    let document = get(client, "/.well-known/openid-configuration").await?;
    let document: DiscoveryDocument = serde_json::from_str(&document)?;
    let keys = get(client, "/openid/v1/jwks").await?;
    Ok(ServiceAccountIssuer { issuer: document.issuer, keys: KeySource::Inline(keys) })
}

async fn get(client: &Client, path: &'static str) -> Result<String, ServiceAccountKeysError> {
    let request = http::Request::get(path).body(Vec::new());
    let request = request.map_err(|source| ServiceAccountKeysError::Path { path, source })?;
    let text = with_timeout(TIMEOUT, client.request_text(request)).await;
    text.map_err(|source| ServiceAccountKeysError::Request { path, source })
}

/// Logs that the keys are missing.
pub fn log_unreadable(error: &ServiceAccountKeysError) {
    tracing::warn!(%error, "keys of service-account tokens can't be read; keeping the previous ones and trying again");
}

/// Keeps the keys current until `shutdown`. The last ones stay while the API server does not answer.
pub async fn follow(
    client: Client,
    authenticator: Arc<Authenticator>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    loop {
        let pause = match read(&client).await {
            Ok(issuer) => {
                authenticator.change_domain(|domain| domain.service_accounts = Some(issuer.clone()));
                PERIOD
            }
            Err(error) => {
                log_unreadable(&error);
                PAUSE
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}
