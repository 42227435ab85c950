//! How results are printed.

use crate::cli::Failure;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// For people, or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

impl Format {
    /// Prints `value`, as text by `text`. A reader that went away is no failure.
    pub(crate) fn print<T: Serialize>(self, value: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let printed = match self {
            Self::Text => text(value),
            Self::Json => serde_json::to_string_pretty(value)? + "\n",
            Self::Yaml => serde_saphyr::to_string(value)?,
        };
        say(&printed)
    }
}

/// Prints to standard output.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Crates that quote answers which they can't read, Secrets among them: they are silent whatever the setting.
const SILENT: [&str; 2] = ["kube_client", "kube_runtime"];
/// What is logged unless `DURWARD_LOG` says otherwise.
const LOGGED: &str = "warn,durward=info";

/// Logs to standard error, by `DURWARD_LOG`.
pub(crate) fn log_to_stderr() {
    let wanted = std::env::var("DURWARD_LOG").unwrap_or_else(|_| LOGGED.to_owned());
    let wanted = levels(&wanted).unwrap_or_else(|error| {
        eprintln!("DURWARD_LOG is no list of levels such as `{LOGGED}`: {error}");
        levels(LOGGED).unwrap_or_default()
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = lines.with_ansi(std::io::stderr().is_terminal());
    // a filter of everything, not of these lines: only so is a span that nobody wants not made at all, and HTTP/2 has
    // one that is entered many times a request
    tracing_subscriber::registry().with(wanted).with(lines).init();
}

/// The levels that are asked for, without what is never logged.
fn levels(wanted: &str) -> Result<Targets, ParseError> {
    let wanted: Targets = wanted.parse()?;
    let levels = Targets::new().with_default(wanted.default_level().unwrap_or(LevelFilter::OFF));
    let named = wanted.into_iter().filter(|(target, _)| !SILENT.iter().any(|silent| target.starts_with(silent)));
    Ok(levels.with_targets(named).with_targets(SILENT.map(|silent| (silent, LevelFilter::OFF))))
}

/// Lines of cells as a table, each column as wide as its widest cell.
pub(crate) fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or_default());
    let padded = lines.iter().map(|line| {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    });
    padded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn what_quotes_secrets_is_silent_whatever_is_asked_for() {
        for wanted in
            [LOGGED, "trace", "kube_client=trace", "info,kube_client::client=debug,kube_runtime::watcher=error"]
        {
            let levels = levels(wanted).expect(wanted);
            for silent in ["kube_client", "kube_client::client::builder", "kube_runtime::watcher"] {
                assert!(!levels.would_enable(silent, &Level::ERROR), "{silent} by {wanted}");
            }
        }
    }

    #[test]
    fn levels_are_as_they_are_asked_for() {
        let levels = levels("warn,durward=info,h2::codec=debug").expect("levels");
        assert!(levels.would_enable("durward::engine", &Level::INFO) && !levels.would_enable("durward", &Level::DEBUG));
        assert!(levels.would_enable("hyper", &Level::WARN) && !levels.would_enable("h2::proto", &Level::INFO));
        assert!(levels.would_enable("h2::codec", &Level::DEBUG));
        assert!(super::levels("durward=loud").is_err());
    }
}
