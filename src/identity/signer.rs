//! The signer of PodCertificateRequests (`certificates.k8s.io/v1`).
//!
//! Only a definite "never" is answered with a denial, which is final for the pod's volume. Whatever may still come right
//! leaves the request pending: no policy yet, an API server that does not answer.

use crate::controller::{Backlog, PATIENCE, brief, patiently, pauses};
use crate::engine::Engine;
use crate::identity::issue::{Denial, NOT_AS_STATED, issue};
use crate::identity::{Authorities, SIGNER};
use crate::process::Failure;
use crate::random::random;
use chrono::Utc;
use durward_core::digest::Digest;
use durward_core::principal::PrincipalId;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Requests that are worked on at once.
const CONCURRENCY: usize = 32;

/// Namespace and name of a request.
type Key = (String, String);

/// Signs for the pods that policies are about.
#[derive(Clone)]
pub(crate) struct Signer {
    client: Client,
    engine: Arc<Engine>,
    authorities: Authorities,
    trust_domain: Arc<str>,
    recorder: Recorder,
}

/// What became of a request.
enum Outcome {
    /// Granted or denied for good.
    Settled,
    /// No policy of this revision is about the pod: whatever changes may change that.
    NoPolicy(Box<ObjectReference>, Digest),
}

/// A request that is not settled, and whether the pod's owner was told why.
struct Pending {
    request: Arc<PodCertificateRequest>,
    told: bool,
    waits_for_policy: bool,
}

