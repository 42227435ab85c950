//! Requests of an agent or a gate to the controller.

use durward_api::resources::ApprovalSpec;
use durward_protocol::bundles::{BUNDLES_PATH, Bundles};
use durward_protocol::mint::{
    CertificateRequest, CertificateResponse, JWT_PATH, TokenRequest, TokenResponse, X509_PATH,
};
use durward_protocol::snapshot::{APPROVALS_PATH, KEY_USES_PATH, KeyUse, SNAPSHOT_PATH};
use reqwest::{Certificate, Client, ClientBuilder, Response, StatusCode};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use url::Url;
use zeroize::Zeroizing;

/// Time limit for a response. The controller holds requests for bundles for 20 seconds.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit for a response, in bytes: enough for the bundles of a hundred trust domains.
const MAX_RESPONSE: usize = 4 * 1024 * 1024;

/// A client of the controller, which authenticates by the pod's service-account token.
#[derive(Debug, Clone)]
pub struct ControllerClient {
    /// The controller's token listener.
    pub url: Url,
    /// File with the pod's service-account token for the controller. It is read for each request, because kubelet
    /// replaces it.
    pub token: PathBuf,
    /// File with the roots of the controller's certificate. It is read for each request, because kubelet replaces it.
    pub roots: PathBuf,
}

/// Why a request to the controller failed.
#[derive(Debug, Error)]
pub enum ControllerError {
    /// No policy gives this pod an identity.
    #[error("{0}")]
    NoIdentity(String),
    /// The service-account token can't be read.
    #[error("the token in {} can't be read: {source}", .path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The roots can't be read or used.
    #[error("the roots in {} can't be used: {message}", .path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// A path can't be joined to the URL of the controller.
    #[error("the URL of the controller can't be used: {0}")]
    Url(#[source] url::ParseError),
    /// The request failed, or the controller did not answer in time.
    #[error("{0}")]
    Request(String),
    /// The controller did not answer in time, while a previous answer is still valid.
    #[error("the controller is silent")]
    Silent,
    /// The controller rejected the request.
    #[error("the controller answered {status}: {message}")]
    Rejected {
        /// Status of the response.
        status: StatusCode,
        /// Message in the response.
        message: String,
    },
    /// The response is too large.
    #[error("the response of the controller is larger than {MAX_RESPONSE} bytes")]
    TooLarge,
    /// The response can't be decoded.
    #[error("the response of the controller can't be decoded: {0}")]
    Undecodable(String),
    /// A key or a certificate request can't be generated.
    #[error("a key can't be generated: {0}")]
    Key(#[source] rcgen::Error),
}

impl ControllerClient {
    /// Requests a certificate.
    ///
    /// # Errors
    /// When the pod has no identity, or the request fails.
    pub async fn request_certificate(
        &self,
        request: &CertificateRequest,
    ) -> Result<CertificateResponse, ControllerError> {
        self.post(X509_PATH, request).await
    }

    /// Requests a token.
    ///
    /// # Errors
    /// When the pod has no identity, or the request fails.
    pub async fn request_token(&self, request: &TokenRequest) -> Result<TokenResponse, ControllerError> {
        self.post(JWT_PATH, request).await
    }

    /// Waits until the bundles differ from those with the digest `known`. The controller answers after a while even if
    /// nothing changed.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn poll_bundles(&self, known: &str) -> Result<Bundles, ControllerError> {
        let mut url = self.url(BUNDLES_PATH)?;
        url.query_pairs_mut().append_pair("known", known);
        decode(self.client()?.get(url).send().await).await
    }

    /// Opens the snapshot stream.
    ///
    /// # Errors
    /// When the pod has no identity, or the request fails.
    pub async fn open_snapshot_stream(&self) -> Result<Response, ControllerError> {
        // the stream lasts for minutes, so only silence is limited
        let client =
            self.client_with(|client| client.connect_timeout(RESPONSE_TIMEOUT).read_timeout(RESPONSE_TIMEOUT))?;
        let response = client.get(self.url(SNAPSHOT_PATH)?).bearer_auth(self.token()?.trim()).send().await;
        match response {
            Ok(response) if response.status().is_success() => Ok(response),
            response => decode::<IgnoredAny>(response)
                .await
                .and_then(|_| Err(ControllerError::Undecodable("it is not a stream".to_owned()))),
        }
    }

    /// Requests an approval that a caller of this pod needs.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn request_approval(&self, approval: &ApprovalSpec) -> Result<(), ControllerError> {
        self.post::<_, IgnoredAny>(APPROVALS_PATH, approval).await.map(drop)
    }

    /// Reports which API keys were used at this pod.
    ///
    /// # Errors
    /// When the request fails.
    pub async fn report_key_uses(&self, uses: &[KeyUse]) -> Result<(), ControllerError> {
        self.post::<_, IgnoredAny>(KEY_USES_PATH, &uses).await.map(drop)
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(&self, path: &str, body: &Q) -> Result<A, ControllerError> {
        let request = self.client()?.post(self.url(path)?).bearer_auth(self.token()?.trim()).json(body);
        decode(request.send().await).await
    }

    fn token(&self) -> Result<Zeroizing<String>, ControllerError> {
        let token = std::fs::read_to_string(&self.token).map(Zeroizing::new);
        token.map_err(|source| ControllerError::Token { path: self.token.clone(), source })
    }

    fn url(&self, path: &str) -> Result<Url, ControllerError> {
        self.url.join(path).map_err(ControllerError::Url)
    }

    fn client(&self) -> Result<Client, ControllerError> {
        self.client_with(|client| client.timeout(RESPONSE_TIMEOUT))
    }

    /// A client that trusts the roots that the file contains now.
    fn client_with(&self, limits: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Client, ControllerError> {
        let unusable =
            |error: &dyn Error| ControllerError::Roots { path: self.roots.clone(), message: error.to_string() };
        let pem = std::fs::read(&self.roots).map_err(|error| unusable(&error))?;
        let roots = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?;
        let client = Client::builder().tls_certs_only(roots).redirect(reqwest::redirect::Policy::none());
        limits(client).no_proxy().build().map_err(|error| unusable(&error))
    }
}

/// The body of an error response.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

async fn decode<A: DeserializeOwned>(response: reqwest::Result<Response>) -> Result<A, ControllerError> {
    let failed = |error: reqwest::Error| ControllerError::Request(root_cause(&error.without_url()));
    let mut response = response.map_err(failed)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_RESPONSE {
            return Err(ControllerError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| ControllerError::Undecodable(error.to_string()));
    }
    let message = serde_json::from_slice(&body).map_or_else(|_| String::new(), |body: ErrorBody| body.error);
    match status {
        StatusCode::FORBIDDEN => Err(ControllerError::NoIdentity(message)),
        status => Err(ControllerError::Rejected { status, message }),
    }
}

fn root_cause(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}
