//! The signer of PodCertificateRequests (`certificates.k8s.io`).
//!
//! Only a definite "never" is answered with a denial, which is final for the pod's volume. Whatever may still come right
//! leaves the request pending: no policy yet, an API server that does not answer.

use crate::issuance::issue::{CertificateDenial, NOT_AS_STATED, issue};
use crate::issuance::pods;
use crate::issuance::served::{PodCertificateRequest, PodCertificateRequestSpec};
use crate::{Authorities, SIGNER_NAME};
use chrono::{DateTime, Utc};
use durward_core::digest::Digest;
use durward_core::pods::NotEntitled;
use durward_core::principal::PrincipalId;
use durward_engine::Engine;
use durward_engine::audit::issuance::{AboutPod, By, Issuance, Kind, Outcome};
use durward_engine::metrics::Metrics;
use durward_kubernetes::events::EventRecorder;
use durward_kubernetes::requests::{REQUEST_TIMEOUT, redacted, watch_backoff, with_timeout};
use durward_kubernetes::work_queue::WorkQueue;
use durward_runtime::Failure;
use durward_runtime::random::random_bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Node, ObjectReference, ServiceAccount};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::events::{Event, EventType};
use kube::runtime::watcher::{self, watcher};
use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests that are worked on at once.
const CONCURRENCY: usize = 32;

/// How long it is remembered that a service account or a node is the one of a UID.
const MOMENT: Duration = Duration::from_secs(2);
/// How many are.
const SEEN: usize = 4096;

/// Namespace and name of a request.
type Key = Arc<(String, String)>;

/// Signs for the pods that policies are about.
#[derive(Clone)]
pub struct PodCertificateSigner {
    client: Client,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    authorities: Authorities,
    requests: Arc<ApiResource>,
    trust_domain: Arc<str>,
    events: Arc<EventRecorder>,
    seen: Arc<Cache<String, Instant>>,
}

impl std::fmt::Debug for PodCertificateSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodCertificateSigner").finish_non_exhaustive()
    }
}

/// What became of a request.
enum Answer {
    /// IssuedCertificate or denied for good.
    Settled,
    /// By the policies of this revision the pod gets none, and its owner knows: whatever changes may change that.
    Waits(Digest, NotEntitled),
}

/// A request that is not settled.
struct Asked {
    key: Key,
    /// Of the request: an answer has to be about this version of it.
    version: Option<String>,
    since: DateTime<Utc>,
    spec: PodCertificateRequestSpec,
}

/// One with what the pod's owner was told.
struct Pending {
    asked: Arc<Asked>,
    told: Option<NotEntitled>,
}

/// All that are not settled, as far as the watch has told.
struct Desk {
    pending: HashMap<Key, Pending>,
    queue: WorkQueue<Key>,
    /// Those that policies leave without an answer.
    waiting: HashSet<Key>,
}

impl Desk {
    fn new() -> Self {
        Self { pending: HashMap::new(), queue: WorkQueue::new(), waiting: HashSet::new() }
    }

    fn hears(&mut self, event: watcher::Event<PodCertificateRequest>) {
        match event {
            watcher::Event::Apply(request) | watcher::Event::InitApply(request) => {
                let settled = request.is_settled();
                let asked = Asked::of(request);
                let key = Arc::clone(&asked.key);
                if settled {
                    self.forget(&key);
                } else if let Some(known) = self.pending.get_mut(&key) {
                    known.asked = Arc::new(asked);
                } else {
                    self.pending.insert(Arc::clone(&key), Pending { asked: Arc::new(asked), told: None });
                    self.queue.push(key, Duration::ZERO);
                }
            }
            watcher::Event::Delete(request) => self.forget(&Asked::of(request).key),
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    fn forget(&mut self, key: &Key) {
        self.pending.remove(key);
        self.waiting.remove(key);
        self.queue.forget(key);
    }

    /// Policies are others now.
    fn try_again(&mut self) {
        self.waiting.drain().for_each(|key| self.queue.push(key, Duration::ZERO));
    }
}

impl Asked {
    fn of(request: PodCertificateRequest) -> Self {
        let PodCertificateRequest { metadata, spec, .. } = request;
        let created = metadata.creation_timestamp.and_then(|at| DateTime::from_timestamp(at.0.as_second(), 0));
        Self {
            key: Arc::new((metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default())),
            version: metadata.resource_version,
            since: created.unwrap_or_else(Utc::now),
            spec,
        }
    }

    fn namespace(&self) -> &str {
        &self.key.0
    }

    fn name(&self) -> &str {
        &self.key.1
    }

    /// Its pod, as Events are told about it.
    fn pod(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(self.spec.pod_name.clone()),
            namespace: Some(self.namespace().to_owned()),
            uid: Some(self.spec.pod_uid.clone()),
            ..ObjectReference::default()
        }
    }
}

impl PodCertificateSigner {
    pub fn new(
        client: Client,
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
        authorities: Authorities,
        requests: ApiResource,
        trust_domain: &str,
        pod: &str,
    ) -> Self {
        let events = Arc::new(EventRecorder::new(client.clone(), "signer", pod));
        let seen = Arc::new(Cache::new(SEEN));
        let (requests, trust_domain) = (Arc::new(requests), trust_domain.into());
        Self { client, engine, metrics, authorities, requests, trust_domain, events, seen }
    }

