//! Durations as people write them.

use std::time::Duration;

/// Reads a duration such as `24h` or `10m`, for command-line arguments.
///
/// # Errors
/// When the text is no duration, or a negative one.
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    parsed.ok_or_else(|| format!("`{text}` is no time, such as `24h` or `10m`"))
}