impl Signer {
    pub(crate) fn new(
        client: Client,
        engine: Arc<Engine>,
        authorities: Authorities,
        trust_domain: &str,
        pod: &str,
    ) -> Self {
        let reporter = Reporter { controller: "durward.dev/signer".to_owned(), instance: Some(pod.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, engine, authorities, trust_domain: trust_domain.into(), recorder }
    }

    /// Answers requests while `leading`, until `shutdown`.
    pub(crate) async fn run(
        self,
        mut leading: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let requests: Api<PodCertificateRequest> = Api::all(self.client.clone());
        let ours = watcher::Config::default().fields(&format!("spec.signerName={SIGNER}"));
        let mut events = pin!(watcher(requests, ours).backoff(pauses()));
        let mut revisions = self.engine.revisions();
        let (mut pending, mut backlog) = (HashMap::<Key, Pending>::new(), Backlog::new());
        let mut work = FuturesUnordered::new();
        loop {
            let leads = *leading.borrow();
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(watcher::Event::Apply(request) | watcher::Event::InitApply(request)) => {
                        let key = key(&request);
                        if is_settled(&request) {
                            pending.remove(&key);
                            backlog.forget(&key);
                        } else if let Some(known) = pending.get_mut(&key) {
                            // an answer has to be about the newest version
                            known.request = Arc::new(request);
                        } else {
                            pending.insert(key.clone(), Pending { request: Arc::new(request), told: false, waits_for_policy: false });
                            backlog.push(key, Duration::ZERO);
                        }
                    }
                    Ok(watcher::Event::Delete(request)) => {
                        pending.remove(&key(&request));
                        backlog.forget(&key(&request));
                    }
                    Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
                    Err(error) => tracing::debug!(%error, "certificate requests can't be watched"),
                },
                Ok(()) = revisions.changed() => {
                    for (key, pending) in pending.iter_mut().filter(|(_, pending)| pending.waits_for_policy) {
                        pending.waits_for_policy = false;
                        backlog.push(key.clone(), Duration::ZERO);
                    }
                }
                Ok(()) = leading.changed() => {}
                key = backlog.next(), if leads && work.len() < CONCURRENCY => match pending.get(&key) {
                    Some(found) => {
                        let (signer, request) = (self.clone(), Arc::clone(&found.request));
                        work.push(async move {
                            let answered = patiently(PATIENCE, signer.answer(&request)).await;
                            (key, answered)
                        });
                    }
                    None => backlog.done(&key),
                },
                Some((key, answered)) = work.next(), if !work.is_empty() => match answered {
                    Ok(Outcome::Settled) => {
                        backlog.done(&key);
                        pending.remove(&key);
                    }
                    Ok(Outcome::NoPolicy(pod, of)) => {
                        backlog.done(&key);
                        let Some(found) = pending.get_mut(&key) else { continue };
                        if !std::mem::replace(&mut found.told, true) {
                            self.tell(&pod).await;
                        }
                        // a change that came meanwhile is not to be missed
                        found.waits_for_policy = of == self.engine.snapshot().revision();
                        if !found.waits_for_policy {
                            backlog.push(key, Duration::ZERO);
                        }
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

    async fn answer(&self, request: &PodCertificateRequest) -> Result<Outcome, kube::Error> {
        let (namespace, spec) = (request.namespace().unwrap_or_default(), &request.spec);
        let metrics = self.engine.metrics();
        let pod = match self.check(&namespace, spec).await? {
            Ok(pod) => pod,
            Err(what) => {
                let denial = Denial { reason: NOT_AS_STATED, message: what };
                self.write(request, denial.status(Utc::now())).await?;
                metrics.certificate("denied");
                return Ok(Outcome::Settled);
            }
        };
        let id = PrincipalId::workload(&self.trust_domain, &namespace, &spec.service_account_name);
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let snapshot = self.engine.snapshot();
        let minting = id.as_ref().ok().and_then(|id| snapshot.minting(id, &namespace, &labels));
        let nobody = || Ok(Outcome::NoPolicy(Box::new(reference(&pod)), snapshot.revision()));
        let (Ok(id), Some(minting)) = (id, minting) else {
            metrics.certificate("pending");
            return nobody();
        };
        let Ok(random) = random() else { return nobody() };
        let now = Utc::now();
        let status = match issue(&self.authorities.active(), spec, &id, &minting, now, random) {
            Ok(granted) => {
                let message = format!("issued to {id} by {}", minting.named());
                self.write(request, granted.status(now, &message)).await?;
                metrics.certificate("issued");
                tracing::info!(serial = %granted.serial, %id, pod = spec.pod_name, uid = spec.pod_uid, policies = minting.named(), until = %granted.not_after, "certificate issued");
                return Ok(Outcome::Settled);
            }
            Err(denial) => denial.status(now),
        };
        self.write(request, status).await?;
        metrics.certificate("denied");
        Ok(Outcome::Settled)
    }

    /// The pod of a request, if pod, service account and node are what the request says.
    async fn check(
        &self,
        namespace: &str,
        spec: &PodCertificateRequestSpec,
    ) -> Result<Result<DynamicObject, String>, kube::Error> {
        // of a pod three fields matter: its type alone would be a twentieth of the program
        let pods: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
        let accounts: Api<PartialObjectMeta<ServiceAccount>> = Api::namespaced(self.client.clone(), namespace);
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(self.client.clone());
        let (pod, account, node) = tokio::try_join!(
            pods.get_opt(&spec.pod_name),
            accounts.get_opt(&spec.service_account_name),
            nodes.get_opt(&spec.node_name)
        )?;
        let same = |uid: Option<&String>, stated: &str| uid.is_some_and(|uid| uid == stated);
        let Some(pod) = pod.filter(|pod| same(pod.metadata.uid.as_ref(), &spec.pod_uid)) else {
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
        if !account.is_some_and(|account| same(account.metadata.uid.as_ref(), &spec.service_account_uid)) {
            return Ok(Err(format!(
                "service account {} with UID {} is not there",
                spec.service_account_name, spec.service_account_uid
            )));
        }
        if !node.is_some_and(|node| same(node.metadata.uid.as_ref(), &spec.node_uid)) {
            return Ok(Err(format!("node {} with UID {} is not there", spec.node_name, spec.node_uid)));
        }
        Ok(Ok(pod))
    }

    async fn write(&self, request: &PodCertificateRequest, status: serde_json::Value) -> Result<(), kube::Error> {
        let requests: Api<PodCertificateRequest> =
            Api::namespaced(self.client.clone(), &request.namespace().unwrap_or_default());
        // another replica may have been quicker: the resource version makes sure that nobody is overruled. A conflict is no
        // answer: the request is looked at again, unless the watch says meanwhile that it is settled
        let patch = json!({"metadata": {"resourceVersion": request.metadata.resource_version}, "status": status});
        match requests.patch_status(&request.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells the pod's owner why it waits.
    async fn tell(&self, pod: &ObjectReference) {
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        let note = format!("{}, so it gets no certificate yet", no_policy(namespace));
        let event = Event {
            type_: EventType::Warning,
            reason: "NoPolicy".to_owned(),
            note: Some(note),
            action: "Issue".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, pod).await {
            tracing::debug!(error = %brief(&error), "an Event could not be written");
        }
    }
}

/// What the owner of a pod that no policy is about has to know.
pub(crate) fn no_policy(namespace: &str) -> String {
    format!(
        "no AccessPolicy is about this pod: select it with `spec.service.podSelector` of a policy in namespace {namespace}, \
         or name its service account in a grant"
    )
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
