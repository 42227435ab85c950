//! Roles, grants and denials.

use super::Compiler;
use super::relation_model::undeclared;
use crate::resources as spec;
use durward_core::condition::Condition;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::{CompiledDenial, CompiledGrant, EnforcementMode};
use durward_core::relations::{RelationModel, RelationTarget};
use durward_core::scope::Scope;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Limits of one policy; the CRD has the same ones.
const MAX_GRANTS: usize = 1000;
const MAX_DENIALS: usize = 256;
const MAX_ROLES: usize = 256;

impl Compiler<'_> {
    pub(super) fn scopes(&mut self, field: &str, scopes: &[String]) -> Vec<Scope> {
        let mut parsed = Vec::new();
        for (i, scope) in scopes.iter().enumerate() {
            parsed.extend(self.take(&format!("{field}[{i}]"), Scope::parse(scope)));
        }
        parsed
    }

    pub(super) fn roles(&mut self, roles: &[spec::Role]) -> BTreeMap<String, BTreeSet<Scope>> {
        self.names("roles", roles.iter().map(|r| r.name.as_str()), MAX_ROLES);
        let mut own: BTreeMap<&str, (usize, Vec<Scope>)> = BTreeMap::new();
        for (i, role) in roles.iter().enumerate() {
            let field = format!("spec.roles[{i}]");
            if role.scopes.is_empty() && role.includes.is_empty() {
                self.error(
                    format!("{field}.scopes"),
                    "the role has no scopes: set `scopes` or `includes`, or remove the role",
                );
            }
            own.insert(&role.name, (i, self.scopes(&format!("{field}.scopes"), &role.scopes)));
        }
        for (i, role) in roles.iter().enumerate() {
            for (j, other) in role.includes.iter().enumerate() {
                let field = format!("spec.roles[{i}].includes[{j}]");
                if !own.contains_key(other.as_str()) {
                    self.error(field, unknown_role(other, own.keys()));
                } else if includes(roles, &own, other).contains(role.name.as_str()) {
                    self.error(
                        field,
                        format!("`{other}` includes `{}` itself; roles can't include each other", role.name),
                    );
                }
            }
        }
        let united = |role: &spec::Role| {
            let all = includes(roles, &own, &role.name);
            all.into_iter().filter_map(|name| own.get(name)).flat_map(|(_, scopes)| scopes.iter().cloned()).collect()
        };
        roles.iter().map(|role| (role.name.clone(), united(role))).collect()
    }

    pub(super) fn grants(
        &mut self,
        key: &NamespacedName,
        grants: &[spec::GrantRule],
        roles: &BTreeMap<String, BTreeSet<Scope>>,
        relations: &RelationModel,
    ) -> Vec<CompiledGrant> {
        self.names("grants", grants.iter().map(|g| g.name.as_str()), MAX_GRANTS);
        let mut compiled = Vec::new();
        for (i, grant) in grants.iter().enumerate() {
            let field = format!("spec.grants[{i}]");
            if grant.scopes.is_empty() && grant.roles.is_empty() {
                self.error(&field, "the grant gives nothing: set `scopes` or `roles`");
            }
            let mut scopes: BTreeSet<Scope> =
                self.scopes(&format!("{field}.scopes"), &grant.scopes).into_iter().collect();
            for (j, role) in grant.roles.iter().enumerate() {
                match roles.get(role) {
                    Some(of_role) => scopes.extend(of_role.iter().cloned()),
                    None => self.error(format!("{field}.roles[{j}]"), unknown_role(role, roles.keys())),
                }
            }
            compiled.push(CompiledGrant {
                rule: format!("{key}/grants/{}", grant.name).into(),
                to: self.subjects(&format!("{field}.to"), &grant.to).into(),
                scopes: scopes.into_iter().collect(),
                from_token: grant.from_token,
                when: self.condition(&format!("{field}.when"), grant.when.as_deref()),
                relation: self.relation(&format!("{field}.relation"), grant.relation.as_ref(), relations),
            });
        }
        compiled
    }

    fn relation(
        &mut self,
        field: &str,
        to: Option<&spec::RelationRequirement>,
        relations: &RelationModel,
    ) -> Option<RelationTarget> {
        let to = to?;
        let compiled = self.take(&format!("{field}.object"), RelationTarget::new(&to.object, &to.relation))?;
        if let Some((field_of, message)) = undeclared(relations, compiled.kind(), &compiled.relation) {
            self.error(format!("{field}.{field_of}"), message);
        }
        Some(compiled)
    }

    pub(super) fn denials(
        &mut self,
        key: &NamespacedName,
        denials: &[spec::DenialRule],
        mode: EnforcementMode,
    ) -> Vec<CompiledDenial> {
        self.names("denials", denials.iter().map(|d| d.name.as_str()), MAX_DENIALS);
        let mut compiled = Vec::new();
        for (i, denial) in denials.iter().enumerate() {
            let field = format!("spec.denials[{i}]");
            compiled.push(CompiledDenial {
                rule: format!("{key}/denials/{}", denial.name).into(),
                to: self.subjects(&format!("{field}.to"), &denial.to).into(),
                when: self.condition(&format!("{field}.when"), denial.when.as_deref()),
                reason: denial.reason.as_deref().map(Into::into),
                mode,
            });
        }
        compiled
    }

    fn condition(&mut self, field: &str, source: Option<&str>) -> Option<Arc<Condition>> {
        let compiled = Condition::compile_reading(source?, &self.headers);
        self.take(field, compiled).map(Arc::new)
    }
}

fn unknown_role(role: &str, known: impl Iterator<Item = impl fmt::Display>) -> String {
    let known = known.map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
    format!("this policy has no role `{role}`; {known}")
}

/// A role with every role that it includes, directly or not.
fn includes<'s>(
    roles: &'s [spec::Role],
    indexes: &BTreeMap<&str, (usize, Vec<Scope>)>,
    role: &'s str,
) -> BTreeSet<&'s str> {
    let mut all = BTreeSet::new();
    let mut waiting = vec![role];
    while let Some(name) = waiting.pop() {
        let Some(role) = indexes.get(name).and_then(|(index, _)| roles.get(*index)) else { continue };
        if all.insert(name) {
            waiting.extend(role.includes.iter().map(String::as_str));
        }
    }
    all
}
