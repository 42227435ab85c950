//! Unites the policies of one service.

use super::compiled::{CompiledService, GrantCandidate, ServiceOperation};
use super::key::ServiceKey;
use super::subject_index::SubjectIndex;
use crate::authentication::AuthenticationMethod;
use crate::kubernetes::ApiPattern;
use crate::namespaced_name::NamespacedName;
use crate::policy::{
    CompiledDenial, CompiledGrant, CompiledOperation, EnforcementMode, MAX_SCOPES, Policy, TokenSettings,
};
use crate::relations::RelationModel;
use crate::routes::Routes;
use crate::scope::Scope;
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use thiserror::Error;

/// Why two policies of one service can't be united.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OperationConflict {
    /// Both declare an operation of this name.
    #[error("operation `{name}` is already declared by policy {other}")]
    Name {
        /// Name of the operation.
        name: Arc<str>,
        /// The policy that came first.
        other: NamespacedName,
    },
    /// Both claim the same requests.
    #[error("operation `{name}` matches `{pattern}`, which operation `{other_name}` of policy {other} already claims")]
    Requests {
        /// Name of the operation.
        name: Arc<str>,
        /// Method and path.
        pattern: String,
        /// Name of the operation that came first.
        other_name: Arc<str>,
        /// The policy that came first.
        other: NamespacedName,
    },
    /// Both declare an object type.
    #[error("the relations of `{name}` are already declared by policy {other}")]
    ObjectType {
        /// Name of the type.
        name: Arc<str>,
        /// The policy that came first.
        other: NamespacedName,
    },
    /// They evaluate their relations in different places.
    #[error(
        "policy {other} of the same service uses another `relationEngine`; all policies of a service \
         that declare relations need the same"
    )]
    RelationBackend {
        /// The policy that came first.
        other: NamespacedName,
    },
}

/// Policies of one service that are being united, the oldest first.
#[derive(Debug, Default)]
pub struct PolicyUnion {
    policies: Vec<Arc<Policy>>,
    /// Name and policy of each operation.
    declared: Vec<(Arc<str>, NamespacedName)>,
    routes: Routes,
    kubernetes: Vec<(ApiPattern, usize)>,
    names: HashMap<Arc<str>, usize, RandomState>,
}

impl PolicyUnion {
    /// Adds a policy of the same namespace and audience, as a whole or not at all.
    ///
    /// # Errors
    /// When its operations conflict with those of a policy that was added before.
    pub fn add(&mut self, policy: Arc<Policy>) -> Result<(), OperationConflict> {
        for name in policy.relations.types() {
            if let Some(other) = self.policies.iter().find(|other| other.relations.declares(name)) {
                return Err(OperationConflict::ObjectType { name: Arc::clone(name), other: other.key.clone() });
            }
        }
        if policy.relations.declares_any() {
            let mut others = self.policies.iter().filter(|other| other.relations.declares_any());
            if let Some(other) = others.find(|other| other.relation_engine != policy.relation_engine) {
                return Err(OperationConflict::RelationBackend { other: other.key.clone() });
            }
        }
        for operation in &policy.operations {
            if let Some((_, other)) = self.names.get(&operation.name).and_then(|index| self.declared.get(*index)) {
                return Err(OperationConflict::Name { name: Arc::clone(&operation.name), other: other.clone() });
            }
            for (pattern, holder) in self.holders(operation) {
                if let Some((other_name, other)) = self.declared.get(holder) {
                    let (name, other_name) = (Arc::clone(&operation.name), Arc::clone(other_name));
                    return Err(OperationConflict::Requests { name, pattern, other_name, other: other.clone() });
                }
            }
        }
        for operation in &policy.operations {
            let index = self.declared.len();
            self.declared.push((Arc::clone(&operation.name), policy.key.clone()));
            self.names.insert(Arc::clone(&operation.name), index);
            for (number, pattern) in operation.matches.iter().enumerate() {
                // conflicts within one policy were refused when it was compiled
                let _ = self.routes.insert(pattern, (index, number));
            }
            self.kubernetes.extend(operation.kubernetes.iter().map(|pattern| (pattern.clone(), index)));
        }
        self.policies.push(policy);
        Ok(())
    }

    /// A policy that closes the service, if any. Then it is unknown whether further policies conflict with it.
    #[must_use]
    pub fn closed_by(&self) -> Option<&NamespacedName> {
        self.policies.iter().find(|policy| policy.forgotten.is_some()).map(|policy| &policy.key)
    }

    /// The patterns of an operation that other operations claim already, with those operations.
    fn holders(&self, operation: &CompiledOperation) -> impl Iterator<Item = (String, usize)> {
        let http = operation.matches.iter().filter_map(|p| Some((p.to_string(), self.routes.holder(p)?.0)));
        let kubernetes = operation.kubernetes.iter().filter_map(|p| {
            let (_, holder) = self.kubernetes.iter().find(|(taken, _)| taken == p)?;
            Some((p.to_string(), *holder))
        });
        http.chain(kubernetes)
    }

