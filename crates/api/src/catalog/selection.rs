//! Which version of each policy is in force.

use super::claims::{Claim, Seniority, Seniors, claims};
use super::{Catalog, Entry, Rejection, RejectionReason, content_name, service_of};
use crate::compile::{FieldError, compile};
use crate::resources::AccessPolicy;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::Policy;
use durward_core::service::{OperationConflict, PolicyUnion, ServiceKey};
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;

impl Catalog {
    /// What would be wrong with a policy if it were applied now.
    ///
    /// # Errors
    /// With what would become of it.
    pub fn review(&self, resource: &AccessPolicy) -> Result<(), Rejection> {
        let invalid = |errors| Rejection { reason: RejectionReason::Invalid, errors };
        let policy = Arc::new(compile(resource, &self.settings).map_err(invalid)?);
        let created = self.entries.get(&policy.key).map_or(i64::MAX, |entry| entry.created);
        let entry = Entry { created, ..Entry::default() };
        if let Some(objection) = self.objection(&entry, &policy) {
            return Err(objection);
        }
        let mut union = PolicyUnion::default();
        let members = self.services.get(&service_of(&policy)).into_iter();
        let older = members.flat_map(|members| members.before(created, &policy.key));
        for member in older.filter_map(|key| self.in_force(key)).filter(|it| service_of(it) == service_of(&policy)) {
            // those in force fit together
            let _ = union.add(Arc::clone(member));
        }
        union.add(policy).map_err(conflicting)
    }

    /// Decides anew which version of each touched policy is in force, and of each that shares a service with one;
    /// returns them all, and rebuilds their services.
    pub(super) fn settle(&mut self, touched: &BTreeSet<NamespacedName>) -> BTreeSet<NamespacedName> {
        let (policies, mut services) = self.affected(touched);
        for (_, key) in &policies {
            let Some(entry) = self.entries.get(key) else { continue };
            let (in_force, rejected) = self.choose(entry, &mut services);
            if let Some(entry) = self.entries.get_mut(key) {
                entry.in_force = in_force;
                entry.rejected = rejected;
            }
        }
        for (key, union) in services {
            self.relationships.touch(&key);
            match union.unite() {
                Some(service) => self.snapshot.put(service),
                None => self.snapshot.take(&key),
            }
        }
        let affected: BTreeSet<NamespacedName> = policies.into_iter().map(|(_, key)| key).collect();
        for key in touched.union(&affected) {
            let closed = !self.closed_by(key).is_empty();
            let entry = self.entries.get_mut(key);
            let digest = entry.and_then(|entry| {
                entry.closed = closed;
                Some(entry.in_force.as_ref()?.digest)
            });
            self.snapshot.record(&content_name(key), digest);
        }
        affected
    }

    /// The touched policies and all that share a service with one of them, the oldest first; and those services.
    fn affected(&self, touched: &BTreeSet<NamespacedName>) -> (BTreeSet<Seniority>, BTreeMap<ServiceKey, PolicyUnion>) {
        let (mut policies, mut services) = (BTreeSet::new(), BTreeMap::new());
        let mut waiting: Vec<&NamespacedName> = touched.iter().collect();
        while let Some(key) = waiting.pop() {
            let Some(entry) = self.entries.get(key) else { continue };
            if !policies.insert((entry.created, key.clone())) {
                continue;
            }
            for service in entry.in_force.iter().chain(entry.versions()).map(|version| service_of(version)) {
                if let btree_map::Entry::Vacant(vacant) = services.entry(service) {
                    waiting.extend(self.services.get(vacant.key()).into_iter().flat_map(Seniors::keys));
                    vacant.insert(PolicyUnion::default());
                }
            }
        }
        (policies, services)
    }

    /// The first version that is owned and uncontested and fits in with the older policies of its service, and why
    /// the newest is not it.
    fn choose(
        &self,
        entry: &Entry,
        services: &mut BTreeMap<ServiceKey, PolicyUnion>,
    ) -> (Option<Arc<Policy>>, Option<Rejection>) {
        let mut rejected = entry.invalid.clone().map(|errors| Rejection { reason: RejectionReason::Invalid, errors });
        for version in entry.versions() {
            let objection = self.objection(entry, version).or_else(|| {
                let union = services.entry(service_of(version)).or_default();
                // one that was in force has fitted in with all, whatever it was
                let good = entry.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, version));
                match union.closed_by().filter(|_| !good) {
                    Some(other) => Some(closed(other)),
                    None => union.add(Arc::clone(version)).err().map(conflicting),
                }
            });
            match objection {
                None => return (Some(Arc::clone(version)), rejected),
                Some(objection) => rejected = rejected.or(Some(objection)),
            }
        }
        (None, rejected)
    }

    fn objection(&self, entry: &Entry, version: &Policy) -> Option<Rejection> {
        let errors = self.unowned(version);
        if !errors.is_empty() {
            return Some(Rejection { reason: RejectionReason::NotOwned, errors });
        }
        let errors = self.secret_headers(version);
        if !errors.is_empty() {
            return Some(Rejection { reason: RejectionReason::Invalid, errors });
        }
        let hosts = version
            .hosts
            .iter()
            .enumerate()
            .map(|(i, host)| (format!("spec.service.hosts[{i}]"), Claim::Host(host.clone())));
        let audience = ("spec.service.audience".to_owned(), Claim::Audience(Arc::clone(&version.audience)));
        let service = service_of(version);
        let errors: Vec<FieldError> = hosts
            .chain([audience])
            .filter_map(|(field, claim)| {
                let holder = self
                    .claims
                    .get(&claim)?
                    .before(entry.created, &version.key)
                    .find(|key| self.entries.get(key).is_some_and(|other| self.holds(other, &claim, &service)))?;
                let message =
                    format!("`{claim}` is held by the older policy {holder}; each name belongs to one service");
                Some(FieldError { field, message })
            })
            .collect();
        (!errors.is_empty()).then_some(Rejection { reason: RejectionReason::HostConflict, errors })
    }

    /// Headers that conditions of a version read although somebody's API keys come in them.
    fn secret_headers(&self, version: &Policy) -> Vec<FieldError> {
        let secret = |(i, name): (usize, &Arc<str>)| {
            let (provider, _) = self.key_headers.iter().find(|(_, header)| ***header == **name)?;
            let message = format!("`{name}` carries the API keys of {provider}; conditions read no credential");
            Some(FieldError { field: format!("spec.headers[{i}]"), message })
        };
        version.headers.iter().enumerate().filter_map(secret).collect()
    }

    /// Whether a version that is or may come into force claims this for another service.
    fn holds(&self, entry: &Entry, claim: &Claim, service: &ServiceKey) -> bool {
        entry.versions().any(|version| {
            service_of(version) != *service
                && claims(version).any(|other| other == *claim)
                && self.unowned(version).is_empty()
        })
    }
}

fn conflicting(conflict: OperationConflict) -> Rejection {
    let error = FieldError { field: "spec.operations".to_owned(), message: conflict.to_string() };
    Rejection { reason: RejectionReason::OperationConflict, errors: vec![error] }
}

fn closed(other: &NamespacedName) -> Rejection {
    let message = format!(
        "policy {other} of the same service is broken, and its last good version is not known, so nobody can tell whether this \
         one fits in: mend or remove {other} first"
    );
    let errors = vec![FieldError { field: "spec.service".to_owned(), message }];
    Rejection { reason: RejectionReason::ServiceClosed, errors }
}
