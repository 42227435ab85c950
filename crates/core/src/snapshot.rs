//! Everything that decisions depend on, at one moment. A snapshot in use is immutable; changes replace it.

use crate::approval::{ApprovalRequirement, ApprovalSubject, GrantedApproval};
use crate::digest::{ContentDigests, Digest};
use crate::host::{Host, canonical_of_authority};
use crate::kubernetes::ApiCall;
use crate::labels::Labels;
use crate::principal::{Identity, PrincipalId};
use crate::relations::{RelationTuple, TupleIndex};
use crate::service::{CompiledService, ServiceKey};
use foldhash::fast::RandomState;
use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;
use std::hash::Hash;
use std::sync::{Arc, LazyLock};

/// A persistent map: clones share what did not change.
type SharedMap<K, V> = GenericHashMap<K, V, RandomState, DefaultSharedPtr>;

/// All services, with the tuples, labels and approvals that decisions read.
///
/// A clone is cheap and shares what did not change, so a change costs in proportion to the service that it touches. To
/// change it: clone, [`Snapshot::put`] or [`Snapshot::remove`], [`Snapshot::update_revision`], then replace the old
/// one.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    services: SharedMap<ServiceKey, Arc<CompiledService>>,
    by_audience: SharedMap<Arc<str>, Arc<CompiledService>>,
    by_host: SharedMap<Host, Arc<CompiledService>>,
    /// Services that declare requests to the Kubernetes API, by namespace, ordered by audience.
    kubernetes: SharedMap<Arc<str>, Arc<[Arc<CompiledService>]>>,
    /// Services that select pods, by namespace.
    selecting: SharedMap<Arc<str>, Arc<[Arc<CompiledService>]>>,
    /// Services with a rule that names a workload.
    naming: SharedMap<PrincipalId, Arc<[Arc<CompiledService>]>>,
    /// Labels of each Namespace.
    labels: SharedMap<Arc<str>, Arc<Labels>>,
    /// Tuples of each service, even if the service does not exist.
    tuples: SharedMap<ServiceKey, TupleIndex>,
    /// Approvals that were granted.
    approvals: SharedMap<ApprovalSubject, GrantedApproval>,
    contents: ContentDigests,
    revision: Digest,
}

impl Snapshot {
    /// Adds a service, or replaces the one with the same key.
    pub fn put(&mut self, service: CompiledService) {
        self.remove(&service.key);
        let service = Arc::new(service);
        for host in service.hosts.iter() {
            self.by_host.insert(host.clone(), Arc::clone(&service));
        }
        if service.kubernetes().next().is_some() {
            index_service(&mut self.kubernetes, &service.key.namespace, &service);
        }
        if !service.pods.is_empty() {
            index_service(&mut self.selecting, &service.key.namespace, &service);
        }
        service.named_workloads().iter().for_each(|id| index_service(&mut self.naming, id, &service));
        self.by_audience.insert(Arc::clone(&service.key.audience), Arc::clone(&service));
        self.services.insert(service.key.clone(), service);
    }

    /// Removes a service. A host or audience that another service has taken over stays with that one.
    pub fn remove(&mut self, key: &ServiceKey) {
        let Some(old) = self.services.remove(key) else { return };
        if old.kubernetes().next().is_some() {
            unindex_service(&mut self.kubernetes, &key.namespace, key);
        }
        if !old.pods.is_empty() {
            unindex_service(&mut self.selecting, &key.namespace, key);
        }
        old.named_workloads().iter().for_each(|id| unindex_service(&mut self.naming, id, key));
        if self.by_audience.get(&key.audience).is_some_and(|holder| Arc::ptr_eq(holder, &old)) {
            self.by_audience.remove(&key.audience);
        }
        for host in old.hosts.iter() {
            if self.by_host.get(host).is_some_and(|holder| Arc::ptr_eq(holder, &old)) {
                self.by_host.remove(host);
            }
        }
    }

