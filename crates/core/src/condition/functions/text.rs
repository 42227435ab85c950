//! Functions on texts, by the names of Kubernetes' CEL.
//!
//! The length of every text that a function makes is bounded, so that no chain of calls can exhaust the memory.

use super::function::{ConditionFunction, entry, function};
use super::values::{self, FunctionResult, Int, MAX_TEXT, Text, Texts, failure};
use cel::common::types::{CelString, LIST_TYPE, STRING_TYPE};
use cel::common::value::{CowVal, Val};

pub(super) const FUNCTIONS: &[ConditionFunction] = &[
    function!(
        on "charAt" = fallible char_at(Text, Int) -> Text,
        "The character at a position, counted from 0; empty at the end."
    ),
    function!(on "indexOf" = index_of(Text, Text) -> Int, "Position of the first occurrence of another string, or -1."),
    function!(
        on "lastIndexOf" = last_index_of(Text, Text) -> Int,
        "Position of the last occurrence of another string, or -1."
    ),
    function!(on "lowerAscii" = lower_ascii(Text) -> Text, "The string with its ASCII letters in lower case."),
    function!(on "upperAscii" = upper_ascii(Text) -> Text, "The string with its ASCII letters in upper case."),
    function!(on "trim" = trim(Text) -> Text, "The string without white space at both ends."),
    function!(
        on "replace" = fallible replace(Text, Text, Text) -> Text,
        "Replaces each occurrence of the second string by the third."
    ),
    function!(
        on "split" = fallible split(Text, Text) -> Texts,
        "The parts of the string between occurrences of another."
    ),
    function!(
        on "substring" = fallible substring(Text, Int) -> Text,
        "The string from a position, counted from 0, to its end."
    ),
    function!(
        on "substring" = fallible substring_to(Text, Int, Int) -> Text,
        "The string from one position up to another."
    ),
    ConditionFunction {
        registration: Some(|env| env.add_member_overload("join", "list.join()", LIST_TYPE, vec![], join)),
        ..entry!("join", true, [Texts], Text, "The strings of the list, one after another.", None)
    },
    ConditionFunction {
        registration: Some(|env| {
            env.add_member_overload("join", "list.join(string)", LIST_TYPE, vec![STRING_TYPE], join)
        }),
        ..entry!(
            "join",
            true,
            [Texts, Text],
            Text,
            "The strings of the list with another string between each two.",
            None
        )
    },
];

fn char_at(text: &Text<'_>, at: &Int) -> FunctionResult<Text<'static>> {
    let place = usize::try_from(*at.inner()).ok().filter(|at| *at <= text.inner().chars().count());
    let Some(place) = place else { return failure("charAt", "there is no such place") };
    Ok(text.inner().chars().nth(place).map(String::from).unwrap_or_default().into())
}

/// Positions are counted in characters, as in Kubernetes.
fn place(text: &str, found: Option<usize>) -> Int {
    let before = found.and_then(|at| text.get(..at)).map(|before| before.chars().count());
    before.and_then(|count| i64::try_from(count).ok()).unwrap_or(-1).into()
}

fn index_of(text: &Text<'_>, part: &Text<'_>) -> Int {
    place(text.inner(), text.inner().find(part.inner()))
}

fn last_index_of(text: &Text<'_>, part: &Text<'_>) -> Int {
    place(text.inner(), text.inner().rfind(part.inner()))
}

fn lower_ascii(text: &Text<'_>) -> Text<'static> {
    text.inner().to_ascii_lowercase().into()
}

fn upper_ascii(text: &Text<'_>) -> Text<'static> {
    text.inner().to_ascii_uppercase().into()
}

fn trim(text: &Text<'_>) -> Text<'static> {
    text.inner().trim().to_owned().into()
}

fn replace(text: &Text<'_>, from: &Text<'_>, to: &Text<'_>) -> FunctionResult<Text<'static>> {
    let (text, from, to) = (text.inner(), from.inner(), to.inner());
    let times = text.matches(from).count();
    if times.saturating_mul(to.len()).saturating_add(text.len()) > MAX_TEXT {
        return failure("replace", format!("the text would be longer than {MAX_TEXT} bytes"));
    }
    Ok(text.replace(from, to).into())
}

fn split(text: &Text<'_>, at: &Text<'_>) -> FunctionResult<Texts<'static>> {
    if text.inner().len() > MAX_TEXT {
        return failure("split", format!("the text is longer than {MAX_TEXT} bytes"));
    }
    let parts = text.inner().split(at.inner());
    Ok(parts.map(|part| Box::new(CelString::from(part.to_owned())) as Box<dyn Val>).collect::<Vec<_>>().into())
}

fn substring(text: &Text<'_>, from: &Int) -> FunctionResult<Text<'static>> {
    let end = i64::try_from(text.inner().chars().count()).unwrap_or(i64::MAX);
    substring_to(text, from, &end.into())
}

fn substring_to(text: &Text<'_>, from: &Int, to: &Int) -> FunctionResult<Text<'static>> {
    let count = text.inner().chars().count();
    match (usize::try_from(*from.inner()), usize::try_from(*to.inner())) {
        (Ok(from), Ok(to)) if from <= to && to <= count => {
            Ok(text.inner().chars().skip(from).take(to - from).collect::<String>().into())
        }
        _ => failure("substring", "there is no such place"),
    }
}

fn join<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> FunctionResult<CowVal<'b, 'v>> {
    let mut args = args.iter();
    let separator = |value: &CowVal<'_, '_>| value.downcast_ref::<CelString>().map(|text| text.inner().to_owned());
    let list = args.next();
    let between = args.next().and_then(separator).unwrap_or_default();
    let Some(list) = list.and_then(|list| list.as_iterable()) else { return failure("join", "that is no list") };
    let mut items = list.iter();
    let mut joined = String::new();
    let mut first = true;
    while let Some(item) = items.next() {
        let Some(text) = item.downcast_ref::<CelString>() else { return failure("join", "an item is no text") };
        if !std::mem::take(&mut first) {
            joined.push_str(&between);
        }
        joined.push_str(text.inner());
        if joined.len() > MAX_TEXT {
            return failure("join", format!("the text would be longer than {MAX_TEXT} bytes"));
        }
    }
    Ok(CowVal::owned(CelString::from(joined)))
}
