//! The snapshot stream: a gate is told what its own pod is to decide by, and each change of it.
//!
//! Lines of JSON, on the token listener. Who asks proves to be a pod as at the mint; it is told of the services that it is, by
//! the selectors of policies in its namespace, and of nothing else.

use crate::approval::{Given, Seal, asked};
use crate::authn::{KeySource, api_key};
use crate::doors::mint;
use crate::engine::Engine;
use crate::identity::{Mint, MintError};
use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::Utc;
use durward_api::relationships::RelationshipKey;
use durward_api::resources::{AccessPolicy, Approval, ApprovalSpec, IdentityProvider, LastTuples, Relationship};
use durward_core::approval::Matter;
use durward_core::policy::{Labels, PolicyKey};
use durward_core::snapshot::Snapshot;
use durward_pki::serial::Tag;
use durward_pki::token::Jwk;
use futures::stream::unfold;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use url::Url;

/// Where gates follow it.
pub(crate) const PATH: &str = "/snapshot";
/// Where they ask for approvals.
pub(crate) const APPROVALS_PATH: &str = "/snapshot/approvals";
/// Where they tell which API keys were used.
pub(crate) const USES_PATH: &str = "/snapshot/key-uses";
/// Uses that are told at once: each is at most 350 bytes, by the longest names of providers and keys.
pub(crate) const USES: usize = 10;
/// Largest question, in bytes.
const MAX_BODY: usize = 4 * 1024;
/// How often something is said, so that a gate knows that it is not forgotten.
pub(crate) const BEAT: Duration = Duration::from_secs(5);
/// How long one stream lasts: then the pod proves anew that it lives, and which labels it has.
const LONGEST: Duration = Duration::from_secs(300);

/// Annotations of Namespaces on which policies depend.
pub(crate) type Annotations = BTreeMap<String, String>;

/// Everything that gates can be told of, at one moment. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Resources {
    /// By which it is known who is which service.
    pub(crate) snapshot: Snapshot,
    /// The policies in force, each in the version that is.
    pub(crate) policies: imbl::OrdMap<PolicyKey, InForce>,
    /// Tuples, each with the audience of the service that they are about.
    pub(crate) relationships: imbl::OrdMap<RelationshipKey, (Arc<str>, Arc<RawValue>)>,
    /// Those of which no version that was in force is known.
    pub(crate) lost: imbl::OrdMap<RelationshipKey, LastTuples>,
    pub(crate) namespaces: imbl::HashMap<String, Annotations>,
    pub(crate) providers: Arc<Vec<IdentityProvider>>,
    /// Secrets with hashes of API keys.
    pub(crate) secrets: Arc<Vec<Secret>>,
    /// What people let happen.
    pub(crate) approvals: Given,
}

/// A policy, in the version that is in force, or was last.
#[derive(Clone)]
pub(crate) struct InForce {
    /// Whether it still is.
    pub(crate) in_force: bool,
    pub(crate) audience: Arc<str>,
    /// Providers that it accepts.
    pub(crate) providers: Arc<[Arc<str>]>,
    /// The resource.
    pub(crate) json: Arc<RawValue>,
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Line<P, R> {
    /// What to decide by from now on, in place of everything before.
    Resources(Box<Told<P, R>>),
    /// What was issued for these counts no more.
    Gone(Vec<Tag>),
    /// Nothing changed.
    Beat,
}

/// What a gate decides by.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told<P, R> {
    pub(crate) policies: Vec<P>,
    pub(crate) relationships: Vec<R>,
    /// Relationships of which it is known only that they were in force.
    #[serde(default)]
    pub(crate) lost_relationships: Vec<Lost>,
    /// Those that the policies accept.
    pub(crate) providers: Vec<IdentityProvider>,
    /// Hashes of API keys, of these providers alone.
    pub(crate) secrets: Vec<Secret>,
    pub(crate) namespaces: BTreeMap<String, Annotations>,
    /// Labels of all Namespaces, as far as rules ask for them.
    #[serde(default)]
    pub(crate) namespace_labels: BTreeMap<String, Labels>,
    /// Issuer of the cluster's service-account tokens, and its keys.
    pub(crate) service_accounts: Option<(String, String)>,
    /// What people let happen by these policies, each as it was signed.
    #[serde(default)]
    pub(crate) approvals: Vec<Approval>,
    /// Keys by which the gate verifies that.
    #[serde(default)]
    pub(crate) approval_keys: Vec<Jwk>,
    /// Where people show the second factor that a challenge asks for.
    #[serde(default)]
    pub(crate) step_up: Option<Url>,
}

