//! The certificate requests that are not settled, as the watch last reported them.

use crate::certificates_api::{PodCertificateRequest, PodCertificateRequestSpec};
use chrono::{DateTime, Utc};
use durward_core::pods::NotEntitled;
use durward_kubernetes::work_queue::WorkQueue;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::watcher::Event;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Namespace and name of a request.
pub(super) type CertificateRequestKey = Arc<(String, String)>;

/// A certificate request that is not settled.
pub(super) struct PendingCertificateRequest {
    key: CertificateRequestKey,
    /// The resource version to which an answer applies.
    pub(super) resource_version: Option<String>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) spec: PodCertificateRequestSpec,
}

impl PendingCertificateRequest {
    fn new(request: PodCertificateRequest) -> Self {
        let PodCertificateRequest { metadata, spec, .. } = request;
        let created = metadata.creation_timestamp.and_then(|at| DateTime::from_timestamp(at.0.as_second(), 0));
        Self {
            key: Arc::new((metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default())),
            resource_version: metadata.resource_version,
            created_at: created.unwrap_or_else(Utc::now),
            spec,
        }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.key.0
    }

    pub(super) fn name(&self) -> &str {
        &self.key.1
    }

    /// The pod, as the object of Events.
    pub(super) fn pod(&self) -> ObjectReference {
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

/// A pending request, and the reason that was last reported to the owner of its pod.
struct QueuedRequest {
    request: Arc<PendingCertificateRequest>,
    reported: Option<NotEntitled>,
}

/// All requests that are not settled.
pub(super) struct CertificateRequestQueue {
    pending: HashMap<CertificateRequestKey, QueuedRequest>,
    work: WorkQueue<CertificateRequestKey>,
    /// Requests whose pods the current policies do not entitle.
    waiting: HashSet<CertificateRequestKey>,
}

impl CertificateRequestQueue {
    pub(super) fn new() -> Self {
        Self { pending: HashMap::new(), work: WorkQueue::new(), waiting: HashSet::new() }
    }

    /// Applies an event of the watch.
    pub(super) fn apply(&mut self, event: Event<PodCertificateRequest>) {
        match event {
            Event::Apply(request) | Event::InitApply(request) => {
                let settled = request.is_settled();
                let request = PendingCertificateRequest::new(request);
                let key = Arc::clone(&request.key);
                if settled {
                    self.remove(&key);
                } else if let Some(queued) = self.pending.get_mut(&key) {
                    queued.request = Arc::new(request);
                } else {
                    let queued = QueuedRequest { request: Arc::new(request), reported: None };
                    self.pending.insert(Arc::clone(&key), queued);
                    self.work.push(key, Duration::ZERO);
                }
            }
            Event::Delete(request) => self.remove(&PendingCertificateRequest::new(request).key),
            Event::Init | Event::InitDone => {}
        }
    }

    /// The next request to answer; waits until there is one.
    pub(super) async fn next(&mut self) -> CertificateRequestKey {
        self.work.next().await
    }

    /// A pending request, and the reason that was last reported to the owner of its pod.
    pub(super) fn get(
        &self,
        key: &CertificateRequestKey,
    ) -> Option<(Arc<PendingCertificateRequest>, Option<NotEntitled>)> {
        let queued = self.pending.get(key)?;
        Some((Arc::clone(&queued.request), queued.reported.clone()))
    }

    /// The work on a request is done.
    pub(super) fn done(&mut self, key: &CertificateRequestKey) {
        self.work.done(key);
    }

    /// The work on a request failed; try again later.
    pub(super) fn failed(&mut self, key: CertificateRequestKey) {
        self.work.failed(key);
    }

    /// A request is issued or denied.
    pub(super) fn settled(&mut self, key: &CertificateRequestKey) {
        self.work.done(key);
        self.pending.remove(key);
    }

    /// The policies do not entitle the pod, for `reason`. Unless they `changed` meanwhile, the request waits until they
    /// do. Returns the number of waiting requests, or `None` if the request is no longer pending.
    pub(super) fn wait(&mut self, key: CertificateRequestKey, reason: NotEntitled, changed: bool) -> Option<usize> {
        self.work.done(&key);
        self.pending.get_mut(&key)?.reported = Some(reason);
        if changed {
            self.work.push(key, Duration::ZERO);
        } else {
            self.waiting.insert(key);
        }
        Some(self.waiting.len())
    }

    /// Queues the waiting requests again, because the policies changed.
    pub(super) fn retry_waiting(&mut self) {
        for key in self.waiting.drain() {
            self.work.push(key, Duration::ZERO);
        }
    }

    fn remove(&mut self, key: &CertificateRequestKey) {
        self.pending.remove(key);
        self.waiting.remove(key);
        self.work.forget(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Apply, Delete, InitApply};
    use serde_json::json;

    fn request(name: &str, version: &str, settled: bool) -> PodCertificateRequest {
        let conditions = if settled { json!([{"type": "Issued"}]) } else { json!([]) };
        let uid = |kind: &str| format!("{kind}-of-{name}");
        serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": name, "resourceVersion": version},
            "spec": {
                "podName": name, "podUID": uid("pod"), "serviceAccountName": "web", "serviceAccountUID": "s",
                "nodeName": "n", "nodeUID": "m",
            },
            "status": {"conditions": conditions},
        }))
        .expect("parses the request")
    }

    #[tokio::test]
    async fn the_queue_holds_the_newest_version_of_each_open_request() {
        let mut queue = CertificateRequestQueue::new();
        queue.apply(InitApply(request("a", "1", false)));
        queue.apply(Apply(request("a", "2", false)));
        queue.apply(Apply(request("old", "3", true)));
        let key = queue.next().await;
        let (pending, _) = queue.get(&key).expect("the request is pending");
        let version = pending.resource_version.as_deref();
        assert_eq!((pending.namespace(), pending.name(), version), ("shop", "a", Some("2")));
        assert_eq!(pending.pod().uid.as_deref(), Some("pod-of-a"));
        // a request without an entitlement is queued again when the policies change
        assert_eq!(queue.wait(key, NotEntitled::NoPolicy, false), Some(1));
        queue.retry_waiting();
        queue.apply(Apply(request("b", "4", false)));
        queue.apply(Delete(request("b", "5", false)));
        let key = queue.next().await;
        assert_eq!(key.1, "a");
        queue.apply(Apply(request("a", "6", true)));
        assert!(queue.pending.is_empty() && queue.waiting.is_empty());
    }
}