    /// The service of the policies; `None` without policies.
    #[must_use]
    pub fn unite(self) -> Option<CompiledService> {
        let Self { mut policies, mut routes, mut kubernetes, .. } = self;
        let mut closed_by: Vec<NamespacedName> =
            policies.iter().filter(|p| p.forgotten.is_some()).map(|p| p.key.clone()).collect();
        closed_by.sort_unstable();
        let closed = !closed_by.is_empty();
        if closed {
            // the denials are unknown, so no request has an operation, but requests that were governed stay governed
            routes = Routes::default();
            let forgotten = policies.iter().flat_map(|p| p.forgotten.iter().flatten().cloned());
            kubernetes.extend(forgotten.map(|pattern| (pattern, usize::MAX)));
        }
        let first = policies.first()?;
        let key = ServiceKey { namespace: Arc::clone(&first.key.namespace), audience: Arc::clone(&first.audience) };
        let mut grants: Vec<Arc<CompiledGrant>> = policies.iter().flat_map(|p| p.grants.iter().cloned()).collect();
        grants.sort_unstable_by(|a, b| a.rule.cmp(&b.rule));
        let mut denials: Vec<Arc<CompiledDenial>> = policies.iter().flat_map(|p| p.denials.iter().cloned()).collect();
        denials.sort_unstable_by(|a, b| a.rule.cmp(&b.rule));
        let numbered = denials.iter().enumerate();
        let denial_index =
            numbered.flat_map(|(number, denial)| denial.to.iter().map(move |subject| (subject, number))).collect();
        let conditions = grants.iter().filter_map(|grant| grant.when.as_ref());
        let conditions = conditions.chain(denials.iter().filter_map(|denial| denial.when.as_ref()));
        let headers: BTreeSet<Arc<str>> = conditions.clone().flat_map(|when| when.headers().cloned()).collect();
        let objects: BTreeSet<&'static str> = conditions.flat_map(|when| when.objects()).collect();
        let grants_by_scope = grants_by_scope(&grants);
        // in the order of insertion, which the indices of routes and names follow
        let declaring: &[Arc<Policy>] = if closed { &[] } else { &policies };
        let operations: Box<[ServiceOperation]> = declaring
            .iter()
            .flat_map(|policy| policy.operations.iter().map(move |operation| (policy, operation)))
            .map(|(policy, operation)| ServiceOperation {
                policy: policy.key.clone(),
                authentication_methods: Arc::clone(&policy.authentication_methods),
                mode: policy.mode,
                grants: candidates(&operation.scopes, &grants, &grants_by_scope),
                operation: Arc::clone(operation),
            })
            .collect();
        policies.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut relations = RelationModel::default();
        policies.iter().for_each(|policy| relations.absorb(&policy.relations));
        // all policies with relations have the same backend
        let relation_engine = policies.iter().find(|policy| policy.relations.declares_any());
        let relation_engine = relation_engine.map(|policy| policy.relation_engine.clone()).unwrap_or_default();
        let audits = !closed && policies.iter().all(|p| p.mode == EnforcementMode::Audit);
        Some(CompiledService {
            key,
            policies: policies.iter().map(|p| (p.key.clone(), p.generation)).collect(),
            hosts: policies.iter().flat_map(|p| &p.hosts).collect::<BTreeSet<_>>().into_iter().cloned().collect(),
            pods: policies.iter().filter_map(|p| Some((p.key.clone(), p.pods.clone()?))).collect(),
            tokens: policies.iter().fold(TokenSettings::default(), |all, policy| all.merged_with(policy.tokens)),
            authentication_methods: in_first_order(policies.iter().flat_map(|p| p.authentication_methods.iter())),
            mode: if audits { EnforcementMode::Audit } else { EnforcementMode::Enforce },
            names: operations.iter().map(|one| Arc::clone(&one.operation.name)).zip(0..).collect(),
            operations,
            relations,
            relation_engine,
            grants: grants.into(),
            denials: denials.into(),
            denial_index,
            closed_by: closed_by.into(),
            headers: headers.into_iter().collect(),
            objects: objects.into_iter().collect(),
            routes,
            kubernetes: kubernetes.into(),
        })
    }
}

impl CompiledService {
    /// Unites policies of one namespace and audience, the oldest first. A policy that conflicts with an older one is
    /// left out as a whole and returned with the conflict.
    ///
    /// Returns no service when no policy is left.
    #[must_use]
    pub fn unite(oldest_first: &[Arc<Policy>]) -> (Option<Self>, Vec<(NamespacedName, OperationConflict)>) {
        let mut union = PolicyUnion::default();
        let conflicts = oldest_first
            .iter()
            .filter_map(|policy| Some((policy.key.clone(), union.add(Arc::clone(policy)).err()?)))
            .collect();
        (union.unite(), conflicts)
    }
}

/// The grants that give each scope.
fn grants_by_scope(grants: &[Arc<CompiledGrant>]) -> HashMap<&Scope, Vec<usize>> {
    let mut grants_by_scope: HashMap<&Scope, Vec<usize>> = HashMap::new();
    for (number, grant) in grants.iter().enumerate() {
        grant.scopes.iter().for_each(|scope| grants_by_scope.entry(scope).or_default().push(number));
    }
    grants_by_scope
}

/// The grants that give any of `scopes`, by subject.
fn candidates(
    scopes: &[Scope],
    grants: &[Arc<CompiledGrant>],
    grants_by_scope: &HashMap<&Scope, Vec<usize>>,
) -> SubjectIndex<GrantCandidate> {
    let mut gives: BTreeMap<usize, u64> = BTreeMap::new();
    for (bit, scope) in scopes.iter().take(MAX_SCOPES).enumerate() {
        for grant in grants_by_scope.get(scope).into_iter().flatten() {
            *gives.entry(*grant).or_default() |= 1 << bit;
        }
    }
    let to = |grant: usize| grants.get(grant).map(|grant| &*grant.to).unwrap_or_default();
    let candidates = gives.into_iter().map(|(grant, gives)| GrantCandidate { grant, gives });
    candidates.flat_map(|candidate| to(candidate.grant).iter().map(move |subject| (subject, candidate))).collect()
}

fn in_first_order<'w>(
    authentication_methods: impl Iterator<Item = &'w AuthenticationMethod>,
) -> Arc<[AuthenticationMethod]> {
    let mut seen = BTreeSet::new();
    authentication_methods.filter(|method| seen.insert(*method)).cloned().collect()
}
