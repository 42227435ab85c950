//! Durations in command-line arguments.

use std::time::Duration;

/// Parses a duration such as `24h` or `10m`.
///
/// # Errors
/// When the text is not a duration, or a negative one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed.ok_or_else(|| format!("`{text}` is not a duration; write for example `24h` or `10m`"))
}
