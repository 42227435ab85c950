//! The facts that conditions read.

use super::fields::{PRINCIPAL, REQUEST};
use super::headers::HeaderValues;
use super::json::JsonFields;
use super::price::price;
use crate::unknown_facts::UnknownFacts;
use crate::work::WorkBudget;
use cel::Value;
use cel::common::types::CelMap;
use cel::common::value::Val;
use std::collections::HashMap;
use std::sync::OnceLock;

/// The facts that conditions read. Each field is requested at most once per decision, and only if a condition reads
/// it.
pub trait ConditionFacts: Send + Sync {
    /// Facts in the form of the interpreter, kept for the further conditions of the decision.
    fn cache(&self) -> &FactCache;
    /// The value of `principal.<field>`, if the principal has it.
    fn principal(&self, field: &str) -> Option<Value>;
    /// The facts about the principal that are unknown, if any.
    fn unknown(&self) -> Option<&UnknownFacts> {
        None
    }
    /// The value of `request.<field>`, if the request has it; headers are separate.
    fn request(&self, field: &str) -> Option<Value>;
    /// The headers that conditions of the service read, if they are known.
    fn headers(&self) -> Option<&HeaderValues> {
        None
    }
    /// The fields of `kubernetes`, if they are known.
    fn objects(&self) -> Option<&JsonFields> {
        None
    }
    /// The fields of `resource`, if they are known.
    fn resource(&self) -> Option<&JsonFields> {
        None
    }
}

/// Facts in the form of the interpreter. The conditions of a decision convert each fact once.
#[derive(Debug, Default)]
pub struct FactCache {
    principal: OnceLock<Box<[CachedFact; PRINCIPAL.len()]>>,
    request: OnceLock<Box<[CachedFact; REQUEST.len()]>>,
    /// Whether the parts of `kubernetes` and `resource` have been charged.
    charged: [OnceLock<()>; 2],
}

/// `None` inside if there is no such fact.
type CachedFact = OnceLock<Option<Box<dyn Val>>>;

impl FactCache {
    /// The value of `principal.<field>`; `None` if there is no such field or fact.
    pub(super) fn principal(
        &self,
        field: &str,
        facts: &dyn ConditionFacts,
        work: &WorkBudget,
    ) -> Option<&(dyn Val + 'static)> {
        let number = PRINCIPAL.iter().position(|one| *one == field)?;
        let fact = self.principal.get_or_init(Box::default).get(number)?;
        fact.get_or_init(|| convert(facts.principal(field)?, work)).as_deref()
    }

    /// The value of `request.<field>`; `None` if there is no such field or fact.
    pub(super) fn request(
        &self,
        field: &str,
        facts: &dyn ConditionFacts,
        work: &WorkBudget,
    ) -> Option<&(dyn Val + 'static)> {
        let number = REQUEST.iter().position(|one| *one == field)?;
        let fact = self.request.get_or_init(Box::default).get(number)?;
        fact.get_or_init(|| convert(facts.request(field)?, work)).as_deref()
    }

    /// Charges the conversion of `kubernetes` or `resource` once.
    pub(super) fn charge_object(&self, number: usize, parts: usize, work: &WorkBudget) {
        if self.charged.get(number).is_some_and(|charged| charged.set(()).is_ok()) {
            work.charge(u64::try_from(parts).unwrap_or(u64::MAX).saturating_mul(CONVERSION));
        }
    }
}

/// Price of the conversion of a value, as a multiple of the price of a copy: it is copied twice.
const CONVERSION: u64 = 2;

/// The interpreter's form of a value. A value without one becomes an empty map, in which every field is missing.
fn convert(value: Value, work: &WorkBudget) -> Option<Box<dyn Val>> {
    let converted: Result<Box<dyn Val>, _> = value.try_into();
    let value = converted.unwrap_or_else(|_| Box::new(CelMap::from(HashMap::new())));
    work.charge(price(&*value, work.left()).saturating_mul(CONVERSION));
    Some(value)
}
