//! The authorization model of OpenFGA (schema 1.1) that is equivalent to the relations of a policy.
//!
//! Relations of a policy have no type restrictions. So each relation with tuples takes principals, wildcards, and every
//! object and set of the model. If a `from` follows the relation, it takes no sets and wildcards, as OpenFGA requires.

use durward_core::relations::{CompiledRelationRule, GROUP, MEMBER, RESERVED_TYPES, RelationModel};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Longest name of a type or relation: OpenFGA's limit.
const MAX_NAME: usize = 50;
/// Limit of types: OpenFGA's limit.
const MAX_TYPES: usize = 100;
/// Names that OpenFGA reserves.
const RESERVED_NAMES: [&str; 2] = ["self", "this"];

/// OpenFGA can't represent the relations.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenFgaModelError {
    #[error("OpenFGA does not accept `{0}` as the name of a type or relation; use another name")]
    Name(String),
    #[error("OpenFGA accepts up to {MAX_TYPES} types, four of which are callers; these relations have {0}")]
    Types(usize),
}

/// The model in JSON, for `POST /stores/{store}/authorization-models`.
///
/// # Errors
/// If OpenFGA does not accept a name or the number of types.
pub fn authorization_model(model: &RelationModel) -> Result<Value, OpenFgaModelError> {
    let types = types(model);
    if types.len() + RESERVED_TYPES.len() > MAX_TYPES {
        return Err(OpenFgaModelError::Types(types.len()));
    }
    let names = types.iter().flat_map(|(kind, relations)| [kind].into_iter().chain(relations.keys()));
    for name in names {
        if RESERVED_NAMES.contains(name) || name.len() > MAX_NAME {
            return Err(OpenFgaModelError::Name((*name).to_owned()));
        }
    }
    let callers = RESERVED_TYPES.iter().map(|kind| json!({"type": kind}));
    let objects = types.iter().map(|(kind, relations)| {
        let followed: BTreeSet<&str> = relations.values().flat_map(|rule| followed(rule)).collect();
        let usersets: Map<String, Value> =
            relations.iter().map(|(name, rule)| ((*name).to_owned(), userset(rule))).collect();
        let with_tuples = relations.iter().filter(|(_, rule)| takes_tuples(rule));
        let metadata: Map<String, Value> = with_tuples
            .map(|(name, _)| {
                let subjects = subjects(&types, followed.contains(name));
                ((*name).to_owned(), json!({"directly_related_user_types": subjects}))
            })
            .collect();
        json!({"type": kind, "relations": usersets, "metadata": {"relations": metadata}})
    });
    Ok(json!({"schema_version": "1.1", "type_definitions": callers.chain(objects).collect::<Vec<_>>()}))
}

/// Whether groups have members by tuples, and so by the groups of a caller's token.
pub(crate) fn has_groups(model: &RelationModel) -> bool {
    model.rule(GROUP, MEMBER).is_some_and(takes_tuples)
}

type RelationsByType<'m> = BTreeMap<&'m str, BTreeMap<&'m str, &'m CompiledRelationRule>>;

/// All types, groups included.
fn types(model: &RelationModel) -> RelationsByType<'_> {
    let relations = |kind: &str| model.relations(kind).into_iter().map(|(name, rule)| (name.as_ref(), rule)).collect();
    let mut types: RelationsByType<'_> =
        model.types().into_iter().map(|kind| (kind.as_ref(), relations(kind))).collect();
    if let Some(rule) = model.rule(GROUP, MEMBER).filter(|_| !model.declares(GROUP)) {
        types.insert(GROUP, [(MEMBER, rule)].into());
    }
    types
}

/// The types that can be subjects of a tuple.
fn subjects(types: &RelationsByType<'_>, followed: bool) -> Vec<Value> {
    let plain = RESERVED_TYPES.iter().chain(types.keys()).map(|kind| json!({"type": kind}));
    if followed {
        return plain.collect();
    }
    let wildcards = RESERVED_TYPES.iter().map(|kind| json!({"type": kind, "wildcard": {}}));
    let sets = types
        .iter()
        .flat_map(|(kind, relations)| relations.keys().map(move |name| json!({"type": kind, "relation": name})));
    plain.chain(wildcards).chain(sets).collect()
}

fn takes_tuples(rule: &CompiledRelationRule) -> bool {
    *rule == CompiledRelationRule::This || rule.parts().any(takes_tuples)
}

/// The relations that a rule follows to other objects.
fn followed(rule: &CompiledRelationRule) -> Vec<&str> {
    match rule {
        CompiledRelationRule::From { from, .. } => vec![from],
        _ => rule.parts().flat_map(followed).collect(),
    }
}

fn userset(rule: &CompiledRelationRule) -> Value {
    let list = |parts: &[CompiledRelationRule]| json!({"child": parts.iter().map(userset).collect::<Vec<_>>()});
    match rule {
        CompiledRelationRule::This => json!({"this": {}}),
        CompiledRelationRule::Computed(relation) => json!({"computedUserset": {"relation": relation}}),
        CompiledRelationRule::From { from, relation } => {
            json!({"tupleToUserset": {"tupleset": {"relation": from}, "computedUserset": {"relation": relation}}})
        }
        CompiledRelationRule::Union(parts) => json!({"union": list(parts)}),
        CompiledRelationRule::Intersection(parts) => json!({"intersection": list(parts)}),
        CompiledRelationRule::Exclusion(base, others) => {
            let others = match others.as_slice() {
                [other] => userset(other),
                others => json!({"union": list(others)}),
            };
            json!({"difference": {"base": userset(base), "subtract": others}})
        }
    }
}
