//! The cluster's issuer of service-account tokens and its keys, as the API server publishes them
//! (`/.well-known/openid-configuration`, `/openid/v1/jwks`).

use durward_authn::{Authenticator, KeySource, ServiceAccountIssuer};
use durward_kubernetes::requests::{brief, patiently};
use durward_runtime::Failure;
use kube::Client;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often the keys are read: the API server publishes a new key long before it signs with it.
const PERIOD: Duration = Duration::from_secs(60);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// How long one reading may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is told when there are no keys.
pub const UNREADABLE: &str = "the keys of service-account tokens can't be read";

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

/// Reads issuer and keys.
pub async fn read(client: &Client) -> Result<ServiceAccountIssuer, Failure> {
    let get = async |path: &str| -> Result<String, Failure> {
        let request = http::Request::get(path).body(Vec::new())?;
        let text = patiently(PATIENCE, client.request_text(request)).await;
        Ok(text.map_err(|error| format!("{path}: {}", brief(&error)))?)
    };
    let discovery: Discovery = serde_json::from_str(&get("/.well-known/openid-configuration").await?)?;
    Ok(ServiceAccountIssuer { issuer: discovery.issuer, keys: KeySource::Inline(get("/openid/v1/jwks").await?) })
}

/// Keeps the keys current until `shutdown`. The last ones stay while the API server is away.
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
                tracing::warn!(%error, "{UNREADABLE}");
                PAUSE
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}
