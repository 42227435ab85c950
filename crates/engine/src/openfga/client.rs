//! Asking the server: in batches, within a time, and what goes wrong is a failed answer.

use super::cache::{Answered, Key};
use super::model::has_groups;
use super::names::{self, TupleKey};
use crate::metrics::Metrics;
use arc_swap::ArcSwapOption;
use durward_authn::{careful, is_secure};
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

/// Most questions in one batch, as OpenFGA takes them unless it is told otherwise.
const BATCH: usize = 50;
/// Most questions of one decision.
const MAX_QUESTIONS: usize = 100;
/// Most groups of one caller: OpenFGA takes so many tuples with a question.
const MAX_GROUPS: usize = 100;
/// Longest object, in bytes, as OpenFGA takes it.
const MAX_OBJECT: usize = 256;
/// Most batches that are under way at once.
const AT_ONCE: usize = 64;
/// Largest answer that is read, in bytes: fifty answers are some kilobytes.
const MAX_ANSWER: usize = 256 * 1024;
/// Longest wait, and longest that an answer counts.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(10);
const LONGEST_CACHE: Duration = Duration::from_secs(300);

/// The OpenFGA server of an installation.
#[derive(Debug, Clone, clap::Args)]
pub struct Settings {
    /// OpenFGA server that policies with `relationEngine` are decided by: https, or http on this host
    #[arg(long, value_name = "URL", env = "DURWARD_OPENFGA_URL")]
    openfga_url: Option<Url>,
    /// File with the API token for it; read anew each time
    #[arg(long, value_name = "FILE", requires = "openfga_url")]
    openfga_token_file: Option<PathBuf>,
    /// Roots by which it is verified, in PEM, in place of the web's; read anew each time
    #[arg(long, value_name = "FILE", requires = "openfga_url")]
    openfga_ca_file: Option<PathBuf>,
    /// How long it may take to answer, up to 10s; beyond, a grant by relation gives nothing
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = waits)]
    openfga_timeout: Duration,
    /// How long an answer counts, up to 5m; `0s` asks each time
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = lasts)]
    openfga_cache: Duration,
}

fn waits(text: &str) -> Result<Duration, String> {
    let parsed =
        durward_runtime::duration::duration(text).ok().filter(|wait| !wait.is_zero() && *wait <= LONGEST_TIMEOUT);
    parsed.ok_or_else(|| format!("`{text}` is no time up to 10s, such as `500ms`"))
}

fn lasts(text: &str) -> Result<Duration, String> {
    let parsed = durward_runtime::duration::duration(text).ok().filter(|lasts| *lasts <= LONGEST_CACHE);
    parsed.ok_or_else(|| format!("`{text}` is no time up to 5m, such as `5s`"))
}

/// The client of an OpenFGA server.
#[derive(Debug)]
pub struct OpenFga {
    url: Url,
    token: Option<PathBuf>,
    roots: Option<PathBuf>,
    timeout: Duration,
    answered: Answered,
    permits: Semaphore,
    client: ArcSwapOption<Client>,
}

/// A client, with the roots that it was made of.
#[derive(Debug)]
struct Client {
    roots: Vec<u8>,
    http: reqwest::Client,
}

/// `BatchCheck` of OpenFGA's HTTP API.
#[derive(Serialize)]
struct BatchCheck<'a> {
    authorization_model_id: &'a str,
    checks: Vec<Check<'a>>,
}

#[derive(Serialize)]
struct Check<'a> {
    tuple_key: TupleKey,
    contextual_tuples: Contextual<'a>,
    correlation_id: String,
}

#[derive(Serialize)]
struct Contextual<'a> {
    tuple_keys: &'a [TupleKey],
}

#[derive(Deserialize)]
struct Checked {
    result: HashMap<String, Said>,
}

