//! The leader's hand: writes statuses and Events, each only when it changes something.

use crate::owner::Batch;
use crate::reach::{Progress, Reach};
use crate::replicas::Confirmed;
use crate::status::{ACCEPTED, CLOSED, Kind, Outcome, Report, Target, Wanted, wanted};
use crate::webhooks::Standing;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship};
use durward_engine::audit::unenforced::Counts;
use durward_kubernetes::events::Events;
use durward_kubernetes::requests::{MANAGER, PATIENCE, brief, patiently};
use durward_kubernetes::work_queue::Backlog;
use durward_runtime::Failure;
use futures::StreamExt;
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

/// Writes at once.
const CONCURRENCY: usize = 8;
/// How long a status waits for the replicas before it says that they are behind: most changes are written once then.
const SETTLING: Duration = Duration::from_secs(1);

/// Writes what the reports ask for.
pub struct Writer {
    client: Client,
    events: Arc<Events>,
    /// The newest report of each resource, and the number of the batch that brought it.
    reports: HashMap<Target, (u64, Box<Report>)>,
    backlog: Backlog<Target>,
    /// What is not yet known to be in force everywhere.
    unconfirmed: BTreeSet<Target>,
    /// How many requests each policy would have denied, with the generation that would have.
    audited: HashMap<Target, (i64, u64)>,
    progress: Progress,
}

impl Writer {
    pub fn new(client: Client, pod: &str) -> Self {
        let events = Arc::new(Events::new(client.clone(), "controller", pod));
        Self {
            client,
            events,
            reports: HashMap::new(),
            backlog: Backlog::new(),
            unconfirmed: BTreeSet::new(),
            audited: HashMap::new(),
            progress: Progress::default(),
        }
    }

