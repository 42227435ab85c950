//! All resources as they are known, and the snapshot that follows from them.
//!
//! The catalog is a pure state machine: changes go in, a snapshot and the fate of each touched policy come out. A
//! change costs in proportion to the policies that share a service, a host or an audience with it.

mod choosing;
mod claims;

use crate::compile::{FieldError, Settings, compile};
use crate::ownership::{Allowance, unowned};
use crate::relationships::{RelationshipKey, Relationships};
use crate::resources::{AccessPolicy, LastGood, LastTuples, Relationship};
use claims::{Claim, Seniors, claims};
use durward_core::approval::{ApprovalSubject, GrantedApproval};
use durward_core::digest::Digest;
use durward_core::interner::Interner;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::Policy;
use durward_core::service::ServiceKey;
use durward_core::snapshot::Snapshot;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Something that happened to a resource.
#[derive(Debug)]
pub enum Change {
    /// An `AccessPolicy` is there, new or changed.
    Policy(Box<AccessPolicy>),
    /// The same, of which [`Catalog::compiled`] has made what it comes to.
    Compiled(NamespacedName, i64, Result<Arc<Policy>, Vec<FieldError>>),
    /// An `AccessPolicy` can't be read at all; what was good stays.
    Unreadable(NamespacedName, FieldError),
    /// What is remembered of the last good version of an `AccessPolicy`, created so many seconds after 1970 began. It counts where
    /// that version is not known.
    Remembered(NamespacedName, i64, Box<LastGood>),
    /// An `AccessPolicy` is gone.
    PolicyGone(NamespacedName),
    /// A `Relationship` is there, new or changed.
    Relationship(Box<Relationship>),
    /// A `Relationship` can't be read at all; what was good stays.
    UnreadableRelationship(RelationshipKey, FieldError),
    /// What is remembered of the last good version of a `Relationship`. It counts where that version is not known.
    RememberedRelationship(RelationshipKey, LastTuples),
    /// A `Relationship` is gone.
    RelationshipGone(RelationshipKey),
    /// The annotations of a Namespace; `None` when it is gone.
    Namespace(String, Option<BTreeMap<String, String>>),
    /// The labels of a Namespace; `None` when it is gone.
    NamespaceLabels(String, Option<BTreeMap<String, String>>),
    /// Something was approved; `None` when it is no longer.
    Approval(ApprovalSubject, Option<GrantedApproval>),
    /// The header in which an IdentityProvider, named as in [`Change::Other`], reads API keys; `None` when it reads none.
    KeyHeader(String, Option<String>),
    /// Any other resource that decisions depend on, with its digest; `None` when it is gone.
    Other(String, Option<Digest>),
}

/// What became of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// Why the newest version is not in force; `None` when it is.
    pub rejected: Option<Rejection>,
    /// Whether any version is in force: the newest, or the last good one.
    pub in_force: bool,
    /// Whether its service is closed: of this policy, or of another one of the service, a version was in force that is not known
    /// here. Of a `Relationship`, whether nobody passes by its service's exclusions for such a reason.
    pub closed: bool,
}

/// Why a version of a policy is not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Condition reason, for `Accepted=False`.
    pub reason: RejectionReason,
    /// Each mistake with its field.
    pub errors: Vec<FieldError>,
}

/// Kinds of rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectionReason {
    /// It does not compile.
    Invalid,
    /// It claims what its namespace does not own.
    NotOwned,
    /// An older policy holds a host or the audience.
    HostConflict,
    /// An older policy of the service declares the same operation or requests.
    OperationConflict,
    /// An older policy closes the service: a version of it was in force that is not known here.
    ServiceClosed,
    /// No policy is about the service of a `Relationship`.
    NoService,
    /// Some tuples say what the relations of the service do not know.
    UnknownRelation,
    /// The relations of the service are not looked up in `Relationship`s.
    OtherRelationEngine,
    /// A version of a `Relationship` was in force that is not known here, and the newest one can't be.
    LastGoodUnknown,
}

impl RejectionReason {
    /// The name in conditions and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::NotOwned => "NotOwned",
            Self::HostConflict => "HostConflict",
            Self::OperationConflict => "OperationConflict",
            Self::ServiceClosed => "ServiceClosed",
            Self::NoService => "NoService",
            Self::UnknownRelation => "UnknownRelation",
            Self::OtherRelationEngine => "OtherRelationEngine",
            Self::LastGoodUnknown => "LastGoodUnknown",
        }
    }
}

