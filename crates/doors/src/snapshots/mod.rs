//! The snapshot stream: a gate is told what its own pod is to decide by, and each change of it.
//!
//! Lines of JSON, on the token listener. Who asks proves to be a pod as at the mint; it is told of the services that it is, by
//! the selectors of policies in its namespace, and of nothing else.

use crate::mint;
use axum::body::{Body, Bytes};
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::Utc;
use durward_api::resources::{Approval, ApprovalSpec, IdentityProvider, LastGoodTuples};
use durward_api::translation::approval_subject;
use durward_approvals::{GrantedApprovals, ApprovalSeal};
use durward_authn::{Authenticator, KeySource, api_key};
use durward_core::approval::ApprovalSubject;
use durward_core::labels::Labels;
use durward_core::namespaced_name::NamespacedName;
use durward_core::snapshot::Snapshot;
use durward_engine::Engine;
use durward_identity::LabelledPod;
use durward_identity::{CertificateMint, MintError};
use durward_pki::serial::UidTag;
use durward_protocol::snapshot::{APPROVALS_PATH, NamespaceAnnotations, HEARTBEAT_INTERVAL, SnapshotLine, SNAPSHOT_PATH, SnapshotResources, KEY_USES_PATH, KeyUse};
use futures::stream::unfold;
use k8s_openapi::api::core::v1::Secret;
use serde::Serialize;
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

/// Largest question, in bytes.
const MAX_BODY: usize = 4 * 1024;
/// How long one stream lasts: then the pod proves anew that it lives, and which labels it has.
const LONGEST: Duration = Duration::from_secs(300);

/// Everything that gates can be told of, at one moment. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    /// By which it is known who is which service.
    pub snapshot: Snapshot,
    /// The policies in force, each in the version that is.
    pub policies: imbl::OrdMap<NamespacedName, InForce>,
    /// Tuples, each with the audience of the service that they are about.
    pub relationships: imbl::OrdMap<NamespacedName, (Arc<str>, Arc<RawValue>)>,
    /// Those of which no version that was in force is known.
    pub lost: imbl::OrdMap<NamespacedName, LastGoodTuples>,
    pub namespaces: imbl::HashMap<String, NamespaceAnnotations>,
    pub providers: Arc<Vec<IdentityProvider>>,
    /// Secrets with hashes of API keys.
    pub secrets: Arc<Vec<Secret>>,
    /// What people let happen.
    pub approvals: GrantedApprovals,
}

/// A policy, in the version that is in force, or was last.
#[derive(Debug, Clone)]
pub struct InForce {
    /// Whether it still is.
    pub in_force: bool,
    pub audience: Arc<str>,
    /// Providers that it accepts.
    pub providers: Arc<[Arc<str>]>,
    /// The resource.
    pub json: Arc<RawValue>,
}

/// What the door needs.
#[derive(Debug, Clone)]
pub struct Snapshots {
    pub mint: CertificateMint,
    pub resources: watch::Receiver<Resources>,
    pub engine: Arc<Engine>,
    pub authenticator: Arc<Authenticator>,
    pub seal: ApprovalSeal,
    /// Ends every stream.
    pub closing: CancellationToken,
}