/// As a gate reads it.
pub(crate) type Heard = Line<AccessPolicy, Relationship>;

/// A Relationship by namespace and name, and what is remembered of it.
pub(crate) type Lost = (String, String, LastTuples);

/// An API key that was used at a gate: provider, name, and when, in seconds since 1970.
pub(crate) type Used = (String, String, i64);

/// What the door needs.
#[derive(Clone)]
pub(crate) struct Snapshots {
    pub(crate) mint: Mint,
    pub(crate) resources: watch::Receiver<Resources>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) seal: Seal,
    /// Ends every stream.
    pub(crate) closing: CancellationToken,
}

/// A pod that is told.
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Resources {
    /// What concerns one pod.
    fn of(&self, pod: &Pod) -> Told<Arc<RawValue>, Arc<RawValue>> {
        let services = self.snapshot.services_of_pod(&pod.namespace, &pod.labels);
        // of a service that is closed nothing is told: what is left of its policies would allow too much
        let services: Vec<_> = services.filter(|service| service.closed_by().is_empty()).collect();
        let audiences: BTreeSet<_> = services.iter().map(|service| Arc::clone(&service.key().audience)).collect();
        let asked: BTreeSet<_> = services.iter().flat_map(|service| service.namespace_labels()).collect();
        let first = PolicyKey { namespace: pod.namespace.as_str().into(), name: "".into() };
        let own = self.policies.range(first..).take_while(|(key, _)| key.namespace.as_ref() == pod.namespace);
        let own: BTreeMap<_, _> =
            own.filter(|(_, policy)| policy.in_force && audiences.contains(&policy.audience)).collect();
        let accepted: BTreeSet<_> =
            own.values().flat_map(|policy| policy.providers.iter().map(AsRef::as_ref)).collect();
        let named = |provider: &&IdentityProvider| {
            provider.metadata.name.as_deref().is_some_and(|name| accepted.contains(name))
        };
        let providers: Vec<_> = self.providers.iter().filter(named).cloned().collect();
        let keys = |secret: &&Secret| {
            let mut selectors = providers.iter().filter_map(|provider| provider.spec.api_key.as_ref());
            selectors.any(|provider| api_key::selects(&provider.selector, secret))
        };
        let related = in_namespace(&self.relationships, &pod.namespace);
        let related = related.filter(|(_, (audience, _))| audiences.contains(audience));
        let lost = in_namespace(&self.lost, &pod.namespace);
        let lost = lost.filter(|(_, last)| audiences.contains(last.service.as_str()));
        let first = (pod.namespace.clone(), String::new());
        let given = self.approvals.range(first..).take_while(|((namespace, _), _)| *namespace == pod.namespace);
        let given = given.filter(|(_, (matter, _))| own.contains_key(&matter.policy));
        let annotations = self.namespaces.get(&pod.namespace).cloned().unwrap_or_default();
        Told {
            policies: own.values().map(|policy| Arc::clone(&policy.json)).collect(),
            relationships: related.map(|(_, (_, json))| Arc::clone(json)).collect(),
            lost_relationships: lost
                .map(|(key, last)| (key.namespace.to_string(), key.name.to_string(), last.clone()))
                .collect(),
            secrets: self.secrets.iter().filter(keys).map(hashes).collect(),
            providers,
            namespaces: BTreeMap::from([(pod.namespace.clone(), annotations)]),
            namespace_labels: self.labels(&asked),
            service_accounts: None,
            approvals: given.map(|(_, (_, approval))| signed(approval)).collect(),
            approval_keys: Vec::new(),
            step_up: None,
        }
    }

    /// Uses of API keys that a pod can know of: of providers that its services accept, and none to come.
    fn believed(&self, pod: &Pod, uses: Vec<Used>, now: i64) -> Vec<Used> {
        let accepted = self.of(pod).providers;
        let knows = |provider: &str| accepted.iter().any(|one| one.metadata.name.as_deref() == Some(provider));
        uses.into_iter().filter(|(provider, _, at)| *at <= now && knows(provider)).collect()
    }

    /// How many policies a pod of a namespace, without labels, is told of.
    #[cfg(test)]
    pub(crate) fn policies_of(&self, namespace: &str) -> usize {
        self.of(&Pod { namespace: namespace.to_owned(), labels: BTreeMap::new() }).policies.len()
    }

    /// How many Relationships such a pod is told of, and how many of them are lost.
    #[cfg(test)]
    pub(crate) fn relationships_of(&self, namespace: &str) -> (usize, usize) {
        let told = self.of(&Pod { namespace: namespace.to_owned(), labels: BTreeMap::new() });
        (told.relationships.len(), told.lost_relationships.len())
    }

    /// Every Namespace with those of its labels that are asked for; none at all if none is.
    fn labels(&self, asked: &BTreeSet<&str>) -> BTreeMap<String, Labels> {
        let told = self.snapshot.labels().filter(|_| !asked.is_empty()).map(|(namespace, labels)| {
            let labels = labels.iter().filter(|(name, _)| asked.contains(name.as_str()));
            (namespace.to_string(), labels.map(|(name, value)| (name.clone(), value.clone())).collect())
        });
        told.collect()
    }
}

