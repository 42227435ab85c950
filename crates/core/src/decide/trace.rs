//! What a decision evaluates on its way.

use crate::decision::EvaluatedCondition;
use crate::work::WorkBudget;
use std::sync::Arc;

/// The outcomes of conditions so far, and the budget.
pub(super) struct DecisionTrace<'w> {
    pub(super) work: &'w WorkBudget,
    /// Outcomes of the conditions that read evidence.
    pub(super) evaluated: Vec<EvaluatedCondition>,
    /// The rule at which the budget ended.
    pub(super) exhausted: Option<Arc<str>>,
}

impl<'w> DecisionTrace<'w> {
    pub(super) fn new(work: &'w WorkBudget) -> Self {
        Self { work, evaluated: Vec::new(), exhausted: None }
    }

    /// Notes the rule if the budget ended at it.
    pub(super) fn note(&mut self, rule: &Arc<str>) {
        if self.exhausted.is_none() && self.work.is_exhausted() {
            self.exhausted = Some(Arc::clone(rule));
        }
    }
}
