//! The functions that charge the budget by the size of a value.

use super::functions::Url;
use super::functions::failure;
use super::pattern::Pattern;
use crate::work::{WORK_EXHAUSTED, WorkBudget};
use cel::common::types::{CelBool, CelBytes, CelList, CelMap, CelMapKey, CelOptional, CelString, DYN_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{DeclarationError, Env, ExecutionError};

/// Charges the size of a value, and returns the value.
pub(super) const SIZED: &str = "@sized";
/// Charges each byte of a text, which may become a value of its own; other values by their size.
pub(super) const PER_BYTE: &str = "@bytes";
/// Charges the size of a list. Keys of a map are found at once.
pub(super) const LIST: &str = "@list";
/// Searches a text by a compiled pattern.
pub(super) const MATCHES: &str = "@matches";

/// Price of a value: it is copied, compared or passed over.
const VALUE: u64 = 2;
/// Price of a value that a function makes.
const NEW_VALUE: u64 = 4;
/// Bytes of a text that are searched or copied for one unit.
const BYTES: usize = 16;

/// Adds the functions that metered expressions call.
pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    let work = || <WorkBudget as Val>::cel_type().to_owned();
    for (name, function) in [(SIZED, sized as cel::common::functions::Function), (PER_BYTE, per_byte), (LIST, list)] {
        env.add_overload(name, name, vec![work(), DYN_TYPE], function)?;
    }
    let pattern = <Pattern as Val>::cel_type().to_owned();
    env.add_overload(MATCHES, MATCHES, vec![work(), DYN_TYPE, pattern], matches)
}

/// The price of a value in units. It stops counting beyond the limit.
pub(super) fn price(value: &dyn Val, limit: u64) -> u64 {
    if let Some(text) = value.downcast_ref::<CelString>() {
        return VALUE + text_price(text.inner());
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return sum(list.inner().iter().map(|item| &**item), limit);
    }
    if let Some(map) = value.downcast_ref::<CelMap>() {
        let mut keys = 0;
        for key in map.inner().keys() {
            keys += if let CelMapKey::String(text) = key { VALUE + text_price(text.inner()) } else { VALUE };
            if keys > limit {
                return keys;
            }
        }
        return keys.saturating_add(sum(map.inner().values().map(|value| &**value), limit - keys));
    }
    if let Some(bytes) = value.downcast_ref::<CelBytes>() {
        return VALUE + per(bytes.inner().len());
    }
    if let Some(optional) = value.downcast_ref::<CelOptional>() {
        return VALUE + optional.inner().map_or(0, |value| price(value, limit));
    }
    if let Some(url) = value.downcast_ref::<Url>() {
        return VALUE + text_price(url.0.as_str());
    }
    VALUE
}

fn sum<'a>(values: impl Iterator<Item = &'a (dyn Val + 'a)>, limit: u64) -> u64 {
    let mut sum = VALUE;
    for value in values {
        sum = sum.saturating_add(price(value, limit.saturating_sub(sum)));
        if sum > limit {
            break;
        }
    }
    sum
}

fn text_price(text: &str) -> u64 {
    per(text.len())
}

fn per(bytes: usize) -> u64 {
    u64::try_from(bytes / BYTES).unwrap_or(u64::MAX)
}

fn exhausted<T>() -> Result<T, ExecutionError> {
    Err(ExecutionError::function_error("condition", WORK_EXHAUSTED))
}

/// The budget and the value of a call.
fn charge<'b, 'v>(
    mut args: Vec<CowVal<'b, 'v>>,
    units: impl FnOnce(&dyn Val, u64) -> u64,
) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let value = args.pop();
    let budget = args.first().and_then(|budget| budget.downcast_ref::<WorkBudget>());
    let (Some(budget), Some(value)) = (budget, value) else { return exhausted() };
    if budget.charge(units(&*value, budget.left())) { Ok(value) } else { exhausted() }
}

fn sized<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    charge(args, price)
}

fn per_byte<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    charge(args, |value, limit| match value.downcast_ref::<CelString>() {
        Some(text) => u64::try_from(text.inner().len()).unwrap_or(u64::MAX).saturating_mul(NEW_VALUE),
        None => price(value, limit),
    })
}

fn list<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    charge(args, |value, limit| if value.downcast_ref::<CelMap>().is_some() { VALUE } else { price(value, limit) })
}

fn matches<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let [budget, text, pattern] = args.as_slice() else { return failure("matches", "it takes a text and a pattern") };
    let (budget, pattern) = (budget.downcast_ref::<WorkBudget>(), pattern.downcast_ref::<Pattern>());
    let (Some(budget), Some(pattern)) = (budget, pattern) else { return exhausted() };
    let Some(text) = text.downcast_ref::<CelString>() else { return failure("matches", "that is no text") };
    if !budget.charge(pattern.work(text.inner().len())) {
        return exhausted();
    }
    Ok(CowVal::owned(CelBool::from(pattern.is_match(text.inner()))))
}

impl Val for WorkBudget {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        static TYPE: Type = Type::new_unspecified_type("durward.Work");
        &TYPE
    }

    /// A copy pays for nothing.
    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        let copy = Self::default();
        copy.charge(u64::MAX);
        Box::new(copy)
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}

impl StaticVal for WorkBudget {}
