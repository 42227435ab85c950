//! Times of last use of API keys, in the form in which they are stored.

use chrono::{DateTime, SecondsFormat};
use std::collections::BTreeMap;

/// When API keys were last used, in seconds since 1970, by provider and name; 0 for never.
pub type KeyUses = BTreeMap<(String, String), i64>;

/// Name of the entry of a key. Names of keys contain no dot, so entries are unique.
#[must_use]
pub fn entry_name(provider: &str, name: &str) -> String {
    format!("{provider}.{name}")
}

/// The stored form of a time in seconds since 1970.
#[must_use]
pub fn timestamp(at: i64) -> Option<String> {
    Some(DateTime::from_timestamp(at, 0)?.to_rfc3339_opts(SecondsFormat::Secs, true))
}
