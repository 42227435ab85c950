//! What only all policies together show.

use crate::lint::{LintCode, LintFinding};
use durward_core::namespaced_name::NamespacedName;
use durward_core::rights::{CallerSet, Permission};
use durward_core::service::CompiledService;
use durward_core::snapshot::Snapshot;
use durward_core::subject::SubjectMatcher;
use std::collections::BTreeSet;

/// Operations that nobody can call although their scopes are granted, each with the policy that declares it. `own` is the
/// trust domain of the cluster's own workloads.
#[must_use]
pub fn lint_services(snapshot: &Snapshot, own: &str) -> Vec<(NamespacedName, LintFinding)> {
    let mut services: Vec<_> = snapshot.services().collect();
    services.sort_unstable_by(|a, b| a.key().cmp(b.key()));
    services.into_iter().flat_map(|service| nobody(service, own)).collect()
}

fn nobody(service: &CompiledService, own: &str) -> Vec<(NamespacedName, LintFinding)> {
    let mut subjects: BTreeSet<SubjectMatcher> = service.subjects().cloned().collect();
    subjects.insert(SubjectMatcher::Authenticated);
    let whos: Vec<CallerSet> =
        std::iter::once(CallerSet::Anonymous).chain(subjects.into_iter().map(CallerSet::Subject)).collect();
    let all: Vec<Vec<_>> = whos.iter().map(|who| service.rights(who, own).collect()).collect();
    let mut found = Vec::new();
    for (i, (policy, operation)) in service.declared_operations().enumerate() {
        let rights: Vec<_> = all.iter().filter_map(|rights| rights.get(i)).collect();
        // a scope that nobody gives is told where it is asked for
        let granted = rights.iter().any(|right| right.missing.is_empty());
        if granted && rights.iter().all(|right| right.permission == Permission::Never) {
            let held = rights.iter().filter(|right| right.missing.is_empty());
            let why: BTreeSet<&str> = held.flat_map(|right| right.because.iter().map(String::as_str)).collect();
            let why = why.into_iter().collect::<Vec<_>>().join("; ");
            let message = format!("nobody can `{operation}`: {why}");
            found.push((policy.clone(), LintFinding::new(LintCode::NobodyCan, "spec.operations", operation, message)));
        }
    }
    found
}
