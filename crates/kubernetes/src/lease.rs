//! Leader election by a Lease (`coordination.k8s.io/v1`): only the replica that holds it writes.
//!
//! A replica that can't renew its Lease stops writing before another replica can take it. The holder gives up after
//! `RENEW_DEADLINE`. The others wait for `LEASE_DURATION`, which each measures by its own clock from when it last saw
//! the Lease change.

use crate::requests::{RequestError, with_timeout};
use durward_runtime::Failure;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long others wait for a holder that does not renew.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A holder that has not renewed for this long stops writing.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between attempts to take or renew the Lease.
const RETRY_PERIOD: Duration = Duration::from_secs(2);
/// Time limit for one attempt. It is shorter than for other requests: two attempts must fit into `RENEW_DEADLINE`.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// Receives the progress of an election; for metrics.
pub trait LeaseObserver: Send + Sync {
    /// The API server answered.
    fn api_server_answered(&self);
    /// This replica began to lead, or stopped.
    fn leadership_changed(&self, leads: bool);
}

/// A candidate for the Lease.
#[derive(Debug)]
pub struct LeaseCandidate {
    /// Leases of the namespace of the controller.
    pub leases: Api<Lease>,
    /// Name of the Lease.
    pub lease: String,
    /// Name of this replica.
    pub identity: String,
    /// Cancelled once this replica begins to shut down.
    pub closing: CancellationToken,
}

/// The version of the Lease last seen, and when this replica first saw it.
struct LeaseSighting {
    version: Option<String>,
    at: Instant,
}

impl LeaseCandidate {
    /// Takes and renews the Lease until `shutdown`, then releases it. `leading` says whether this replica leads.
    ///
    /// # Errors
    /// Never: failed attempts are retried.
    pub async fn run(
        self,
        leading: watch::Sender<bool>,
        observer: Arc<dyn LeaseObserver>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut sighting = LeaseSighting { version: None, at: Instant::now() };
        let mut renewed: Option<Instant> = None;
        loop {
            let started = Instant::now();
            match with_timeout(ATTEMPT_TIMEOUT, self.attempt(&mut sighting)).await {
                Ok(holds) => {
                    renewed = holds.then_some(started);
                    // every replica sends these requests, so the metric shows for each whether it reaches the API
                    // server
                    observer.api_server_answered();
                }
                Err(error) => tracing::warn!(%error, "renewing the Lease failed; trying again"),
            }
            let leads = renewed.is_some_and(|at| at.elapsed() < RENEW_DEADLINE);
            if leading.send_if_modified(|was| std::mem::replace(was, leads) != leads) {
                tracing::info!(leads, "leadership changed");
                observer.leadership_changed(leads);
            }
            tokio::select! {
                () = sleep(RETRY_PERIOD) => {}
                // a replica that shuts down neither keeps the Lease nor takes it
                () = self.closing.cancelled() => break,
                () = shutdown.cancelled() => break,
            }
        }
        leading.send_replace(false);
        if renewed.is_some() {
            // lets the next leader start at once; if it fails, that one waits until the Lease expires
            let _ = with_timeout(ATTEMPT_TIMEOUT, self.release()).await;
        }
        Ok(())
    }

    /// Tries to take or renew the Lease. Returns whether this replica holds it now.
    async fn attempt(&self, sighting: &mut LeaseSighting) -> Result<bool, RequestError> {
        let Some(current) = self.leases.get_opt(&self.lease).await? else {
            let metadata = ObjectMeta { name: Some(self.lease.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return written(self.leases.create(&PostParams::default(), &lease).await);
        };
        if sighting.version != current.metadata.resource_version {
            *sighting = LeaseSighting { version: current.metadata.resource_version.clone(), at: Instant::now() };
        }
        let holder = current.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder != self.identity && !holder.is_empty() && sighting.at.elapsed() < LEASE_DURATION {
            return Ok(false);
        }
        let lease = Lease { spec: Some(self.spec(current.spec.as_ref())), ..current };
        // the resource version makes the API server reject this write if another replica wrote first
        written(self.leases.replace(&self.lease, &PostParams::default(), &lease).await)
    }

    async fn release(&self) -> Result<(), RequestError> {
        let current = self.leases.get(&self.lease).await?;
        let spec = current.spec.clone().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let Some(spec) = spec else { return Ok(()) };
        let released = Lease { spec: Some(LeaseSpec { holder_identity: None, ..spec }), ..current };
        self.leases.replace(&self.lease, &PostParams::default(), &released).await?;
        Ok(())
    }

    fn spec(&self, previous: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let renews = previous.is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = previous.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: if renews { previous.and_then(|spec| spec.acquire_time.clone()) } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(if renews { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

/// Whether the Lease was written. A conflict is not an error: another replica wrote first.
fn written(result: Result<Lease, kube::Error>) -> Result<bool, RequestError> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
