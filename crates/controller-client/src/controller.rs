//! What the agent asks of the controller.

use durward_api::resources::ApprovalSpec;
use durward_protocol::bundles::{BUNDLES_PATH, Bundles};
use durward_protocol::mint::{CertificateAnswer, CertificateRequest, JWT_PATH, TokenAnswer, TokenRequest, X509_PATH};
use durward_protocol::snapshot as snapshots;
use reqwest::{Certificate, Client, ClientBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use url::Url;
use zeroize::Zeroizing;

/// How long an answer may take; bundles are held for 20 seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer, in bytes: bundles of a hundred trust domains.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The controller, and by what the agent proves itself.
#[derive(Debug, Clone)]
pub struct Controller {
    /// Its token listener.
    pub url: Url,
    /// The pod's service-account token for it; kubelet replaces it.
    pub token: PathBuf,
    /// Roots of its certificate; kubelet replaces them.
    pub roots: PathBuf,
}

/// Why the controller gave nothing.
#[derive(Debug, Clone, Error)]
pub enum Refusal {
    /// No policy is about this pod.
    #[error("{0}")]
    NoIdentity(String),
    /// It may come right.
    #[error("{0}")]
    Later(String),
}

impl Controller {
    /// A certificate for the key of a request.
    pub async fn certificate(&self, request: &CertificateRequest) -> Result<CertificateAnswer, Refusal> {
        self.post(X509_PATH, request).await
    }

    /// A token for some audiences.
    pub async fn token(&self, request: &TokenRequest) -> Result<TokenAnswer, Refusal> {
        self.post(JWT_PATH, request).await
    }

    /// The bundles, once they are others than those that are known.
    pub async fn bundles(&self, known: &str) -> Result<Bundles, Refusal> {
        let mut url = self.at(BUNDLES_PATH)?;
        url.query_pairs_mut().append_pair("known", known);
        read(self.client()?.get(url).send().await).await
    }

    /// What to decide by, as a stream of lines.
    pub async fn snapshots(&self) -> Result<Response, Refusal> {
        // it lasts for minutes; silence is what ends it
        let client = self.client_with(|client| client.connect_timeout(PATIENCE).read_timeout(PATIENCE))?;
        let answer = client.get(self.at(snapshots::PATH)?).bearer_auth(self.proof()?.trim()).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(answer),
            answer => read::<serde::de::IgnoredAny>(answer)
                .await
                .and_then(|_| Err(Refusal::Later("the controller's answer is no stream".to_owned()))),
        }
    }

    /// Asks for an approval that a caller of this pod lacks.
    pub async fn ask_for_approval(&self, wanted: &ApprovalSpec) -> Result<(), Refusal> {
        self.post::<_, serde::de::IgnoredAny>(snapshots::APPROVALS_PATH, wanted).await.map(drop)
    }

    /// Tells which API keys were used at this pod.
    pub async fn tell_uses(&self, uses: &[snapshots::Used]) -> Result<(), Refusal> {
        self.post::<_, serde::de::IgnoredAny>(snapshots::USES_PATH, &uses).await.map(drop)
    }

    async fn post<Q: serde::Serialize, A: DeserializeOwned>(&self, path: &str, question: &Q) -> Result<A, Refusal> {
        let asked = self.client()?.post(self.at(path)?).bearer_auth(self.proof()?.trim()).json(question);
        read(asked.send().await).await
    }

    fn proof(&self) -> Result<Zeroizing<String>, Refusal> {
        let name = self.token.display();
        let token = std::fs::read_to_string(&self.token).map(Zeroizing::new);
        token.map_err(|error| Refusal::Later(format!("the token in {name} can't be read: {error}")))
    }

    fn at(&self, path: &str) -> Result<Url, Refusal> {
        self.url.join(path).map_err(|error| Refusal::Later(error.to_string()))
    }

    /// A client that trusts what the file says now.
    fn client(&self) -> Result<Client, Refusal> {
        self.client_with(|client| client.timeout(PATIENCE))
    }

    fn client_with(&self, limits: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Client, Refusal> {
        let name = self.roots.display();
        let later =
            |error: &dyn std::fmt::Display| Refusal::Later(format!("the roots in {name} can't be used: {error}"));
        let pem = std::fs::read(&self.roots).map_err(|error| later(&error))?;
        let roots = Certificate::from_pem_bundle(&pem).map_err(|error| later(&error))?;
        let client = Client::builder().tls_certs_only(roots).redirect(reqwest::redirect::Policy::none());
        limits(client).no_proxy().build().map_err(|error| later(&error))
    }
}

async fn read<A: DeserializeOwned>(answer: reqwest::Result<Response>) -> Result<A, Refusal> {
    let later = |error: reqwest::Error| Refusal::Later(innermost(&error.without_url()));
    let mut answer = answer.map_err(later)?;
    let (status, mut body) = (answer.status(), Vec::new());
    while let Some(chunk) = answer.chunk().await.map_err(later)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Refusal::Later("the controller's answer is too large".to_owned()));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return serde_json::from_slice(&body)
            .map_err(|error| Refusal::Later(format!("the controller's answer: {error}")));
    }
    #[derive(serde::Deserialize)]
    struct Told {
        error: String,
    }
    let told = serde_json::from_slice(&body).map_or_else(|_| String::new(), |told: Told| told.error);
    match status {
        StatusCode::FORBIDDEN => Err(Refusal::NoIdentity(told)),
        status => Err(Refusal::Later(format!("the controller answered {status}: {told}"))),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), innermost)
}
