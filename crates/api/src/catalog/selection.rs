//! Selection of the version of each policy that is in force.

use super::claims::{Claim, PoliciesByAge, PolicyAge, claims};
use super::{AuthenticationResource, Catalog, PolicyEntry, PolicyRejection, RejectionReason, content_name, service_of};
use crate::compile::compile;
use crate::field_error::FieldError;
use crate::resources::AccessPolicy;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::Policy;
use durward_core::service::{OperationConflict, PolicyUnion, ServiceKey};
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::sync::Arc;

impl Catalog {
    /// Checks a policy before it is stored.
    ///
    /// # Errors
    /// With the reason why the policy would be rejected.
    pub fn review(&self, resource: &AccessPolicy) -> Result<(), PolicyRejection> {
        let invalid = |errors| PolicyRejection { reason: RejectionReason::Invalid, errors };
        let policy = Arc::new(compile(resource, &self.domains).map_err(invalid)?);
        let created = self.policies.get(&policy.key).map_or(i64::MAX, |entry| entry.created);
        let entry = PolicyEntry { created, ..PolicyEntry::default() };
        if let Some(objection) = self.objection(&entry, &policy) {
            return Err(objection);
        }
        let mut union = PolicyUnion::default();
        let members = self.services.get(&service_of(&policy)).into_iter();
        let older = members.flat_map(|members| members.before(created, &policy.key));
        for member in
            older.filter_map(|key| self.in_force(key)).filter(|member| service_of(member) == service_of(&policy))
        {
            // policies in force never conflict with each other
            let _ = union.add(Arc::clone(member));
        }
        union.add(policy).map_err(conflicting)
    }

    /// Selects the version in force of each touched policy, and of each policy that shares a service with one. Rebuilds
    /// their services, and returns all these policies.
    pub(super) fn settle(&mut self, touched: &BTreeSet<NamespacedName>) -> BTreeSet<NamespacedName> {
        let (policies, mut services) = self.affected(touched);
        for (_, key) in &policies {
            let Some(entry) = self.policies.get(key) else { continue };
            let (in_force, rejected) = self.choose(entry, &mut services);
            if let Some(entry) = self.policies.get_mut(key) {
                entry.in_force = in_force;
                entry.rejected = rejected;
            }
        }
        for (key, union) in services {
            self.relationships.touch(&key);
            match union.unite() {
                Some(service) => self.snapshot.put(service),
                None => self.snapshot.remove(&key),
            }
        }
        let affected: BTreeSet<NamespacedName> = policies.into_iter().map(|(_, key)| key).collect();
        for key in touched.union(&affected) {
            let closed = !self.closed_by(key).is_empty();
            let entry = self.policies.get_mut(key);
            let digest = entry.and_then(|entry| {
                entry.closed = closed;
                Some(entry.in_force.as_ref()?.digest)
            });
            self.snapshot.record(&content_name(key), digest);
        }
        affected
    }

    /// The touched policies and all that share a service with one of them, from oldest to youngest; and these services.
    fn affected(&self, touched: &BTreeSet<NamespacedName>) -> (BTreeSet<PolicyAge>, BTreeMap<ServiceKey, PolicyUnion>) {
        let mut policies = BTreeSet::new();
        let mut services = BTreeMap::new();
        let mut waiting: Vec<&NamespacedName> = touched.iter().collect();
        while let Some(key) = waiting.pop() {
            let Some(entry) = self.policies.get(key) else { continue };
            if !policies.insert((entry.created, key.clone())) {
                continue;
            }
            for service in entry.in_force.iter().chain(entry.versions()).map(|version| service_of(version)) {
                if let btree_map::Entry::Vacant(vacant) = services.entry(service) {
                    waiting.extend(self.services.get(vacant.key()).into_iter().flat_map(PoliciesByAge::keys));
                    vacant.insert(PolicyUnion::default());
                }
            }
        }
        (policies, services)
    }

    /// The first version without an objection, which also does not conflict with older policies of its service; and the
    /// reason if that is not the newest version.
    fn choose(
        &self,
        entry: &PolicyEntry,
        services: &mut BTreeMap<ServiceKey, PolicyUnion>,
    ) -> (Option<Arc<Policy>>, Option<PolicyRejection>) {
        let mut rejected =
            entry.invalid.clone().map(|errors| PolicyRejection { reason: RejectionReason::Invalid, errors });
        for version in entry.versions() {
            let objection = self.objection(entry, version).or_else(|| {
                let union = services.entry(service_of(version)).or_default();
                // a version that was in force had no conflict with the unknown version either
                let good = entry.last_good.as_ref().is_some_and(|last| Arc::ptr_eq(last, version));
                match union.closed_by() {
                    Some(other) if !good => Some(closed(other)),
                    _ => union.add(Arc::clone(version)).err().map(conflicting),
                }
            });
            match objection {
                None => return (Some(Arc::clone(version)), rejected),
                Some(objection) => rejected = rejected.or(Some(objection)),
            }
        }
        (None, rejected)
    }

    fn objection(&self, entry: &PolicyEntry, version: &Policy) -> Option<PolicyRejection> {
        let errors = self.unowned(version);
        if !errors.is_empty() {
            return Some(PolicyRejection { reason: RejectionReason::NotOwned, errors });
        }
        let errors = self.key_header_errors(version);
        if !errors.is_empty() {
            return Some(PolicyRejection { reason: RejectionReason::Invalid, errors });
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
                    .find(|key| self.policies.get(key).is_some_and(|other| self.holds(other, &claim, &service)))?;
                let message =
                    format!("`{claim}` is held by the older policy {holder}; each name belongs to one service");
                Some(FieldError { field, message })
            })
            .collect();
        (!errors.is_empty()).then_some(PolicyRejection { reason: RejectionReason::HostConflict, errors })
    }

    /// Mistakes for headers that conditions read although a provider reads API keys from them.
    fn key_header_errors(&self, version: &Policy) -> Vec<FieldError> {
        let key_header = |(i, name): (usize, &Arc<str>)| {
            let (provider, _) = self.key_headers.iter().find(|(_, header)| ***header == **name)?;
            let provider = AuthenticationResource::IdentityProvider(Arc::clone(provider));
            let message = format!("`{name}` carries the API keys of {provider}; conditions can't read credentials");
            Some(FieldError { field: format!("spec.headers[{i}]"), message })
        };
        version.headers.iter().enumerate().filter_map(key_header).collect()
    }

    /// Whether a version of the entry that may be in force makes the same claim for another service.
    fn holds(&self, entry: &PolicyEntry, claim: &Claim, service: &ServiceKey) -> bool {
        entry.versions().any(|version| {
            service_of(version) != *service
                && claims(version).any(|other| other == *claim)
                && self.unowned(version).is_empty()
        })
    }
}

fn conflicting(conflict: OperationConflict) -> PolicyRejection {
    let error = FieldError { field: "spec.operations".to_owned(), message: conflict.to_string() };
    PolicyRejection { reason: RejectionReason::OperationConflict, errors: vec![error] }
}

fn closed(other: &NamespacedName) -> PolicyRejection {
    let message = format!(
        "policy {other} of the same service is invalid, and its last good version is unknown, so this policy can't be \
         checked against it: fix or delete {other} first"
    );
    let errors = vec![FieldError { field: "spec.service".to_owned(), message }];
    PolicyRejection { reason: RejectionReason::ServiceClosed, errors }
}
