//! The client: asks in batches, within a timeout. Every error is a failed answer.

use super::cache::{AnswerCache, AnswerKey};
use super::error::{OpenFgaRequestError, OpenFgaUrlError};
use super::model::has_groups;
use super::names::{self, TupleKey};
use super::settings::OpenFgaSettings;
use crate::metrics::Metrics;
use arc_swap::ArcSwapOption;
use durward_authn::{is_secure, restricted_client};
use durward_core::condition::Truth;
use durward_core::digest::Digest;
use durward_core::principal::Identity;
use durward_core::relations::{OpenFgaStore, RelationAnswers, RelationQuestion, RelationQuestions};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use url::Url;
use zeroize::Zeroizing;

/// Questions of a batch: OpenFGA's default limit.
const BATCH: usize = 50;
/// Limit of questions of one decision.
const MAX_QUESTIONS: usize = 100;
/// Limit of groups of one caller: OpenFGA's limit of contextual tuples of a question.
const MAX_GROUPS: usize = 100;
/// Longest object, in bytes: OpenFGA's limit.
const MAX_OBJECT: usize = 256;
/// Limit of concurrent batches.
const CONCURRENCY: usize = 64;
/// Largest response that is read, in bytes; fifty answers have some kilobytes.
const MAX_RESPONSE: usize = 256 * 1024;

/// The client of an OpenFGA server.
#[derive(Debug)]
pub struct OpenFga {
    url: Url,
    token: Option<PathBuf>,
    roots: Option<PathBuf>,
    timeout: Duration,
    cache: AnswerCache,
    permits: Semaphore,
    client: ArcSwapOption<HttpClient>,
}

/// An HTTP client, and the roots that it was made from.
#[derive(Debug)]
struct HttpClient {
    roots: Vec<u8>,
    http: reqwest::Client,
}

/// `BatchCheck` of OpenFGA's HTTP API.
#[derive(Serialize)]
struct BatchCheckRequest<'a> {
    authorization_model_id: &'a str,
    checks: Vec<BatchCheckItem<'a>>,
}

#[derive(Serialize)]
struct BatchCheckItem<'a> {
    tuple_key: TupleKey,
    contextual_tuples: ContextualTuples<'a>,
    correlation_id: String,
}

#[derive(Serialize)]
struct ContextualTuples<'a> {
    tuple_keys: &'a [TupleKey],
}

#[derive(Deserialize)]
struct BatchCheckResponse {
    result: HashMap<String, CheckResult>,
}

#[derive(Deserialize)]
struct CheckResult {
    /// Absent if false.
    #[serde(default)]
    allowed: bool,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl OpenFga {
    /// Creates the client if the settings name a server.
    ///
    /// # Errors
    /// If the URL would send questions and the token unencrypted over a network.
    pub fn new(settings: OpenFgaSettings) -> Result<Option<Self>, OpenFgaUrlError> {
        let Some(url) = settings.openfga_url else { return Ok(None) };
        if !is_secure(&url) {
            return Err(OpenFgaUrlError(url));
        }
        Ok(Some(Self {
            url,
            token: settings.openfga_token_file,
            roots: settings.openfga_ca_file,
            timeout: settings.openfga_timeout,
            cache: AnswerCache::new(settings.openfga_cache),
            permits: Semaphore::new(CONCURRENCY),
            client: ArcSwapOption::empty(),
        }))
    }

    /// Asks for the caller's relations that a decision needs.
    pub async fn answers(
        &self,
        questions: &RelationQuestions<'_>,
        caller: &Identity,
        revision: Digest,
        metrics: &Metrics,
    ) -> RelationAnswers {
        let groups = if has_groups(questions.model) { names::groups(caller) } else { Vec::new() };
        if let Some(cause) = caller.unknown.groups.filter(|_| has_groups(questions.model)) {
            return failed(questions, &format!("the caller's groups are unknown: {cause}"));
        }
        if groups.len() > MAX_GROUPS {
            return failed(questions, &format!("the caller has more than {MAX_GROUPS} groups"));
        }
        let user = names::principal(&caller.id);
        let texts = [user.as_bytes()].into_iter().chain(groups.iter().map(|group| group.object.as_bytes()));
        let caller = Digest::of(texts);
        let key = |question: &RelationQuestion| AnswerKey {
            revision,
            store: questions.store.clone(),
            caller,
            question: question.clone(),
        };
        let mut answers = Vec::new();
        let mut open = Vec::new();
        // an object that is too long is not asked for, which fails the check
        let fitting = questions.questions.iter().filter(|question| names::object(&question.object).len() <= MAX_OBJECT);
        for question in fitting.take(MAX_QUESTIONS) {
            match self.cache.get(&key(question)) {
                Some(holds) => answers.push((question.clone(), truth(holds))),
                None => open.push(question),
            }
        }
        metrics.relations("cached", answers.len());
        let asked_at = Instant::now();
        for batch in open.chunks(BATCH) {
            let response = self.batch_check(questions.store, &user, &groups, batch, asked_at + self.timeout).await;
            for (number, question) in batch.iter().enumerate() {
                let truth = match response.as_ref().map(|response| response.result.get(&number.to_string())) {
                    Ok(Some(CheckResult { error: None, allowed })) => {
                        self.cache.put(key(question), *allowed, asked_at);
                        truth(*allowed)
                    }
                    Ok(Some(CheckResult { error: Some(error), .. })) => Truth::Failed(check_failure(error)),
                    Ok(None) => Truth::Failed("OpenFGA left the question out".to_owned()),
                    Err(error) => Truth::Failed(error.to_string()),
                };
                metrics.relations(if matches!(truth, Truth::Failed(_)) { "failed" } else { "fetched" }, 1);
                answers.push(((*question).clone(), truth));
            }
        }
        answers.into_iter().collect()
    }

    async fn batch_check(
        &self,
        store: &OpenFgaStore,
        user: &str,
        groups: &[TupleKey],
        questions: &[&RelationQuestion],
        deadline: Instant,
    ) -> Result<BatchCheckResponse, OpenFgaRequestError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let response = match timeout(left, self.send(store, user, groups, questions)).await {
            Ok(response) => response,
            Err(_) => Err(OpenFgaRequestError::Timeout(self.timeout)),
        };
        response.inspect_err(|error| {
            tracing::warn!(%error, store = %store.store, "OpenFGA request failed; the relations give nothing");
        })
    }