    /// Sets the labels of a Namespace; `None` removes them.
    pub fn put_namespace_labels(&mut self, namespace: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => self.labels.insert(namespace.into(), Arc::new(labels)),
            None => self.labels.remove(namespace),
        };
    }

    /// The labels of every Namespace, in no particular order.
    pub fn namespace_labels(&self) -> impl Iterator<Item = (&Arc<str>, &Labels)> {
        self.labels.iter().map(|(namespace, labels)| (namespace, labels.as_ref()))
    }

    /// The labels of the caller's Namespace, if the caller is one of the cluster's own workloads.
    #[must_use]
    pub fn labels_of(&self, caller: &Identity) -> Option<&Labels> {
        match &caller.id {
            PrincipalId::Workload { namespace, .. } if caller.is_own_workload() => {
                self.labels.get(namespace).map(AsRef::as_ref)
            }
            _ => None,
        }
    }

    /// Replaces the tuples that a `Relationship` states about the objects of a service. An empty list removes them.
    pub fn put_relationship(&mut self, service: &ServiceKey, relationship: &str, tuples_of_source: &[RelationTuple]) {
        self.change_tuples(service, |tuples| tuples.put(relationship, tuples_of_source));
    }

    /// Marks the tuples of a `Relationship` as unknown.
    pub fn mark_relationship_unknown(&mut self, service: &ServiceKey, relationship: &str) {
        self.change_tuples(service, |tuples| tuples.mark_unknown(relationship));
    }

    fn change_tuples(&mut self, service: &ServiceKey, change: impl FnOnce(&mut TupleIndex)) {
        // removed while it changes, so that nothing is copied that no older snapshot shares
        let mut tuples = self.tuples.remove(service).unwrap_or_default();
        change(&mut tuples);
        if !tuples.is_empty() {
            self.tuples.insert(service.clone(), tuples);
        }
    }

    /// The tuples about the objects of a service.
    #[must_use]
    pub fn tuples(&self, service: &ServiceKey) -> &TupleIndex {
        static NONE: LazyLock<TupleIndex> = LazyLock::new(TupleIndex::default);
        self.tuples.get(service).unwrap_or(&NONE)
    }

    /// Sets an approval; `None` removes it.
    pub fn put_approval(&mut self, subject: ApprovalSubject, granted: Option<GrantedApproval>) {
        self.record(&subject.content(), granted.as_ref().map(GrantedApproval::digest));
        match granted {
            Some(granted) => self.approvals.insert(subject, granted),
            None => self.approvals.remove(&subject),
        };
    }

    /// The approval with this subject, valid or not.
    pub(crate) fn approval(&self, subject: &ApprovalSubject) -> Option<&GrantedApproval> {
        self.approvals.get(subject)
    }

    /// The service of an approval's subject, with the approval that its policy requires now.
    #[must_use]
    pub fn approval_requirement(
        &self,
        subject: &ApprovalSubject,
    ) -> Option<(&Arc<CompiledService>, &ApprovalRequirement)> {
        self.services().filter(|service| service.key.namespace == subject.policy.namespace).find_map(|service| {
            let operation = service.operation_named(&subject.operation).filter(|one| one.policy == subject.policy)?;
            let approvers = operation.operation.approval.as_deref()?;
            (approvers.policy_uid == subject.policy_uid).then_some((service, approvers))
        })
    }

    /// The service of this namespace and audience.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<CompiledService>> {
        self.services.get(key)
    }

    /// Records the digest of a resource in force; `None` removes it.
    pub fn record(&mut self, resource: &str, digest: Option<Digest>) {
        match digest {
            Some(digest) => self.contents.insert(resource, digest),
            None => self.contents.remove(resource),
        }
    }

    /// Updates the revision after changes.
    pub fn update_revision(&mut self) {
        self.revision = self.contents.digest();
    }

    /// Digest of the content. Two replicas with the same resources in force have the same revision.
    #[must_use]
    pub fn revision(&self) -> Digest {
        self.revision
    }

    /// The service with this host.
    #[must_use]
    pub fn by_host(&self, host: &Host) -> Option<&Arc<CompiledService>> {
        self.by_host.get(host)
    }

    /// The service with the host of this `Host` or `:authority` value.
    pub(crate) fn by_authority(&self, authority: &str) -> Option<&Arc<CompiledService>> {
        self.by_host.get(canonical_of_authority(authority)?.as_ref())
    }

    /// The service with this audience.
    #[must_use]
    pub fn by_audience(&self, audience: &str) -> Option<&Arc<CompiledService>> {
        self.by_audience.get(audience)
    }

    /// The services of a namespace that govern this request to the Kubernetes API, ordered by audience. Each of them
    /// has to allow it. A request that no service declares is not governed.
    pub fn governing<'s>(
        &'s self,
        namespace: &str,
        call: &ApiCall<'s>,
    ) -> impl Iterator<Item = &'s Arc<CompiledService>> {
        let call = *call;
        let services = self.kubernetes.get(namespace).map(AsRef::as_ref).unwrap_or_default();
        services.iter().filter(move |service| service.governs(&call))
    }

    /// The namespaces with services that declare requests to the Kubernetes API, in no particular order, with these
    /// services.
    pub fn governed_namespaces(&self) -> impl Iterator<Item = (&Arc<str>, &[Arc<CompiledService>])> {
        self.kubernetes.iter().map(|(namespace, services)| (namespace, services.as_ref()))
    }

    /// The services of a namespace that select pods.
    pub(crate) fn selecting(&self, namespace: &str) -> &[Arc<CompiledService>] {
        self.selecting.get(namespace).map(AsRef::as_ref).unwrap_or_default()
    }

    /// The namespaces with services that select pods.
    pub(crate) fn selecting_namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.selecting.keys()
    }

    /// Workloads that some rule names.
    pub(crate) fn named_workloads(&self) -> impl Iterator<Item = &PrincipalId> {
        self.naming.keys()
    }

    /// The services with a rule that names this workload.
    pub(crate) fn naming(&self, id: &PrincipalId) -> &[Arc<CompiledService>] {
        self.naming.get(id).map(AsRef::as_ref).unwrap_or_default()
    }

    /// Every service, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<CompiledService>> {
        self.services.values()
    }
}

/// Services under a key that several can share, sorted by their own keys.
type ServiceIndex<K> = SharedMap<K, Arc<[Arc<CompiledService>]>>;

fn index_service<K: Clone + Eq + Hash>(index: &mut ServiceIndex<K>, key: &K, service: &Arc<CompiledService>) {
    let mut services = index.get(key).map(|services| services.to_vec()).unwrap_or_default();
    services.push(Arc::clone(service));
    services.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    index.insert(key.clone(), services.into());
}

fn unindex_service<K: Clone + Eq + Hash>(index: &mut ServiceIndex<K>, key: &K, service: &ServiceKey) {
    let mut services = index.get(key).map(|services| services.to_vec()).unwrap_or_default();
    services.retain(|other| other.key != *service);
    if services.is_empty() {
        index.remove(key);
    } else {
        index.insert(key.clone(), services.into());
    }
}
