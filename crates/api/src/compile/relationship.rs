//! Compilation of a `Relationship`.

use crate::field_error::FieldError;
use crate::resources::Relationship;
use durward_core::digest::Digest;
use durward_core::relations::{RelationObject, RelationTuple, is_relation_name};
use durward_core::service::ServiceKey;
use std::fmt;

/// Maximum number of tuples of one `Relationship`; the API server stores objects of at most 1.5 MB.
const MAX_TUPLES: usize = 5000;
/// Maximum number of mistakes to report for one `Relationship`.
const MAX_MISTAKES: usize = 20;

/// A compiled `Relationship`.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledRelationship {
    /// The service that owns the objects of the tuples; always in the namespace of the resource.
    pub service: ServiceKey,
    /// The tuples, in the order of the resource.
    pub tuples: Vec<RelationTuple>,
    /// Digest of the spec.
    pub digest: Digest,
}

/// Compiles a `Relationship`.
///
/// # Errors
/// With the first mistakes, in the order of the fields.
pub fn compile_relationship(resource: &Relationship) -> Result<CompiledRelationship, Vec<FieldError>> {
    let spec = &resource.spec;
    let mut mistakes = Vec::new();
    if spec.service.is_empty() {
        mistakes.push(mistake("spec.service".to_owned(), "set the audience of the service that owns the objects"));
    }
    if spec.tuples.len() > MAX_TUPLES {
        let message = format!("at most {MAX_TUPLES} are allowed in one Relationship: split it");
        mistakes.push(mistake("spec.tuples".to_owned(), message));
    }
    let mut tuples = Vec::with_capacity(spec.tuples.len());
    for (i, tuple) in spec.tuples.iter().enumerate().take(MAX_TUPLES) {
        let field = |name: &str| format!("spec.tuples[{i}].{name}");
        let object = tuple.object.parse::<RelationObject>().map_err(|error| mistake(field("object"), error));
        let subject = tuple.subject.parse().map_err(|error| mistake(field("subject"), error));
        let message = format!("`{}` is not a valid relation name", tuple.relation);
        let relation = if is_relation_name(&tuple.relation) {
            Ok(tuple.relation.as_str().into())
        } else {
            Err(mistake(field("relation"), message))
        };
        match (object, relation, subject) {
            (Ok(object), Ok(relation), Ok(subject)) => tuples.push(RelationTuple { object, relation, subject }),
            (object, relation, subject) => {
                mistakes.extend([object.err(), relation.err(), subject.err()].into_iter().flatten());
            }
        }
        if mistakes.len() > MAX_MISTAKES {
            break;
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    let canonical = serde_json::to_vec(spec).map_err(|error| vec![mistake("spec".to_owned(), error)])?;
    let namespace = resource.metadata.namespace.as_deref().unwrap_or("default").into();
    let service = ServiceKey { namespace, audience: spec.service.as_str().into() };
    Ok(CompiledRelationship { service, tuples, digest: Digest::of([canonical.as_slice()]) })
}

fn mistake(field: String, message: impl fmt::Display) -> FieldError {
    FieldError::new(field, message.to_string())
}