    /// Follows the batches until `shutdown`; writes while `leading`.
    pub async fn run(
        mut self,
        mut batches: mpsc::UnboundedReceiver<(u64, Batch)>,
        mut confirmed: watch::Receiver<Confirmed>,
        mut standing: watch::Receiver<Standing>,
        mut unenforced: mpsc::UnboundedReceiver<Counts>,
        mut leading: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut writes = FuturesUnordered::new();
        loop {
            let leads = *leading.borrow();
            tokio::select! {
                Some((number, batch)) = batches.recv() => self.take_in(number, batch),
                Ok(()) = confirmed.changed() => {
                    self.progress.confirmed = *confirmed.borrow_and_update();
                    self.settled();
                }
                Ok(()) = standing.changed() => {
                    self.progress.standing = *standing.borrow_and_update();
                    self.asked();
                }
                Some(counts) = unenforced.recv() => self.audited(counts),
                Ok(()) = leading.changed() => {
                    // who leads meanwhile counts on from what the statuses say
                    self.audited.clear();
                    if *leading.borrow_and_update() {
                        let all: Vec<Target> = self.reports.keys().cloned().collect();
                        all.into_iter().for_each(|target| self.backlog.push(target, SETTLING));
                    }
                }
                target = self.backlog.next(), if leads && writes.len() < CONCURRENCY => {
                    let report = self.reports.get(&target);
                    if report.is_some_and(|(number, report)| waits(report, *number, &self.progress)) {
                        self.unconfirmed.insert(target.clone());
                    }
                    let wanted = report.and_then(|(number, report)| {
                        let audited = self.audited.get(&target);
                        let audited = audited.filter(|(generation, _)| *generation == report.generation);
                        let audited = audited.map(|(_, count)| *count);
                        let reach = self.progress.of(*number, governs(report));
                        Some((&**report, wanted(report, reach, audited, Timestamp::now())?))
                    });
                    if let Some((report, wanted)) = wanted {
                        let (client, events, report) = (self.client.clone(), Arc::clone(&self.events), report.clone());
                        writes.push(async move {
                            let written = patiently(PATIENCE, write(&client, &events, &report, &wanted)).await;
                            (report.target, written)
                        });
                    } else {
                        self.backlog.done(&target);
                    }
                }
                Some((target, written)) = writes.next(), if !writes.is_empty() => self.written(target, written),
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn take_in(&mut self, number: u64, batch: Batch) {
        self.progress.applied(number, batch.revision);
        for target in batch.gone {
            self.backlog.forget(&target);
            self.reports.remove(&target);
            self.unconfirmed.remove(&target);
            self.audited.remove(&target);
        }
        for report in batch.reports {
            let target = report.target.clone();
            // an unchanged outcome keeps the number of the batch that brought it: its own status coming back is no news
            let since = match self.reports.get(&target) {
                Some((since, old)) if old.outcome == report.outcome && old.generation == report.generation => *since,
                _ => number,
            };
            let waits = waits(&report, since, &self.progress);
            self.reports.insert(target.clone(), (since, Box::new(report)));
            if waits {
                self.unconfirmed.insert(target.clone());
            }
            self.backlog.push(target, if waits { SETTLING } else { Duration::ZERO });
        }
        self.settled();
    }

    /// Policies in `mode: Audit` would have denied so much more.
    fn audited(&mut self, counts: Counts) {
        for (policy, more) in counts {
            let target = Target { kind: Kind::Policy, namespace: Some(policy.namespace), name: policy.name };
            let Some((_, report)) = self.reports.get(&target) else { continue };
            let known = self.audited.get(&target).filter(|(generation, _)| *generation == report.generation);
            let known = known.map(|(_, count)| *count).max(report.audited()).unwrap_or_default();
            self.audited.insert(target.clone(), (report.generation, known.saturating_add(more)));
            self.backlog.push(target, Duration::ZERO);
        }
    }

    /// More is in force everywhere: what waited for that can be said.
    fn settled(&mut self) {
        let (reports, progress) = (&self.reports, &self.progress);
        let waits =
            |target: &Target| reports.get(target).is_some_and(|(since, report)| waits(report, *since, progress));
        let (unconfirmed, settled) = std::mem::take(&mut self.unconfirmed).into_iter().partition(waits);
        self.unconfirmed = unconfirmed;
        settled.into_iter().for_each(|target| self.backlog.push(target, Duration::ZERO));
    }

    /// The API server asks for something else than before. Only what stays amiss for a moment is told.
    fn asked(&mut self) {
        if self.progress.standing == Standing::Lacking {
            let amiss = self.reports.iter().filter(|(_, (_, report))| governs(report));
            amiss.for_each(|(target, _)| self.backlog.push(target.clone(), SETTLING));
        }
        self.settled();
    }

    fn written(&mut self, target: Target, written: Result<(), kube::Error>) {
        match written {
            Ok(()) => self.backlog.done(&target),
            // it is gone, and the watch will say so
            Err(kube::Error::Api(status)) if status.code == 404 => self.backlog.done(&target),
            Err(error) => {
                tracing::warn!(?target, error = %brief(&error), "a status could not be written");
                self.backlog.failed(target);
            }
        }
    }
}

/// Whether a status is still to say that the resource is in force everywhere.
fn waits(report: &Report, since: u64, progress: &Progress) -> bool {
    let Outcome { rejected, in_force, closed, .. } = &report.outcome;
    let everywhere = || matches!(progress.of(since, governs(report)), Reach::Everywhere(_));
    *in_force && rejected.is_none() && closed.is_none() && !everywhere()
}

/// Whether the API server has to ask for some of it.
fn governs(report: &Report) -> bool {
    report.outcome.facts.as_ref().is_some_and(|facts| facts.governs)
}

async fn write(client: &Client, events: &Events, report: &Report, wanted: &Wanted) -> Result<(), kube::Error> {
    let target = &report.target;
    let resource = target.resource();
    let api: Api<DynamicObject> = match &target.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let patch = json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        // a resource of the same name that was made since is another one
        "metadata": {"name": target.name, "uid": report.uid},
        "status": wanted.status,
    });
    api.patch_status(&target.name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await?;
    let reference = ObjectReference {
        api_version: Some(resource.api_version.clone()),
        kind: Some(resource.kind.clone()),
        name: Some(target.name.to_string()),
        namespace: target.namespace.as_deref().map(ToOwned::to_owned),
        uid: Some(report.uid.to_string()),
        ..ObjectReference::default()
    };
    for (condition, holds, reason, message) in &wanted.transitions {
        // what is not accepted is told once, not again as not programmed, unless it closes a service; waiting for replicas is
        // no event
        let accepted = condition == ACCEPTED;
        let tells = if accepted { !holds || target.kind != Kind::Policy } else { *holds || reason == CLOSED };
        if tells {
            let event = Event {
                type_: if *holds { EventType::Normal } else { EventType::Warning },
                reason: reason.clone(),
                note: Some(message.clone()),
                action: "Decide".to_owned(),
                secondary: None,
            };
            events.tell(&event, &reference).await;
        }
    }
    Ok(())
}

impl Target {
    fn resource(&self) -> ApiResource {
        fn of<K: Resource<DynamicType = ()>>() -> ApiResource {
            ApiResource::erase::<K>(&())
        }
        match self.kind {
            Kind::Policy => of::<AccessPolicy>(),
            Kind::Provider => of::<IdentityProvider>(),
            Kind::Relationship => of::<Relationship>(),
        }
    }
}
