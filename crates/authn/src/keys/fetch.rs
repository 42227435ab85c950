//! HTTP requests for key sets and trust bundles, with limits of size and time.

use crate::keys::key_set::KeySetError;
use crate::keys::source::{KeySource, KeyUrlError};
use reqwest::StatusCode;
use serde::Deserialize;
use std::sync::OnceLock;
use std::time::Duration;
use thiserror::Error;
use url::Url;

/// Maximum size of a fetched document, in bytes; the largest of public issuers has about 10 kB.
const MAX_DOCUMENT: usize = 256 * 1024;
/// Time-out of one fetch.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Time-out of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A document could not be fetched.
///
/// The text of the error can become part of an audit record.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The request failed; this is the root cause.
    #[error("{0}")]
    Transport(String),
    /// The server answered with an error.
    #[error("{url} answered {status}")]
    Status {
        /// URL of the document.
        url: Url,
        /// Status of the response.
        status: StatusCode,
    },
    /// The response exceeds the limit.
    #[error("{0} answered with more than {MAX_DOCUMENT} bytes")]
    TooLarge(Url),
    /// The issuer did not answer in time.
    #[error("the issuer did not answer in time")]
    Timeout,
    /// The URL of the discovery document is not valid.
    #[error("{0}")]
    DiscoveryUrl(url::ParseError),
    /// The discovery document is malformed.
    #[error("its discovery document is not readable: {0}")]
    Discovery(#[source] serde_json::Error),
    /// The discovery document names another issuer.
    #[error("its discovery document is of issuer `{found}`, expected `{expected}`")]
    OtherIssuer {
        /// The issuer in the resource.
        expected: String,
        /// The issuer in the document.
        found: String,
    },
    /// The discovery document names an unsuitable URL of keys.
    #[error(transparent)]
    KeyUrl(#[from] KeyUrlError),
    /// The fetched document is not a usable JWKS.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// The HTTP client could not be built.
    #[error("{0}")]
    Client(&'static reqwest::Error),
}

/// Fetches a JWKS once.
///
/// # Errors
/// When the JWKS can't be fetched.
pub async fn fetch_jwks(source: &KeySource) -> Result<Vec<u8>, FetchError> {
    fetch_issuer_jwks("", source).await
}

/// Fetches the JWKS of an issuer.
pub(super) async fn fetch_issuer_jwks(issuer: &str, source: &KeySource) -> Result<Vec<u8>, FetchError> {
    match source {
        KeySource::Inline(json) => Ok(json.clone().into_bytes()),
        KeySource::Url(url) => fetch_document(web_client()?, url).await,
        KeySource::Issuer(url) => {
            let jwks_uri = discover_jwks_uri(issuer, url).await?;
            fetch_document(web_client()?, &KeySource::url(&jwks_uri)?).await
        }
    }
}

/// The `jwks_uri` in the discovery document of an issuer (OpenID Connect Discovery, section 4).
async fn discover_jwks_uri(issuer: &str, url: &Url) -> Result<String, FetchError> {
    #[derive(Deserialize)]
    struct OpenIdConfiguration {
        issuer: String,
        jwks_uri: String,
    }
    let address = format!("{}/.well-known/openid-configuration", url.as_str().trim_end_matches('/'));
    let address = Url::parse(&address).map_err(FetchError::DiscoveryUrl)?;
    let document = fetch_document(web_client()?, &address).await?;
    let document: OpenIdConfiguration = serde_json::from_slice(&document).map_err(FetchError::Discovery)?;
    if document.issuer != issuer {
        return Err(FetchError::OtherIssuer { expected: issuer.to_owned(), found: document.issuer });
    }
    Ok(document.jwks_uri)
}

/// Fetches a document of limited size.
pub(crate) async fn fetch_document(client: &reqwest::Client, url: &Url) -> Result<Vec<u8>, FetchError> {
    let transport = |error: reqwest::Error| FetchError::Transport(root_cause(&error).to_string());
    let mut response = client.get(url.clone()).send().await.map_err(transport)?;
    if !response.status().is_success() {
        return Err(FetchError::Status { url: url.clone(), status: response.status() });
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(transport)? {
        if body.len() + chunk.len() > MAX_DOCUMENT {
            return Err(FetchError::TooLarge(url.clone()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn root_cause(error: &dyn std::error::Error) -> &dyn std::error::Error {
    error.source().map_or(error, root_cause)
}

/// The client for servers with certificates of public web authorities.
pub(crate) fn web_client() -> Result<&'static reqwest::Client, FetchError> {
    static CLIENT: OnceLock<Result<reqwest::Client, reqwest::Error>> = OnceLock::new();
    let client = CLIENT.get_or_init(|| restricted_client().build());
    client.as_ref().map_err(FetchError::Client)
}

/// A client that follows no redirects, which could lead into the cluster, and uses no proxies except for those of the
/// environment.
pub fn restricted_client() -> reqwest::ClientBuilder {
    // reqwest takes the provider of the process; an error means that one is installed already
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let builder = builder.timeout(FETCH_TIMEOUT).connect_timeout(CONNECT_TIMEOUT);
    builder.user_agent(concat!("durward/", env!("CARGO_PKG_VERSION")))
}
