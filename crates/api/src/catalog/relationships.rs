//! `Relationship`s: which tuples are in force, and which ones the model of their service does not declare.

use super::status::{PolicyRejection, PolicyStatus, RejectionReason};
use crate::compile::{CompiledRelationship, compile_relationship, undeclared};
use crate::field_error::FieldError;
use crate::resources::{LastGoodTuples, Relationship, namespaced_name};
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use durward_core::relations::{
    CompiledRelationRule, GROUP, MEMBER, RelationBackend, RelationModel, RelationTuple, TupleSubject,
};
use durward_core::service::ServiceKey;
use durward_core::snapshot::Snapshot;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// All `Relationship`s. Only the snapshot holds the tuples.
#[derive(Debug, Default)]
pub(super) struct Relationships {
    entries: HashMap<NamespacedName, RelationshipEntry>,
    by_service: HashMap<ServiceKey, BTreeSet<NamespacedName>>,
    touched: BTreeSet<NamespacedName>,
}

#[derive(Debug, Default)]
struct RelationshipEntry {
    in_force: Option<RelationshipInForce>,
    /// Mistakes of a newer version that does not compile.
    invalid: Option<Vec<FieldError>>,
}

#[derive(Debug)]
struct RelationshipInForce {
    service: ServiceKey,
    /// `metadata.generation` of the version, if it has one.
    generation: Option<i64>,
    /// What the tuples need the model to declare; `None` if this replica does not know the version that was in force.
    references: Option<ModelReferences>,
}

/// What tuples need a model to declare, each with the index of the first tuple that needs it.
type ModelReferences = BTreeMap<ModelReference, usize>;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ModelReference {
    /// A tuple states this relation of a type.
    Stated(Arc<str>, Arc<str>),
    /// A subject is the set of principals in this relation to an object of this type.
    Set(Arc<str>, Arc<str>),
    /// A subject is an object of this type.
    Object(Arc<str>),
}

impl Relationships {
    pub(super) fn apply(&mut self, resource: &Relationship, snapshot: &mut Snapshot) {
        let Some(key) = namespaced_name(&resource.metadata) else { return };
        self.touched.insert(key.clone());
        match compile_relationship(resource) {
            Err(errors) => self.entries.entry(key).or_default().invalid = Some(errors),
            Ok(CompiledRelationship { service, tuples, digest }) => {
                self.withdraw(&key, |old| {
                    if *old != service {
                        snapshot.put_relationship(old, &key.to_string(), &[])
                    }
                });
                snapshot.put_relationship(&service, &key.to_string(), &tuples);
                snapshot.record(&content_name(&key), Some(digest));
                self.by_service.entry(service.clone()).or_default().insert(key.clone());
                let generation = resource.metadata.generation;
                let in_force = Some(RelationshipInForce { service, generation, references: Some(references(&tuples)) });
                self.entries.insert(key, RelationshipEntry { in_force, invalid: None });
            }
        }
    }

    pub(super) fn undecodable(&mut self, key: NamespacedName, error: FieldError) {
        self.touched.insert(key.clone());
        self.entries.entry(key).or_default().invalid = Some(vec![error]);
    }

    /// Uses the recorded last good version of a `Relationship`, unless this replica knows one.
    pub(super) fn recall(&mut self, key: &NamespacedName, good: &LastGoodTuples, snapshot: &mut Snapshot) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.in_force.is_none()) else { return };
        let service = ServiceKey { namespace: Arc::clone(&key.namespace), audience: good.service.as_str().into() };
        snapshot.mark_relationship_unknown(&service, &key.to_string());
        let digest = Digest::of([b"forgotten".as_slice(), good.service.as_bytes()]);
        snapshot.record(&content_name(key), Some(digest));
        self.touched.insert(key.clone());
        self.by_service.entry(service.clone()).or_default().insert(key.clone());
        entry.in_force = Some(RelationshipInForce { service, generation: good.generation, references: None });
    }

    /// The record of the last good version.
    pub(super) fn last_good(&self, key: &NamespacedName) -> Option<LastGoodTuples> {
        let last = self.entries.get(key)?.in_force.as_ref()?;
        Some(LastGoodTuples { generation: last.generation, service: last.service.audience.to_string() })
    }

    pub(super) fn remove(&mut self, key: &NamespacedName, snapshot: &mut Snapshot) {
        self.withdraw(key, |service| snapshot.put_relationship(service, &key.to_string(), &[]));
        snapshot.record(&content_name(key), None);
        self.entries.remove(key);
        self.touched.insert(key.clone());
    }

    /// Withdraws the version in force. Calls `before` with its service first.
    fn withdraw(&mut self, key: &NamespacedName, before: impl FnOnce(&ServiceKey)) {
        let Some(old) = self.entries.get_mut(key).and_then(|entry| entry.in_force.take()) else { return };
        before(&old.service);
        if let Some(keys) = self.by_service.get_mut(&old.service) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_service.remove(&old.service);
            }
        }
    }

    /// Records that the relations of a service may have changed.
    pub(super) fn touch(&mut self, service: &ServiceKey) {
        self.touched.extend(self.by_service.get(service).into_iter().flatten().cloned());
    }

    pub(super) fn take_touched(&mut self) -> BTreeSet<NamespacedName> {
        std::mem::take(&mut self.touched)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &NamespacedName> {
        self.entries.keys()
    }

    pub(super) fn status(&self, key: &NamespacedName, snapshot: &Snapshot) -> Option<PolicyStatus> {
        let RelationshipEntry { in_force, invalid } = self.entries.get(key)?;
        let unknown = in_force.as_ref().filter(|last| last.references.is_none());
        let invalid = invalid.clone().map(|errors| match unknown {
            Some(last) => last_good_unknown(last, errors),
            None => PolicyRejection { reason: RejectionReason::Invalid, errors },
        });
        let mismatch = || {
            let RelationshipInForce { service, references, .. } = in_force.as_ref()?;
            mismatches(service, references.as_ref()?, snapshot)
        };
        Some(PolicyStatus {
            rejected: invalid.or_else(mismatch),
            in_force: in_force.is_some() && unknown.is_none(),
            closed: unknown.is_some(),
        })
    }

    pub(super) fn review(resource: &Relationship, snapshot: &Snapshot) -> Result<Vec<FieldError>, Vec<FieldError>> {
        let compiled = compile_relationship(resource)?;
        let mismatches = mismatches(&compiled.service, &references(&compiled.tuples), snapshot);
        Ok(mismatches.map(|rejection| rejection.errors).unwrap_or_default())
    }
}