/// The entries of one namespace.
fn in_namespace<'m, V>(
    all: &'m imbl::OrdMap<RelationshipKey, V>,
    namespace: &'m str,
) -> impl Iterator<Item = (&'m RelationshipKey, &'m V)> {
    let first = RelationshipKey { namespace: namespace.into(), name: "".into() };
    all.range(first..).take_while(move |(key, _)| key.namespace.as_ref() == namespace)
}

/// A Secret with what authentication reads of it, and nothing else.
fn hashes(secret: &Secret) -> Secret {
    let mut told = Secret { data: secret.data.clone(), ..Secret::default() };
    told.metadata.name.clone_from(&secret.metadata.name);
    told.metadata.namespace.clone_from(&secret.metadata.namespace);
    told.metadata.labels.clone_from(&secret.metadata.labels);
    told
}

/// An approval with what its signature is about.
fn signed(approval: &Approval) -> Approval {
    let mut told = Approval::new("", approval.spec.clone());
    told.metadata.name.clone_from(&approval.metadata.name);
    told.metadata.namespace.clone_from(&approval.metadata.namespace);
    told.metadata.uid.clone_from(&approval.metadata.uid);
    told.status.clone_from(&approval.status);
    told
}

/// The stream as a router.
pub(crate) fn router(snapshots: Snapshots) -> Router {
    Router::new()
        .route(PATH, get(stream))
        .route(APPROVALS_PATH, post(want))
        .route(USES_PATH, post(used))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(snapshots)
}

impl Snapshots {
    async fn pod(&self, headers: &HeaderMap) -> Result<Pod, MintError> {
        self.mint.pod(mint::credential(headers)?).await
    }
}

/// A gate asks for what a caller of its service lacks: it has no word at the API server.
async fn want(
    State(this): State<Snapshots>,
    headers: HeaderMap,
    body: Result<Json<ApprovalSpec>, JsonRejection>,
) -> Response {
    let pod = match this.pod(&headers).await {
        Ok(pod) => pod,
        Err(error) => return mint::refusal(error),
    };
    let snapshot = this.engine.snapshot();
    let matter = body.ok().and_then(|Json(spec)| wanted(&snapshot, &pod, &spec));
    let Some(matter) = matter else {
        return mint::refusal(MintError::Invalid("nothing that this pod could ask for".to_owned()));
    };
    this.engine.want(&matter);
    (StatusCode::ACCEPTED, Json(json!({}))).into_response()
}

