//! All resources that decisions depend on, and the snapshot that follows from them.
//!
//! The catalog is a pure state machine: changes go in; a snapshot and the status of each affected policy come out. The
//! cost of a change is proportional to the number of policies that share a service, a host or an audience with the
//! changed one.

mod change;
mod claims;
mod relationships;
mod selection;
mod status;

pub use change::{AuthenticationResource, CatalogChange};
pub use status::{PolicyRejection, PolicyStatus, RejectionReason};

use crate::compile::{ClusterDomains, compile};
use crate::field_error::FieldError;
use crate::ownership::{Allowance, unowned};
use crate::resources::{AccessPolicy, LastGood, LastGoodTuples, Relationship, created, namespaced_name};
use claims::{Claim, PoliciesByAge, claims};
use durward_core::digest::Digest;
use durward_core::interner::Interner;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::Policy;
use durward_core::service::ServiceKey;
use durward_core::snapshot::Snapshot;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use relationships::Relationships;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The resources that decisions depend on, and the snapshot that follows from them.
#[derive(Debug)]
pub struct Catalog {
    domains: ClusterDomains,
    policies: HashMap<NamespacedName, PolicyEntry>,
    allowances: HashMap<String, Allowance>,
    policies_by_namespace: HashMap<Arc<str>, BTreeSet<NamespacedName>>,
    claims: HashMap<Claim, PoliciesByAge>,
    services: HashMap<ServiceKey, PoliciesByAge>,
    relationships: Relationships,
    interner: Interner,
    /// Headers in which API keys are read, by provider.
    key_headers: BTreeMap<Arc<str>, String>,
    snapshot: Snapshot,
}

#[derive(Debug, Default)]
struct PolicyEntry {
    /// Creation time in Unix seconds.
    created: i64,
    /// The newest version that compiles.
    newest: Option<Arc<Policy>>,
    /// Mistakes of a newer version that does not compile.
    invalid: Option<Vec<FieldError>>,
    /// The last good version, or its placeholder if this replica does not know it.
    last_good: Option<Arc<Policy>>,
    /// The version in force, or its placeholder.
    in_force: Option<Arc<Policy>>,
    rejected: Option<PolicyRejection>,
    /// Whether the service is closed.
    closed: bool,
    /// The status that was last returned by [`Catalog::apply`].
    announced: Option<PolicyStatus>,
}

impl PolicyEntry {
    /// Versions that may come into force, in order of preference.
    fn versions(&self) -> impl Iterator<Item = &Arc<Policy>> {
        let other = |good: &&Arc<Policy>| self.newest.as_ref().is_none_or(|newest| !Arc::ptr_eq(newest, good));
        self.newest.iter().chain(self.last_good.iter().filter(other))
    }

    fn status(&self) -> PolicyStatus {
        let in_force = self.in_force.as_ref().is_some_and(|version| version.forgotten.is_none());
        PolicyStatus { rejected: self.rejected.clone(), in_force, closed: self.closed }
    }
}

impl Catalog {
    /// A catalog without resources.
    #[must_use]
    pub fn new(domains: ClusterDomains) -> Self {
        Self {
            domains,
            policies: HashMap::new(),
            allowances: HashMap::new(),
            policies_by_namespace: HashMap::new(),
            claims: HashMap::new(),
            services: HashMap::new(),
            relationships: Relationships::default(),
            interner: Interner::default(),
            key_headers: BTreeMap::new(),
            snapshot: Snapshot::default(),
        }
    }

