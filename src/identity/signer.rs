//! The signer of PodCertificateRequests (`certificates.k8s.io`).
//!
//! Only a definite "never" is answered with a denial, which is final for the pod's volume. Whatever may still come right
//! leaves the request pending: no policy yet, an API server that does not answer.

use crate::audit::issuance::{AboutPod, By, Issuance, Kind, Outcome};
use crate::controller::{Backlog, Events, PATIENCE, brief, patiently, pauses};
use crate::engine::Engine;
use crate::identity::issue::{Denial, NOT_AS_STATED, issue};
use crate::identity::served::{PodCertificateRequest, RequestSpec};
use crate::identity::{Authorities, SIGNER};
use crate::process::Failure;
use crate::random::random;
use chrono::{DateTime, Utc};
use durward_core::digest::Digest;
use durward_core::pods::NotMinted;
use durward_core::principal::PrincipalId;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::events::{Event, EventType};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::{HashMap, HashSet};
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
type Key = (String, String);

/// Signs for the pods that policies are about.
#[derive(Clone)]
pub(crate) struct Signer {
    client: Client,
    engine: Arc<Engine>,
    authorities: Authorities,
    requests: Arc<ApiResource>,
    trust_domain: Arc<str>,
    events: Arc<Events>,
    seen: Arc<Cache<String, Instant>>,
}

/// What became of a request.
enum Answer {
    /// Granted or denied for good.
    Settled,
    /// By the policies of this revision the pod gets none, and its owner knows: whatever changes may change that.
    Waits(Digest, NotMinted),
}

/// A request that is not settled, and what the pod's owner was told.
struct Pending {
    request: Arc<PodCertificateRequest>,
    told: Option<NotMinted>,
}

impl Signer {
    pub(crate) fn new(
        client: Client,
        engine: Arc<Engine>,
        authorities: Authorities,
        requests: ApiResource,
        trust_domain: &str,
        pod: &str,
    ) -> Self {
        let events = Arc::new(Events::new(client.clone(), "signer", pod));
        let seen = Arc::new(Cache::new(SEEN));
        let (requests, trust_domain) = (Arc::new(requests), trust_domain.into());
        Self { client, engine, authorities, requests, trust_domain, events, seen }
    }

