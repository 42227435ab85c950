//! Flags of the OpenFGA client.

use super::error::OpenFgaDurationError;
use durward_runtime::duration::parse_duration;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// A request delays the decision that waits for it.
const MAX_TIMEOUT: Duration = Duration::from_secs(10);
/// A cached answer outlives the deletion of its tuple by this at most.
const MAX_CACHE: Duration = Duration::from_secs(300);

/// The OpenFGA server of an installation.
#[derive(Debug, Clone, clap::Args)]
pub struct OpenFgaSettings {
    /// OpenFGA server for policies with `relationEngine`: an https URL, or an http URL of this host
    #[arg(long, value_name = "URL", env = "DURWARD_OPENFGA_URL")]
    pub(super) openfga_url: Option<Url>,
    /// File with the API token of the OpenFGA server. It is read for every request
    #[arg(long, value_name = "FILE", requires = "openfga_url")]
    pub(super) openfga_token_file: Option<PathBuf>,
    /// PEM file with the roots that the OpenFGA server is verified by, instead of the public ones. It is read for every
    /// request
    #[arg(long, value_name = "FILE", requires = "openfga_url")]
    pub(super) openfga_ca_file: Option<PathBuf>,
    /// Timeout of the OpenFGA server, up to 10s. After it a grant by relation gives nothing
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = timeout)]
    pub(super) openfga_timeout: Duration,
    /// How long an answer of the OpenFGA server is cached, up to 5m; `0s` turns the cache off
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = cache_duration)]
    pub(super) openfga_cache: Duration,
}

fn timeout(text: &str) -> Result<Duration, OpenFgaDurationError> {
    match parse_duration(text) {
        Ok(timeout) if !timeout.is_zero() && timeout <= MAX_TIMEOUT => Ok(timeout),
        _ => Err(OpenFgaDurationError::Timeout(text.to_owned())),
    }
}

fn cache_duration(text: &str) -> Result<Duration, OpenFgaDurationError> {
    match parse_duration(text) {
        Ok(period) if period <= MAX_CACHE => Ok(period),
        _ => Err(OpenFgaDurationError::Cache(text.to_owned())),
    }
}
