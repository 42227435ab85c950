//! The index of all resources. One task owns it: changes come in, snapshots and reports go out.

mod outputs;
mod publish;
mod review;

pub use outputs::{BatchSender, Outputs, StatusBatch};

use crate::gate_resources::GateResources;
use crate::status::{ResourceKind, StatusReport, StatusTarget};
use crate::watches::{ObjectName, WatchEvent, WatchEvents, WatchSource, WatchedObject, WatchesEnded};
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::field_error::FieldError;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship, namespaced_name};
use durward_api::translation::{self, ObjectVersion};
use durward_approvals::{ApprovalIndex, ApprovalSeal};
use durward_core::namespaced_name::NamespacedName;
use durward_doors::admission::ResourceReview;
use durward_runtime::Failure;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events that are handled together: a change of a thousand policies becomes a few snapshots, not a thousand.
const MAX_EVENTS_PER_BATCH: usize = 4096;

/// All resources that decisions depend on.
pub struct ResourceIndex {
    catalog: Catalog,
    policies: HashMap<NamespacedName, ObjectVersionInfo>,
    relationships: HashMap<NamespacedName, ObjectVersionInfo>,
    providers: BTreeMap<String, (ObjectVersionInfo, Result<IdentityProvider, FieldError>)>,
    secrets: BTreeMap<ObjectName, Secret>,
    services: BTreeSet<ObjectName>,
    /// Sources whose first listing is not complete.
    unsynced: BTreeSet<WatchSource>,
    /// Names that the current listing of each source has returned so far.
    listings: BTreeMap<WatchSource, BTreeSet<ObjectName>>,
    approvals: ApprovalIndex,
    changes: Vec<CatalogChange>,
    reports: PendingReports,
    /// Whether providers or API keys changed since the last snapshot.
    authentication_changed: bool,
    gates: GateResources,
}

/// Version and stored status of an object.
#[derive(Debug, Clone)]
struct ObjectVersionInfo {
    uid: Arc<str>,
    generation: i64,
    /// The stored status, in JSON.
    status: Arc<str>,
}

impl ObjectVersionInfo {
    fn of(object: &DynamicObject) -> Self {
        Self {
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            generation: object.metadata.generation.unwrap_or_default(),
            status: object.data.get("status").unwrap_or(&Value::Null).to_string().into(),
        }
    }

    fn same_generation(&self, other: &Self) -> bool {
        self.uid == other.uid && self.generation == other.generation
    }
}

/// Resources to report with the next batch.
#[derive(Debug, Default)]
struct PendingReports {
    policies: BTreeSet<NamespacedName>,
    relationships: BTreeSet<NamespacedName>,
    providers: Vec<StatusReport>,
    deleted: Vec<StatusTarget>,
}

impl ResourceIndex {
    pub fn new(domains: ClusterDomains, sources: impl IntoIterator<Item = WatchSource>, seal: ApprovalSeal) -> Self {
        Self {
            catalog: Catalog::new(domains),
            policies: HashMap::new(),
            relationships: HashMap::new(),
            providers: BTreeMap::new(),
            secrets: BTreeMap::new(),
            services: BTreeSet::new(),
            unsynced: sources.into_iter().collect(),
            listings: BTreeMap::new(),
            approvals: ApprovalIndex::new(seal),
            changes: Vec::new(),
            reports: PendingReports::default(),
            authentication_changed: true,
            gates: GateResources::default(),
        }
    }

    /// Follows the API server until `shutdown`.
    pub async fn run(
        mut self,
        events: WatchEvents,
        mut reviews: mpsc::Receiver<ResourceReview>,
        mut outputs: Outputs,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut events = events.ready_chunks(MAX_EVENTS_PER_BATCH);
        loop {
            tokio::select! {
                batch = events.next() => match batch {
                    Some(batch) => batch.into_iter().for_each(|event| self.handle(event, &outputs)),
                    None => return Err(WatchesEnded.into()),
                },
                Some(review) = reviews.recv() => {
                    self.answer(review);
                    continue;
                }
                () = shutdown.cancelled() => break,
            }
            if self.unsynced.is_empty() {
                self.publish(&mut outputs);
            }
        }
        // the webhooks end after this task: reviews that they already accepted still get an answer
        while let Some(review) = reviews.recv().await {
            self.answer(review);
        }
        Ok(())
    }

    fn answer(&self, review: ResourceReview) {
        let reviewed = self.review(&review.kind, &review.object);
        // the caller may have gone away
        let _ = review.reply.send(reviewed);
    }