    /// Answers requests while `leading`, until `shutdown`. Who does not lead does not hear of them: at ten thousand that would
    /// be a good part of the work and of the memory, and who comes to lead has them listed in moments.
    pub async fn run(self, mut leading: watch::Receiver<bool>, shutdown: CancellationToken) -> Result<(), Failure> {
        loop {
            tokio::select! {
                Ok(_) = leading.wait_for(|leads| *leads) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            self.lead(&mut leading, &shutdown).await;
            self.metrics.waiting(0);
        }
    }

    async fn lead(&self, leading: &mut watch::Receiver<bool>, shutdown: &CancellationToken) {
        let requests: Api<PodCertificateRequest> = Api::all_with(self.client.clone(), &*self.requests);
        let ours = watcher::Config::default().fields(&format!("spec.signerName={SIGNER_NAME}"));
        let mut events = pin!(watcher(requests, ours).backoff(watch_backoff()));
        let mut revisions = self.engine.revisions();
        let (mut desk, mut work) = (Desk::new(), FuturesUnordered::new());
        loop {
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(event) => desk.hears(event),
                    Err(error) => tracing::debug!(%error, "certificate requests can't be watched"),
                },
                Ok(()) = revisions.changed() => {
                    self.metrics.waiting(0);
                    desk.try_again();
                }
                key = desk.queue.next(), if work.len() < CONCURRENCY => match desk.pending.get(&key) {
                    Some(found) => {
                        let (signer, asked, told) = (self.clone(), Arc::clone(&found.asked), found.told.clone());
                        work.push(async move {
                            let answered = with_timeout(REQUEST_TIMEOUT, signer.answer(&asked, told.as_ref())).await;
                            (key, answered)
                        });
                    }
                    None => desk.queue.done(&key),
                },
                Some((key, answered)) = work.next(), if !work.is_empty() => match answered {
                    Ok(Answer::Settled) => {
                        desk.queue.done(&key);
                        desk.pending.remove(&key);
                    }
                    Ok(Answer::Waits(of, why)) => {
                        desk.queue.done(&key);
                        let Some(found) = desk.pending.get_mut(&key) else { continue };
                        found.told = Some(why);
                        // a change that came meanwhile is not to be missed
                        if of == self.engine.snapshot().revision() {
                            desk.waiting.insert(key);
                        } else {
                            desk.queue.push(key, Duration::ZERO);
                        }
                        self.metrics.waiting(desk.waiting.len());
                    }
                    Err(error) => {
                        tracing::warn!(request = ?key, error = %redacted(&error), "a certificate request could not be answered");
                        desk.queue.failed(key);
                    }
                },
                Ok(_) = leading.wait_for(|leads| !leads) => break,
                () = shutdown.cancelled() => return,
            }
        }
        // what was begun comes to its end, as with whoever leads now nobody is overruled
        tokio::select! {
            () = work.for_each(async |_| {}) => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Answers a request, about which the pod's owner was `told_why`, or nothing yet.
    async fn answer(&self, asked: &Asked, told_why: Option<&NotEntitled>) -> Result<Answer, kube::Error> {
        let (namespace, spec) = (asked.namespace(), &asked.spec);
        let snapshot = self.engine.snapshot();
        let told = |outcome| self.issuance(asked, outcome);
        let labels = match self.check(namespace, spec).await? {
            Ok(labels) => labels,
            Err(what) => {
                let denial = CertificateDenial { reason: NOT_AS_STATED, message: what };
                return self.deny(asked, denial, told(Outcome::Denied)).await;
            }
        };
        let id = PrincipalId::workload(&self.trust_domain, namespace, &spec.service_account_name);
        let minted = id.map_err(|_| NotEntitled::NoPolicy);
        let minted = minted
            .and_then(|id| snapshot.certificate_entitlement(&id, namespace, &labels).map(|minting| (id, minting)));
        let (id, minting) = match minted {
            Ok(minted) => minted,
            Err(why) => {
                if told_why != Some(&why) {
                    self.tell(asked, &why).await;
                }
                return Ok(Answer::Waits(snapshot.revision(), why));
            }
        };
        let random = random_bytes().map_err(|error| kube::Error::Service(error.into()))?;
        let now = Utc::now();
        match issue(&self.authorities.active(), spec, &id, &minting, now, random) {
            Ok(granted) => {
                let issuance = told(Outcome::Issued);
                let lifetime = issuance.until(granted.not_after);
                let issuance = Issuance {
                    principal: Some(id.to_string()),
                    serial: Some(granted.serial.to_string()),
                    lifetime: Some(lifetime),
                    policies: AboutPod::all(&minting),
                    ..issuance
                };
                // what has to be recorded and can't be is not given out
                if !self.engine.issuance(&issuance, asked.since) {
                    return Err(kube::Error::Service("the issuance can't be recorded".into()));
                }
                let message = format!("issued to {id} by {}", minting.policy_names());
                self.write(asked, granted.status(now, &message)).await?;
                Ok(Answer::Settled)
            }
            Err(denial) => {
                let issuance = Issuance { principal: Some(id.to_string()), ..told(Outcome::Denied) };
                self.deny(asked, denial, issuance).await
            }
        }
    }

    async fn deny(
        &self,
        asked: &Asked,
        denial: CertificateDenial,
        issuance: Issuance<'_>,
    ) -> Result<Answer, kube::Error> {
        self.write(asked, denial.status(Utc::now())).await?;
        self.engine.issuance(&Issuance { reason: Some(denial.message.as_str().into()), ..issuance }, asked.since);
        Ok(Answer::Settled)
    }

    /// Labels of the pod of a request, if pod, service account and node are what the request says.
    async fn check(
        &self,
        namespace: &str,
        spec: &PodCertificateRequestSpec,
    ) -> Result<Result<BTreeMap<String, String>, String>, kube::Error> {
        let accounts: Api<PartialObjectMeta<ServiceAccount>> = Api::namespaced(self.client.clone(), namespace);
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(self.client.clone());
        let as_stated = |pod: Option<pods::Found>| {
            let Some(pod) = pod.filter(|pod| pod.is(&spec.pod_uid)) else {
                return Err(format!("pod {namespace}/{} with UID {} is not there", spec.pod_name, spec.pod_uid));
            };
            if pod.account() != spec.service_account_name {
                return Err(format!("pod {} runs as service account {}", spec.pod_name, pod.account()));
            }
            if pod.node() != Some(&spec.node_name) {
                return Err(format!("pod {} does not live on node {}", spec.pod_name, spec.node_name));
            }
            Ok(pod.into_labels())
        };
        let (labels, account, node) = tokio::try_join!(
            pods::checked(&self.client, namespace, &spec.pod_name, as_stated),
            self.is(&accounts, namespace, &spec.service_account_name, &spec.service_account_uid),
            self.is(&nodes, "", &spec.node_name, &spec.node_uid)
        )?;
        Ok(labels.and_then(|labels| {
            if !account {
                let (name, uid) = (&spec.service_account_name, &spec.service_account_uid);
                return Err(format!("service account {name} with UID {uid} is not there"));
            }
            if !node {
                return Err(format!("node {} with UID {} is not there", spec.node_name, spec.node_uid));
            }
            Ok(labels)
        }))
    }

    /// Whether an object is the one of this UID. That it is is remembered for a moment: many pods share account and node.
    /// Should it end in this moment, what is issued tells so by its serial number, and counts nowhere.
    async fn is<K>(
        &self,
        api: &Api<PartialObjectMeta<K>>,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<bool, kube::Error>
    where
        K: Clone,
        PartialObjectMeta<K>: Clone + Debug + DeserializeOwned,
    {
        let key = format!("{namespace}/{name}/{uid}");
        if self.seen.get(&key).is_some_and(|at| at.elapsed() < MOMENT) {
            return Ok(true);
        }
        let found = api.get_opt(name).await?;
        let same = found.is_some_and(|found| found.metadata.uid.as_deref() == Some(uid));
        if same {
            self.seen.insert(key, Instant::now());
        }
        Ok(same)
    }

    async fn write(&self, asked: &Asked, status: serde_json::Value) -> Result<(), kube::Error> {
        let requests: Api<PodCertificateRequest> =
            Api::namespaced_with(self.client.clone(), asked.namespace(), &*self.requests);
        // another replica may have been quicker: the resource version makes sure that nobody is overruled. A conflict is no
        // answer: the request is looked at again, unless the watch says meanwhile that it is settled
        let patch = json!({"metadata": {"resourceVersion": asked.version}, "status": status});
        match requests.patch_status(asked.name(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What the log says of a request.
    fn issuance<'i>(&self, asked: &'i Asked, outcome: Outcome) -> Issuance<'i> {
        let spec = &asked.spec;
        Issuance {
            namespace: asked.namespace(),
            service_account: &spec.service_account_name,
            pod: &spec.pod_name,
            pod_uid: &spec.pod_uid,
            ..Issuance::new(By::Signer, Kind::Certificate, outcome, self.engine.snapshot().revision().to_string())
        }
    }

    /// Tells the pod's owner why it waits, and the log that it was refused.
    async fn tell(&self, asked: &Asked, why: &NotEntitled) {
        let reason = match why {
            NotEntitled::NoPolicy => "NoPolicy",
            NotEntitled::Denied(_) => {
                let refused = self.issuance(asked, Outcome::Refused);
                self.engine.issuance(&Issuance { reason: Some(why.to_string().into()), ..refused }, asked.since);
                "Denied"
            }
        };
        let note = format!("{}, so it gets no certificate yet", not_entitled_message(why, asked.namespace()));
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Issue".to_owned(),
            secondary: None,
        };
        self.events.publish(&event, &asked.pod()).await;
    }
}

/// What the owner of a pod that gets nothing has to know.
pub fn not_entitled_message(why: &NotEntitled, namespace: &str) -> String {
    match why {
        NotEntitled::NoPolicy => format!(
            "no AccessPolicy is about this pod: select it with `spec.service.podSelector` of a policy in namespace \
             {namespace}, or name its service account in a grant"
        ),
        NotEntitled::Denied(rule) => format!("{rule} denies its service account"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watcher::Event::{Apply, Delete, InitApply};

    fn request(name: &str, version: &str, settled: bool) -> PodCertificateRequest {
        let conditions = if settled { json!([{"type": "Issued"}]) } else { json!([]) };
        let of = |kind: &str| format!("{kind}-of-{name}");
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name, "resourceVersion": version},
            "spec": {
                "podName": name, "podUID": of("pod"), "serviceAccountName": "web", "serviceAccountUID": "s",
                "nodeName": "n", "nodeUID": "m",
            },
            "status": {"conditions": conditions},
        }))
        .expect("a request")
    }

    #[tokio::test]
    async fn a_request_waits_once_in_its_newest_version_until_it_is_settled_or_gone() {
        let mut desk = Desk::new();
        desk.hears(InitApply(request("a", "1", false)));
        desk.hears(Apply(request("a", "2", false)));
        desk.hears(Apply(request("old", "3", true)));
        let key = desk.queue.next().await;
        let asked = &desk.pending.get(&key).expect("it is pending").asked;
        assert_eq!((asked.namespace(), asked.name(), asked.version.as_deref()), ("shop", "a", Some("2")));
        assert_eq!(asked.pod().uid.as_deref(), Some("pod-of-a"));
        // what policies leave without an answer is looked at again when they change
        desk.queue.done(&key);
        desk.waiting.insert(key);
        desk.try_again();
        desk.hears(Apply(request("b", "4", false)));
        desk.hears(Delete(request("b", "5", false)));
        let key = desk.queue.next().await;
        assert_eq!(key.1, "a");
        desk.hears(Apply(request("a", "6", true)));
        assert!(desk.pending.is_empty() && desk.waiting.is_empty());
    }
}
