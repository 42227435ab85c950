//! The relation model of a policy.

use crate::field_error::FieldError;
use crate::resources::{ObjectType, RelationRule};
use durward_core::relations::{CompiledRelationRule, RESERVED_TYPES, RelationModel, TypeRelations, is_relation_name};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Maximum depth of nested rules; the search for relations recurses on them.
const MAX_RULE_DEPTH: usize = 4;
/// Maximum number of rules in one list; the CRD has the same limit.
const MAX_PARTS: usize = 16;
/// Limits of one policy; the CRD has the same ones.
const MAX_TYPES: usize = 64;
const MAX_RELATIONS: usize = 64;

/// Compiles the model. Returns it with its mistakes.
pub(super) fn compile(types: &[ObjectType]) -> (RelationModel, Vec<FieldError>) {
    let mut compiler = ModelCompiler { types, mistakes: Vec::new() };
    let model = compiler.model();
    (model, compiler.mistakes)
}

/// The field and the message, if a model does not declare the type or the relation.
pub(crate) fn undeclared(model: &RelationModel, kind: &str, relation: &str) -> Option<(&'static str, String)> {
    if model.rule(kind, relation).is_some() {
        return None;
    }
    let relations = model.relations(kind);
    Some(if relations.is_empty() {
        ("object", format!("`relations` has no object `{kind}`; {}", declared(model.types().into_iter())))
    } else {
        (
            "relation",
            format!("`{kind}` has no relation `{relation}`; {}", declared(relations.into_iter().map(|(name, _)| name))),
        )
    })
}

fn declared(names: impl Iterator<Item = impl fmt::Display>) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    if names.is_empty() { "there is none".to_owned() } else { format!("there is {}", names.join(", ")) }
}

struct ModelCompiler<'s> {
    types: &'s [ObjectType],
    mistakes: Vec<FieldError>,
}

