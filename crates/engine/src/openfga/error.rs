//! Errors of the OpenFGA client.

use reqwest::StatusCode;
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use url::Url;

/// The URL would send questions and the token unencrypted over a network.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("--openfga-url {0}: use https, or http on this host")]
pub struct OpenFgaUrlError(pub Url);

/// A duration is malformed or too long.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum OpenFgaDurationError {
    #[error("`{0}` is not a duration up to 10s, such as `500ms`")]
    Timeout(String),
    #[error("`{0}` is not a duration up to 5m, such as `5s`")]
    Cache(String),
}

/// Relations could not be asked of OpenFGA. The text is the failure in audit records.
#[derive(Debug, Error)]
pub enum OpenFgaRequestError {
    #[error("OpenFGA did not answer within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Closed(#[from] tokio::sync::AcquireError),
    #[error("the URL of OpenFGA has no path")]
    UrlWithoutPath,
    /// Only the last cause, which names no more of the request than its address.
    #[error("OpenFGA can't be reached: {}", last_cause(.0))]
    Unreachable(reqwest::Error),
    #[error("OpenFGA answered {0}")]
    Status(StatusCode),
    #[error("OpenFGA answered with more than {0} bytes")]
    TooLarge(usize),
    #[error("the answer of OpenFGA can't be read: {0}")]
    Unreadable(serde_json::Error),
    #[error("can't read the roots of OpenFGA in {}: {source}", .file.display())]
    RootsFile { file: PathBuf, source: io::Error },
    #[error("roots of OpenFGA in {}: {message}", .file.display())]
    Roots { file: PathBuf, message: String },
    #[error("can't read the token for OpenFGA in {}", .0.display())]
    Token(PathBuf),
    #[error("{0}")]
    Client(reqwest::Error),
}

fn last_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), last_cause)
}