    fn handle(&mut self, event: WatchEvent, outputs: &Outputs) {
        match event {
            WatchEvent::Failed(source, error) => {
                // the error of a watch on Secrets could quote one, so only its kind is logged
                let error = error_kind(&error);
                tracing::warn!(?source, %error, "watch failed; keeping the last known resources and trying again");
                outputs.metrics.api_server_failed();
                return;
            }
            WatchEvent::ListingStarted(source) => drop(self.listings.insert(source, BTreeSet::new())),
            WatchEvent::Listed(source, object) => {
                if let Some(listing) = self.listings.get_mut(&source) {
                    listing.insert(object.name());
                }
                self.apply(&source, object);
            }
            WatchEvent::ListingComplete(source) => {
                let listed = self.listings.remove(&source).unwrap_or_default();
                for name in self.names_of(&source) {
                    if !listed.contains(&name) {
                        self.delete(&source, name);
                    }
                }
                self.unsynced.remove(&source);
            }
            WatchEvent::Applied(source, object) => self.apply(&source, object),
            WatchEvent::Deleted(source, name) => self.delete(&source, name),
        }
        outputs.metrics.api_server_seen();
    }

    fn apply(&mut self, source: &WatchSource, object: WatchedObject) {
        match (source, object) {
            (WatchSource::Policies, WatchedObject::Durward(object)) => self.apply_policy(*object),
            (WatchSource::Providers, WatchedObject::Durward(object)) => self.apply_provider(*object),
            (WatchSource::Relationships, WatchedObject::Durward(object)) => self.apply_relationship(*object),
            (WatchSource::Approvals, object @ WatchedObject::Durward(_)) => self.apply_approval(object),
            (_, service @ WatchedObject::Service(_)) => drop(self.services.insert(service.name())),
            (_, WatchedObject::Namespace(namespace)) => self.apply_namespace(*namespace),
            (_, WatchedObject::Secret(secret)) => self.apply_secret(*secret),
            // each source yields objects of its own kind only
            (_, WatchedObject::Durward(_)) => {}
        }
    }

    fn apply_namespace(&mut self, namespace: PartialObjectMeta<Namespace>) {
        self.changes.extend(translation::namespace(&namespace.metadata));
        let name = namespace.metadata.name.unwrap_or_default();
        self.gates.namespace(&name, &namespace.metadata.annotations.unwrap_or_default());
    }

    fn apply_secret(&mut self, secret: Secret) {
        let namespace = secret.metadata.namespace.clone().unwrap_or_default();
        let name = secret.metadata.name.clone().unwrap_or_default();
        self.changes.extend(translation::api_keys(&secret));
        self.secrets.insert((namespace, name), secret);
        self.authentication_changed = true;
    }

    fn apply_policy(&mut self, object: DynamicObject) {
        let info = ObjectVersionInfo::of(&object);
        let Some(key) = self.catalog.interned_name(&object.metadata) else { return };
        let before = self.policies.insert(key.clone(), info.clone());
        self.reports.policies.insert(key.clone());
        // a change of status or metadata alone changes no decision, except for the record of the last good version
        if before.is_some_and(|before| before.same_generation(&info)) {
            self.changes.extend(translation::status_changes::<AccessPolicy>(&object));
            return;
        }
        let Some(version) = ObjectVersion::<AccessPolicy>::from_dynamic(object) else { return };
        if let Ok(policy) = version.resource() {
            self.gates.policy(&key, policy);
        }
        for change in version.into_changes() {
            let change = self.catalog.compact(change);
            self.changes.push(change);
        }
    }

