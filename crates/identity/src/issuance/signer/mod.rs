//! The signer of PodCertificateRequests (`certificates.k8s.io`).
//!
//! A denial is final for the volume of the pod, so the signer denies only what can never be issued. If a policy or an
//! answer of the API server is missing, the request stays pending.

mod answer;
mod attestation;
mod queue;

use crate::ca::authorities::Authorities;
use crate::certificates_api::PodCertificateRequest;
use crate::names::SIGNER_NAME;
use answer::{RequestSigner, SigningError, SigningOutcome};
use attestation::PodAttestor;
use durward_engine::Engine;
use durward_engine::metrics::Metrics;
use durward_kubernetes::events::EventRecorder;
use durward_kubernetes::requests::watch_backoff;
use durward_runtime::Failure;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::Client;
use kube::api::Api;
use kube::core::ApiResource;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use queue::{CertificateRequestKey, CertificateRequestQueue};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Requests that are answered at the same time.
const CONCURRENCY: usize = 32;

/// Signs the certificate requests of pods that policies select.
pub struct PodCertificateSigner {
    signer: Arc<RequestSigner>,
    metrics: Arc<Metrics>,
}

/// Shows only the type name: the fields are large.
impl std::fmt::Debug for PodCertificateSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodCertificateSigner").finish_non_exhaustive()
    }
}

impl PodCertificateSigner {
    /// A signer in `pod`, for PodCertificateRequests in the version of `resource`.
    pub fn new(
        client: Client,
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
        authorities: Authorities,
        resource: ApiResource,
        trust_domain: &str,
        pod: &str,
    ) -> Self {
        let events = EventRecorder::new(client.clone(), "signer", pod);
        let attestor = PodAttestor::new(client.clone());
        let trust_domain = trust_domain.into();
        let signer = RequestSigner { client, engine, authorities, resource, trust_domain, events, attestor };
        Self { signer: Arc::new(signer), metrics }
    }

    /// Answers requests while `leading`, until `shutdown`.
    ///
    /// Only the leader watches requests; followers would hold 10,000 objects for nothing, and a new leader lists them
    /// in moments.
    pub async fn run(self, mut leading: watch::Receiver<bool>, shutdown: CancellationToken) -> Result<(), Failure> {
        loop {
            tokio::select! {
                Ok(_) = leading.wait_for(|leads| *leads) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            self.lead(&mut leading, &shutdown).await;
            self.metrics.pod_certificates_waiting(0);
        }
    }

    async fn lead(&self, leading: &mut watch::Receiver<bool>, shutdown: &CancellationToken) {
        let requests: Api<PodCertificateRequest> = Api::all_with(self.signer.client.clone(), &self.signer.resource);
        let for_this_signer = watcher::Config::default().fields(&format!("spec.signerName={SIGNER_NAME}"));
        let mut events = pin!(watcher(requests, for_this_signer).backoff(watch_backoff()));
        let mut revisions = self.signer.engine.revisions();
        let mut queue = CertificateRequestQueue::new();
        let mut answers = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(event) => queue.apply(event),
                    Err(error) => tracing::debug!(%error, "the watch of certificate requests failed; trying again"),
                },
                Ok(()) = revisions.changed() => {
                    self.metrics.pod_certificates_waiting(0);
                    queue.retry_waiting();
                }
                key = queue.next(), if answers.len() < CONCURRENCY => match queue.get(&key) {
                    Some((request, reported)) => {
                        let signer = Arc::clone(&self.signer);
                        answers.push(async move { (key, signer.answer(&request, reported.as_ref()).await) });
                    }
                    None => queue.done(&key),
                },
                Some((key, answer)) = answers.next(), if !answers.is_empty() => {
                    self.handle_answer(&mut queue, key, answer);
                }
                Ok(_) = leading.wait_for(|leads| !leads) => break,
                () = shutdown.cancelled() => return,
            }
        }
        // finish the answers in progress; the resource version prevents a conflict with the new leader
        tokio::select! {
            () = answers.for_each(async |_| {}) => {}
            () = shutdown.cancelled() => {}
        }
    }

    fn handle_answer(
        &self,
        queue: &mut CertificateRequestQueue,
        key: CertificateRequestKey,
        answer: Result<SigningOutcome, SigningError>,
    ) {
        match answer {
            Ok(SigningOutcome::Settled) => queue.settled(&key),
            Ok(SigningOutcome::NotEntitled(revision, reason)) => {
                // if the policies changed since the answer, they may entitle the pod now
                let changed = revision != self.signer.engine.snapshot().revision();
                if let Some(waiting) = queue.wait(key, reason, changed) {
                    self.metrics.pod_certificates_waiting(waiting);
                }
            }
            Err(error) => {
                tracing::warn!(request = ?key, %error, "a certificate request could not be answered; trying again");
                queue.failed(key);
            }
        }
    }
}