/// All resources as they are known.
#[derive(Debug)]
pub struct Catalog {
    settings: Settings,
    entries: HashMap<NamespacedName, Entry>,
    allowances: HashMap<String, Allowance>,
    by_namespace: HashMap<Arc<str>, BTreeSet<NamespacedName>>,
    claims: HashMap<Claim, Seniors>,
    services: HashMap<ServiceKey, Seniors>,
    relationships: Relationships,
    sharing: Interner,
    /// In which headers API keys come, by provider.
    key_headers: BTreeMap<String, String>,
    snapshot: Snapshot,
}

#[derive(Debug, Default)]
struct Entry {
    created: i64,
    /// The newest version that compiles.
    newest: Option<Arc<Policy>>,
    /// Why there is a newer one that does not.
    invalid: Option<Vec<FieldError>>,
    /// The version that was last in force, or what stands for it where it is not known.
    last: Option<Arc<Policy>>,
    /// The version that is in force, or what stands for it.
    in_force: Option<Arc<Policy>>,
    rejected: Option<Rejection>,
    /// Whether its service is closed.
    closed: bool,
    /// The fate that was last returned.
    announced: Option<Fate>,
}

impl Entry {
    /// Versions that may come into force, the preferred one first.
    fn versions(&self) -> impl Iterator<Item = &Arc<Policy>> {
        let last = self.last.iter().filter(|last| self.newest.as_ref().is_none_or(|newest| !Arc::ptr_eq(newest, last)));
        self.newest.iter().chain(last)
    }

    fn fate(&self) -> Fate {
        let in_force = self.in_force.as_ref().is_some_and(|version| version.forgotten.is_none());
        Fate { rejected: self.rejected.clone(), in_force, closed: self.closed }
    }
}

