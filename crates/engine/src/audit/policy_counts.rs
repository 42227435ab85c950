//! What decisions count for the status of policies: requests that passed only because the policy has `mode: Audit`, and
//! decisions that a rule of the policy left without budget.

use durward_core::decision::{Decision, Reason};
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::EnforcementMode;
use durward_core::snapshot::Snapshot;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Limit of counted policies. Deleted policies keep their entries until the process ends.
const MAX_POLICIES: usize = 10_000;
/// Limit of processes in the totals: more than start within an hour of crashes.
const MAX_PROCESSES: usize = 64;

/// Counts of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyCount {
    /// Requests that passed only because the policy has `mode: Audit`.
    pub audited: u64,
    /// Decisions whose budget of work ended at a rule of the policy.
    pub exhausted: u64,
}

/// Counts since the process began, by policy.
pub type PolicyCounts = BTreeMap<NamespacedName, PolicyCount>;

impl PolicyCount {
    /// The sum of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            audited: self.audited.saturating_add(other.audited),
            exhausted: self.exhausted.saturating_add(other.exhausted),
        }
    }

    const fn minus(self, other: Self) -> Self {
        Self {
            audited: self.audited.saturating_sub(other.audited),
            exhausted: self.exhausted.saturating_sub(other.exhausted),
        }
    }
}

/// The counts of this process. A decision that counts nothing takes no lock.
#[derive(Debug, Default)]
pub struct PolicyCounter(Mutex<PolicyCounts>);

impl PolicyCounter {
    /// Counts a decision if it is a denial that is not enforced, or has used up its budget.
    pub fn count(&self, decision: &Decision, snapshot: &Snapshot) {
        if let Some(policy) = decision.exhausted.as_deref().and_then(policy_of) {
            self.add(&[policy], PolicyCount { exhausted: 1, ..PolicyCount::default() });
        }
        if decision.allowed() || decision.mode == EnforcementMode::Enforce {
            return;
        }
        let policies: Vec<NamespacedName> = match (decision.reason, &decision.policy) {
            // the denial may be in another policy than the operation
            (Reason::Denied, _) => decision.rules.first().and_then(|rule| policy_of(rule)).into_iter().collect(),
            (_, Some(policy)) => vec![policy.clone()],
            // an operation that no policy of the service declares
            (_, None) => {
                let service = decision.service.as_ref().and_then(|key| snapshot.service(key));
                service.map(|service| service.policies().cloned().collect()).unwrap_or_default()
            }
        };
        self.add(&policies, PolicyCount { audited: 1, ..PolicyCount::default() });
    }

    fn add(&self, policies: &[NamespacedName], more: PolicyCount) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for policy in policies {
            if counts.len() < MAX_POLICIES || counts.contains_key(policy) {
                let count = counts.entry(policy.clone()).or_default();
                *count = count.plus(more);
            }
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> PolicyCounts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The policy of a rule, such as `<namespace>/<policy>/denials/<name>`.
fn policy_of(rule: &str) -> Option<NamespacedName> {
    let (namespace, rest) = rule.split_once('/')?;
    let (name, _) = rest.split_once('/')?;
    Some(NamespacedName { namespace: namespace.into(), name: name.into() })
}

/// Adds up the counts of several processes. Each process starts at zero.
#[derive(Debug, Default)]
pub struct PolicyTotals {
    /// The last report of each process.
    reported: BTreeMap<u64, PolicyCounts>,
    /// The increase since the last [`Self::take`].
    increase: PolicyCounts,
}

impl PolicyTotals {
    /// Adds the report of a process. Its first report is the baseline, because a status may contain it already.
    pub fn add(&mut self, process: u64, counts: PolicyCounts) {
        if let Some(before) = self.reported.get(&process) {
            for (policy, count) in &counts {
                let more = count.minus(before.get(policy).copied().unwrap_or_default());
                if more != PolicyCount::default() {
                    let increase = self.increase.entry(policy.clone()).or_default();
                    *increase = increase.plus(more);
                }
            }
        }
        self.reported.insert(process, counts);
        while self.reported.len() > MAX_PROCESSES {
            self.reported.pop_first();
        }
    }

    /// Returns the increase since the last call.
    pub fn take(&mut self) -> PolicyCounts {
        std::mem::take(&mut self.increase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_core::digest::Digest;

    fn counts(count: u64) -> PolicyCounts {
        let count = PolicyCount { audited: count, exhausted: count * 2 };
        [(policy_of("shop/orders/denials/x").expect("a rule"), count)].into()
    }

    #[test]
    fn decisions_without_budget_count_for_the_policy_of_the_rule() {
        let decision = Decision {
            reason: Reason::InsufficientScope,
            mode: EnforcementMode::Enforce,
            service: None,
            policy: Some(NamespacedName { namespace: "shop".into(), name: "operations".into() }),
            operation: Some("list".into()),
            rules: Vec::new(),
            required: [].into(),
            missing: Vec::new(),
            challenge: None,
            approval: None,
            detail: None,
            evaluated: Vec::new(),
            exhausted: Some("shop/grants/grants/slow".into()),
            revision: Digest::of([b"revision".as_slice()]),
        };
        let counter = PolicyCounter::default();
        let listed = |decision: Decision| {
            counter.count(&decision, &Snapshot::default());
            counter.counts().iter().map(|(policy, count)| (policy.to_string(), *count)).collect::<Vec<_>>()
        };
        let exhausted = ("shop/grants".to_owned(), PolicyCount { audited: 0, exhausted: 1 });
        assert_eq!(listed(decision.clone()), std::slice::from_ref(&exhausted));
        assert_eq!(listed(Decision { exhausted: None, ..decision.clone() }), [exhausted]);
        // the policy of the operation only audits
        let audited = ("shop/operations".to_owned(), PolicyCount { audited: 1, exhausted: 0 });
        let twice = ("shop/grants".to_owned(), PolicyCount { audited: 0, exhausted: 2 });
        assert_eq!(listed(Decision { mode: EnforcementMode::Audit, ..decision }), [twice, audited]);
    }

    #[test]
    fn increases_of_all_processes_are_added_up_once() {
        let mut totals = PolicyTotals::default();
        totals.add(1, counts(5));
        assert!(totals.take().is_empty(), "the first report is the baseline");
        totals.add(2, PolicyCounts::new());
        totals.add(1, counts(7));
        totals.add(2, counts(3));
        assert_eq!(totals.take(), counts(5));
        totals.add(1, counts(7));
        assert!(totals.take().is_empty(), "an unchanged report adds nothing");
        // the second process restarted under another id
        totals.add(3, PolicyCounts::new());
        totals.add(3, counts(1));
        assert_eq!(totals.take(), counts(1));
    }
}
