//! Host names, in the form in which they are compared.

use serde::{Deserialize, Serialize};
use std::borrow::{Borrow, Cow};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use thiserror::Error;

/// A host: a DNS name in lower case without trailing dot, or an IP address. It never has a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(Arc<str>);

/// A text is not a host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not a host name: write a DNS name in ASCII (for other scripts its `xn--` form) or an IP address, \
     without port"
)]
pub struct HostError(String);

impl Host {
    /// Reads a host as a policy writes it: no port, no wildcard.
    ///
    /// # Errors
    /// When `text` is neither a DNS name (RFC 1123) nor an IP address.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        canonical(text).map(|name| Self(name.into())).ok_or_else(|| HostError(text.chars().take(64).collect()))
    }

    /// Reads the host of a request: a `Host` or `:authority` value, which may carry a port.
    ///
    /// # Errors
    /// When it is not `uri-host [":" port]` of RFC 9110 section 7.2 with a name that [`Host::parse`] accepts.
    pub fn of_authority(authority: &str) -> Result<Self, HostError> {
        canonical_of_authority(authority)
            .map(|name| Self(name.into()))
            .ok_or_else(|| HostError(authority.chars().take(64).collect()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The host of an authority, in the form in which hosts are compared.
pub(crate) fn canonical_of_authority(authority: &str) -> Option<Cow<'_, str>> {
    match authority.rsplit_once(':') {
        // an IPv6 address without port ends with `]`
        Some((host, port)) if !authority.ends_with(']') => {
            let is_port = !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
            is_port.then(|| canonical(host)).flatten()
        }
        _ => canonical(authority),
    }
}

fn canonical(text: &str) -> Option<Cow<'_, str>> {
    if let Some(inner) = text.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]").into());
    }
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(address.to_string().into());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let name = if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    // the last label of a name is never a number, or it would be an IPv4 address in another spelling
    let last = name.rsplit('.').next()?;
    let numeric = last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit());
    let named = name.len() <= 253 && name.split('.').all(is_label);
    (named && !numeric).then_some(name)
}

/// A label of a host name. Underscores are accepted, since names of services contain them.
fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Host {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Host {
    type Error = HostError;

    fn try_from(text: String) -> Result<Self, HostError> {
        Self::parse(&text)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_host_are_equal() {
        for text in ["orders.example.com", "ORDERS.Example.com", "orders.example.com.", "orders.example.com:8443"] {
            assert_eq!(Host::of_authority(text).expect(text).as_str(), "orders.example.com");
        }
        assert_eq!(Host::of_authority("[::1]:80").expect("v6").as_str(), "[::1]");
        assert_eq!(Host::of_authority("[0:0::1]").expect("v6").as_str(), "[::1]");
        assert_eq!(Host::of_authority("127.0.0.1:80").expect("v4").as_str(), "127.0.0.1");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "a b",
            "a/b",
            "a@b",
            "*.example.com",
            "münchen.de",
            "a:b",
            "a:",
            "a:123456",
            "::1",
            "[::1",
            "0x7f.1",
            "127.1",
            "2130706433",
            "-a.com",
            "a\0b",
            "a,b",
            "a:80:90",
        ] {
            assert!(Host::of_authority(text).is_err(), "{text:?}");
        }
    }
}