impl Catalog {
    /// A catalog without resources.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            entries: HashMap::new(),
            allowances: HashMap::new(),
            by_namespace: HashMap::new(),
            claims: HashMap::new(),
            services: HashMap::new(),
            relationships: Relationships::default(),
            sharing: Interner::default(),
            key_headers: BTreeMap::new(),
            snapshot: Snapshot::default(),
        }
    }

    /// Takes changes in and returns the fates that are new. The order of changes to different resources does not
    /// matter.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<(NamespacedName, Fate)> {
        let mut touched = BTreeSet::new();
        for change in changes {
            self.take_in(change, &mut touched);
        }
        let mut settled = BTreeSet::new();
        while !touched.is_empty() {
            touched.extend(self.settle(&touched));
            let mut freed = BTreeSet::new();
            touched.iter().for_each(|key| self.keep_good(key, &mut freed));
            settled.append(&mut touched);
            touched = freed;
        }
        self.snapshot.seal();
        settled.into_iter().filter_map(|key| self.announce(key)).collect()
    }

    /// What decisions are made from now.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What became of each policy.
    pub fn fates(&self) -> impl Iterator<Item = (&NamespacedName, Fate)> {
        self.entries.iter().map(|(key, entry)| (key, entry.fate()))
    }

    /// Number of policies whose newest version is not in force.
    #[must_use]
    pub fn rejected(&self) -> usize {
        self.entries.values().filter(|entry| entry.rejected.is_some()).count()
    }

    /// What became of one policy.
    #[must_use]
    pub fn fate(&self, key: &NamespacedName) -> Option<Fate> {
        self.entries.get(key).map(Entry::fate)
    }

    /// The trust domain that policies are compiled for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.settings.trust_domain
    }

    /// The Namespaces that are known.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.allowances.keys().map(String::as_str)
    }

    /// The `Relationship`s of which something may have become different since this was last asked.
    pub fn relationships_touched(&mut self) -> BTreeSet<RelationshipKey> {
        self.relationships.touched()
    }

    /// Every `Relationship` that is known, in no order.
    pub fn relationships(&self) -> impl Iterator<Item = &RelationshipKey> {
        self.relationships.keys()
    }

    /// What became of a `Relationship`.
    #[must_use]
    pub fn relationship_fate(&self, key: &RelationshipKey) -> Option<Fate> {
        self.relationships.fate(key, &self.snapshot)
    }

    /// What is to be remembered of the version of a `Relationship` that was last in force.
    #[must_use]
    pub fn last_tuples(&self, key: &RelationshipKey) -> Option<LastTuples> {
        self.relationships.last(key)
    }

    /// What would be wrong with a `Relationship` if it were applied now, and what would not count yet.
    ///
    /// # Errors
    /// With what can't be read.
    pub fn review_relationship(&self, resource: &Relationship) -> Result<Vec<FieldError>, Vec<FieldError>> {
        Relationships::review(resource, &self.snapshot)
    }

    /// The version of a policy that is in force.
    #[must_use]
    pub fn in_force(&self, key: &NamespacedName) -> Option<&Arc<Policy>> {
        self.entries.get(key)?.in_force.as_ref().filter(|version| version.forgotten.is_none())
    }

    /// What is to be remembered of the version that was last in force.
    #[must_use]
    pub fn last_good(&self, key: &NamespacedName) -> Option<LastGood> {
        self.entries.get(key)?.last.as_deref().map(LastGood::of)
    }

    /// The policies that close the service of one: versions of them were in force that are not known here.
    #[must_use]
    pub fn closed_by(&self, key: &NamespacedName) -> &[NamespacedName] {
        let service = self.entries.get(key).and_then(|entry| entry.in_force.as_deref()).map(service_of);
        let service = service.and_then(|service| self.snapshot.service(&service));
        service.map(|service| service.closed_by()).unwrap_or_default()
    }

    /// As [`key_of`], in one copy for all who ask.
    #[must_use]
    pub fn key_of(&mut self, metadata: &ObjectMeta) -> Option<NamespacedName> {
        let mut key = key_of(metadata)?;
        self.sharing.key(&mut key);
        Some(key)
    }

    /// What a resource is to the catalog, if it has a name. Where many changes are gathered before they are applied, this is a
    /// fraction of what the resources themselves would take meanwhile.
    pub fn compiled(&mut self, resource: &AccessPolicy) -> Option<Change> {
        let compiled = compile(resource, &self.settings).map(|mut policy| {
            self.sharing.policy(&mut policy);
            Arc::new(policy)
        });
        Some(Change::Compiled(self.key_of(&resource.metadata)?, created(&resource.metadata), compiled))
    }

    fn take_in(&mut self, change: Change, touched: &mut BTreeSet<NamespacedName>) {
        match change {
            Change::Policy(resource) => {
                if let Some(compiled) = self.compiled(&resource) {
                    self.take_in(compiled, touched);
                }
            }
            Change::Compiled(key, created, compiled) => self.replace(&key, touched, |entry| {
                entry.created = created;
                match compiled {
                    Ok(policy) => {
                        entry.newest = Some(policy);
                        entry.invalid = None;
                    }
                    Err(errors) => entry.invalid = Some(errors),
                }
            }),
            Change::Unreadable(key, error) => {
                self.replace(&key, touched, |entry| entry.invalid = Some(vec![error]));
            }
            Change::Remembered(key, created, good) => self.remember(&key, created, &good, touched),
            Change::PolicyGone(key) => {
                self.unregister(&key, touched);
                if let Some(keys) = self.by_namespace.get_mut(&key.namespace) {
                    keys.remove(&key);
                }
                self.entries.remove(&key);
                touched.insert(key);
            }
            Change::Namespace(name, annotations) => {
                let gone = annotations.is_none();
                let allowance = Allowance::from_annotations(annotations.as_ref());
                let keys = self.by_namespace.get(name.as_str()).cloned().unwrap_or_default();
                keys.iter().for_each(|key| self.unregister(key, touched));
                if gone {
                    self.allowances.remove(&name);
                } else {
                    self.allowances.insert(name, allowance);
                }
                keys.iter().for_each(|key| self.register(key, touched));
            }
            Change::NamespaceLabels(name, labels) => {
                let texts = labels.iter().flatten().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
                let digest = Digest::of(texts);
                self.snapshot.record(&format!("Namespace/{name}"), labels.as_ref().map(|_| digest));
                self.snapshot.label(&name, labels);
            }
            Change::Relationship(resource) => self.relationships.put(&resource, &mut self.snapshot),
            Change::UnreadableRelationship(key, error) => self.relationships.unreadable(key, error),
            Change::RememberedRelationship(key, good) => {
                self.relationships.remember(&key, &good, &mut self.snapshot);
            }
            Change::RelationshipGone(key) => self.relationships.remove(&key, &mut self.snapshot),
            Change::Approval(matter, given) => self.snapshot.approve(matter, given),
            Change::KeyHeader(provider, header) => self.key_header(provider, header, touched),
            Change::Other(name, digest) => {
                self.snapshot.record(&name, digest);
                if digest.is_none() {
                    self.key_header(name, None, touched);
                }
            }
        }
    }

    /// Notes where a provider's keys come, and touches the policies whose conditions read such a header.
    fn key_header(&mut self, provider: String, header: Option<String>, touched: &mut BTreeSet<NamespacedName>) {
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
            .entries
            .iter()
            .filter(|(_, entry)| entry.versions().any(|version| version.headers.iter().any(|name| changed(name))));
        touched.extend(reading.map(|(key, _)| key.clone()));
    }

    fn replace(
        &mut self,
        key: &NamespacedName,
        touched: &mut BTreeSet<NamespacedName>,
        change: impl FnOnce(&mut Entry),
    ) {
        self.unregister(key, touched);
        change(self.entries.entry(key.clone()).or_default());
        self.by_namespace.entry(Arc::clone(&key.namespace)).or_default().insert(key.clone());
        self.register(key, touched);
    }

    /// Remembers the last good version of a policy, unless one is known here.
    fn remember(
        &mut self,
        key: &NamespacedName,
        created: i64,
        good: &LastGood,
        touched: &mut BTreeSet<NamespacedName>,
    ) {
        let Some(entry) = self.entries.get(key).filter(|entry| entry.last.is_none()) else { return };
        let newest =
            entry.newest.iter().find(|newest| newest.generation.is_some() && newest.generation == good.generation);
        let last = newest.cloned().unwrap_or_else(|| Arc::new(good.forgotten(key, &self.settings)));
        self.replace(key, touched, |entry| {
            entry.created = created;
            entry.last = Some(last);
        });
    }

    /// Enters what a policy claims, and touches everyone who claims the same.
    fn register(&mut self, key: &NamespacedName, touched: &mut BTreeSet<NamespacedName>) {
        touched.insert(key.clone());
        let Some(entry) = self.entries.get(key) else { return };
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

    /// Withdraws what a policy claims, and touches everyone who claims the same.
    fn unregister(&mut self, key: &NamespacedName, touched: &mut BTreeSet<NamespacedName>) {
        let Some(entry) = self.entries.get(key) else { return };
        let seniority = (entry.created, key.clone());
        for claim in self.claims_of(entry) {
            if let Some(holders) = self.claims.get_mut(&claim) {
                holders.remove(&seniority);
                touched.extend(holders.keys().cloned());
                if holders.is_empty() {
                    self.claims.remove(&claim);
                }
            }
        }
        let services: Vec<ServiceKey> = entry.versions().map(|version| service_of(version)).collect();
        for service in services {
            if let Some(members) = self.services.get_mut(&service) {
                members.remove(&seniority);
                touched.extend(members.keys().cloned());
                if members.is_empty() {
                    self.services.remove(&service);
                    self.relationships.touch(&service);
                    self.snapshot.take(&service);
                }
            }
        }
    }

    /// Hosts and audience of every version whose namespace owns them.
    fn claims_of(&self, entry: &Entry) -> BTreeSet<Claim> {
        let owned = entry.versions().filter(|version| self.unowned(version).is_empty());
        owned.flat_map(|version| claims(version)).collect()
    }

    fn unowned(&self, version: &Policy) -> Vec<FieldError> {
        static NOTHING: std::sync::LazyLock<Allowance> = std::sync::LazyLock::new(Allowance::default);
        let allowance = self.allowances.get(version.key.namespace.as_ref()).unwrap_or(&NOTHING);
        unowned(version, allowance, &self.settings)
    }

    /// Remembers the version in force as the last good one, and frees what the one before it claimed.
    fn keep_good(&mut self, key: &NamespacedName, freed: &mut BTreeSet<NamespacedName>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(good) = entry.in_force.clone() else { return };
        let same_claims = entry.last.as_ref().is_none_or(|last| {
            service_of(last) == service_of(&good)
                && claims(last).collect::<BTreeSet<_>>().is_subset(&claims(&good).collect())
        });
        if same_claims {
            entry.last = Some(good);
        } else if entry.last.as_ref().is_some_and(|last| !Arc::ptr_eq(last, &good)) {
            self.replace(key, freed, |entry| entry.last = Some(good));
        }
    }

    fn announce(&mut self, key: NamespacedName) -> Option<(NamespacedName, Fate)> {
        let entry = self.entries.get_mut(&key)?;
        let fate = entry.fate();
        (entry.announced.as_ref() != Some(&fate)).then(|| {
            entry.announced = Some(fate.clone());
            (key, fate)
        })
    }
}

/// Namespace and name, if the resource has a name that the compiler accepts.
#[must_use]
pub fn key_of(metadata: &ObjectMeta) -> Option<NamespacedName> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty())?;
    let namespace = metadata.namespace.as_deref().unwrap_or("default");
    Some(NamespacedName { namespace: namespace.into(), name: name.into() })
}

/// When a resource was created, in seconds since 1970; what does not say so is the youngest.
#[must_use]
pub fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(i64::MAX, |at| at.0.as_second())
}

fn service_of(policy: &Policy) -> ServiceKey {
    ServiceKey { namespace: Arc::clone(&policy.key.namespace), audience: Arc::clone(&policy.audience) }
}

fn content_name(key: &NamespacedName) -> String {
    format!("AccessPolicy/{key}")
}