    /// Applies changes and returns each policy status that changed. The order of changes to different resources does
    /// not matter.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = CatalogChange>) -> Vec<(NamespacedName, PolicyStatus)> {
        let mut touched = BTreeSet::new();
        for change in changes {
            self.apply_one(change, &mut touched);
        }
        let mut settled = BTreeSet::new();
        while !touched.is_empty() {
            touched.extend(self.settle(&touched));
            let mut freed = BTreeSet::new();
            touched.iter().for_each(|key| self.keep_last_good(key, &mut freed));
            settled.append(&mut touched);
            touched = freed;
        }
        self.snapshot.update_revision();
        settled.into_iter().filter_map(|key| self.announce(key)).collect()
    }

    /// The snapshot to decide by.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The status of each policy, in no order.
    pub fn policy_statuses(&self) -> impl Iterator<Item = (&NamespacedName, PolicyStatus)> {
        self.policies.iter().map(|(key, entry)| (key, entry.status()))
    }

    /// Number of policies whose newest version is not in force.
    #[must_use]
    pub fn rejected_count(&self) -> usize {
        self.policies.values().filter(|entry| entry.rejected.is_some()).count()
    }

    /// The status of a policy.
    #[must_use]
    pub fn policy_status(&self, key: &NamespacedName) -> Option<PolicyStatus> {
        self.policies.get(key).map(PolicyEntry::status)
    }

    /// The trust domain that policies are compiled for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.domains.trust_domain
    }

    /// Names of the Namespaces, in no order.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.allowances.keys().map(String::as_str)
    }

    /// The `Relationship`s whose status may have changed since the last call.
    pub fn take_touched_relationships(&mut self) -> BTreeSet<NamespacedName> {
        self.relationships.take_touched()
    }

    /// Names of the `Relationship`s, in no order.
    pub fn relationships(&self) -> impl Iterator<Item = &NamespacedName> {
        self.relationships.keys()
    }

    /// The status of a `Relationship`.
    #[must_use]
    pub fn relationship_status(&self, key: &NamespacedName) -> Option<PolicyStatus> {
        self.relationships.status(key, &self.snapshot)
    }

    /// The record of a `Relationship`'s last good version, for its status.
    #[must_use]
    pub fn last_good_tuples(&self, key: &NamespacedName) -> Option<LastGoodTuples> {
        self.relationships.last_good(key)
    }

    /// Checks a `Relationship` before it is stored. Returns warnings: tuples that would have no effect.
    ///
    /// # Errors
    /// With the mistakes of a `Relationship` that does not compile.
    pub fn review_relationship(&self, resource: &Relationship) -> Result<Vec<FieldError>, Vec<FieldError>> {
        Relationships::review(resource, &self.snapshot)
    }

    /// The version of a policy that is in force.
    #[must_use]
    pub fn in_force(&self, key: &NamespacedName) -> Option<&Arc<Policy>> {
        self.policies.get(key)?.in_force.as_ref().filter(|version| version.forgotten.is_none())
    }

    /// The record of a policy's last good version, for its status.
    #[must_use]
    pub fn last_good(&self, key: &NamespacedName) -> Option<LastGood> {
        self.policies.get(key)?.last_good.as_deref().map(LastGood::of)
    }

    /// The policies that close the service of a policy: the versions of them that were in force are unknown to this
    /// replica.
    #[must_use]
    pub fn closed_by(&self, key: &NamespacedName) -> &[NamespacedName] {
        let service = self.policies.get(key).and_then(|entry| entry.in_force.as_deref()).map(service_of);
        let service = service.and_then(|service| self.snapshot.service(&service));
        service.map(|service| service.closed_by()).unwrap_or_default()
    }

    /// Same as [`namespaced_name`], with the texts shared with the catalog to save memory.
    #[must_use]
    pub fn interned_name(&mut self, metadata: &ObjectMeta) -> Option<NamespacedName> {
        let mut key = namespaced_name(metadata)?;
        self.interner.intern_name(&mut key);
        Some(key)
    }

    /// Compiles a policy into a change; `None` if it has no name.
    ///
    /// A compiled policy takes a fraction of the resource's memory. Callers that collect many changes before they apply
    /// them compile each policy at once.
    pub fn compile(&mut self, resource: &AccessPolicy) -> Option<CatalogChange> {
        let compiled = compile(resource, &self.domains).map(|mut policy| {
            self.interner.intern_policy(&mut policy);
            Arc::new(policy)
        });
        Some(CatalogChange::PolicyCompiled(
            self.interned_name(&resource.metadata)?,
            created(&resource.metadata),
            compiled,
        ))
    }

    /// Compiles the policy of a change, as [`Catalog::compile`] does; returns other changes as they are.
    #[must_use]
    pub fn compact(&mut self, change: CatalogChange) -> CatalogChange {
        match change {
            CatalogChange::PolicyApplied(resource) => {
                self.compile(&resource).unwrap_or(CatalogChange::PolicyApplied(resource))
            }
            other => other,
        }
    }

    fn apply_one(&mut self, change: CatalogChange, touched: &mut BTreeSet<NamespacedName>) {
        match change {
            CatalogChange::PolicyApplied(resource) => {
                if let Some(compiled) = self.compile(&resource) {
                    self.apply_one(compiled, touched);
                }
            }
            CatalogChange::PolicyCompiled(key, created, compiled) => self.replace(&key, touched, |entry| {
                entry.created = created;
                match compiled {
                    Ok(policy) => {
                        entry.newest = Some(policy);
                        entry.invalid = None;
                    }
                    Err(errors) => entry.invalid = Some(errors),
                }
            }),
            CatalogChange::PolicyUndecodable(key, error) => {
                self.replace(&key, touched, |entry| entry.invalid = Some(vec![error]));
            }
            CatalogChange::PolicyLastGood(key, created, good) => self.recall(&key, created, &good, touched),
            CatalogChange::PolicyDeleted(key) => {
                self.unregister(&key, touched);
                if let Some(keys) = self.policies_by_namespace.get_mut(&key.namespace) {
                    keys.remove(&key);
                }
                self.policies.remove(&key);
                touched.insert(key);
            }
            CatalogChange::NamespaceAnnotations(name, annotations) => {
                let deleted = annotations.is_none();
                let allowance = Allowance::from_annotations(annotations.as_ref());
                let keys = self.policies_by_namespace.get(name.as_str()).cloned().unwrap_or_default();
                keys.iter().for_each(|key| self.unregister(key, touched));
                if deleted {
                    self.allowances.remove(&name);
                } else {
                    self.allowances.insert(name, allowance);
                }
                keys.iter().for_each(|key| self.register(key, touched));
            }
            CatalogChange::NamespaceLabels(name, labels) => {
                let texts = labels.iter().flatten().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
                let digest = Digest::of(texts);
                self.snapshot.record(&format!("Namespace/{name}"), labels.as_ref().map(|_| digest));
                self.snapshot.put_namespace_labels(&name, labels);
            }
            CatalogChange::RelationshipApplied(resource) => self.relationships.apply(&resource, &mut self.snapshot),
            CatalogChange::RelationshipUndecodable(key, error) => self.relationships.undecodable(key, error),
            CatalogChange::RelationshipLastGood(key, good) => {
                self.relationships.recall(&key, &good, &mut self.snapshot);
            }
            CatalogChange::RelationshipDeleted(key) => self.relationships.remove(&key, &mut self.snapshot),
            CatalogChange::Approval(subject, granted) => self.snapshot.put_approval(subject, granted),
            CatalogChange::KeyHeader(provider, header) => self.key_header(provider, header, touched),
            CatalogChange::Authentication(resource, digest) => {
                self.snapshot.record(&resource.to_string(), digest);
                if let (AuthenticationResource::IdentityProvider(provider), None) = (resource, digest) {
                    self.key_header(provider, None, touched);
                }
            }
        }
    }

    /// Records the header in which a provider reads keys, and touches the policies whose conditions read that header.
    fn key_header(&mut self, provider: Arc<str>, header: Option<String>, touched: &mut BTreeSet<NamespacedName>) {
        let new = header.clone();
        let old = match header {
            Some(header) => self.key_headers.insert(provider, header),
            None => self.key_headers.remove(&provider),
        };
        if old == new {
            return;
        }
        let changed = |name: &str| [&old, &new].into_iter().flatten().any(|header| header == name);
        let reading = self
            .policies
            .iter()
            .filter(|(_, entry)| entry.versions().any(|version| version.headers.iter().any(|name| changed(name))));
        touched.extend(reading.map(|(key, _)| key.clone()));
    }

    fn replace(
        &mut self,
        key: &NamespacedName,
        touched: &mut BTreeSet<NamespacedName>,
        change: impl FnOnce(&mut PolicyEntry),
    ) {
        self.unregister(key, touched);
        change(self.policies.entry(key.clone()).or_default());
        self.policies_by_namespace.entry(Arc::clone(&key.namespace)).or_default().insert(key.clone());
        self.register(key, touched);
    }

    /// Uses the recorded last good version of a policy, unless this replica knows one.
    fn recall(&mut self, key: &NamespacedName, created: i64, good: &LastGood, touched: &mut BTreeSet<NamespacedName>) {
        let Some(entry) = self.policies.get(key).filter(|entry| entry.last_good.is_none()) else { return };
        let newest =
            entry.newest.iter().find(|newest| newest.generation.is_some() && newest.generation == good.generation);
        let last = newest.cloned().unwrap_or_else(|| Arc::new(good.placeholder(key, &self.domains)));
        self.replace(key, touched, |entry| {
            entry.created = created;
            entry.last_good = Some(last);
        });
    }

    /// Registers the claims of a policy, and touches every policy with the same claims.
    fn register(&mut self, key: &NamespacedName, touched: &mut BTreeSet<NamespacedName>) {
        touched.insert(key.clone());
        let Some(entry) = self.policies.get(key) else { return };
        for claim in self.claims_of(entry) {
            let holders = self.claims.entry(claim).or_default();
            holders.insert((entry.created, key.clone()));
            touched.extend(holders.keys().cloned());
        }
        for service in entry.versions().map(|version| service_of(version)) {
            let members = self.services.entry(service).or_default();
            members.insert((entry.created, key.clone()));
            touched.extend(members.keys().cloned());
        }
    }

    /// Withdraws the claims of a policy, and touches every policy with the same claims.
    fn unregister(&mut self, key: &NamespacedName, touched: &mut BTreeSet<NamespacedName>) {
        let Some(entry) = self.policies.get(key) else { return };
        let age = (entry.created, key.clone());
        for claim in self.claims_of(entry) {
            if let Some(holders) = self.claims.get_mut(&claim) {
                holders.remove(&age);
                touched.extend(holders.keys().cloned());
                if holders.is_empty() {
                    self.claims.remove(&claim);
                }
            }
        }
        let services: Vec<ServiceKey> = entry.versions().map(|version| service_of(version)).collect();
        for service in services {
            if let Some(members) = self.services.get_mut(&service) {
                members.remove(&age);
                touched.extend(members.keys().cloned());
                if members.is_empty() {
                    self.services.remove(&service);
                    self.relationships.touch(&service);
                    self.snapshot.remove(&service);
                }
            }
        }
    }

    /// Claims of the versions that claim only what their namespace owns.
    fn claims_of(&self, entry: &PolicyEntry) -> BTreeSet<Claim> {
        let owned = entry.versions().filter(|version| self.unowned(version).is_empty());
        owned.flat_map(|version| claims(version)).collect()
    }

    fn unowned(&self, version: &Policy) -> Vec<FieldError> {
        static NONE: std::sync::LazyLock<Allowance> = std::sync::LazyLock::new(Allowance::default);
        let allowance = self.allowances.get(version.key.namespace.as_ref()).unwrap_or(&NONE);
        unowned(version, allowance, &self.domains)
    }

    /// Keeps the version in force as the last good one, and withdraws the claims of the previous one.
    fn keep_last_good(&mut self, key: &NamespacedName, freed: &mut BTreeSet<NamespacedName>) {
        let Some(entry) = self.policies.get_mut(key) else { return };
        let Some(good) = entry.in_force.clone() else { return };
        let same_claims = entry.last_good.as_ref().is_none_or(|last| {
            service_of(last) == service_of(&good)
                && claims(last).collect::<BTreeSet<_>>().is_subset(&claims(&good).collect())
        });
        if same_claims {
            entry.last_good = Some(good);
        } else if entry.last_good.as_ref().is_some_and(|last| !Arc::ptr_eq(last, &good)) {
            self.replace(key, freed, |entry| entry.last_good = Some(good));
        }
    }

    fn announce(&mut self, key: NamespacedName) -> Option<(NamespacedName, PolicyStatus)> {
        let entry = self.policies.get_mut(&key)?;
        let status = entry.status();
        (entry.announced.as_ref() != Some(&status)).then(|| {
            entry.announced = Some(status.clone());
            (key, status)
        })
    }
}

fn service_of(policy: &Policy) -> ServiceKey {
    ServiceKey { namespace: Arc::clone(&policy.key.namespace), audience: Arc::clone(&policy.audience) }
}

fn content_name(key: &NamespacedName) -> String {
    format!("AccessPolicy/{key}")
}
