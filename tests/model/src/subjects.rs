//! Whom a rule is for: `docs/rules.md`, "Subjects".

use crate::world::{ModelWorld, own_account, provider};
use durward_api::resources::CallerSelector;
use durward_core::principal::Identity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeMap;

/// Whether a caller is one of those that a rule names. Grants need `Yes`; denials apply unless it is `No`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Belongs {
    No,
    Unknown,
    Yes,
}

fn sure(holds: bool) -> Belongs {
    if holds { Belongs::Yes } else { Belongs::No }
}

/// Any entry is enough.
#[must_use]
pub fn belongs(world: &ModelWorld, to: &[CallerSelector], caller: &Identity) -> Belongs {
    to.iter().map(|one| belongs_to_one(world, one, caller)).max().unwrap_or(Belongs::No)
}

/// Each entry says exactly one thing.
#[must_use]
pub fn belongs_to_one(world: &ModelWorld, to: &CallerSelector, caller: &Identity) -> Belongs {
    let id = caller.id.to_string();
    let own = own_account(caller);
    if let Some(account) = &to.service_account {
        return sure(own == Some((account.namespace.clone(), account.name.clone())));
    }
    if let Some(namespace) = &to.namespace {
        return sure(own.is_some_and(|(of, _)| of == *namespace));
    }
    if let Some(selector) = &to.namespace_selector {
        let namespace = own.and_then(|(of, _)| world.namespaces.iter().find(|one| one.name == of));
        return sure(namespace.is_some_and(|one| selects(selector, &one.labels)));
    }
    if let Some(pattern) = &to.spiffe {
        let (wanted, is): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), id.split('/').collect());
        let fits = |(wanted, is): (&&str, &&str)| *wanted == "*" || wanted == is;
        return sure(wanted.len() == is.len() && wanted.iter().zip(&is).all(fits));
    }
    if let Some(principal) = &to.principal {
        return sure(id == *principal);
    }
    if let Some(wanted) = &to.provider {
        if provider(caller).as_ref() != Some(wanted) {
            return Belongs::No;
        }
        let group = to.group.as_ref().map(|group| in_group(caller, group));
        let claims = to.claims.iter().flatten().map(|(name, value)| has_claim(caller, name, value));
        return claims.chain(group).min().unwrap_or(Belongs::Yes);
    }
    sure(to.authenticated == Some(true))
}

/// Unknown is not none: a group that is not listed may be one of those that the credential left out.
#[must_use]
pub fn in_group(caller: &Identity, group: &str) -> Belongs {
    if caller.groups.contains(group) {
        Belongs::Yes
    } else if caller.unknown.groups.is_some() {
        Belongs::Unknown
    } else {
        Belongs::No
    }
}

fn has_claim(caller: &Identity, name: &str, value: &str) -> Belongs {
    match caller.attributes.get(name) {
        Some(claim) if claim.is_string() => sure(claim == value),
        Some(_) => Belongs::Unknown,
        None if caller.unknown.attributes.contains_key(name) => Belongs::Unknown,
        None => Belongs::No,
    }
}

fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let by_expression = selector.match_expressions.iter().flatten().all(|one| {
        let label = labels.get(&one.key);
        let listed = label.is_some_and(|value| one.values.iter().flatten().any(|other| other == value));
        match one.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            other => panic!("{other}"),
        }
    });
    by_expression && selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
}
