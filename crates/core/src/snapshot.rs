//! All services at one moment. Immutable; replaced, never changed.

use crate::digest::{Contents, Digest};
use crate::host::{Host, canonical_of_authority};
use crate::kubernetes::ApiCall;
use crate::service::{Service, ServiceKey};
use foldhash::fast::RandomState;
use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;
use std::sync::Arc;

/// A map whose clones share what did not change.
type Map<K, V> = GenericHashMap<K, V, RandomState, DefaultSharedPtr>;

/// Everything that decisions are made from.
///
/// A clone is cheap and shares what did not change, so a change costs in proportion to the service it touches:
/// clone, [`Snapshot::put`] or [`Snapshot::take`], [`Snapshot::seal`], and replace the old one.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    services: Map<ServiceKey, Arc<Service>>,
    by_audience: Map<Arc<str>, Arc<Service>>,
    by_host: Map<Host, Arc<Service>>,
    /// Services that declare requests to the Kubernetes API, by namespace, in the order of their audiences.
    kubernetes: Map<Arc<str>, Arc<[Arc<Service>]>>,
    contents: Contents,
    revision: Digest,
}

impl Snapshot {
    /// Puts a service in force, in place of the one with the same key.
    pub fn put(&mut self, service: Service) {
        self.take(&service.key);
        let service = Arc::new(service);
        for host in &service.hosts {
            self.by_host.insert(host.clone(), Arc::clone(&service));
        }
        if service.kubernetes().next().is_some() {
            self.govern(&service.key.namespace, |services| services.push(Arc::clone(&service)));
        }
        self.by_audience.insert(Arc::clone(&service.key.audience), Arc::clone(&service));
        self.services.insert(service.key.clone(), service);
    }

    /// Takes a service out of force. A name that another service has taken over since stays with that one.
    pub fn take(&mut self, key: &ServiceKey) {
        let Some(old) = self.services.remove(key) else { return };
        if old.kubernetes().next().is_some() {
            self.govern(&key.namespace, |services| services.retain(|service| service.key != *key));
        }
        if self.by_audience.get(&key.audience).is_some_and(|holder| Arc::ptr_eq(holder, &old)) {
            self.by_audience.remove(&key.audience);
        }
        for host in &old.hosts {
            if self.by_host.get(host).is_some_and(|holder| Arc::ptr_eq(holder, &old)) {
                self.by_host.remove(host);
            }
        }
    }

    fn govern(&mut self, namespace: &Arc<str>, change: impl FnOnce(&mut Vec<Arc<Service>>)) {
        let mut services = self.kubernetes.get(namespace).map(|services| services.to_vec()).unwrap_or_default();
        change(&mut services);
        services.sort_by(|a, b| a.key.cmp(&b.key));
        if services.is_empty() {
            self.kubernetes.remove(namespace);
        } else {
            self.kubernetes.insert(Arc::clone(namespace), services.into());
        }
    }

    /// Records the digest of a resource that is in force, or that it is no longer.
    pub fn record(&mut self, resource: &str, digest: Option<Digest>) {
        match digest {
            Some(digest) => self.contents.insert(resource, digest),
            None => self.contents.remove(resource),
        }
    }

    /// Settles the revision after changes.
    pub fn seal(&mut self) {
        self.revision = self.contents.digest();
    }

    /// Digest of the content: two replicas with the same resources in force have the same revision.
    #[must_use]
    pub fn revision(&self) -> Digest {
        self.revision
    }

    /// The service that is called by this host.
    #[must_use]
    pub fn by_host(&self, host: &Host) -> Option<&Arc<Service>> {
        self.by_host.get(host)
    }

    /// The service that is called by this `Host` or `:authority` value.
    pub(crate) fn by_authority(&self, authority: &str) -> Option<&Arc<Service>> {
        self.by_host.get(canonical_of_authority(authority)?.as_ref())
    }

    /// The service with this audience.
    #[must_use]
    pub fn by_audience(&self, audience: &str) -> Option<&Arc<Service>> {
        self.by_audience.get(audience)
    }

    /// The services of a namespace that declare this request to the Kubernetes API, in the order of their audiences.
    /// Each of them has to let it through; a request that none declares is not governed.
    pub fn governing<'s>(&'s self, namespace: &str, call: &ApiCall<'s>) -> impl Iterator<Item = &'s Arc<Service>> {
        let call = *call;
        let services = self.kubernetes.get(namespace).map(AsRef::as_ref).unwrap_or_default();
        services.iter().filter(move |service| service.kubernetes().any(|pattern| pattern.matches(&call)))
    }

    /// The namespaces with services that declare requests to the Kubernetes API, in no order, with these services.
    pub fn governed(&self) -> impl Iterator<Item = (&Arc<str>, &[Arc<Service>])> {
        self.kubernetes.iter().map(|(namespace, services)| (namespace, services.as_ref()))
    }

    /// Every service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}
