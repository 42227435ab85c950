//! How results are printed.

use crate::cli::Failure;
use serde::Serialize;
use std::io::{IsTerminal, Write};

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

/// Logs to standard error, by `DURWARD_LOG`. kube's client quotes answers that it can't read, Secrets among them: it
/// is silent whatever the setting.
pub(crate) fn log_to_stderr() {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("DURWARD_LOG").unwrap_or_else(|_| "warn,durward=info".into());
    let silent = ["kube_client=off", "kube_runtime=off"].iter().filter_map(|directive| directive.parse().ok());
    let filter = silent.fold(filter, tracing_subscriber::EnvFilter::add_directive);
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).with_env_filter(filter).init();
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
