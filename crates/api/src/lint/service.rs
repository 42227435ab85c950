//! Findings that need all policies.

use crate::lint::{LintCode, LintFinding};
use durward_core::namespaced_name::NamespacedName;
use durward_core::rights::{CallerSet, Permission};
use durward_core::service::CompiledService;
use durward_core::snapshot::Snapshot;
use durward_core::subject::SubjectMatcher;
use std::collections::BTreeSet;

/// Operations that no caller can call although their scopes are granted, each with the policy that declares it.
/// `own_trust_domain` is the trust domain of the cluster's own workloads.
#[must_use]
pub fn lint_services(snapshot: &Snapshot, own_trust_domain: &str) -> Vec<(NamespacedName, LintFinding)> {
    let mut services: Vec<_> = snapshot.services().collect();
    services.sort_unstable_by(|a, b| a.key().cmp(b.key()));
    services.into_iter().flat_map(|service| uncallable(service, own_trust_domain)).collect()
}

fn uncallable(service: &CompiledService, own_trust_domain: &str) -> Vec<(NamespacedName, LintFinding)> {
    let mut subjects: BTreeSet<SubjectMatcher> = service.subjects().cloned().collect();
    subjects.insert(SubjectMatcher::Authenticated);
    let callers: Vec<CallerSet> =
        std::iter::once(CallerSet::Anonymous).chain(subjects.into_iter().map(CallerSet::Subject)).collect();
    let all: Vec<Vec<_>> = callers.iter().map(|caller| service.rights(caller, own_trust_domain).collect()).collect();
    let mut findings = Vec::new();
    for (i, (policy, operation)) in service.declared_operations().enumerate() {
        let rights: Vec<_> = all.iter().filter_map(|rights| rights.get(i)).collect();
        // another finding reports scopes that no grant gives
        let is_granted = rights.iter().any(|right| right.missing.is_empty());
        if is_granted && rights.iter().all(|right| right.permission == Permission::Never) {
            let granted = rights.iter().filter(|right| right.missing.is_empty());
            let why: BTreeSet<&str> = granted.flat_map(|right| right.because.iter().map(String::as_str)).collect();
            let why = why.into_iter().collect::<Vec<_>>().join("; ");
            let message = format!("no caller can `{operation}`: {why}");
            findings
                .push((policy.clone(), LintFinding::new(LintCode::Uncallable, "spec.operations", operation, message)));
        }
    }
    findings
}
