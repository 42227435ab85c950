//! Errors: each message contains the problem, its place and the remedy.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// An error of the test cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file, folder or `/proc` entry could not be used.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// The action as a verb: `read`, `create`.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A program did not start or failed.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// The exit status, or `not started`.
        status: String,
        /// Its output.
        output: String,
    },
    /// This machine lacks a requirement.
    #[error("{what}; {remedy}")]
    Refused {
        /// The requirement.
        what: String,
        /// How to meet it.
        remedy: String,
    },
    /// A condition did not become true in time.
    #[error("{what} did not happen within {} s{}", after.as_secs(), with_logs(logs))]
    Timeout {
        /// The condition.
        what: String,
        /// The time limit.
        after: Duration,
        /// The last lines of related logs.
        logs: String,
    },
    /// A component ended unexpectedly.
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
        /// The subject of the certificate.
        name: String,
        /// The cause.
        source: rcgen::Error,
    },
    /// Data of an unexpected form.
    #[error("{what} is not valid: {detail}")]
    Invalid {
        /// The data.
        what: String,
        /// The error in it.
        detail: String,
    },
}

/// The result of every function here.
pub type ClusterResult<T, E = ClusterError> = std::result::Result<T, E>;

fn with_logs(logs: &str) -> String {
    if logs.is_empty() { String::new() } else { format!("\n{logs}") }
}

impl ClusterError {
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
    fn at(self, action: &'static str, path: &Path) -> ClusterResult<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> ClusterResult<T> {
        self.map_err(|source| ClusterError::Io { action, path: path.to_owned(), source })
    }
}
