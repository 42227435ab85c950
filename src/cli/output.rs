//! How commands print results and log.

use comfy_table::{Table, presets};
use durward_core::visible::visible;
use serde::Serialize;
use std::io::{IsTerminal, Stderr, Write};
use thiserror::Error;
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A result that can't be printed.
#[derive(Debug, Error)]
pub(crate) enum OutputError {
    #[error("cannot write to standard output: {0}")]
    Write(#[from] std::io::Error),
    #[error("cannot print the result as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot print the result as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// The form of a printed result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// Text for people
    #[default]
    Text,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl OutputFormat {
    /// Prints `value`; `text` makes the text form of it.
    pub(crate) fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), OutputError> {
        let printed = match self {
            Self::Text => visible(&text(value)).into_owned(),
            // the escape is the one of JSON, so the value stays the same
            Self::Json => visible(&serde_json::to_string_pretty(value)?).into_owned() + "\n",
            Self::Yaml => serde_saphyr::to_string(value)?,
        };
        print_text(&printed)
    }
}

/// Prints to standard output. A reader that closes the pipe early is no error.
pub(crate) fn print_text(text: &str) -> Result<(), OutputError> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A table without lines, two spaces between columns.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head).add_rows(rows);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    table.trim_fmt() + "\n"
}

/// Crates that log responses they can't decode, Secrets among them. They never log, whatever the setting.
const NEVER_LOGGED: [&str; 2] = ["kube_client", "kube_runtime"];
/// The log levels without `DURWARD_LOG`.
const DEFAULT_LEVELS: &str = "warn,durward=info";

/// Standard error for people: what can't be seen in a log line is escaped.
struct VisibleStderr(Stderr);

impl Write for VisibleStderr {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        match str::from_utf8(line) {
            Ok(text) => self.0.write_all(visible(text).as_bytes())?,
            Err(_) => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Logs to standard error, at the levels of `DURWARD_LOG`.
pub(crate) fn log_to_stderr() {
    let setting = std::env::var("DURWARD_LOG").unwrap_or_else(|_| DEFAULT_LEVELS.to_owned());
    let levels = log_levels(&setting).unwrap_or_else(|error| {
        eprintln!("DURWARD_LOG is not a list of levels such as `{DEFAULT_LEVELS}`: {error}; using that list");
        log_levels(DEFAULT_LEVELS).unwrap_or_default()
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(|| VisibleStderr(std::io::stderr()));
    let lines = lines.with_ansi(std::io::stderr().is_terminal());
    // the filter is global, not of this layer: only then are disabled spans never created, and HTTP/2 enters one many
    // times per request
    tracing_subscriber::registry().with(levels).with(lines).init();
}

/// Parses log levels, without the crates that never log.
fn log_levels(setting: &str) -> Result<Targets, ParseError> {
    let setting: Targets = setting.parse()?;
    let levels = Targets::new().with_default(setting.default_level().unwrap_or(LevelFilter::OFF));
    let named = setting.into_iter().filter(|(target, _)| !NEVER_LOGGED.iter().any(|never| target.starts_with(never)));
    Ok(levels.with_targets(named).with_targets(NEVER_LOGGED.map(|never| (never, LevelFilter::OFF))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn crates_that_quote_secrets_never_log() {
        for setting in
            [DEFAULT_LEVELS, "trace", "kube_client=trace", "info,kube_client::client=debug,kube_runtime::watcher=error"]
        {
            let levels = log_levels(setting).expect(setting);
            for never in ["kube_client", "kube_client::client::builder", "kube_runtime::watcher"] {
                assert!(!levels.would_enable(never, &Level::ERROR), "{never} at {setting}");
            }
        }
    }

    #[test]
    fn other_levels_follow_the_setting() {
        let levels = log_levels("warn,durward=info,h2::codec=debug").expect("levels");
        assert!(levels.would_enable("durward::engine", &Level::INFO) && !levels.would_enable("durward", &Level::DEBUG));
        assert!(levels.would_enable("hyper", &Level::WARN) && !levels.would_enable("h2::proto", &Level::INFO));
        assert!(levels.would_enable("h2::codec", &Level::DEBUG));
        assert!(log_levels("durward=loud").is_err());
    }

    #[test]
    fn tables_align_their_columns() {
        let rows = [["acme".to_owned(), "-".to_owned()], ["a-longer-name".to_owned(), "gold".to_owned()]];
        assert_eq!(table(["NAME", "GROUPS"], rows), "NAME           GROUPS\nacme           -\na-longer-name  gold\n");
    }
}
