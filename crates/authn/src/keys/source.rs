//! Where the keys of an issuer come from.

use thiserror::Error;
use url::Url;

/// The source of an issuer's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The JWKS itself, as JSON.
    Inline(String),
    /// URL of a JWKS.
    Url(Url),
    /// URL of an issuer whose discovery document names the JWKS (OpenID Connect Discovery, section 4).
    Issuer(Url),
}

/// A text is not a URL from which keys can be fetched.
///
/// The text of the error can become part of an audit record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyUrlError {
    /// The text is not a URL.
    #[error("`{text}` is no URL: {error}")]
    NotUrl {
        /// The text.
        text: String,
        /// What is wrong with it.
        error: url::ParseError,
    },
    /// The URL is neither https, nor http on this host.
    #[error("keys are fetched by https only, but for this host; `{0}` is neither")]
    Insecure(String),
}

impl KeySource {
    /// A URL from which keys can be fetched: https, or http on this host.
    ///
    /// # Errors
    /// When the text is not such a URL.
    pub fn url(text: &str) -> Result<Url, KeyUrlError> {
        let url = Url::parse(text).map_err(|error| KeyUrlError::NotUrl { text: text.to_owned(), error })?;
        if is_secure(&url) { Ok(url) } else { Err(KeyUrlError::Insecure(text.to_owned())) }
    }
}

/// Whether requests to the URL can't be read on the network: https, or http on this host.
#[must_use]
pub fn is_secure(url: &Url) -> bool {
    let local = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "https" || url.scheme() == "http" && local
}
