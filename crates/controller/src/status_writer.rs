//! Writes statuses and Events, on the leader only, and only when they change something.

use crate::replicas::ConfirmedBatch;
use crate::resource_index::StatusBatch;
use crate::rollout::{Rollout, RolloutTracker};
use crate::status::{
    ACCEPTED, CLOSED, ResourceKind, ResourceOutcome, StatusChange, StatusCondition, StatusReport, StatusTarget,
    status_change,
};
use crate::webhooks::WebhookStatus;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship};
use durward_engine::audit::policy_counts::{PolicyCount, PolicyCounts};
use durward_kubernetes::events::EventRecorder;
use durward_kubernetes::requests::{FIELD_MANAGER, REQUEST_TIMEOUT, RequestError, with_timeout};
use durward_kubernetes::work_queue::WorkQueue;
use durward_runtime::Failure;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::runtime::events::{Event, EventType};
use kube::{Client, Resource};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Concurrent writes.
const CONCURRENCY: usize = 8;
/// How long a status waits for the replicas before it says that they are behind. Most statuses are written only once then.
const SETTLE_DELAY: Duration = Duration::from_secs(1);

/// What the writer reads.
pub struct StatusInputs {
    /// Reports, in numbered batches.
    pub batches: mpsc::UnboundedReceiver<(u64, StatusBatch)>,
    /// The last batch that every ready replica has in force.
    pub confirmed: watch::Receiver<ConfirmedBatch>,
    pub webhook_status: watch::Receiver<WebhookStatus>,
    /// New requests that policies in `mode: Audit` would have denied, and decisions that used up their budget.
    pub policy_counts: mpsc::UnboundedReceiver<PolicyCounts>,
    pub leading: watch::Receiver<bool>,
}

/// Writes the statuses that the reports call for.
pub struct StatusWriter {
    client: Client,
    events: Arc<EventRecorder>,
    /// The newest report of each resource, and the number of the batch that brought its outcome.
    reports: HashMap<StatusTarget, (u64, Box<StatusReport>)>,
    queue: WorkQueue<StatusTarget>,
    /// Resources that are not known to be in force everywhere.
    unconfirmed: BTreeSet<StatusTarget>,
    /// What each policy counted, with the generation that did.
    counted: HashMap<StatusTarget, (i64, PolicyCount)>,
    rollout: RolloutTracker,
}

type StatusWrite = BoxFuture<'static, (StatusTarget, Result<(), RequestError>)>;

impl StatusWriter {
    pub fn new(client: Client, pod: &str) -> Self {
        let events = Arc::new(EventRecorder::new(client.clone(), "controller", pod));
        Self {
            client,
            events,
            reports: HashMap::new(),
            queue: WorkQueue::new(),
            unconfirmed: BTreeSet::new(),
            counted: HashMap::new(),
            rollout: RolloutTracker::default(),
        }
    }

