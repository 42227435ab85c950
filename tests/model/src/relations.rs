//! Relations: `docs/relations.md`, "Rules" and "Subjects".

use crate::subjects::{Belongs, in_group};
use crate::world::provider;
use durward_api::resources::{ObjectType, StatedTuple};
use durward_core::principal::Identity;
use serde_json::Value;
use std::collections::BTreeSet;

/// `object` and `relation` that hold for the caller.
type Relations = BTreeSet<(String, String)>;

/// The relations of one service, and the tuples about its objects.
#[derive(Debug)]
pub struct RelationFacts<'f> {
    pub types: Vec<&'f ObjectType>,
    pub tuples: Vec<&'f StatedTuple>,
    pub caller: &'f Identity,
}

impl RelationFacts<'_> {
    /// Whether the caller certainly has a relation to an object. What holds is computed for all objects, until nothing
    /// changes: an exclusion excludes what possibly holds, and what possibly holds excludes only what certainly does.
    #[must_use]
    pub fn holds(&self, object: &str, relation: &str) -> bool {
        let (mut certain, mut possible) = (Relations::new(), Relations::new());
        loop {
            let next_possible = self.closure(object, &certain, true);
            let next = self.closure(object, &next_possible, false);
            if (&next, &next_possible) == (&certain, &possible) {
                return certain.contains(&(object.to_owned(), relation.to_owned()));
            }
            (certain, possible) = (next, next_possible);
        }
    }

    fn closure(&self, asked: &str, excluded: &Relations, possibly: bool) -> Relations {
        let stated = self.tuples.iter().flat_map(|tuple| [tuple.object.as_str(), tuple.subject.as_str()]);
        let objects: BTreeSet<&str> = stated.chain([asked]).map(|text| text.split('#').next().unwrap()).collect();
        let mut facts = Relations::new();
        loop {
            let before = facts.len();
            for object in &objects {
                let kind = object.split(':').next().unwrap();
                for (relation, rule) in self.rules(kind) {
                    if self.applies(&rule, object, &relation, &facts, excluded, possibly) {
                        facts.insert(((*object).to_owned(), relation));
                    }
                }
            }
            if facts.len() == before {
                return facts;
            }
        }
    }

    /// Each relation of a type with its rule. Every service has the type `group`, unless it declares another.
    fn rules(&self, kind: &str) -> Vec<(String, Value)> {
        match self.types.iter().find(|declared| declared.object == kind) {
            Some(declared) => {
                let rules = declared.relations.iter();
                rules.map(|(name, rule)| (name.clone(), serde_json::to_value(rule).unwrap())).collect()
            }
            None if kind == "group" => vec![("member".to_owned(), serde_json::json!({}))],
            None => Vec::new(),
        }
    }

    fn applies(
        &self,
        rule: &Value,
        object: &str,
        relation: &str,
        facts: &Relations,
        excluded: &Relations,
        possibly: bool,
    ) -> bool {
        let part = |rule: &Value| self.applies(rule, object, relation, facts, excluded, possibly);
        let fact = |object: &str, relation: &str| facts.contains(&(object.to_owned(), relation.to_owned()));
        if let Some(parts) = rule["union"].as_array() {
            return parts.iter().any(part);
        }
        if let Some(parts) = rule["intersection"].as_array() {
            return parts.iter().all(part);
        }
        if let Some(parts) = rule["exclusion"].as_array() {
            let excludes = |other: &Value| self.applies(other, object, relation, excluded, facts, !possibly);
            return part(&parts[0]) && !parts[1..].iter().any(excludes);
        }
        match (rule["from"].as_str(), rule["relation"].as_str()) {
            (None, Some(other)) => fact(object, other),
            (Some(from), Some(other)) => {
                self.stated(object, from).any(|subject| !subject.contains('#') && fact(subject, other))
            }
            _ => {
                let id = self.caller.id.to_string();
                let by_tuple = |subject: &str| match subject.rsplit_once('#') {
                    _ if subject == "*" || subject == id => true,
                    Some((other, set)) => fact(other, set),
                    None => false,
                };
                self.stated(object, relation).any(by_tuple)
                    || (relation == "member" && self.in_token(object) >= Self::enough(possibly))
            }
        }
    }

    fn stated<'s>(&'s self, object: &str, relation: &str) -> impl Iterator<Item = &'s str> {
        let about = self.tuples.iter().filter(move |tuple| tuple.object == object && tuple.relation == relation);
        about.map(|tuple| tuple.subject.as_str()).collect::<Vec<_>>().into_iter()
    }

    const fn enough(possibly: bool) -> Belongs {
        if possibly { Belongs::Unknown } else { Belongs::Yes }
    }

    /// `group:PROVIDER/NAME` is a group of the caller's token.
    fn in_token(&self, object: &str) -> Belongs {
        match object.strip_prefix("group:").and_then(|group| group.split_once('/')) {
            Some((of, group)) if provider(self.caller).as_deref() == Some(of) => in_group(self.caller, group),
            _ => Belongs::No,
        }
    }
}

/// The object of a grant, filled in from the captures: none without one of them, or where several captures leave open
/// which text is whose.
#[must_use]
pub fn object(template: &str, captures: &std::collections::BTreeMap<String, String>) -> Option<String> {
    let mut object = template.to_owned();
    let names: Vec<&str> = template.split('{').skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
    for name in &names {
        let value = captures.get(*name).filter(|value| !value.is_empty())?;
        if names.len() > 1 && value.contains(['/', ':']) {
            return None;
        }
        object = object.replace(&format!("{{{name}}}"), value);
    }
    Some(object)
}
