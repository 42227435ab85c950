//! Publishes a snapshot and the reports of what became of each resource.

use super::outputs::{Outputs, StatusBatch};
use super::{ObjectVersionInfo, ResourceIndex, policy_target, provider_target, relationship_target};
use crate::status::{PolicySummary, ResourceOutcome, StatusReport, StatusTarget};
use durward_api::catalog::PolicyStatus;
use durward_api::field_error::FieldError;
use durward_api::resources::IdentityProvider;
use durward_authn::ProviderProblem;
use durward_core::namespaced_name::NamespacedName;
use k8s_openapi::api::core::v1::Secret;
use std::sync::Arc;

impl ResourceIndex {
    /// Puts the pending changes in force and sends the reports to the status writer.
    pub(super) fn publish(&mut self, outputs: &mut Outputs) {
        if std::mem::take(&mut self.authentication_changed) {
            self.publish_providers(outputs);
        }
        outputs.approvals.send_if_modified(|published| {
            let changed = !published.ptr_eq(self.approvals.objects());
            published.clone_from(self.approvals.objects());
            changed
        });
        let statuses = self.catalog.apply(std::mem::take(&mut self.changes));
        self.reports.policies.extend(statuses.into_iter().map(|(key, _)| key));
        self.reports.relationships.extend(self.catalog.take_touched_relationships());
        let revision = self.catalog.snapshot().revision();
        if revision != outputs.engine.snapshot().revision() || !*outputs.synced.borrow() {
            outputs.engine.replace_snapshot(self.catalog.snapshot().clone());
        }
        outputs.metrics.policies_rejected(self.catalog.rejected_count());
        self.gates.approvals(self.approvals.grants());
        self.gates.relationships(&self.catalog, self.reports.relationships.iter());
        self.gates.publish(&self.catalog, self.reports.policies.iter(), &outputs.gates);
        let reports = std::mem::take(&mut self.reports);
        let policies = reports.policies.iter().filter_map(|key| self.report_policy(key));
        let relationships = reports.relationships.iter().filter_map(|key| self.report_relationship(key));
        let batch = StatusBatch {
            reports: policies.chain(relationships).chain(reports.providers).collect(),
            deleted: reports.deleted,
            revision,
        };
        outputs.batches.send(batch);
        outputs.readiness.mark_policies_loaded();
        outputs.synced.send_if_modified(|synced| !std::mem::replace(synced, true));
    }

    fn publish_providers(&mut self, outputs: &Outputs) {
        let providers: Vec<IdentityProvider> = self.valid_providers().collect();
        let secrets: Vec<Secret> = self.secrets.values().cloned().collect();
        let problems = outputs.authenticator.replace_providers(&providers, &secrets);
        self.gates.authentication(&providers, &secrets);
        self.report_providers(&problems);
    }

    /// The providers that can be decoded.
    pub(super) fn valid_providers(&self) -> impl Iterator<Item = IdentityProvider> {
        self.providers.values().filter_map(|(_, provider)| provider.as_ref().ok().cloned())
    }

    fn report_policy(&self, key: &NamespacedName) -> Option<StatusReport> {
        let info = self.policies.get(key)?;
        let PolicyStatus { rejected, in_force, closed } = self.catalog.policy_status(key)?;
        let last_good = self.catalog.last_good(key).and_then(|good| serde_json::to_string(&good).ok());
        let summary = self.catalog.in_force(key).map(|policy| PolicySummary {
            service: Arc::clone(&policy.audience),
            operations: policy.operations.len(),
            grants: policy.grants.len(),
            governs: policy.operations.iter().any(|operation| !operation.kubernetes.is_empty()),
        });
        let outcome = ResourceOutcome {
            rejected: rejected.map(|rejection| (rejection.reason.as_str(), rejection.errors)),
            in_force,
            closed: closed.then(|| join_names(self.catalog.closed_by(key))),
            summary,
            last_good: last_good.map(Into::into),
        };
        Some(report(policy_target(key), info, outcome))
    }

    fn report_relationship(&self, key: &NamespacedName) -> Option<StatusReport> {
        let info = self.relationships.get(key)?;
        let PolicyStatus { rejected, in_force, .. } = self.catalog.relationship_status(key)?;
        let last_good = self.catalog.last_good_tuples(key).and_then(|good| serde_json::to_string(&good).ok());
        let rejected = rejected.map(|rejection| (rejection.reason.as_str(), rejection.errors));
        let last_good = last_good.map(Into::into);
        let outcome = ResourceOutcome { rejected, in_force, last_good, ..ResourceOutcome::default() };
        Some(report(relationship_target(key), info, outcome))
    }

    fn report_providers(&mut self, problems: &[ProviderProblem]) {
        for (name, (info, provider)) in &self.providers {
            let errors: Vec<FieldError> = match provider {
                Err(error) => vec![error.clone()],
                Ok(_) => problems.iter().filter(|(of, _)| of == name).map(|(_, problem)| problem.clone()).collect(),
            };
            let rejected = (!errors.is_empty()).then_some(("Invalid", errors));
            let outcome = ResourceOutcome { in_force: rejected.is_none(), rejected, ..ResourceOutcome::default() };
            self.reports.providers.push(report(provider_target(name), info, outcome));
        }
    }
}

fn join_names(policies: &[NamespacedName]) -> String {
    policies.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn report(target: StatusTarget, info: &ObjectVersionInfo, outcome: ResourceOutcome) -> StatusReport {
    StatusReport {
        target,
        uid: Arc::clone(&info.uid),
        generation: info.generation,
        stored: Arc::clone(&info.status),
        outcome,
    }
}