    /// Follows the batches until `shutdown`; writes while this replica leads.
    pub async fn run(mut self, inputs: StatusInputs, shutdown: CancellationToken) -> Result<(), Failure> {
        let StatusInputs { mut batches, mut confirmed, mut webhook_status, mut policy_counts, mut leading } = inputs;
        let mut writes: FuturesUnordered<StatusWrite> = FuturesUnordered::new();
        loop {
            let leads = *leading.borrow();
            tokio::select! {
                Some((number, batch)) = batches.recv() => self.apply_batch(number, batch),
                Ok(()) = confirmed.changed() => {
                    self.rollout.confirmed = *confirmed.borrow_and_update();
                    self.queue_confirmed();
                }
                Ok(()) = webhook_status.changed() => {
                    self.rollout.webhook_status = *webhook_status.borrow_and_update();
                    self.webhook_status_changed();
                }
                Some(counts) = policy_counts.recv() => self.add_counts(counts),
                Ok(()) = leading.changed() => {
                    // another leader continues to count from the stored statuses
                    self.counted.clear();
                    if *leading.borrow_and_update() {
                        self.queue_all();
                    }
                }
                target = self.queue.next(), if leads && writes.len() < CONCURRENCY => match self.write_of(&target) {
                    Some(write) => writes.push(write),
                    None => self.queue.done(&target),
                },
                Some((target, written)) = writes.next(), if !writes.is_empty() => self.written(target, written),
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn apply_batch(&mut self, number: u64, batch: StatusBatch) {
        self.rollout.batch_applied(number, batch.revision);
        for target in batch.deleted {
            self.queue.forget(&target);
            self.reports.remove(&target);
            self.unconfirmed.remove(&target);
            self.counted.remove(&target);
        }
        for report in batch.reports {
            let target = report.target.clone();
            // an unchanged outcome keeps the number of its batch: the status that this writer stored is no change
            let since = match self.reports.get(&target) {
                Some((since, old)) if old.outcome == report.outcome && old.generation == report.generation => *since,
                _ => number,
            };
            let waits = awaits_rollout(&report, since, &self.rollout);
            self.reports.insert(target.clone(), (since, Box::new(report)));
            if waits {
                self.unconfirmed.insert(target.clone());
            }
            self.queue.push(target, if waits { SETTLE_DELAY } else { Duration::ZERO });
        }
        self.queue_confirmed();
    }

    /// Adds what was counted for policies since the last report.
    fn add_counts(&mut self, counts: PolicyCounts) {
        for (policy, more) in counts {
            let kind = ResourceKind::Policy;
            let target = StatusTarget { kind, namespace: Some(policy.namespace), name: policy.name };
            let Some((_, report)) = self.reports.get(&target) else { continue };
            let counted = self.counted(&target, report.generation).unwrap_or_else(|| report.stored_count());
            self.counted.insert(target.clone(), (report.generation, counted.plus(more)));
            self.queue.push(target, Duration::ZERO);
        }
    }

    fn counted(&self, target: &StatusTarget, generation: i64) -> Option<PolicyCount> {
        let (counted_generation, count) = self.counted.get(target)?;
        (*counted_generation == generation).then_some(*count)
    }

    fn queue_all(&mut self) {
        for target in self.reports.keys() {
            self.queue.push(target.clone(), SETTLE_DELAY);
        }
    }

    /// Queues the resources that are in force everywhere by now.
    fn queue_confirmed(&mut self) {
        let reports = &self.reports;
        let rollout = &self.rollout;
        let still_waits = |target: &StatusTarget| {
            reports.get(target).is_some_and(|(since, report)| awaits_rollout(report, *since, rollout))
        };
        let (unconfirmed, confirmed): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.unconfirmed).into_iter().partition(still_waits);
        self.unconfirmed = unconfirmed;
        confirmed.into_iter().for_each(|target| self.queue.push(target, Duration::ZERO));
    }

    /// A webhook configuration that is wrong only for a moment is not reported.
    fn webhook_status_changed(&mut self) {
        if self.rollout.webhook_status == WebhookStatus::Incomplete {
            let governing = self.reports.iter().filter(|(_, (_, report))| governs(report));
            governing.for_each(|(target, _)| self.queue.push(target.clone(), SETTLE_DELAY));
        }
        self.queue_confirmed();
    }

    /// The write that a resource needs; `None` if its stored status is up to date.
    fn write_of(&mut self, target: &StatusTarget) -> Option<StatusWrite> {
        let (since, report) = self.reports.get(target)?;
        if awaits_rollout(report, *since, &self.rollout) {
            self.unconfirmed.insert(target.clone());
        }
        let counted = self.counted(target, report.generation);
        let rollout = self.rollout.of(*since, governs(report));
        let change = status_change(report, rollout, counted, Timestamp::now())?;
        let client = self.client.clone();
        let events = Arc::clone(&self.events);
        let report = report.clone();
        let write = async move {
            let written = with_timeout(REQUEST_TIMEOUT, write(&client, &events, &report, &change)).await;
            (report.target, written)
        };
        Some(write.boxed())
    }

    fn written(&mut self, target: StatusTarget, written: Result<(), RequestError>) {
        match written {
            Ok(()) => self.queue.done(&target),
            // the resource was deleted; the watch will report it
            Err(error) if error.status() == Some(404) => self.queue.done(&target),
            Err(error) => {
                tracing::warn!(?target, %error, "status write failed; trying again after a pause");
                self.queue.failed(target);
            }
        }
    }
}

/// Whether the resource is accepted but not yet known to be in force everywhere.
fn awaits_rollout(report: &StatusReport, since: u64, rollout: &RolloutTracker) -> bool {
    let ResourceOutcome { rejected, in_force, closed, .. } = &report.outcome;
    let everywhere = || matches!(rollout.of(since, governs(report)), Rollout::Everywhere(_));
    *in_force && rejected.is_none() && closed.is_none() && !everywhere()
}

/// Whether the policy governs Kubernetes operations.
fn governs(report: &StatusReport) -> bool {
    report.outcome.summary.as_ref().is_some_and(|summary| summary.governs)
}

async fn write(
    client: &Client,
    events: &EventRecorder,
    report: &StatusReport,
    change: &StatusChange,
) -> Result<(), kube::Error> {
    let target = &report.target;
    let resource = target.resource();
    let api: Api<DynamicObject> = match &target.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let patch = json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        // the uid keeps the status from a new resource of the same name
        "metadata": {"name": target.name, "uid": report.uid},
        "status": change.status,
    });
    api.patch_status(&target.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch)).await?;
    let reference = ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        name: Some(target.name.to_string()),
        namespace: target.namespace.as_deref().map(ToOwned::to_owned),
        uid: Some(report.uid.to_string()),
        ..ObjectReference::default()
    };
    for condition in change.transitions.iter().filter(|condition| deserves_event(condition, target.kind)) {
        let event = Event {
            type_: if condition.holds { EventType::Normal } else { EventType::Warning },
            reason: condition.reason.to_owned(),
            note: Some(condition.message.clone()),
            action: "Decide".to_owned(),
            secondary: None,
        };
        events.publish(&event, &reference).await;
    }
    Ok(())
}

/// Whether a transition is recorded as an Event. A rejected policy gets one Event, not a second one because it is not
/// programmed either, unless it closes a service. Waiting for replicas gets none.
fn deserves_event(condition: &StatusCondition, kind: ResourceKind) -> bool {
    if condition.kind == ACCEPTED {
        !condition.holds || kind != ResourceKind::Policy
    } else {
        condition.holds || condition.reason == CLOSED
    }
}

impl StatusTarget {
    fn resource(&self) -> ApiResource {
        fn erased<K: Resource<DynamicType = ()>>() -> ApiResource {
            ApiResource::erase::<K>(&())
        }
        match self.kind {
            ResourceKind::Policy => erased::<AccessPolicy>(),
            ResourceKind::Provider => erased::<IdentityProvider>(),
            ResourceKind::Relationship => erased::<Relationship>(),
        }
    }
}
