//! All services at one moment. Immutable; replaced, never changed.

use crate::digest::{Contents, Digest};
use crate::host::Host;
use crate::service::{Service, ServiceKey};
use std::sync::Arc;

/// Everything that decisions are made from.
///
/// A clone is cheap and shares what did not change, so a change costs in proportion to the service it touches:
/// clone, [`Snapshot::put`] or [`Snapshot::take`], [`Snapshot::seal`], and replace the old one.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    services: imbl::HashMap<ServiceKey, Arc<Service>>,
    by_audience: imbl::HashMap<Arc<str>, Arc<Service>>,
    by_host: imbl::HashMap<Host, Arc<Service>>,
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
        self.by_audience.insert(Arc::clone(&service.key.audience), Arc::clone(&service));
        self.services.insert(service.key.clone(), service);
    }

    /// Takes a service out of force. A name that another service has taken over since stays with that one.
    pub fn take(&mut self, key: &ServiceKey) {
        let Some(old) = self.services.remove(key) else { return };
        if self.by_audience.get(&key.audience).is_some_and(|holder| Arc::ptr_eq(holder, &old)) {
            self.by_audience.remove(&key.audience);
        }
        for host in &old.hosts {
            if self.by_host.get(host).is_some_and(|holder| Arc::ptr_eq(holder, &old)) {
                self.by_host.remove(host);
            }
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

    /// The service with this audience.
    #[must_use]
    pub fn by_audience(&self, audience: &str) -> Option<&Arc<Service>> {
        self.by_audience.get(audience)
    }

    /// Every service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}