#[derive(Deserialize)]
struct Said {
    // absent where it is false
    #[serde(default)]
    allowed: bool,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl OpenFga {
    /// The client, if there is a server.
    ///
    /// # Errors
    /// When its address would carry questions and token in the clear.
    pub fn new(settings: Settings) -> Result<Option<Self>, String> {
        let Some(url) = settings.openfga_url else { return Ok(None) };
        if !is_secure(&url) {
            return Err(format!("--openfga-url {url}: OpenFGA is asked by https, or by http on this host only"));
        }
        Ok(Some(Self {
            url,
            token: settings.openfga_token_file,
            roots: settings.openfga_ca_file,
            timeout: settings.openfga_timeout,
            answered: Answered::new(settings.openfga_cache),
            permits: Semaphore::new(AT_ONCE),
            client: ArcSwapOption::empty(),
        }))
    }

    /// Asks what a decision needs to know of the caller's relations.
    pub async fn answers(
        &self,
        questions: &RelationQuestions<'_>,
        caller: &Identity,
        revision: Digest,
        metrics: &Metrics,
    ) -> RelationAnswers {
        let groups = if has_groups(questions.model) { names::groups(caller) } else { Vec::new() };
        if groups.len() > MAX_GROUPS {
            return failed(questions, &format!("the caller has more than {MAX_GROUPS} groups"));
        }
        let user = names::principal(&caller.id);
        let texts = [user.as_bytes()].into_iter().chain(groups.iter().map(|group| group.object.as_bytes()));
        let digest = Digest::of(texts);
        let key = |question: &RelationQuestion| Key {
            revision,
            store: questions.store.clone(),
            caller: digest,
            question: question.clone(),
        };
        let (mut answers, mut open) = (Vec::new(), Vec::new());
        // what is too long fails unasked, and is not remembered either
        let fitting = questions.questions.iter().filter(|question| names::object(&question.object).len() <= MAX_OBJECT);
        for question in fitting.take(MAX_QUESTIONS) {
            match self.answered.get(&key(question)) {
                Some(holds) => answers.push((question.clone(), truth(holds))),
                None => open.push(question),
            }
        }
        metrics.relations("remembered", answers.len());
        let asked = Instant::now();
        for batch in open.chunks(BATCH) {
            let left = self.timeout.saturating_sub(asked.elapsed());
            let said = timeout(left, self.batch(questions.store, &user, &groups, batch)).await;
            let said = said.unwrap_or_else(|_| Err(format!("OpenFGA did not answer within {:?}", self.timeout)));
            if let Err(error) = &said {
                tracing::warn!(%error, store = %questions.store.store, "relations could not be asked of OpenFGA");
            }
            for (number, question) in batch.iter().enumerate() {
                let truth = match said.as_ref().map(|said| said.result.get(&number.to_string())) {
                    Ok(Some(Said { error: None, allowed })) => {
                        self.answered.put(key(question), *allowed, asked);
                        truth(*allowed)
                    }
                    Ok(Some(Said { error: Some(error), .. })) => Truth::Failed(described(error)),
                    Ok(None) => Truth::Failed("OpenFGA left the question out".to_owned()),
                    Err(error) => Truth::Failed(error.clone()),
                };
                metrics.relations(if matches!(truth, Truth::Failed(_)) { "failed" } else { "asked" }, 1);
                answers.push(((*question).clone(), truth));
            }
        }
        answers.into_iter().collect()
    }

    async fn batch(
        &self,
        store: &OpenFgaStore,
        user: &str,
        groups: &[TupleKey],
        questions: &[&RelationQuestion],
    ) -> Result<Checked, String> {
        let _permit = self.permits.acquire().await.map_err(|error| error.to_string())?;
        let checks = questions.iter().enumerate().map(|(number, question)| Check {
            tuple_key: TupleKey {
                user: user.to_owned(),
                relation: question.relation.to_string(),
                object: names::object(&question.object),
            },
            contextual_tuples: Contextual { tuple_keys: groups },
            correlation_id: number.to_string(),
        });
        let body = BatchCheck { authorization_model_id: store.model.as_str(), checks: checks.collect() };
        let mut url = self.url.clone();
        let segments = url.path_segments_mut().map_err(|()| "the URL of OpenFGA has no path".to_owned());
        segments?.pop_if_empty().extend(["stores", store.store.as_str(), "batch-check"]);
        let mut request = self.client().await?.post(url).json(&body);
        if let Some(token) = self.token().await? {
            request = request.header(AUTHORIZATION, token);
        }
        let mut response = request.send().await.map_err(|error| describe(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(format!("OpenFGA answered {status}"));
        }
        let mut read = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| describe(&error))? {
            if read.len() + chunk.len() > MAX_ANSWER {
                return Err(format!("OpenFGA answered with more than {MAX_ANSWER} bytes"));
            }
            read.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&read).map_err(|error| format!("the answer of OpenFGA can't be read: {error}"))
    }

    /// A client that believes the roots that are in the file now.
    async fn client(&self) -> Result<reqwest::Client, String> {
        let roots = match &self.roots {
            None => Vec::new(),
            Some(file) => tokio::fs::read(file)
                .await
                .map_err(|error| format!("can't read the roots of OpenFGA in {}: {error}", file.display()))?,
        };
        if let Some(client) = self.client.load().as_ref().filter(|client| client.roots == roots) {
            return Ok(client.http.clone());
        }
        let mut builder = careful().timeout(self.timeout).no_proxy();
        if let Some(file) = &self.roots {
            let bad = |error: &dyn std::fmt::Display| format!("roots of OpenFGA in {}: {error}", file.display());
            let pems = CertificateDer::pem_slice_iter(&roots).collect::<Result<Vec<_>, _>>().map_err(|e| bad(&e))?;
            let roots = pems.iter().map(|der| reqwest::Certificate::from_der(der)).collect::<Result<Vec<_>, _>>();
            builder = builder.tls_certs_only(roots.map_err(|error| bad(&error))?);
        }
        let http = builder.build().map_err(|error| error.to_string())?;
        self.client.store(Some(Arc::new(Client { roots, http: http.clone() })));
        Ok(http)
    }

    /// The `Authorization` header, which no log shows.
    async fn token(&self) -> Result<Option<HeaderValue>, String> {
        let Some(file) = &self.token else { return Ok(None) };
        let unreadable = || format!("can't read the token for OpenFGA in {}", file.display());
        let token = Zeroizing::new(tokio::fs::read_to_string(file).await.map_err(|_| unreadable())?);
        let text = Zeroizing::new(format!("Bearer {}", token.trim()));
        let mut header = HeaderValue::from_str(&text).map_err(|_| unreadable())?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

/// All questions of a decision, failed for one reason.
pub fn failed(questions: &RelationQuestions<'_>, why: &str) -> RelationAnswers {
    questions
        .questions
        .iter()
        .map(|question| (question.clone(), Truth::Failed(why.to_owned())))
        .take(MAX_QUESTIONS)
        .collect()
}

fn truth(holds: bool) -> Truth {
    if holds { Truth::True } else { Truth::False }
}

/// The last cause of an error, which names no more of the request than its address.
fn describe(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| format!("OpenFGA can't be reached: {error}"), describe)
}

/// What the server says is wrong with a question, cut.
fn described(error: &serde_json::Value) -> String {
    let code = ["input_error", "internal_error"].iter().find_map(|kind| error.get(kind)?.as_str());
    format!("OpenFGA could not tell: {}", code.unwrap_or("no reason given").chars().take(100).collect::<String>())
}
