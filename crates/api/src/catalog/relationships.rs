//! All `Relationship`s as they are known: which tuples are in force, and what does not fit the services they are about.

use crate::catalog::{Fate, Rejection, RejectionReason};
use crate::compile::FieldError;
use crate::relations::{Related, relationship, unknown};
use crate::resources::{LastTuples, Relationship};
use durward_core::digest::Digest;
use durward_core::relations::{
    CompiledRelationRule, GROUP, MEMBER, RelationBackend, RelationModel, RelationTuple, TupleSubject,
};
use durward_core::service::ServiceKey;
use durward_core::snapshot::Snapshot;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// Namespace and name of a `Relationship`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationshipKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Name of the `Relationship`.
    pub name: Arc<str>,
}

impl RelationshipKey {
    /// The key of a resource that has a name.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let name = metadata.name.as_deref().filter(|name| !name.is_empty())?.into();
        Some(Self { namespace: metadata.namespace.as_deref().unwrap_or("default").into(), name })
    }
}

impl fmt::Display for RelationshipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// All of them. The tuples themselves are in the snapshot alone.
#[derive(Debug, Default)]
pub(crate) struct Relationships {
    entries: HashMap<RelationshipKey, Entry>,
    by_service: HashMap<ServiceKey, BTreeSet<RelationshipKey>>,
    touched: BTreeSet<RelationshipKey>,
}

#[derive(Debug, Default)]
struct Entry {
    in_force: Option<InForce>,
    /// Why there is a newer version that is not in force.
    invalid: Option<Vec<FieldError>>,
}

#[derive(Debug)]
struct InForce {
    service: ServiceKey,
    /// Its `metadata.generation`, where there is one.
    generation: Option<i64>,
    /// What it asks of the model; `None` where no more is known of it than that it was in force.
    shapes: Option<Shapes>,
}

/// What tuples ask of a model, each with the number of the first tuple that does.
type Shapes = BTreeMap<Shape, usize>;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    /// Tuples state this relation of a type.
    Stated(Arc<str>, Arc<str>),
    /// A subject is everybody in this relation to a type.
    Set(Arc<str>, Arc<str>),
    /// A subject is an object of a type.
    Object(Arc<str>),
}

impl Relationships {
    pub(crate) fn put(&mut self, resource: &Relationship, snapshot: &mut Snapshot) {
        let Some(key) = RelationshipKey::of(&resource.metadata) else { return };
        self.touched.insert(key.clone());
        match relationship(resource) {
            Err(errors) => self.entries.entry(key).or_default().invalid = Some(errors),
            Ok(Related { service, tuples, digest }) => {
                self.withdraw(&key, |old| {
                    if *old != service {
                        snapshot.relate(old, &key.to_string(), &[])
                    }
                });
                snapshot.relate(&service, &key.to_string(), &tuples);
                snapshot.record(&content_name(&key), Some(digest));
                self.by_service.entry(service.clone()).or_default().insert(key.clone());
                let generation = resource.metadata.generation;
                let in_force = Some(InForce { service, generation, shapes: Some(shapes(&tuples)) });
                self.entries.insert(key, Entry { in_force, invalid: None });
            }
        }
    }

    pub(crate) fn unreadable(&mut self, key: RelationshipKey, error: FieldError) {
        self.touched.insert(key.clone());
        self.entries.entry(key).or_default().invalid = Some(vec![error]);
    }

    /// Remembers the last good version of a resource, unless one is known here.
    pub(crate) fn remember(&mut self, key: &RelationshipKey, good: &LastTuples, snapshot: &mut Snapshot) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.in_force.is_none()) else { return };
        let service = ServiceKey { namespace: Arc::clone(&key.namespace), audience: good.service.as_str().into() };
        snapshot.lose(&service, &key.to_string());
        let digest = Digest::of([b"forgotten".as_slice(), good.service.as_bytes()]);
        snapshot.record(&content_name(key), Some(digest));
        self.touched.insert(key.clone());
        self.by_service.entry(service.clone()).or_default().insert(key.clone());
        entry.in_force = Some(InForce { service, generation: good.generation, shapes: None });
    }

    /// What is to be remembered of the version that was last in force.
    pub(crate) fn last(&self, key: &RelationshipKey) -> Option<LastTuples> {
        let last = self.entries.get(key)?.in_force.as_ref()?;
        Some(LastTuples { generation: last.generation, service: last.service.audience.to_string() })
    }

    pub(crate) fn remove(&mut self, key: &RelationshipKey, snapshot: &mut Snapshot) {
        self.withdraw(key, |service| snapshot.relate(service, &key.to_string(), &[]));
        snapshot.record(&content_name(key), None);
        self.entries.remove(key);
        self.touched.insert(key.clone());
    }

    /// Forgets what is in force of a resource, after `each` has seen its service.
    fn withdraw(&mut self, key: &RelationshipKey, each: impl FnOnce(&ServiceKey)) {
        let Some(old) = self.entries.get_mut(key).and_then(|entry| entry.in_force.take()) else { return };
        each(&old.service);
        if let Some(keys) = self.by_service.get_mut(&old.service) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_service.remove(&old.service);
            }
        }
    }

    /// Notes that the relations of a service may have changed.
    pub(crate) fn touch(&mut self, service: &ServiceKey) {
        self.touched.extend(self.by_service.get(service).into_iter().flatten().cloned());
    }

    pub(crate) fn touched(&mut self) -> BTreeSet<RelationshipKey> {
        std::mem::take(&mut self.touched)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &RelationshipKey> {
        self.entries.keys()
    }

    pub(crate) fn fate(&self, key: &RelationshipKey, snapshot: &Snapshot) -> Option<Fate> {
        let Entry { in_force, invalid } = self.entries.get(key)?;
        let lost = in_force.as_ref().filter(|last| last.shapes.is_none());
        let invalid = invalid.clone().map(|errors| match lost {
            Some(last) => unknown_since(last, errors),
            None => Rejection { reason: RejectionReason::Invalid, errors },
        });
        let misfit = || {
            let InForce { service, shapes, .. } = in_force.as_ref()?;
            misfits(service, shapes.as_ref()?, snapshot)
        };
        let (in_force, closed) = (in_force.is_some() && lost.is_none(), lost.is_some());
        Some(Fate { rejected: invalid.or_else(misfit), in_force, closed })
    }

    pub(crate) fn review(resource: &Relationship, snapshot: &Snapshot) -> Result<Vec<FieldError>, Vec<FieldError>> {
        let related = relationship(resource)?;
        let misfits = misfits(&related.service, &shapes(&related.tuples), snapshot);
        Ok(misfits.map(|rejection| rejection.errors).unwrap_or_default())
    }
}

