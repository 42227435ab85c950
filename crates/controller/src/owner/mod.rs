//! The one task that knows all resources: changes come in, snapshots and reports go out.

use crate::gates::Gates;
use crate::status::{Facts, Kind, Outcome, Report, Target};
use crate::watch::{Event, Events, Name, Object, Source};
use durward_api::catalog::{Catalog, CatalogChange, PolicyStatus};
use durward_api::compile::ClusterDomains;
use durward_api::field_error::FieldError;
use durward_api::lint::lint;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship, namespaced_name};
use durward_api::translation::{self, ObjectVersion, decode_spec};
use durward_approvals::{Book, Known, Seal};
use durward_authn::ProviderProblem;
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use durward_doors::admission::{Review, Reviewed};
use durward_doors::snapshots::Resources;
use durward_engine::Engine;
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::DynamicObject;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Events that are taken in at once: a change of a thousand policies becomes a few snapshots, not a thousand.
const BATCH: usize = 4096;

/// What the writer is told after each batch.
#[derive(Debug)]
pub struct Batch {
    pub reports: Vec<Report>,
    pub gone: Vec<Target>,
    /// Revision of the snapshot that is in force with it.
    pub revision: Digest,
}

/// Numbers the batches and hands them on: to the writer, and to the one who compares replicas.
pub struct Batches {
    pub(crate) batches: mpsc::UnboundedSender<(u64, Batch)>,
    pub(crate) applied: mpsc::UnboundedSender<(u64, Digest)>,
    pub number: u64,
}

impl Batches {
    fn send(&mut self, batch: Batch) {
        self.number += 1;
        // the receivers only go away when everything ends
        let _ = self.applied.send((self.number, batch.revision));
        let _ = self.batches.send((self.number, batch));
    }
}

/// Where things go.
pub struct Outlets {
    pub engine: Arc<Engine>,
    pub readiness: Arc<Readiness>,
    pub(crate) batches: Batches,
    pub synced: watch::Sender<bool>,
    /// What gates are told of.
    pub gates: watch::Sender<Resources>,
    /// The approvals that there are.
    pub approvals: watch::Sender<Known>,
}

/// Everything that is known.
pub struct Owner {
    catalog: Catalog,
    policies: HashMap<NamespacedName, Seen>,
    relationships: HashMap<NamespacedName, Seen>,
    providers: BTreeMap<String, (Seen, Result<IdentityProvider, FieldError>)>,
    secrets: BTreeMap<Name, Secret>,
    services: BTreeSet<Name>,
    /// Sources that were never complete.
    unsynced: BTreeSet<Source>,
    /// What listings that are going on have held so far.
    listings: BTreeMap<Source, BTreeSet<Name>>,
    approvals: Book,
    changes: Vec<CatalogChange>,
    reports: Reports,
    /// Whether providers or keys changed.
    authentication_changed: bool,
    gates: Gates,
}

/// An object as it was last seen.
#[derive(Debug, Clone)]
struct Seen {
    uid: Arc<str>,
    generation: i64,
    status: Arc<str>,
}

#[derive(Debug, Default)]
struct Reports {
    touched: BTreeSet<NamespacedName>,
    relationships: BTreeSet<NamespacedName>,
    others: Vec<Report>,
    gone: Vec<Target>,
}

impl Owner {
    pub fn new(settings: ClusterDomains, sources: impl IntoIterator<Item = Source>, seal: Seal) -> Self {
        Self {
            catalog: Catalog::new(settings),
            policies: HashMap::new(),
            relationships: HashMap::new(),
            providers: BTreeMap::new(),
            secrets: BTreeMap::new(),
            services: BTreeSet::new(),
            unsynced: sources.into_iter().collect(),
            listings: BTreeMap::new(),
            approvals: Book::new(seal),
            changes: Vec::new(),
            reports: Reports::default(),
            authentication_changed: true,
            gates: Gates::default(),
        }
    }

