//! Requests that passed only because the policy has `mode: Audit`, counted by policy for its status.

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

/// Counts since the process began, by policy.
pub type UnenforcedCounts = BTreeMap<NamespacedName, u64>;

/// The counts of this process. A decision that is enforced or allows takes no lock.
#[derive(Debug, Default)]
pub struct UnenforcedCounter(Mutex<UnenforcedCounts>);

impl UnenforcedCounter {
    /// Counts a decision if it is a denial that is not enforced.
    pub fn count(&self, decision: &Decision, snapshot: &Snapshot) {
        if decision.allowed() || decision.mode == EnforcementMode::Enforce {
            return;
        }
        let policies = match (decision.reason, &decision.policy) {
            // the denial may be in another policy than the operation
            (Reason::Denied, _) => decision.rules.first().and_then(|rule| policy_of(rule)).into_iter().collect(),
            (_, Some(policy)) => vec![policy.clone()],
            // an operation that no policy of the service declares
            (_, None) => {
                let service = decision.service.as_ref().and_then(|key| snapshot.service(key));
                service.map(|service| service.policies().cloned().collect()).unwrap_or_default()
            }
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for policy in policies {
            if counts.len() < MAX_POLICIES || counts.contains_key(&policy) {
                *counts.entry(policy).or_default() += 1;
            }
        }
    }

    /// The counts so far.
    pub fn counts(&self) -> UnenforcedCounts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The policy of a rule, `<namespace>/<policy>/denials/<name>`.
fn policy_of(rule: &str) -> Option<NamespacedName> {
    let (namespace, rest) = rule.split_once('/')?;
    let (name, _) = rest.split_once('/')?;
    Some(NamespacedName { namespace: namespace.into(), name: name.into() })
}

/// Adds up the counts of several processes. Each process starts at zero.
#[derive(Debug, Default)]
pub struct UnenforcedTotals {
    /// The last report of each process.
    reported: BTreeMap<u64, UnenforcedCounts>,
    /// The increase since the last [`Self::take`].
    increase: UnenforcedCounts,
}

impl UnenforcedTotals {
    /// Adds the report of a process. Its first report is the baseline, because a status may contain it already.
    pub fn add(&mut self, process: u64, counts: UnenforcedCounts) {
        if let Some(before) = self.reported.get(&process) {
            for (policy, count) in &counts {
                let more = count.saturating_sub(before.get(policy).copied().unwrap_or_default());
                if more > 0 {
                    *self.increase.entry(policy.clone()).or_default() += more;
                }
            }
        }
        self.reported.insert(process, counts);
        while self.reported.len() > MAX_PROCESSES {
            self.reported.pop_first();
        }
    }

    /// Returns the increase since the last call.
    pub fn take(&mut self) -> UnenforcedCounts {
        std::mem::take(&mut self.increase)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: u64) -> UnenforcedCounts {
        [(policy_of("shop/orders/denials/x").expect("a rule"), count)].into()
    }

    #[test]
    fn increases_of_all_processes_are_added_up_once() {
        let mut totals = UnenforcedTotals::default();
        totals.add(1, counts(5));
        assert!(totals.take().is_empty(), "the first report is the baseline");
        totals.add(2, UnenforcedCounts::new());
        totals.add(1, counts(7));
        totals.add(2, counts(3));
        assert_eq!(totals.take(), counts(5));
        totals.add(1, counts(7));
        assert!(totals.take().is_empty(), "an unchanged report adds nothing");
        // the second process restarted under another id
        totals.add(3, UnenforcedCounts::new());
        totals.add(3, counts(1));
        assert_eq!(totals.take(), counts(1));
    }
}
