//! JSON values for conditions: bounded, and converted once.

use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString};
use cel::common::value::Val;
use serde_json::{Map, Value as Json};
use std::collections::HashMap;
use thiserror::Error;

/// Maximum number of parts that a condition reads: each value is a part, and so are every 64 bytes of a text.
pub const MAX_PARTS: usize = 32_768;
/// Maximum depth of nested values, which are copied and compared recursively.
pub const MAX_LEVELS: usize = 64;

/// A field is too large for conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("`{root}.{name}` {excess}")]
pub(crate) struct JsonFieldError {
    root: &'static str,
    name: &'static str,
    excess: JsonExcess,
}

/// The limit that a value exceeds. The text continues the name of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
enum JsonExcess {
    #[error("is nested deeper than {MAX_LEVELS} levels")]
    Levels,
    #[error("has more than {MAX_PARTS} parts")]
    Parts,
}

/// Values by name, or the reason why they can't be read.
#[derive(Debug)]
pub struct JsonFields(Result<(CelMap<'static>, usize), JsonFieldError>);

impl JsonFields {
    /// The values of `root` with these names, if they exist.
    pub(crate) fn of(root: &'static str, names: &[&'static str], all: &Map<String, Json>) -> Self {
        let mut parts = 1;
        let mut read = HashMap::new();
        for (name, json) in names.iter().filter_map(|name| Some((*name, all.get(*name)?))) {
            match value(json, MAX_LEVELS, &mut parts) {
                Ok(value) => drop(read.insert(CelMapKey::from(name), value)),
                Err(excess) => return Self(Err(JsonFieldError { root, name, excess })),
            }
        }
        Self(Ok((CelMap::from(read), parts)))
    }

    /// The values and their number of parts.
    pub(super) fn read(&self) -> Result<(&CelMap<'static>, usize), JsonFieldError> {
        self.0.as_ref().map(|(map, parts)| (map, *parts)).map_err(|error| *error)
    }
}

/// A value in the interpreter's form; an error if it is too large.
fn value(json: &Json, levels: usize, parts: &mut usize) -> Result<Box<dyn Val>, JsonExcess> {
    let below = levels.checked_sub(1).ok_or(JsonExcess::Levels)?;
    *parts += 1 + json.as_str().map_or(0, |text| text.len() / 64);
    if *parts > MAX_PARTS {
        return Err(JsonExcess::Parts);
    }
    Ok(match json {
        Json::Null => Box::new(CelNull),
        Json::Bool(truth) => Box::new(CelBool::from(*truth)),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Box::new(CelInt::from(whole)),
            (None, Some(real)) => Box::new(CelDouble::from(real)),
            (None, None) => Box::new(CelNull),
        },
        Json::String(text) => Box::new(CelString::from(text.clone())),
        Json::Array(items) => {
            let items: Result<Vec<_>, JsonExcess> = items.iter().map(|item| value(item, below, parts)).collect();
            Box::new(CelList::from(items?))
        }
        Json::Object(fields) => {
            let mut read = HashMap::with_capacity(fields.len());
            for (name, json) in fields {
                *parts += name.len() / 64;
                read.insert(CelMapKey::from(name.clone()), value(json, below, parts)?);
            }
            Box::new(CelMap::from(read))
        }
    })
}
