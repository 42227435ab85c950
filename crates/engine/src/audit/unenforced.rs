//! What policies in `mode: Audit` let pass and would have denied, counted by policy: what their status tells.

use durward_core::decision::{Decision, Reason};
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::EnforcementMode;
use durward_core::snapshot::Snapshot;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Most policies that are counted for: names of some that are gone stay until the process ends.
const MOST: usize = 10_000;

/// Counts since this process began, by policy.
pub type Counts = BTreeMap<NamespacedName, u64>;

/// The counts of this process. Nothing is locked for a decision that is enforced, or allows.
#[derive(Debug, Default)]
pub struct Unenforced(Mutex<Counts>);

impl Unenforced {
    /// Takes a decision in, if it is a denial that is not enforced.
    pub fn count(&self, decision: &Decision, snapshot: &Snapshot) {
        if decision.allowed() || decision.mode == EnforcementMode::Enforce {
            return;
        }
        let whose = match (decision.reason, &decision.policy) {
            // the denial can be another policy's than the operation
            (Reason::Denied, _) => decision.rules.first().and_then(|rule| policy_of(rule)).into_iter().collect(),
            (_, Some(policy)) => vec![policy.clone()],
            // what no policy of the service declares
            (_, None) => {
                let service = decision.service.as_ref().and_then(|key| snapshot.service(key));
                service.map(|service| service.policies().cloned().collect()).unwrap_or_default()
            }
        };
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for policy in whose {
            if counts.len() < MOST || counts.contains_key(&policy) {
                *counts.entry(policy).or_default() += 1;
            }
        }
    }

    pub fn counts(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The policy of a rule, `<namespace>/<policy>/denials/<name>`.
fn policy_of(rule: &str) -> Option<NamespacedName> {
    let (namespace, rest) = rule.split_once('/')?;
    let (name, _) = rest.split_once('/')?;
    Some(NamespacedName { namespace: namespace.into(), name: name.into() })
}

/// Adds up the counts of several processes, each of which begins at nothing when it is started anew.
#[derive(Debug, Default)]
pub struct Sums {
    /// What each process last told.
    told: BTreeMap<u64, Counts>,
    /// What came since it was last taken.
    news: Counts,
}

impl Sums {
    /// Takes in what a process tells. The first time is where counting begins: it may be in a status already.
    pub fn take_in(&mut self, process: u64, counts: Counts) {
        if let Some(before) = self.told.get(&process) {
            for (policy, count) in &counts {
                let more = count.saturating_sub(before.get(policy).copied().unwrap_or_default());
                if more > 0 {
                    *self.news.entry(policy.clone()).or_default() += more;
                }
            }
        }
        self.told.insert(process, counts);
        // replicas come and go; those of an hour of crashes are forgotten
        while self.told.len() > 64 {
            self.told.pop_first();
        }
    }

    /// What came since this was last asked.
    pub fn take(&mut self) -> Counts {
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(count: u64) -> Counts {
        [(policy_of("shop/orders/denials/x").expect("a rule"), count)].into()
    }

    #[test]
    fn what_each_process_tells_is_added_up_once() {
        let mut sums = Sums::default();
        sums.take_in(1, counts(5));
        assert!(sums.take().is_empty(), "it may have been told before");
        sums.take_in(2, Counts::new());
        sums.take_in(1, counts(7));
        sums.take_in(2, counts(3));
        assert_eq!(sums.take(), counts(5));
        sums.take_in(1, counts(7));
        assert!(sums.take().is_empty(), "nothing new");
        // the second one was started anew under another id
        sums.take_in(3, Counts::new());
        sums.take_in(3, counts(1));
        assert_eq!(sums.take(), counts(1));
    }
}
