//! What can go wrong, each message saying what, where and what to do.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// An error of the test cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, folder or `/proc` entry could not be used.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `create`.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A program could not be started or ended unhappily.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// Exit status, or why it did not start.
        status: String,
        /// What it printed.
        output: String,
    },
    /// This machine can't do what was asked of it.
    #[error("{what}; {remedy}")]
    Refused {
        /// What is missing or not allowed.
        what: String,
        /// The one thing to do about it.
        remedy: String,
    },
    /// A condition did not come true in time.
    #[error("{what} did not happen within {} s{}", after.as_secs(), with_logs(logs))]
    Timeout {
        /// The condition awaited.
        what: String,
        /// How long it was awaited.
        after: Duration,
        /// The last lines of the logs that may tell why.
        logs: String,
    },
    /// A component ended by itself.
    #[error("{name} has ended by itself\n{logs}")]
    Ended {
        /// The component.
        name: &'static str,
        /// The last lines of its log.
        logs: String,
    },
    /// A certificate could not be made.
    #[error("cannot make certificate `{name}`: {source}")]
    Certificate {
        /// Whose certificate.
        name: String,
        /// The cause.
        source: rcgen::Error,
    },
    /// Something read is not what it should be.
    #[error("{what} is not valid: {detail}")]
    Invalid {
        /// What was read.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn with_logs(logs: &str) -> String {
    if logs.is_empty() { String::new() } else { format!("\n{logs}") }
}

impl Error {
    pub(crate) fn refused(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Refused { what: what.into(), remedy: remedy.into() }
    }

    pub(crate) fn invalid(what: impl Into<String>, detail: impl ToString) -> Self {
        Self::Invalid { what: what.into(), detail: detail.to_string() }
    }

    /// Adds the logs to an error of waiting; leaves others as they are.
    pub(crate) fn with_logs(self, tail: impl FnOnce() -> String) -> Self {
        match self {
            Self::Timeout { what, after, logs } if logs.is_empty() => Self::Timeout { what, after, logs: tail() },
            other => other,
        }
    }
}

/// Names the file in an I/O error.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}
