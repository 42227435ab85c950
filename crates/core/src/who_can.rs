//! Who may do an operation, as policies name them.

use crate::approval::ApprovalRequirement;
use crate::namespaced_name::NamespacedName;
use crate::risk::RiskLevel;
use crate::scope::Scope;
use crate::service::{CompiledService, ServiceOperation};
use crate::snapshot::Snapshot;
use crate::subject::SubjectMatcher;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// An operation and everybody whom policies let do it.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationHolders {
    /// The policy that declares the operation.
    pub policy: NamespacedName,
    /// Audience of the service.
    pub audience: Arc<str>,
    /// The operation.
    pub operation: Arc<str>,
    /// Open to everybody.
    pub public: bool,
    /// Decides which credentials are good enough.
    pub risk: RiskLevel,
    /// Scopes that a caller needs.
    pub required: Vec<Scope>,
    /// Who has to approve it first, and for how long that counts.
    pub approval: Option<Arc<ApprovalRequirement>>,
    /// Everybody who is granted anything of that.
    pub holders: Vec<ScopeHolder>,
    /// Rules by which some of them are denied all the same, with the subjects that they are for.
    pub denials: Vec<(Arc<str>, Vec<String>)>,
}

/// Some callers, with what they are granted.
#[derive(Debug, Clone, PartialEq)]
pub struct ScopeHolder {
    /// Who, as policies name them.
    pub subject: String,
    /// Scopes that stay missing; none for those who can.
    pub missing: Vec<Scope>,
    /// Grants that give them something, with what those ask for beside.
    pub grants: Vec<(Arc<str>, Vec<String>)>,
}

impl Snapshot {
    /// Who may do the operations of this name, in every service that has one, in the order of audiences.
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
        // what everybody has, each has
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