fn content_name(key: &NamespacedName) -> String {
    format!("Relationship/{key}")
}

/// The rejection when the newest version is invalid and the last good one is unknown to this replica.
fn last_good_unknown(last: &RelationshipInForce, errors: Vec<FieldError>) -> PolicyRejection {
    let version =
        last.generation.map_or_else(|| "an earlier version".to_owned(), |number| format!("generation {number}"));
    let message = format!(
        "{version} was in force, and a restarted replica can't know its tuples: where relations of service `{}` exclude \
         callers, they now hold for no caller; fix or delete this Relationship",
        last.service.audience
    );
    let error = FieldError { field: "spec".to_owned(), message };
    PolicyRejection { reason: RejectionReason::LastGoodUnknown, errors: [error].into_iter().chain(errors).collect() }
}

fn references(tuples: &[RelationTuple]) -> ModelReferences {
    let mut references = ModelReferences::new();
    for (i, tuple) in tuples.iter().enumerate() {
        let stated = ModelReference::Stated(tuple.object.kind().into(), Arc::clone(&tuple.relation));
        let subject = match &tuple.subject {
            TupleSubject::Set(object, relation) => {
                Some(ModelReference::Set(object.kind().into(), Arc::clone(relation)))
            }
            TupleSubject::Object(object) => Some(ModelReference::Object(object.kind().into())),
            TupleSubject::Principal(_) | TupleSubject::Everybody => None,
        };
        for reference in [stated].into_iter().chain(subject) {
            references.entry(reference).or_insert(i);
        }
    }
    references
}

/// Tuples without effect, because the service does not declare what they need.
fn mismatches(service: &ServiceKey, references: &ModelReferences, snapshot: &Snapshot) -> Option<PolicyRejection> {
    let Some(target) = snapshot.service(service) else {
        let message =
            format!("no policy in force in namespace `{}` declares service `{}`", service.namespace, service.audience);
        let errors = vec![FieldError { field: "spec.service".to_owned(), message }];
        return Some(PolicyRejection { reason: RejectionReason::NoService, errors });
    };
    if !target.closed_by().is_empty() {
        // the relations of a closed service are unknown; the mistake is in its policy
        return None;
    }
    if *target.relation_engine() != RelationBackend::BuiltIn {
        let message = "the service looks its relations up in OpenFGA (`relationEngine`): write the tuples there; here \
                       they have no effect";
        let errors = vec![FieldError::new("spec.service", message)];
        return Some(PolicyRejection { reason: RejectionReason::OtherRelationEngine, errors });
    }
    let mut errors: Vec<(usize, FieldError)> = references
        .iter()
        .filter_map(|(reference, i)| {
            let (field, message) = mismatch(reference, target.relations())?;
            Some((
                *i,
                FieldError::new(format!("spec.tuples[{i}].{field}"), format!("{message}; the tuple has no effect")),
            ))
        })
        .collect();
    errors.sort_unstable();
    let errors: Vec<FieldError> = errors.into_iter().map(|(_, error)| error).collect();
    (!errors.is_empty()).then_some(PolicyRejection { reason: RejectionReason::UnknownRelation, errors })
}

/// The field and the message, if the model does not declare what a tuple needs.
fn mismatch(reference: &ModelReference, model: &RelationModel) -> Option<(&'static str, String)> {
    match reference {
        ModelReference::Stated(kind, relation) => undeclared(model, kind, relation).or_else(|| {
            let stated = model.rule(kind, relation).is_some_and(has_this);
            let message = format!("`{relation}` of `{kind}` follows from its rule only: the rule has no `this`");
            (!stated).then_some(("relation", message))
        }),
        ModelReference::Set(kind, relation) => {
            undeclared(model, kind, relation).map(|(_, message)| ("subject", message))
        }
        ModelReference::Object(kind) if model.declares(kind) => None,
        ModelReference::Object(kind) => {
            let more = if **kind == *GROUP { format!("; its members are `#{MEMBER}`") } else { String::new() };
            Some(("subject", format!("`relations` has no object `{kind}`{more}")))
        }
    }
}

fn has_this(rule: &CompiledRelationRule) -> bool {
    *rule == CompiledRelationRule::This || rule.parts().any(has_this)
}
