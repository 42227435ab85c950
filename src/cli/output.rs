//! How results are printed.

use crate::cli::Failure;
use serde::Serialize;
use std::io::{IsTerminal, Write};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
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
    let wanted = wanted.parse::<Targets>().unwrap_or_else(|error| {
        eprintln!("DURWARD_LOG is no list of levels such as `{LOGGED}`: {error}");
        Targets::new().with_default(LevelFilter::WARN).with_target("durward", LevelFilter::INFO)
    });
    let silent = filter_fn(|metadata| !SILENT.iter().any(|name| metadata.target().starts_with(name)));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = lines.with_ansi(std::io::stderr().is_terminal()).with_filter(wanted).with_filter(silent);
    tracing_subscriber::registry().with(lines).init();
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