    async fn send(
        &self,
        store: &OpenFgaStore,
        user: &str,
        groups: &[TupleKey],
        questions: &[&RelationQuestion],
    ) -> Result<BatchCheckResponse, OpenFgaRequestError> {
        let _permit = self.permits.acquire().await?;
        let checks = questions.iter().enumerate().map(|(number, question)| BatchCheckItem {
            tuple_key: TupleKey {
                user: user.to_owned(),
                relation: question.relation.to_string(),
                object: names::object(&question.object),
            },
            contextual_tuples: ContextualTuples { tuple_keys: groups },
            correlation_id: number.to_string(),
        });
        let body = BatchCheckRequest { authorization_model_id: store.model.as_str(), checks: checks.collect() };
        let mut url = self.url.clone();
        let mut segments = url.path_segments_mut().map_err(|()| OpenFgaRequestError::UrlWithoutPath)?;
        segments.pop_if_empty().extend(["stores", store.store.as_str(), "batch-check"]);
        drop(segments);
        let mut request = self.client().await?.post(url).json(&body);
        if let Some(token) = self.token().await? {
            request = request.header(AUTHORIZATION, token);
        }
        let mut response = request.send().await.map_err(OpenFgaRequestError::Unreachable)?;
        let status = response.status();
        if !status.is_success() {
            return Err(OpenFgaRequestError::Status(status));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(OpenFgaRequestError::Unreachable)? {
            if body.len() + chunk.len() > MAX_RESPONSE {
                return Err(OpenFgaRequestError::TooLarge(MAX_RESPONSE));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(OpenFgaRequestError::Unreadable)
    }

    /// A client that trusts the roots that are in the file now.
    async fn client(&self) -> Result<reqwest::Client, OpenFgaRequestError> {
        let roots = match &self.roots {
            None => Vec::new(),
            Some(file) => {
                let read = tokio::fs::read(file).await;
                read.map_err(|source| OpenFgaRequestError::RootsFile { file: file.clone(), source })?
            }
        };
        if let Some(client) = self.client.load().as_ref()
            && client.roots == roots
        {
            return Ok(client.http.clone());
        }
        let mut builder = restricted_client().timeout(self.timeout).no_proxy();
        if let Some(file) = &self.roots {
            let unusable = |error: &dyn std::fmt::Display| OpenFgaRequestError::Roots {
                file: file.clone(),
                message: error.to_string(),
            };
            let certificates = CertificateDer::pem_slice_iter(&roots).collect::<Result<Vec<_>, _>>();
            let certificates = certificates.map_err(|error| unusable(&error))?;
            let trusted = certificates.iter().map(|der| reqwest::Certificate::from_der(der));
            let trusted = trusted.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(&error))?;
            builder = builder.tls_certs_only(trusted);
        }
        let http = builder.build().map_err(OpenFgaRequestError::Client)?;
        self.client.store(Some(Arc::new(HttpClient { roots, http: http.clone() })));
        Ok(http)
    }

    /// The `Authorization` header, marked so that no log shows it.
    async fn token(&self) -> Result<Option<HeaderValue>, OpenFgaRequestError> {
        let Some(file) = &self.token else { return Ok(None) };
        let unreadable = || OpenFgaRequestError::Token(file.clone());
        let token = Zeroizing::new(tokio::fs::read_to_string(file).await.map_err(|_| unreadable())?);
        let text = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut header = HeaderValue::from_str(&text).map_err(|_| unreadable())?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

/// A failed answer to each question of a decision.
pub fn failed(questions: &RelationQuestions<'_>, cause: &str) -> RelationAnswers {
    questions
        .questions
        .iter()
        .map(|question| (question.clone(), Truth::Failed(cause.to_owned())))
        .take(MAX_QUESTIONS)
        .collect()
}

fn truth(holds: bool) -> Truth {
    if holds { Truth::True } else { Truth::False }
}

/// The error code of a check, shortened.
fn check_failure(error: &serde_json::Value) -> String {
    let code = ["input_error", "internal_error"].iter().find_map(|kind| error.get(kind)?.as_str());
    format!(
        "OpenFGA answered with an error: {}",
        code.unwrap_or("no reason given").chars().take(100).collect::<String>()
    )
}