impl Resources {
    /// What concerns one pod.
    pub fn of(&self, pod: &LabelledPod) -> SnapshotResources<Arc<RawValue>, Arc<RawValue>> {
        let services = self.snapshot.services_of_pod(&pod.namespace, &pod.labels);
        // of a service that is closed nothing is told: what is left of its policies would allow too much
        let services: Vec<_> = services.filter(|service| service.closed_by().is_empty()).collect();
        let audiences: BTreeSet<_> = services.iter().map(|service| Arc::clone(&service.key().audience)).collect();
        let asked: BTreeSet<_> = services.iter().flat_map(|service| service.namespace_labels()).collect();
        let first = NamespacedName { namespace: pod.namespace.as_str().into(), name: "".into() };
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
        SnapshotResources {
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
    fn believed(&self, pod: &LabelledPod, uses: Vec<KeyUse>, now: i64) -> Vec<KeyUse> {
        let accepted = self.of(pod).providers;
        let knows = |provider: &str| accepted.iter().any(|one| one.metadata.name.as_deref() == Some(provider));
        uses.into_iter().filter(|(provider, _, at)| *at <= now && knows(provider)).collect()
    }

    /// Every Namespace with those of its labels that are asked for; none at all if none is.
    fn labels(&self, asked: &BTreeSet<&str>) -> BTreeMap<String, Labels> {
        let told = self.snapshot.namespace_labels().filter(|_| !asked.is_empty()).map(|(namespace, labels)| {
            let labels = labels.iter().filter(|(name, _)| asked.contains(name.as_str()));
            (namespace.to_string(), labels.map(|(name, value)| (name.clone(), value.clone())).collect())
        });
        told.collect()
    }
}

/// The entries of one namespace.
fn in_namespace<'m, V>(
    all: &'m imbl::OrdMap<NamespacedName, V>,
    namespace: &'m str,
) -> impl Iterator<Item = (&'m NamespacedName, &'m V)> {
    let first = NamespacedName { namespace: namespace.into(), name: "".into() };
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
pub fn router(snapshots: Snapshots) -> Router {
    Router::new()
        .route(SNAPSHOT_PATH, get(stream))
        .route(APPROVALS_PATH, post(want))
        .route(KEY_USES_PATH, post(used))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(snapshots)
}

impl Snapshots {
    async fn pod(&self, headers: &HeaderMap) -> Result<LabelledPod, MintError> {
        self.mint.pod_labels(mint::credential(headers)?).await
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
fn wanted(snapshot: &Snapshot, pod: &LabelledPod, spec: &ApprovalSpec) -> Option<ApprovalSubject> {
    let matter = approval_subject(&pod.namespace, spec)?;
    let (service, _) = snapshot.approval_requirement(&matter)?;
    let mut own = snapshot.services_of_pod(&pod.namespace, &pod.labels);
    own.any(|one| one.key() == service.key()).then_some(matter)
}

/// A gate tells which API keys were used there: whoever lists keys asks the controller.
async fn used(
    State(this): State<Snapshots>,
    headers: HeaderMap,
    body: Result<Json<Vec<KeyUse>>, JsonRejection>,
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
        this.authenticator.record_key_use(&provider, &name, at);
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
        authenticator: this.authenticator,
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
    pod: LabelledPod,
    resources: watch::Receiver<Resources>,
    engine: Arc<Engine>,
    authenticator: Arc<Authenticator>,
    seal: ApprovalSeal,
    /// What was told last.
    said: Bytes,
    /// Those that were told to be gone.
    gone: BTreeSet<UidTag>,
    end: Instant,
}

impl Stream {
    /// The next line, as soon as there is something new to tell, or at the next beat.
    async fn next(&mut self) -> Option<Bytes> {
        let beat = sleep(HEARTBEAT_INTERVAL);
        tokio::pin!(beat);
        loop {
            let resources = self.resources.borrow_and_update().clone();
            let mut told = resources.of(&self.pod);
            told.service_accounts = self.service_accounts();
            told.approval_keys = self.seal.public_keys();
            told.step_up = self.engine.step_up_page().map(|page| Url::clone(&page));
            let line = line(&SnapshotLine::Resources(Box::new(told)))?;
            if line != self.said {
                self.said = line.clone();
                return Some(line);
            }
            let gone = self.authenticator.recently_deleted();
            if gone != self.gone {
                let news = gone.difference(&self.gone).copied().collect::<Vec<_>>();
                self.gone = gone;
                if !news.is_empty() {
                    return self::line(&SnapshotLine::<(), ()>::Gone(news));
                }
            }
            tokio::select! {
                changed = self.resources.changed() => changed.ok()?,
                () = &mut beat => return self::line(&SnapshotLine::<(), ()>::Beat),
                () = sleep_until(self.end) => return None,
            }
        }
    }

    fn service_accounts(&self) -> Option<(String, String)> {
        let issuer = self.authenticator.service_account_issuer()?;
        if let KeySource::Inline(jwks) = issuer.keys { Some((issuer.issuer, jwks)) } else { None }
    }
}

fn line<P: Serialize, R: Serialize>(line: &SnapshotLine<P, R>) -> Option<Bytes> {
    let mut text =
        serde_json::to_vec(line).inspect_err(|error| tracing::error!(%error, "a line of the snapshot stream")).ok()?;
    text.push(b'\n');
    Some(text.into())
}

#[cfg(test)]
mod tests;