    /// Follows the API server until `shutdown`.
    pub async fn run(
        mut self,
        events: Events,
        mut reviews: mpsc::Receiver<Review>,
        mut outlets: Outlets,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut events = events.ready_chunks(BATCH);
        loop {
            tokio::select! {
                batch = events.next() => match batch {
                    Some(batch) => batch.into_iter().for_each(|event| self.take_in(event, &outlets)),
                    None => return Err("the watches ended by themselves".into()),
                },
                Some(review) = reviews.recv() => {
                    self.answer(review);
                    continue;
                }
                () = shutdown.cancelled() => break,
            }
            if self.unsynced.is_empty() {
                self.publish(&mut outlets);
            }
        }
        // the webhooks end after this: what they were still asked is answered
        while let Some(review) = reviews.recv().await {
            self.answer(review);
        }
        Ok(())
    }

    fn answer(&self, review: Review) {
        let reviewed = self.review(&review.kind, &review.object);
        // who went away needs no answer
        let _ = review.reply.send(reviewed);
    }

    fn take_in(&mut self, event: Event, outlets: &Outlets) {
        match event {
            Event::Failed(source, error) => {
                // what was last known stays in force; the error of a Secret's watch could quote it, so its kind alone
                tracing::warn!(?source, error = %kind_of(&error), "the API server could not be asked");
                outlets.engine.metrics().api_server_failed();
                return;
            }
            Event::Listing(source) => drop(self.listings.insert(source, BTreeSet::new())),
            Event::Listed(source, object) => {
                if let Some(listing) = self.listings.get_mut(&source) {
                    listing.insert(object.name());
                }
                self.applied(&source, object);
            }
            Event::Synced(source) => {
                let present = self.listings.remove(&source).unwrap_or_default();
                for name in self.known(&source) {
                    if !present.contains(&name) {
                        self.gone(&source, name);
                    }
                }
                self.unsynced.remove(&source);
            }
            Event::Applied(source, object) => self.applied(&source, object),
            Event::Gone(source, name) => self.gone(&source, name),
        }
        outlets.engine.metrics().api_server_seen();
    }

    fn applied(&mut self, source: &Source, object: Object) {
        match (source, object) {
            (Source::Policies, Object::Own(object)) => self.policy(*object),
            (Source::Providers, Object::Own(object)) => self.provider(*object),
            (Source::Relationships, Object::Own(object)) => self.relationship(*object),
            (Source::Approvals, object @ Object::Own(_)) => self.approval(object),
            (_, service @ Object::Service(_)) => drop(self.services.insert(service.name())),
            (_, Object::Namespace(namespace)) => {
                self.changes.extend(translation::namespace(&namespace.metadata));
                let name = namespace.metadata.name.unwrap_or_default();
                self.gates.namespace(&name, &namespace.metadata.annotations.unwrap_or_default());
            }
            (_, Object::Secret(secret)) => {
                let name = (
                    secret.metadata.namespace.clone().unwrap_or_default(),
                    secret.metadata.name.clone().unwrap_or_default(),
                );
                self.changes.extend(translation::api_keys(&secret));
                self.secrets.insert(name, *secret);
                self.authentication_changed = true;
            }
            // a source yields objects of its own kind
            (_, Object::Own(_)) => {}
        }
    }

