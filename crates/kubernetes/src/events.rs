//! Writes Kubernetes Events. They are a courtesy to the owner of an object: a failed write is not retried.

use crate::requests::redacted;
use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Events after which the recorder is replaced. A recorder remembers the Events of the last minutes to count
/// repetitions; without the limit, applying ten thousand policies at once would keep ten thousand Events in memory.
const MAX_REMEMBERED: usize = 512;

/// Writes Events for one component of Durward.
pub struct EventRecorder {
    client: Client,
    reporter: Reporter,
    recorder: ArcSwap<Recorder>,
    published: AtomicUsize,
}

/// Shows only the type name: the client holds credentials.
impl std::fmt::Debug for EventRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventRecorder").finish_non_exhaustive()
    }
}

impl EventRecorder {
    /// A recorder for `component` (the last part of `reportingController`) in `pod`.
    pub fn new(client: Client, component: &str, pod: &str) -> Self {
        let reporter = Reporter { controller: format!("durward.dev/{component}"), instance: Some(pod.to_owned()) };
        let recorder = ArcSwap::from_pointee(Recorder::new(client.clone(), reporter.clone()));
        Self { client, reporter, recorder, published: AtomicUsize::new(0) }
    }

    /// Writes an Event about an object.
    pub async fn publish(&self, event: &Event, object: &ObjectReference) {
        if self.published.fetch_add(1, Ordering::Relaxed) % MAX_REMEMBERED == MAX_REMEMBERED - 1 {
            self.recorder.store(Arc::new(Recorder::new(self.client.clone(), self.reporter.clone())));
        }
        let recorder = self.recorder.load_full();
        if let Err(error) = recorder.publish(event, object).await {
            tracing::debug!(error = %redacted(&error), "writing an Event failed; it is not retried");
        }
    }
}