    fn apply_provider(&mut self, object: DynamicObject) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let info = ObjectVersionInfo::of(&object);
        let Some(version) = ObjectVersion::<IdentityProvider>::from_dynamic(object) else { return };
        let provider = version.resource().cloned().map_err(Clone::clone);
        self.changes.extend(version.into_changes());
        self.providers.insert(name, (info, provider));
        self.authentication_changed = true;
    }

    fn apply_relationship(&mut self, object: DynamicObject) {
        let info = ObjectVersionInfo::of(&object);
        let Some(key) = namespaced_name(&object.metadata) else { return };
        let before = self.relationships.insert(key.clone(), info.clone());
        self.reports.relationships.insert(key.clone());
        // as for policies
        if before.is_some_and(|before| before.same_generation(&info)) {
            self.changes.extend(translation::status_changes::<Relationship>(&object));
            return;
        }
        let Some(version) = ObjectVersion::<Relationship>::from_dynamic(object) else { return };
        if let Ok(relationship) = version.resource() {
            self.gates.relationship(&key, &relationship.spec);
        }
        self.changes.extend(version.into_changes());
    }

    fn apply_approval(&mut self, object: WatchedObject) {
        let name = object.name();
        let WatchedObject::Durward(object) = object else { return };
        // an approval that can't be decoded approves nothing
        let change = match object.try_parse() {
            Ok(approval) => self.approvals.insert(name, approval),
            Err(_) => self.approvals.remove(&name),
        };
        self.changes.extend(change);
    }

    fn delete(&mut self, source: &WatchSource, (namespace, name): ObjectName) {
        match source {
            WatchSource::Policies => {
                let key = NamespacedName { namespace: namespace.as_str().into(), name: name.as_str().into() };
                self.policies.remove(&key);
                self.gates.policy_deleted(&key);
                self.reports.deleted.push(policy_target(&key));
                self.changes.extend(translation::deleted::<AccessPolicy>(key));
            }
            WatchSource::Providers => {
                self.providers.remove(&name);
                self.changes.extend(translation::deleted::<IdentityProvider>(name.as_str().into()));
                self.reports.deleted.push(provider_target(&name));
                self.authentication_changed = true;
            }
            WatchSource::Relationships => {
                let key = NamespacedName { namespace: namespace.as_str().into(), name: name.as_str().into() };
                self.relationships.remove(&key);
                self.gates.relationship_deleted(&key);
                self.reports.deleted.push(relationship_target(&key));
                self.changes.extend(translation::deleted::<Relationship>(key));
            }
            WatchSource::Approvals => self.changes.extend(self.approvals.remove(&(namespace, name))),
            WatchSource::Namespaces => {
                self.gates.namespace_deleted(&name);
                self.changes.extend(translation::namespace_deleted(&name));
            }
            WatchSource::Services => drop(self.services.remove(&(namespace, name))),
            WatchSource::ApiKeys(_) => {
                let key = NamespacedName::new(namespace.as_str(), name.as_str());
                self.changes.extend(translation::api_keys_deleted(key));
                self.secrets.remove(&(namespace, name));
                self.authentication_changed = true;
            }
        }
    }

    /// Names of all indexed objects of a source.
    fn names_of(&self, source: &WatchSource) -> Vec<ObjectName> {
        let cluster_scoped = |name: &str| (String::new(), name.to_owned());
        let namespaced = |key: &NamespacedName| (key.namespace.to_string(), key.name.to_string());
        match source {
            WatchSource::Policies => self.policies.keys().map(namespaced).collect(),
            WatchSource::Providers => self.providers.keys().map(|name| cluster_scoped(name)).collect(),
            WatchSource::ApiKeys(namespace) => self.secrets.keys().filter(|(of, _)| of == namespace).cloned().collect(),
            WatchSource::Namespaces => self.catalog.namespaces().map(cluster_scoped).collect(),
            WatchSource::Services => self.services.iter().cloned().collect(),
            WatchSource::Approvals => self.approvals.objects().keys().cloned().collect(),
            WatchSource::Relationships => self.relationships.keys().map(namespaced).collect(),
        }
    }
}

fn policy_target(key: &NamespacedName) -> StatusTarget {
    let kind = ResourceKind::Policy;
    StatusTarget { kind, namespace: Some(Arc::clone(&key.namespace)), name: Arc::clone(&key.name) }
}

fn relationship_target(key: &NamespacedName) -> StatusTarget {
    let kind = ResourceKind::Relationship;
    StatusTarget { kind, namespace: Some(Arc::clone(&key.namespace)), name: Arc::clone(&key.name) }
}

fn provider_target(name: &str) -> StatusTarget {
    StatusTarget { kind: ResourceKind::Provider, namespace: None, name: name.into() }
}

/// Describes an error without any text from the API server.
fn error_kind(error: &kube::runtime::watcher::Error) -> String {
    use kube::runtime::watcher::Error;
    let describe = |error: &kube::Error| match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.reason),
        kube::Error::SerdeError(_) => "the response can't be decoded".to_owned(),
        other => other.to_string(),
    };
    match error {
        Error::InitialListFailed(error) => format!("listing failed: {}", describe(error)),
        Error::WatchStartFailed(error) | Error::WatchFailed(error) => format!("watching failed: {}", describe(error)),
        Error::WatchError(status) => format!("watching failed: {} {}", status.code, status.reason),
        Error::NoResourceVersion => "the listing has no resource version".to_owned(),
    }
}

#[cfg(test)]
mod tests;