    fn policy(&mut self, object: DynamicObject) {
        let seen = seen(&object);
        let Some(key) = self.catalog.interned_name(&object.metadata) else { return };
        let before = self.policies.insert(key.clone(), seen.clone());
        self.reports.touched.insert(key.clone());
        // a change of status or metadata alone changes no decision, except for the record of the last good version
        if before.is_some_and(|before| before.uid == seen.uid && before.generation == seen.generation) {
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

    fn provider(&mut self, object: DynamicObject) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let seen = seen(&object);
        let Some(version) = ObjectVersion::<IdentityProvider>::from_dynamic(object) else { return };
        let provider = version.resource().map(Clone::clone).map_err(Clone::clone);
        self.changes.extend(version.into_changes());
        self.providers.insert(name, (seen, provider));
        self.authentication_changed = true;
    }

    fn relationship(&mut self, object: DynamicObject) {
        let seen = seen(&object);
        let Some(key) = namespaced_name(&object.metadata) else { return };
        let before = self.relationships.insert(key.clone(), seen.clone());
        self.reports.relationships.insert(key.clone());
        // a change of status or metadata alone changes no decision, except for the record of the last good version
        if before.is_some_and(|before| before.uid == seen.uid && before.generation == seen.generation) {
            self.changes.extend(translation::status_changes::<Relationship>(&object));
            return;
        }
        let Some(version) = ObjectVersion::<Relationship>::from_dynamic(object) else { return };
        if let Ok(relationship) = version.resource() {
            self.gates.relationship(&key, &relationship.spec);
        }
        self.changes.extend(version.into_changes());
    }

    fn approval(&mut self, object: Object) {
        let (name, Object::Own(object)) = (object.name(), object) else { return };
        // one that can't be read approves nothing
        let change = match object.try_parse() {
            Ok(approval) => self.approvals.put(name, approval),
            Err(_) => self.approvals.gone(&name),
        };
        self.changes.extend(change);
    }

    fn gone(&mut self, source: &Source, (namespace, name): Name) {
        match source {
            Source::Policies => {
                let key = NamespacedName { namespace: namespace.as_str().into(), name: name.as_str().into() };
                self.policies.remove(&key);
                self.gates.policy_gone(&key);
                self.reports.gone.push(policy_target(&key));
                self.changes.extend(translation::deleted::<AccessPolicy>(key));
            }
            Source::Providers => {
                self.providers.remove(&name);
                self.changes.extend(translation::deleted::<IdentityProvider>(name.as_str().into()));
                self.reports.gone.push(Target { kind: Kind::Provider, namespace: None, name: name.into() });
                self.authentication_changed = true;
            }
            Source::Relationships => {
                let key = NamespacedName { namespace: namespace.as_str().into(), name: name.as_str().into() };
                self.relationships.remove(&key);
                self.gates.relationship_gone(&key);
                self.reports.gone.push(relationship_target(&key));
                self.changes.extend(translation::deleted::<Relationship>(key));
            }
            Source::Approvals => self.changes.extend(self.approvals.gone(&(namespace, name))),
            Source::Namespaces => {
                self.gates.namespace_gone(&name);
                self.changes.extend(translation::namespace_deleted(&name));
            }
            Source::Services => drop(self.services.remove(&(namespace, name))),
            Source::ApiKeys(_) => {
                self.changes
                    .extend(translation::api_keys_deleted(NamespacedName::new(namespace.as_str(), name.as_str())));
                self.secrets.remove(&(namespace, name));
                self.authentication_changed = true;
            }
        }
    }

    /// What is known of a source.
    fn known(&self, source: &Source) -> Vec<Name> {
        match source {
            Source::Policies => {
                self.policies.keys().map(|key| (key.namespace.to_string(), key.name.to_string())).collect()
            }
            Source::Providers => self.providers.keys().map(|name| (String::new(), name.clone())).collect(),
            Source::ApiKeys(namespace) => self.secrets.keys().filter(|(of, _)| of == namespace).cloned().collect(),
            Source::Namespaces => self.catalog.namespaces().map(|name| (String::new(), name.to_owned())).collect(),
            Source::Services => self.services.iter().cloned().collect(),
            Source::Approvals => self.approvals.known().keys().cloned().collect(),
            Source::Relationships => {
                self.relationships.keys().map(|key| (key.namespace.to_string(), key.name.to_string())).collect()
            }
        }
    }

    /// Puts what has changed in force, and tells the writer.
    fn publish(&mut self, outlets: &mut Outlets) {
        let engine = Arc::clone(&outlets.engine);
        if std::mem::take(&mut self.authentication_changed) {
            let providers: Vec<IdentityProvider> = self.providers().collect();
            let secrets: Vec<Secret> = self.secrets.values().cloned().collect();
            let problems = engine.authenticator().replace_providers(&providers, &secrets);
            self.gates.authentication(&providers, &secrets);
            self.report_providers(&problems);
        }
        outlets.approvals.send_if_modified(|known| {
            let other = !known.ptr_eq(self.approvals.known());
            known.clone_from(self.approvals.known());
            other
        });
        let fates = self.catalog.apply(std::mem::take(&mut self.changes));
        self.reports.touched.extend(fates.into_iter().map(|(key, _)| key));
        self.reports.relationships.extend(self.catalog.take_touched_relationships());
        let revision = self.catalog.snapshot().revision();
        if revision != engine.snapshot().revision() || !*outlets.synced.borrow() {
            engine.replace_snapshot(self.catalog.snapshot().clone());
        }
        engine.metrics().policies_rejected(self.catalog.rejected_count());
        self.gates.approvals(self.approvals.given());
        self.gates.relationships(&self.catalog, self.reports.relationships.iter());
        self.gates.tell(&self.catalog, self.reports.touched.iter(), &outlets.gates);
        let reports = std::mem::take(&mut self.reports);
        let policies = reports.touched.iter().filter_map(|key| self.report_policy(key));
        let relationships = reports.relationships.iter().filter_map(|key| self.report_relationship(key));
        let batch = Batch {
            reports: policies.chain(relationships).chain(reports.others).collect(),
            gone: reports.gone,
            revision,
        };
        outlets.batches.send(batch);
        outlets.readiness.loaded();
        outlets.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    /// The providers that can be read.
    fn providers(&self) -> impl Iterator<Item = IdentityProvider> {
        self.providers.values().filter_map(|(_, provider)| provider.as_ref().ok().cloned())
    }

    fn report_policy(&self, key: &NamespacedName) -> Option<Report> {
        let seen = self.policies.get(key)?;
        let PolicyStatus { rejected, in_force, closed } = self.catalog.policy_status(key)?;
        let last_good = self.catalog.last_good(key).and_then(|good| serde_json::to_string(&good).ok());
        let facts = self.catalog.in_force(key).map(|policy| Facts {
            service: Arc::clone(&policy.audience),
            operations: policy.operations.len(),
            grants: policy.grants.len(),
            governs: policy.operations.iter().any(|operation| !operation.kubernetes.is_empty()),
        });
        let outcome = Outcome {
            rejected: rejected.map(|rejection| (rejection.reason.as_str(), rejection.errors)),
            in_force,
            closed: closed.then(|| names(self.catalog.closed_by(key))),
            facts,
            last_good: last_good.map(Into::into),
        };
        Some(report(policy_target(key), seen, outcome))
    }

    fn report_relationship(&self, key: &NamespacedName) -> Option<Report> {
        let seen = self.relationships.get(key)?;
        let PolicyStatus { rejected, in_force, .. } = self.catalog.relationship_status(key)?;
        let last_good = self.catalog.last_good_tuples(key).and_then(|good| serde_json::to_string(&good).ok());
        let rejected = rejected.map(|rejection| (rejection.reason.as_str(), rejection.errors));
        let last_good = last_good.map(Into::into);
        Some(report(relationship_target(key), seen, Outcome { rejected, in_force, last_good, ..Outcome::default() }))
    }

    fn report_providers(&mut self, problems: &[ProviderProblem]) {
        for (name, (seen, provider)) in &self.providers {
            let errors: Vec<FieldError> = match provider {
                Err(error) => vec![error.clone()],
                Ok(_) => problems.iter().filter(|(of, _)| of == name).map(|(_, problem)| problem.clone()).collect(),
            };
            let rejected = (!errors.is_empty()).then_some(("Invalid", errors));
            let outcome = Outcome { in_force: rejected.is_none(), rejected, ..Outcome::default() };
            let target = Target { kind: Kind::Provider, namespace: None, name: name.as_str().into() };
            self.reports.others.push(report(target, seen, outcome));
        }
    }

    /// What would become of a resource if it were stored now.
    fn review(&self, kind: &str, object: &DynamicObject) -> Reviewed {
        if !self.unsynced.is_empty() {
            let message = "durward has not read all resources yet; try again".to_owned();
            return Reviewed {
                errors: vec![FieldError { field: "metadata".to_owned(), message }],
                warnings: Vec::new(),
            };
        }
        let reviewed = match kind {
            "AccessPolicy" => decode_spec(object).map(|spec| {
                let policy = AccessPolicy { metadata: object.metadata.clone(), spec, status: None };
                let mut errors =
                    self.catalog.review(&policy).err().map(|rejection| rejection.errors).unwrap_or_default();
                errors.extend(self.unknown_providers(&policy));
                let found = lint(&policy, &[]).into_iter().filter(|finding| finding.silenced.is_none());
                let warnings = found.map(Into::into).chain(self.missing_services(&policy)).collect();
                Reviewed { errors, warnings }
            }),
            "IdentityProvider" => decode_spec(object).map(|spec| {
                let provider = IdentityProvider { metadata: object.metadata.clone(), spec, status: None };
                let others: Vec<_> =
                    self.providers().filter(|other| other.metadata.name != provider.metadata.name).collect();
                Reviewed {
                    errors: durward_authn::check(&provider, &others, self.catalog.trust_domain()),
                    warnings: Vec::new(),
                }
            }),
            "Relationship" => decode_spec(object).map(|spec| {
                let relationship = Relationship { metadata: object.metadata.clone(), spec, status: None };
                match self.catalog.review_relationship(&relationship) {
                    Ok(warnings) => Reviewed { errors: Vec::new(), warnings },
                    Err(errors) => Reviewed { errors, warnings: Vec::new() },
                }
            }),
            _ => Ok(Reviewed::default()),
        };
        reviewed.unwrap_or_else(|error| Reviewed { errors: vec![error], warnings: Vec::new() })
    }

    /// Hosts that are the names of Services which are not there.
    fn missing_services(&self, policy: &AccessPolicy) -> Vec<FieldError> {
        let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
        let hosts = policy.spec.service.hosts.iter().enumerate();
        let missing = hosts.filter_map(|(i, host)| {
            let (service, rest) = host.split_once('.')?;
            let own = rest == namespace || rest.strip_prefix(namespace)?.starts_with(".svc");
            let there = self.services.contains(&(namespace.to_owned(), service.to_owned()));
            let message = format!("there is no Service `{service}` in namespace `{namespace}` yet");
            (own && !there).then(|| FieldError { field: format!("spec.service.hosts[{i}]"), message })
        });
        missing.collect()
    }

    fn unknown_providers(&self, policy: &AccessPolicy) -> Vec<FieldError> {
        let unknown =
            policy.spec.providers().into_iter().filter(|(_, name)| {
                *name != durward_core::principal::KUBERNETES && !self.providers.contains_key(*name)
            });
        unknown
            .map(|(field, name)| {
                let known: Vec<&str> = self.providers.keys().map(String::as_str).collect();
                let known = if known.is_empty() {
                    "there is none yet".to_owned()
                } else {
                    format!("there are {}", known.join(", "))
                };
                FieldError {
                    field,
                    message: format!("no IdentityProvider is called `{name}`; create it first ({known})"),
                }
            })
            .collect()
    }
}

fn names(policies: &[NamespacedName]) -> String {
    policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn policy_target(key: &NamespacedName) -> Target {
    Target { kind: Kind::Policy, namespace: Some(Arc::clone(&key.namespace)), name: Arc::clone(&key.name) }
}

fn relationship_target(key: &NamespacedName) -> Target {
    Target { kind: Kind::Relationship, namespace: Some(Arc::clone(&key.namespace)), name: Arc::clone(&key.name) }
}

fn seen(object: &DynamicObject) -> Seen {
    Seen {
        uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
        generation: object.metadata.generation.unwrap_or_default(),
        status: stored_status(object),
    }
}

fn report(target: Target, seen: &Seen, outcome: Outcome) -> Report {
    Report {
        target,
        uid: Arc::clone(&seen.uid),
        generation: seen.generation,
        observed: Arc::clone(&seen.status),
        outcome,
    }
}

/// What kind of error it was, without any text from the API server.
fn kind_of(error: &kube::runtime::watcher::Error) -> String {
    use kube::runtime::watcher::Error;
    let of = |error: &kube::Error| match error {
        kube::Error::Api(status) => format!("{} {}", status.code, status.reason),
        kube::Error::SerdeError(_) => "an answer could not be read".to_owned(),
        other => other.to_string(),
    };
    match error {
        Error::InitialListFailed(error) => format!("listing failed: {}", of(error)),
        Error::WatchStartFailed(error) | Error::WatchFailed(error) => format!("watching failed: {}", of(error)),
        Error::WatchError(status) => format!("watching failed: {} {}", status.code, status.reason),
        Error::NoResourceVersion => "the listing has no resource version".to_owned(),
    }
}

/// The `status` as it is stored, in JSON.
fn stored_status(object: &DynamicObject) -> Arc<str> {
    object.data.get("status").unwrap_or(&Value::Null).to_string().into()
}

#[cfg(test)]
mod tests;
