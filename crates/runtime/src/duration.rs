//! Durations in command-line arguments.

use std::time::Duration;
use thiserror::Error;

/// A text is not a duration, or a negative one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not a duration; write for example `24h` or `10m`")]
pub struct InvalidDuration(String);

/// Parses a duration such as `24h` or `10m`.
///
/// # Errors
/// When the text is not a duration, or a negative one.
pub fn parse_duration(text: &str) -> Result<Duration, InvalidDuration> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed.ok_or_else(|| InvalidDuration(text.to_owned()))
}
