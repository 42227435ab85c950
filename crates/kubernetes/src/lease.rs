//! Which replica writes: the one that holds a Lease (`coordination.k8s.io/v1`).
//!
//! A replica that can't renew its Lease stops writing before another may take it: it gives up after `RENEW_WITHIN`, the
//! others wait for the Lease's whole duration, by their own clocks and from when they last saw it renewed.

use crate::requests::{brief, patiently};
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

/// For how long a Lease holds.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that has not renewed for this long stops writing.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// How often a holder renews, and the others look.
const PERIOD: Duration = Duration::from_secs(2);
/// How long one attempt may take: shorter than for other requests, a late Lease is none.
const PATIENCE: Duration = Duration::from_secs(4);

/// Receives what an election learns; for metrics.
pub trait LeaseObserver: Send + Sync {
    /// The API server answered.
    fn api_server_answered(&self);
    /// This replica began to lead, or stopped.
    fn leadership_changed(&self, leads: bool);
}

/// A candidate for the Lease.
#[derive(Debug)]
pub struct Candidate {
    pub leases: Api<Lease>,
    /// Name of the Lease.
    pub lease: String,
    /// Name of this replica.
    pub identity: String,
    /// Cancelled when the end of this replica has begun.
    pub closing: CancellationToken,
}

/// The Lease as it was last seen to change.
struct Sighting {
    version: Option<String>,
    at: Instant,
}

impl Candidate {
    /// Runs for the Lease until `shutdown`, then gives it back.
    pub async fn run(
        self,
        leading: watch::Sender<bool>,
        observer: Arc<dyn LeaseObserver>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut sighting = Sighting { version: None, at: Instant::now() };
        let mut renewed: Option<Instant> = None;
        loop {
            let asked = Instant::now();
            match patiently(PATIENCE, self.attempt(&mut sighting)).await {
                Ok(holds) => {
                    renewed = holds.then_some(asked);
                    // every replica asks, so this tells of each whether it still hears the API server
                    observer.api_server_answered();
                }
                Err(error) => tracing::warn!(error = %brief(&error), "the Lease could not be renewed"),
            }
            let leads = renewed.is_some_and(|at| at.elapsed() < RENEW_WITHIN);
            if leading.send_if_modified(|was| std::mem::replace(was, leads) != leads) {
                tracing::info!(leads, "leadership changed");
                observer.leadership_changed(leads);
            }
            tokio::select! {
                () = sleep(PERIOD) => {}
                // who is about to end neither keeps the Lease nor takes it
                () = self.closing.cancelled() => break,
                () = shutdown.cancelled() => break,
            }
        }
        leading.send_replace(false);
        if renewed.is_some() {
            // whoever is next need not wait for the Lease to run out; if this fails they do
            let _ = patiently(PATIENCE, self.release()).await;
        }
        Ok(())
    }

    /// Tries to take or renew the Lease; tells whether this replica holds it now.
    async fn attempt(&self, sighting: &mut Sighting) -> Result<bool, kube::Error> {
        let Some(current) = self.leases.get_opt(&self.lease).await? else {
            let metadata = ObjectMeta { name: Some(self.lease.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return won(self.leases.create(&PostParams::default(), &lease).await);
        };
        if sighting.version != current.metadata.resource_version {
            *sighting = Sighting { version: current.metadata.resource_version.clone(), at: Instant::now() };
        }
        let holder = current.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder != self.identity && !holder.is_empty() && sighting.at.elapsed() < DURATION {
            return Ok(false);
        }
        let lease = Lease { spec: Some(self.spec(current.spec.as_ref())), ..current };
        // the resource version makes sure that nobody else was quicker
        won(self.leases.replace(&self.lease, &PostParams::default(), &lease).await)
    }

    async fn release(&self) -> Result<(), kube::Error> {
        let current = self.leases.get(&self.lease).await?;
        let spec = current.spec.clone().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let Some(spec) = spec else { return Ok(()) };
        let spec = LeaseSpec { holder_identity: None, ..spec };
        self.leases.replace(&self.lease, &PostParams::default(), &Lease { spec: Some(spec), ..current }).await.map(drop)
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let same = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if same { before.and_then(|spec| spec.acquire_time.clone()) } else { now.clone() },
            renew_time: now,
            lease_transitions: Some(if same { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }
}

/// Somebody else being quicker is no error.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
