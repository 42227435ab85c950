//! When API keys were last used, as it is recorded.

use chrono::{DateTime, SecondsFormat};

/// Provider and name as one entry: a name has no dot, so no two look alike.
pub fn entry_name(provider: &str, name: &str) -> String {
    format!("{provider}.{name}")
}

/// A time in seconds since 1970 as it is kept.
pub fn timestamp(at: i64) -> Option<String> {
    Some(DateTime::from_timestamp(at, 0)?.to_rfc3339_opts(SecondsFormat::Secs, true))
}