    /// Answers requests while `leading`, until `shutdown`.
    pub(crate) async fn run(
        self,
        mut leading: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let requests: Api<PodCertificateRequest> = Api::all_with(self.client.clone(), &*self.requests);
        let ours = watcher::Config::default().fields(&format!("spec.signerName={SIGNER}"));
        let mut events = pin!(watcher(requests, ours).backoff(pauses()));
        let mut revisions = self.engine.revisions();
        let (mut pending, mut backlog) = (HashMap::<Key, Pending>::new(), Backlog::new());
        // those that policies leave without an answer
        let mut waiting = HashSet::<Key>::new();
        let mut work = FuturesUnordered::new();
        loop {
            let leads = *leading.borrow();
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(watcher::Event::Apply(request) | watcher::Event::InitApply(request)) => {
                        let key = key(&request);
                        if is_settled(&request) {
                            pending.remove(&key);
                            waiting.remove(&key);
                            backlog.forget(&key);
                        } else if let Some(known) = pending.get_mut(&key) {
                            // an answer has to be about the newest version
                            known.request = Arc::new(request);
                        } else {
                            pending.insert(key.clone(), Pending { request: Arc::new(request), told: None });
                            backlog.push(key, Duration::ZERO);
                        }
                    }
                    Ok(watcher::Event::Delete(request)) => {
                        let key = key(&request);
                        pending.remove(&key);
                        waiting.remove(&key);
                        backlog.forget(&key);
                    }
                    Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                    Err(error) => tracing::debug!(%error, "certificate requests can't be watched"),
                },
                Ok(()) = revisions.changed() => {
                    self.engine.metrics().waiting(0);
                    waiting.drain().for_each(|key| backlog.push(key, Duration::ZERO));
                }
                Ok(()) = leading.changed() => self.engine.metrics().waiting(0),
                key = backlog.next(), if leads && work.len() < CONCURRENCY => match pending.get(&key) {
                    Some(found) => {
                        let (signer, request, told) = (self.clone(), Arc::clone(&found.request), found.told.clone());
                        work.push(async move {
                            let answered = patiently(PATIENCE, signer.answer(&request, told.as_ref())).await;
                            (key, answered)
                        });
                    }
                    None => backlog.done(&key),
                },
                Some((key, answered)) = work.next(), if !work.is_empty() => match answered {
                    Ok(Answer::Settled) => {
                        backlog.done(&key);
                        pending.remove(&key);
                    }
                    Ok(Answer::Waits(of, why)) => {
                        backlog.done(&key);
                        let Some(found) = pending.get_mut(&key) else { continue };
                        found.told = Some(why);
                        // a change that came meanwhile is not to be missed
                        if of == self.engine.snapshot().revision() {
                            waiting.insert(key);
                        } else {
                            backlog.push(key, Duration::ZERO);
                        }
                        self.engine.metrics().waiting(waiting.len());
                    }
                    Err(error) => {
                        tracing::warn!(request = ?key, error = %brief(&error), "a certificate request could not be answered");
                        backlog.failed(key);
                    }
                },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Answers a request, about which the pod's owner was `told_why`, or nothing yet.
    async fn answer(
        &self,
        request: &PodCertificateRequest,
        told_why: Option<&NotMinted>,
    ) -> Result<Answer, kube::Error> {
        let (namespace, spec) = (request.namespace().unwrap_or_default(), &request.spec);
        let snapshot = self.engine.snapshot();
        let told = |outcome| self.issuance(request, &namespace, outcome);
        let asked = asked(request);
        let pod = match self.check(&namespace, spec).await? {
            Ok(pod) => pod,
            Err(what) => {
                let denial = Denial { reason: NOT_AS_STATED, message: what };
                return self.deny(request, denial, told(Outcome::Denied), asked).await;
            }
        };
        let id = PrincipalId::workload(&self.trust_domain, &namespace, &spec.service_account_name);
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let minted = id.map_err(|_| NotMinted::NoPolicy);
        let minted = minted.and_then(|id| snapshot.minting(&id, &namespace, &labels).map(|minting| (id, minting)));
        let (id, minting) = match minted {
            Ok(minted) => minted,
            Err(why) => {
                if told_why != Some(&why) {
                    self.tell(request, &reference(&pod), &why).await;
                }
                return Ok(Answer::Waits(snapshot.revision(), why));
            }
        };
        let random = random().map_err(|error| kube::Error::Service(error.into()))?;
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
                if !self.engine.issuance(&issuance, asked) {
                    return Err(kube::Error::Service("the issuance can't be recorded".into()));
                }
                let message = format!("issued to {id} by {}", minting.named());
                self.write(request, granted.status(now, &message)).await?;
                Ok(Answer::Settled)
            }
            Err(denial) => {
                let issuance = Issuance { principal: Some(id.to_string()), ..told(Outcome::Denied) };
                self.deny(request, denial, issuance, asked).await
            }
        }
    }

    async fn deny(
        &self,
        request: &PodCertificateRequest,
        denial: Denial,
        issuance: Issuance<'_>,
        asked: DateTime<Utc>,
    ) -> Result<Answer, kube::Error> {
        self.write(request, denial.status(Utc::now())).await?;
        self.engine.issuance(&Issuance { reason: Some(denial.message.as_str().into()), ..issuance }, asked);
        Ok(Answer::Settled)
    }

    /// The pod of a request, if pod, service account and node are what the request says.
    async fn check(&self, namespace: &str, spec: &RequestSpec) -> Result<Result<DynamicObject, String>, kube::Error> {
        // of a pod three fields matter: its type alone would be a twentieth of the program
        let pods: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
        let accounts: Api<PartialObjectMeta<ServiceAccount>> = Api::namespaced(self.client.clone(), namespace);
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(self.client.clone());
        let (pod, account, node) = tokio::try_join!(
            pods.get_opt(&spec.pod_name),
            self.is(&accounts, namespace, &spec.service_account_name, &spec.service_account_uid),
            self.is(&nodes, "", &spec.node_name, &spec.node_uid)
        )?;
        let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_ref() == Some(&spec.pod_uid)) else {
            return Ok(Err(format!("pod {namespace}/{} with UID {} is not there", spec.pod_name, spec.pod_uid)));
        };
        let of_pod = |field: &str| pod.data.get("spec")?.get(field)?.as_str();
        let account_name = of_pod("serviceAccountName").unwrap_or("default");
        if account_name != spec.service_account_name {
            return Ok(Err(format!("pod {} runs as service account {account_name}", spec.pod_name)));
        }
        if of_pod("nodeName") != Some(&spec.node_name) {
            return Ok(Err(format!("pod {} does not live on node {}", spec.pod_name, spec.node_name)));
        }
        if !account {
            return Ok(Err(format!(
                "service account {} with UID {} is not there",
                spec.service_account_name, spec.service_account_uid
            )));
        }
        if !node {
            return Ok(Err(format!("node {} with UID {} is not there", spec.node_name, spec.node_uid)));
        }
        Ok(Ok(pod))
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

    async fn write(&self, request: &PodCertificateRequest, status: serde_json::Value) -> Result<(), kube::Error> {
        let namespace = request.namespace().unwrap_or_default();
        let requests: Api<PodCertificateRequest> =
            Api::namespaced_with(self.client.clone(), &namespace, &*self.requests);
        // another replica may have been quicker: the resource version makes sure that nobody is overruled. A conflict is no
        // answer: the request is looked at again, unless the watch says meanwhile that it is settled
        let patch = json!({"metadata": {"resourceVersion": request.metadata.resource_version}, "status": status});
        match requests.patch_status(&request.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What the log says of a request.
    fn issuance<'i>(&self, request: &'i PodCertificateRequest, namespace: &'i str, outcome: Outcome) -> Issuance<'i> {
        let spec = &request.spec;
        Issuance {
            namespace,
            service_account: &spec.service_account_name,
            pod: &spec.pod_name,
            pod_uid: &spec.pod_uid,
            ..Issuance::new(By::Signer, Kind::Certificate, outcome, self.engine.snapshot().revision().to_string())
        }
    }

    /// Tells the pod's owner why it waits, and the log that it was refused.
    async fn tell(&self, request: &PodCertificateRequest, pod: &ObjectReference, why: &NotMinted) {
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        let reason = match why {
            NotMinted::NoPolicy => "NoPolicy",
            NotMinted::Denied(_) => {
                let refused = self.issuance(request, namespace, Outcome::Refused);
                self.engine.issuance(&Issuance { reason: Some(why.to_string().into()), ..refused }, asked(request));
                "Denied"
            }
        };
        let note = format!("{}, so it gets no certificate yet", not_minted(why, namespace));
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Issue".to_owned(),
            secondary: None,
        };
        self.events.tell(&event, pod).await;
    }
}

/// What the owner of a pod that gets nothing has to know.
pub(crate) fn not_minted(why: &NotMinted, namespace: &str) -> String {
    match why {
        NotMinted::NoPolicy => format!(
            "no AccessPolicy is about this pod: select it with `spec.service.podSelector` of a policy in namespace \
             {namespace}, or name its service account in a grant"
        ),
        NotMinted::Denied(rule) => format!("{rule} denies its service account"),
    }
}

/// Since when it waits.
fn asked(request: &PodCertificateRequest) -> DateTime<Utc> {
    let asked = request.metadata.creation_timestamp.as_ref();
    asked.and_then(|at| DateTime::from_timestamp(at.0.as_second(), 0)).unwrap_or_else(Utc::now)
}

fn key(request: &PodCertificateRequest) -> Key {
    (request.namespace().unwrap_or_default(), request.name_any())
}

fn is_settled(request: &PodCertificateRequest) -> bool {
    request
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|conditions| !conditions.is_empty())
}

fn reference(pod: &DynamicObject) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}