impl ModelCompiler<'_> {
    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.mistakes.push(FieldError::new(field, message));
    }

    fn model(&mut self) -> RelationModel {
        let types = self.types;
        let mut compiled: BTreeMap<Arc<str>, TypeRelations> = BTreeMap::new();
        if types.len() > MAX_TYPES {
            self.error("spec.relations", format!("at most {MAX_TYPES} types are allowed in one policy"));
        }
        for (i, kind) in types.iter().enumerate() {
            let field = format!("spec.relations[{i}]");
            if !is_relation_name(&kind.object) {
                self.error(format!("{field}.object"), format!("`{}` is not a valid type name", kind.object));
            } else if RESERVED_TYPES.contains(&kind.object.as_str()) {
                let message = format!("`{}` is reserved for principals, which are subjects, not objects", kind.object);
                self.error(format!("{field}.object"), message);
            } else if compiled.contains_key(kind.object.as_str()) {
                self.error(format!("{field}.object"), format!("`{}` occurs twice", kind.object));
            }
            if kind.relations.is_empty() || kind.relations.len() > MAX_RELATIONS {
                self.error(format!("{field}.relations"), format!("a type needs 1 to {MAX_RELATIONS} relations"));
            }
            let mut relations = TypeRelations::new();
            for (name, rule) in &kind.relations {
                let field = format!("{field}.relations.{name}");
                if !is_relation_name(name) {
                    self.error(&field, format!("`{name}` is not a valid relation name"));
                }
                relations.extend(self.rule(&field, kind, rule, 1).map(|rule| (Arc::from(name.as_str()), rule)));
            }
            compiled.insert(kind.object.as_str().into(), relations);
        }
        if self.mistakes.is_empty() {
            self.check_reachable(&compiled);
        }
        RelationModel::new(compiled)
    }

    fn rule(
        &mut self,
        field: &str,
        kind: &ObjectType,
        rule: &RelationRule,
        depth: usize,
    ) -> Option<CompiledRelationRule> {
        let lists = [("union", &rule.union), ("intersection", &rule.intersection), ("exclusion", &rule.exclusion)];
        let mut set = lists.iter().filter_map(|(name, parts)| Some((*name, parts.as_ref()?)));
        let list = set.next();
        let second_list = set.next();
        let alternatives = [list.is_some(), second_list.is_some(), rule.this.is_some(), rule.relation.is_some()];
        if alternatives.iter().filter(|is_set| **is_set).count() > 1 {
            let message = "set at most one of `union`, `intersection`, `exclusion`, `this` and `relation`";
            self.error(field, message);
            return None;
        }
        if let Some((name, parts)) = list {
            if rule.from.is_some() {
                self.error(format!("{field}.from"), "`from` is allowed only with `relation`");
            }
            return self.parts(&format!("{field}.{name}"), kind, name, parts, depth);
        }
        match (&rule.from, &rule.relation) {
            (None, None) => Some(CompiledRelationRule::This),
            (Some(_), None) => {
                self.error(format!("{field}.from"), "`from` needs `relation`: the relation of the other object");
                None
            }
            (None, Some(relation)) => {
                if !kind.relations.contains_key(relation) {
                    let names = declared(kind.relations.keys());
                    self.error(
                        format!("{field}.relation"),
                        format!("`{}` has no relation `{relation}`; {names}", kind.object),
                    );
                }
                Some(CompiledRelationRule::Computed(relation.as_str().into()))
            }
            (Some(from), Some(relation)) => {
                self.from(field, kind, from, relation);
                Some(CompiledRelationRule::From { from: from.as_str().into(), relation: relation.as_str().into() })
            }
        }
    }

    fn from(&mut self, field: &str, kind: &ObjectType, from: &str, relation: &str) {
        match kind.relations.get(from) {
            None => {
                let names = declared(kind.relations.keys());
                self.error(format!("{field}.from"), format!("`{}` has no relation `{from}`; {names}", kind.object));
            }
            Some(rule) if *rule != RelationRule::default() && rule.this.is_none() => {
                let message =
                    format!("`{from}` has a rule, and `from` follows stated tuples only: make it `{from}: {{}}`");
                self.error(format!("{field}.from"), message);
            }
            Some(_) => {}
        }
        if !self.types.iter().any(|other| other.relations.contains_key(relation)) {
            self.error(format!("{field}.relation"), format!("no object of this policy has a relation `{relation}`"));
        }
    }

    fn parts(
        &mut self,
        field: &str,
        kind: &ObjectType,
        name: &str,
        parts: &[serde_json::Map<String, Value>],
        depth: usize,
    ) -> Option<CompiledRelationRule> {
        if depth > MAX_RULE_DEPTH {
            self.error(
                field,
                format!(
                    "rules are nested deeper than {MAX_RULE_DEPTH}; declare the inner rule as a relation of its own"
                ),
            );
            return None;
        }
        let fewest = if name == "exclusion" { 2 } else { 1 };
        if !(fewest..=MAX_PARTS).contains(&parts.len()) {
            self.error(field, format!("`{name}` needs {fewest} to {MAX_PARTS} rules"));
            return None;
        }
        let mut compiled = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let field = format!("{field}[{i}]");
            match serde_json::from_value::<RelationRule>(Value::Object(part.clone())) {
                Ok(rule) => compiled.push(self.rule(&field, kind, &rule, depth + 1)?),
                Err(error) => {
                    self.error(field, error.to_string());
                    return None;
                }
            }
        }
        Some(match name {
            "union" => CompiledRelationRule::Union(compiled),
            "intersection" => CompiledRelationRule::Intersection(compiled),
            _ => {
                let mut compiled = compiled.into_iter();
                CompiledRelationRule::Exclusion(Box::new(compiled.next()?), compiled.collect())
            }
        })
    }

    /// Records each relation that can never hold, because its rule depends on itself only.
    fn check_reachable(&mut self, types: &BTreeMap<Arc<str>, TypeRelations>) {
        let mut possible: BTreeSet<(&str, &str)> = BTreeSet::new();
        loop {
            let before = possible.len();
            for (kind, relations) in types {
                for (name, rule) in relations {
                    if can_hold(rule, kind, &possible) {
                        possible.insert((kind, name));
                    }
                }
            }
            if possible.len() == before {
                break;
            }
        }
        for (i, kind) in self.types.iter().enumerate() {
            for name in kind.relations.keys().filter(|name| !possible.contains(&(kind.object.as_str(), name.as_str())))
            {
                let message = "the relation can never hold: its rule depends only on itself; add `this: {}` \
                               to the rule, or to a rule it depends on";
                let field = format!("spec.relations[{i}].relations.{name}");
                self.mistakes.push(FieldError::new(field, message));
            }
        }
    }
}

fn can_hold(rule: &CompiledRelationRule, kind: &str, possible: &BTreeSet<(&str, &str)>) -> bool {
    match rule {
        CompiledRelationRule::This => true,
        CompiledRelationRule::Computed(relation) => possible.contains(&(kind, relation.as_ref())),
        CompiledRelationRule::From { relation, .. } => possible.iter().any(|(_, other)| *other == relation.as_ref()),
        CompiledRelationRule::Union(parts) => parts.iter().any(|part| can_hold(part, kind, possible)),
        CompiledRelationRule::Intersection(parts) => parts.iter().all(|part| can_hold(part, kind, possible)),
        CompiledRelationRule::Exclusion(base, _) => can_hold(base, kind, possible),
    }
}
