//! Parsers of values that several commands take.

use chrono::TimeDelta;
use durward_runtime::duration::parse_duration;
use std::str::FromStr;
use thiserror::Error;

/// Longest lifetime of a credential that a command creates.
const MAX_LIFETIME: TimeDelta = TimeDelta::days(366);
/// Longest time for which a replaced API key stays valid.
const MAX_OVERLAP: TimeDelta = TimeDelta::days(90);

/// A value that a command does not accept.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum ArgumentError {
    #[error("write a time such as `5m`, `1h` or `30d`")]
    Duration,
    #[error("write a time from 1s to 366d")]
    Lifetime,
    #[error("write a time from 0s to 90d")]
    Overlap,
    #[error("write NAMESPACE/NAME")]
    NamespacedName,
}

/// A namespaced object, written as NAMESPACE/NAME.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamespacedArgument {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl FromStr for NamespacedArgument {
    type Err = ArgumentError;

    fn from_str(text: &str) -> Result<Self, ArgumentError> {
        let (namespace, name) = text.split_once('/').ok_or(ArgumentError::NamespacedName)?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// Parses the lifetime of a credential.
pub(crate) fn parse_lifetime(text: &str) -> Result<TimeDelta, ArgumentError> {
    // `parse_duration` has no days, because a calendar day can have 23 or 25 hours; a credential's day has 24
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    let seconds = match days {
        Some(days) => days.saturating_mul(24 * 3600),
        None => parse_duration(text).map_err(|_| ArgumentError::Duration)?.as_secs(),
    };
    let lifetime = i64::try_from(seconds).ok().and_then(TimeDelta::try_seconds).unwrap_or(TimeDelta::MAX);
    if lifetime <= TimeDelta::zero() || lifetime > MAX_LIFETIME {
        return Err(ArgumentError::Lifetime);
    }
    Ok(lifetime)
}

/// Parses the time for which a replaced API key stays valid.
pub(crate) fn parse_overlap(text: &str) -> Result<TimeDelta, ArgumentError> {
    if text == "0" || text == "0s" {
        return Ok(TimeDelta::zero());
    }
    parse_lifetime(text).ok().filter(|overlap| *overlap <= MAX_OVERLAP).ok_or(ArgumentError::Overlap)
}