fn content_name(key: &RelationshipKey) -> String {
    format!("Relationship/{key}")
}

/// What follows from a version that is not known, and why there is no other.
fn unknown_since(last: &InForce, errors: Vec<FieldError>) -> Rejection {
    let version =
        last.generation.map_or_else(|| "an earlier version".to_owned(), |number| format!("generation {number}"));
    let message = format!(
        "{version} was in force, which a replica that starts anew can't know: as far as relations of service `{}` exclude anybody, \
         they hold for nobody there; mend or remove this Relationship",
        last.service.audience
    );
    let what = FieldError { field: "spec".to_owned(), message };
    Rejection { reason: RejectionReason::LastGoodUnknown, errors: [what].into_iter().chain(errors).collect() }
}

fn shapes(tuples: &[RelationTuple]) -> Shapes {
    let mut shapes = Shapes::new();
    for (i, tuple) in tuples.iter().enumerate() {
        let stated = Shape::Stated(tuple.object.kind().into(), Arc::clone(&tuple.relation));
        let subject = match &tuple.subject {
            TupleSubject::Set(object, relation) => Some(Shape::Set(object.kind().into(), Arc::clone(relation))),
            TupleSubject::Object(object) => Some(Shape::Object(object.kind().into())),
            TupleSubject::Principal(_) | TupleSubject::Everybody => None,
        };
        for shape in [stated].into_iter().chain(subject) {
            shapes.entry(shape).or_insert(i);
        }
    }
    shapes
}

/// What counts for nothing as long as the service is as it is.
fn misfits(service: &ServiceKey, shapes: &Shapes, snapshot: &Snapshot) -> Option<Rejection> {
    let Some(found) = snapshot.service(service) else {
        let message =
            format!("no policy in force of namespace `{}` is about service `{}`", service.namespace, service.audience);
        let errors = vec![FieldError { field: "spec.service".to_owned(), message }];
        return Some(Rejection { reason: RejectionReason::NoService, errors });
    };
    if !found.closed_by().is_empty() {
        // which relations there are is not known; it is the policy that has to be mended
        return None;
    }
    if *found.relation_engine() != RelationBackend::Own {
        let message = "its relations are asked of OpenFGA (`relationEngine`): write the tuples there; here they count for nothing";
        let errors = vec![FieldError::new("spec.service", message)];
        return Some(Rejection { reason: RejectionReason::OtherRelationEngine, errors });
    }
    let mut errors: Vec<(usize, FieldError)> = shapes
        .iter()
        .filter_map(|(shape, i)| {
            let (field, message) = misfit(shape, found.relations())?;
            Some((
                *i,
                FieldError::new(format!("spec.tuples[{i}].{field}"), format!("{message}; it counts for nothing")),
            ))
        })
        .collect();
    errors.sort_unstable();
    let errors: Vec<FieldError> = errors.into_iter().map(|(_, error)| error).collect();
    (!errors.is_empty()).then_some(Rejection { reason: RejectionReason::UnknownRelation, errors })
}

/// The field and what is wrong with it.
fn misfit(shape: &Shape, model: &RelationModel) -> Option<(&'static str, String)> {
    match shape {
        Shape::Stated(kind, relation) => unknown(model, kind, relation).or_else(|| {
            let stated = model.rule(kind, relation).is_some_and(has_this);
            let message = format!("`{relation}` of `{kind}` comes about by its rule alone, which has no `this`");
            (!stated).then_some(("relation", message))
        }),
        Shape::Set(kind, relation) => unknown(model, kind, relation).map(|(_, message)| ("subject", message)),
        Shape::Object(kind) if model.declares(kind) => None,
        Shape::Object(kind) => {
            let more = if **kind == *GROUP { format!("; its members are `#{MEMBER}`") } else { String::new() };
            Some(("subject", format!("`relations` has no object `{kind}`{more}")))
        }
    }
}

fn has_this(rule: &CompiledRelationRule) -> bool {
    *rule == CompiledRelationRule::This || rule.parts().any(has_this)
}