/// What a pod may ask for: operations of its own services that ask for an approval.
fn wanted(snapshot: &Snapshot, pod: &Pod, spec: &ApprovalSpec) -> Option<Matter> {
    let matter = asked(&pod.namespace, spec)?;
    let (service, _) = snapshot.approvers(&matter)?;
    let mut own = snapshot.services_of_pod(&pod.namespace, &pod.labels);
    own.any(|one| one.key() == service.key()).then_some(matter)
}

/// A gate tells which API keys were used there: whoever lists keys asks the controller.
async fn used(
    State(this): State<Snapshots>,
    headers: HeaderMap,
    body: Result<Json<Vec<Used>>, JsonRejection>,
) -> Response {
    let pod = match this.pod(&headers).await {
        Ok(pod) => pod,
        Err(error) => return mint::refusal(error),
    };
    let Ok(Json(all)) = body else {
        return mint::refusal(MintError::Invalid("no uses of API keys".to_owned()));
    };
    let resources = this.resources.borrow().clone();
    for (provider, name, at) in resources.believed(&pod, all, Utc::now().timestamp()) {
        this.engine.authenticator().key_used(&provider, &name, at);
    }
    (StatusCode::ACCEPTED, Json(json!({}))).into_response()
}

async fn stream(State(this): State<Snapshots>, headers: HeaderMap) -> Response {
    let pod = match this.pod(&headers).await {
        Ok(pod) => pod,
        Err(error) => return mint::refusal(error),
    };
    let stream = Stream {
        pod,
        resources: this.resources,
        engine: this.engine,
        seal: this.seal,
        said: Bytes::new(),
        gone: BTreeSet::new(),
        end: Instant::now() + LONGEST,
    };
    let closing = this.closing;
    let lines = unfold(stream, move |mut stream| {
        let closing = closing.clone();
        async move {
            let line = tokio::select! {
                line = stream.next() => line?,
                () = closing.cancelled_owned() => return None,
            };
            Some((Ok::<_, Infallible>(line), stream))
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], Body::from_stream(lines))
        .into_response()
}

struct Stream {
    pod: Pod,
    resources: watch::Receiver<Resources>,
    engine: Arc<Engine>,
    seal: Seal,
    /// What was told last.
    said: Bytes,
    /// Those that were told to be gone.
    gone: BTreeSet<Tag>,
    end: Instant,
}

impl Stream {
    /// The next line, as soon as there is something new to tell, or at the next beat.
    async fn next(&mut self) -> Option<Bytes> {
        let beat = sleep(BEAT);
        tokio::pin!(beat);
        loop {
            let resources = self.resources.borrow_and_update().clone();
            let mut told = resources.of(&self.pod);
            told.service_accounts = self.service_accounts();
            told.approval_keys = self.seal.public();
            told.step_up = self.engine.step_up_page().map(|page| Url::clone(&page));
            let line = line(&Line::Resources(Box::new(told)))?;
            if line != self.said {
                self.said = line.clone();
                return Some(line);
            }
            let gone = self.engine.authenticator().gone();
            if gone != self.gone {
                let news = gone.difference(&self.gone).copied().collect::<Vec<_>>();
                self.gone = gone;
                if !news.is_empty() {
                    return self::line(&Line::<(), ()>::Gone(news));
                }
            }
            tokio::select! {
                changed = self.resources.changed() => changed.ok()?,
                () = &mut beat => return self::line(&Line::<(), ()>::Beat),
                () = sleep_until(self.end) => return None,
            }
        }
    }

    fn service_accounts(&self) -> Option<(String, String)> {
        let issuer = self.engine.authenticator().service_accounts()?;
        if let KeySource::Inline(jwks) = issuer.keys { Some((issuer.issuer, jwks)) } else { None }
    }
}

fn line<P: Serialize, R: Serialize>(line: &Line<P, R>) -> Option<Bytes> {
    let mut text =
        serde_json::to_vec(line).inspect_err(|error| tracing::error!(%error, "a line of the snapshot stream")).ok()?;
    text.push(b'\n');
    Some(text.into())
}

#[cfg(test)]
mod tests;
