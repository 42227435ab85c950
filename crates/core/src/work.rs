//! The budget of work of a decision: all its conditions and relation checks draw on one.
//!
//! Work is counted in units. The counts depend on the input alone, never on time, so every replica and every replay
//! reaches the end of the budget at the same place. A condition or relation check that finds the budget exhausted has
//! failed: a grant gives nothing, a denial applies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The budget of one decision, in units. A unit stands for 25 ns of the reference machine, and each price for the most
/// expensive operation of its kind, so that a whole budget takes at most 4 ms. A decision may take 5 ms; the rest is
/// for what is not counted: the route, the index of subjects, and the end of the last operation.
pub const MAX_WORK: u64 = 160_000;

/// Why a condition or a relation check has failed without being evaluated to its end.
pub const WORK_EXHAUSTED: &str = "the decision has used up its budget of work";

/// What is left of the budget of a decision.
#[derive(Debug)]
pub struct WorkBudget {
    left: AtomicU64,
    /// The rule at which the budget of a recorded decision ended.
    ends_at: Option<Arc<str>>,
}

impl Default for WorkBudget {
    fn default() -> Self {
        Self { left: AtomicU64::new(MAX_WORK), ends_at: None }
    }
}

/// The value of `left` once the budget is exhausted. No charge leaves it: the last unit is never paid out.
const EXHAUSTED: u64 = 0;

impl WorkBudget {
    /// The budget of a recorded decision, which ended at this rule, if at all. Recorded outcomes cost nothing in the
    /// replay, so that it would otherwise get further.
    #[must_use]
    pub fn of_record(ends_at: Option<Arc<str>>) -> Self {
        Self { ends_at, ..Self::default() }
    }

    /// Takes units from the budget. Returns whether there were enough; otherwise the budget is exhausted from now on.
    pub fn charge(&self, units: u64) -> bool {
        // one thread evaluates a decision; the atomic only makes the budget shareable by type
        let left = self.left.load(Ordering::Relaxed);
        let rest = left.saturating_sub(units);
        self.left.store(rest, Ordering::Relaxed);
        rest != EXHAUSTED
    }

    /// Whether the budget is exhausted.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.left.load(Ordering::Relaxed) == EXHAUSTED
    }

    /// Units taken so far.
    #[must_use]
    pub fn spent(&self) -> u64 {
        MAX_WORK.saturating_sub(self.left())
    }

    /// Units left.
    pub(crate) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Ends the budget if the recorded one ended at this rule. Returns whether anything is left.
    pub(crate) fn begin(&self, rule: &str) -> bool {
        if self.ends_at.as_deref() == Some(rule) {
            self.left.store(EXHAUSTED, Ordering::Relaxed);
        }
        !self.is_exhausted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_end_with_the_budget() {
        let work = WorkBudget::default();
        assert!(work.charge(MAX_WORK - 1));
        assert!(!work.is_exhausted());
        assert!(!work.charge(1), "the last unit is never paid out");
        assert!(work.is_exhausted() && !work.charge(0));
        assert_eq!(work.spent(), MAX_WORK);
        let over = WorkBudget::default();
        assert!(!over.charge(u64::MAX));
        assert_eq!(over.spent(), MAX_WORK, "the work is at most the budget");
    }

    #[test]
    fn recorded_budgets_end_where_they_ended() {
        let work = WorkBudget::of_record(Some("shop/orders/grants/slow".into()));
        assert!(work.begin("shop/orders/grants/quick"));
        assert!(!work.begin("shop/orders/grants/slow"));
        assert!(!work.begin("shop/orders/grants/quick"));
        assert!(WorkBudget::of_record(None).begin("shop/orders/grants/slow"));
    }
}
