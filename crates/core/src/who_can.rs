//! Lists the callers who can do an operation, as policies name them.

use crate::approval::ApprovalRequirement;
use crate::namespaced_name::NamespacedName;
use crate::risk::RiskLevel;
use crate::scope::Scope;
use crate::service::{CompiledService, ServiceOperation};
use crate::snapshot::Snapshot;
use crate::subject::SubjectMatcher;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An operation, and the callers to whom policies give its scopes.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationHolders {
    /// The policy that declares the operation.
    pub policy: NamespacedName,
    /// Audience of the service.
    pub audience: Arc<str>,
    /// The operation.
    pub operation: Arc<str>,
    /// Whether the operation is public.
    pub public: bool,
    /// The risk, which sets the required assurance.
    pub risk: RiskLevel,
    /// Scopes that a caller needs.
    pub required: Vec<Scope>,
    /// The approval that the operation requires, if any.
    pub approval: Option<Arc<ApprovalRequirement>>,
    /// The callers to whom grants give some of its scopes.
    pub holders: Vec<ScopeHolder>,
    /// Denials that may apply all the same, with their subjects.
    pub denials: Vec<(Arc<str>, Vec<String>)>,
}

/// Some callers, and the scopes that they have.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopeHolder {
    /// The callers, as policies name them.
    pub subject: String,
    /// Needed scopes that they lack; empty if they can do the operation.
    pub missing: Vec<Scope>,
    /// The grants that give them scopes, with the further requirements of each.
    pub grants: Vec<(Arc<str>, Vec<String>)>,
}

impl Snapshot {
    /// The callers who can do the operations of this name, for every service that has one, ordered by audience.
    #[must_use]
    pub fn who_can(&self, operation: &str, audience: Option<&str>) -> Vec<OperationHolders> {
        let mut services: Vec<_> = self
            .services()
            .filter(|service| audience.is_none_or(|wanted| *service.key().audience == *wanted))
            .collect();
        services.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        services.into_iter().filter_map(|service| Some(service.who_can(service.operation_named(operation)?))).collect()
    }
}

impl CompiledService {
    fn who_can(&self, operation: &ServiceOperation) -> OperationHolders {
        let required = &operation.operation.scopes;
        let mut by_subject: BTreeMap<String, (BTreeSet<&Scope>, BTreeSet<usize>)> = BTreeMap::new();
        for candidate in operation.grants.all() {
            let Some(grant) = self.grants.get(candidate.grant) else { continue };
            for subject in grant.to.iter() {
                let (scopes, grants) = by_subject.entry(subject.to_string()).or_default();
                scopes.extend(grant.scopes.iter().filter(|scope| required.contains(scope)));
                grants.insert(candidate.grant);
            }
        }
        // grants to everybody hold for each caller
        let everybody = by_subject.get(&SubjectMatcher::Authenticated.to_string()).cloned().unwrap_or_default();
        let mut holders: Vec<ScopeHolder> = by_subject
            .into_iter()
            .map(|(subject, (scopes, grants))| ScopeHolder {
                subject,
                missing: required.iter().filter(|s| !scopes.contains(s) && !everybody.0.contains(s)).cloned().collect(),
                grants: grants.union(&everybody.1).filter_map(|number| self.explain(*number)).collect(),
            })
            .collect();
        holders.sort_by(|a, b| (a.missing.len(), &a.subject).cmp(&(b.missing.len(), &b.subject)));
        OperationHolders {
            policy: operation.policy.clone(),
            audience: Arc::clone(&self.key.audience),
            operation: Arc::clone(&operation.operation.name),
            public: operation.operation.public,
            risk: operation.operation.risk,
            required: required.to_vec(),
            approval: operation.operation.approval.clone(),
            holders,
            denials: self
                .denials
                .iter()
                .map(|d| (Arc::clone(&d.rule), d.to.iter().map(ToString::to_string).collect()))
                .collect(),
        }
    }

    fn explain(&self, number: usize) -> Option<(Arc<str>, Vec<String>)> {
        let grant = self.grants.get(number)?;
        let token = grant.from_token.then(|| "the token carries the scope too".to_owned());
        let when = grant.when.as_ref().map(|condition| format!("when {}", condition.source()));
        let relation = grant.relation.as_ref().map(|to| format!("related as {to}"));
        Some((Arc::clone(&grant.rule), token.into_iter().chain(when).chain(relation).collect()))
    }
}
