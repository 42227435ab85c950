//! What the owner of an object is told of it. A courtesy: what can't be written is not tried again.

use crate::requests::brief;
use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, Recorder, Reporter};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A recorder keeps each Event of the last minutes, to count repetitions of it. After so many it gives way to an empty one,
/// or ten thousand policies that are applied at once would all be kept.
const REMEMBERED: usize = 512;

/// Tells Events in the name of one part of Durward.
pub struct Events {
    client: Client,
    reporter: Reporter,
    recorder: ArcSwap<Recorder>,
    told: AtomicUsize,
}

/// Names the type alone: what it holds is secret or large.
impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// `part` as it stands in `reportingController`.
    pub fn new(client: Client, part: &str, pod: &str) -> Self {
        let reporter = Reporter { controller: format!("durward.dev/{part}"), instance: Some(pod.to_owned()) };
        let recorder = ArcSwap::from_pointee(Recorder::new(client.clone(), reporter.clone()));
        Self { client, reporter, recorder, told: AtomicUsize::new(0) }
    }

    pub async fn tell(&self, event: &Event, about: &ObjectReference) {
        if self.told.fetch_add(1, Ordering::Relaxed) % REMEMBERED == REMEMBERED - 1 {
            self.recorder.store(Arc::new(Recorder::new(self.client.clone(), self.reporter.clone())));
        }
        let recorder = self.recorder.load_full();
        if let Err(error) = recorder.publish(event, about).await {
            tracing::debug!(error = %brief(&error), "an Event could not be written");
        }
    }
}
