//! Functions on Kubernetes quantities, by the names of Kubernetes' CEL.

use super::function::{ConditionFunction, function};
use super::values::{self, Bool, Double, FunctionResult, Int, Quantity, Text, failure};

pub(super) const FUNCTIONS: &[ConditionFunction] = &[
    function!(
        "quantity" = fallible quantity(Text) -> Quantity,
        "Parses a Kubernetes quantity, such as `1.5Gi`."
    ),
    function!("isQuantity" = is_quantity(Text) -> Bool, "Whether a string is a quantity."),
    function!(on "isLessThan" = is_less_than(Quantity, Quantity) -> Bool, "Whether the quantity is less than another."),
    function!(
        on "isGreaterThan" = is_greater_than(Quantity, Quantity) -> Bool,
        "Whether the quantity is greater than another."
    ),
    function!(
        on "compareTo" = compare_to(Quantity, Quantity) -> Int,
        "-1, 0 or 1: less than, equal to or greater than another."
    ),
    function!(on "add" = fallible add(Quantity, Quantity) -> Quantity, "The sum of both."),
    function!(on "sub" = fallible sub(Quantity, Quantity) -> Quantity, "The quantity less another."),
    function!(on "sign" = sign(Quantity) -> Int, "-1, 0 or 1: negative, zero or positive."),
    function!(
        on "isInteger" = is_integer(Quantity) -> Bool,
        "Whether the quantity is a whole number that fits into an int."
    ),
    function!(
        on "asInteger" = fallible as_integer(Quantity) -> Int,
        "The quantity as an int; fails if it is not whole."
    ),
    function!(on "asApproximateFloat" = as_approximate_float(Quantity) -> Double, "The quantity as a double, rounded."),
];

/// Quantities are counted in billionths, the smallest unit of Kubernetes.
const ONE: i128 = 1_000_000_000;

/// `resource.Quantity` of Kubernetes: a decimal number and a suffix that multiplies it.
fn parse_quantity(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let negative = number.starts_with('-');
    let number = number.strip_prefix(['+', '-']).unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) || text.len() > 40 {
        return None;
    }
    // in units of the last digit
    let count: i128 = format!("{whole}{fraction}").parse().ok()?;
    let decimals = u32::try_from(fraction.len()).ok()?;
    let times: i128 = match suffix {
        "" => ONE,
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "k" => 1_000 * ONE,
        "M" => 1_000_000 * ONE,
        "G" => 1_000_000_000 * ONE,
        "T" => 1_000_000_000_000 * ONE,
        "P" => 1_000_000_000_000_000 * ONE,
        "E" => 1_000_000_000_000_000_000 * ONE,
        "Ki" => ONE << 10,
        "Mi" => ONE << 20,
        "Gi" => ONE << 30,
        "Ti" => ONE << 40,
        "Pi" => ONE << 50,
        "Ei" => ONE << 60,
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            10i128.checked_pow(u32::try_from(exponent.checked_add(9)?).ok()?)?
        }
    };
    let product = count.checked_mul(times)?;
    let unit = 10i128.checked_pow(decimals)?;
    // a fraction of the smallest unit is rounded up, away from zero
    let rounded = product / unit + i128::from(product % unit != 0);
    Some(if negative { -rounded } else { rounded })
}

fn quantity(text: &Text<'_>) -> FunctionResult<Quantity> {
    parse_quantity(text.inner()).map_or_else(|| failure("quantity", "that is no quantity"), |n| Ok(Quantity(n)))
}

fn is_quantity(text: &Text<'_>) -> Bool {
    parse_quantity(text.inner()).is_some().into()
}

fn is_less_than(a: &Quantity, b: &Quantity) -> Bool {
    (a.0 < b.0).into()
}

fn is_greater_than(a: &Quantity, b: &Quantity) -> Bool {
    (a.0 > b.0).into()
}

fn compare_to(a: &Quantity, b: &Quantity) -> Int {
    (a.0.cmp(&b.0) as i64).into()
}

fn add(a: &Quantity, b: &Quantity) -> FunctionResult<Quantity> {
    a.0.checked_add(b.0).map_or_else(|| failure("add", "the sum is too large"), |n| Ok(Quantity(n)))
}

fn sub(a: &Quantity, b: &Quantity) -> FunctionResult<Quantity> {
    a.0.checked_sub(b.0).map_or_else(|| failure("sub", "the difference is too large"), |n| Ok(Quantity(n)))
}

fn sign(quantity: &Quantity) -> Int {
    i64::try_from(quantity.0.signum()).unwrap_or_default().into()
}

fn whole(quantity: &Quantity) -> Option<i64> {
    (quantity.0 % ONE == 0).then_some(quantity.0 / ONE).and_then(|n| i64::try_from(n).ok())
}

fn is_integer(quantity: &Quantity) -> Bool {
    whole(quantity).is_some().into()
}

fn as_integer(quantity: &Quantity) -> FunctionResult<Int> {
    whole(quantity).map_or_else(|| failure("asInteger", "the quantity is not whole"), |n| Ok(n.into()))
}

fn as_approximate_float(quantity: &Quantity) -> Double {
    (quantity.0 as f64 / ONE as f64).into()
}
