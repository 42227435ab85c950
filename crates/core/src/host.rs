//! Host names, in the one form in which they are compared.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use thiserror::Error;

/// A host: a DNS name in lower case without trailing dot, or an IP address; never a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(Arc<str>);

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no host name: write a DNS name in ASCII (for other scripts its `xn--` form) or an IP address, without port"
)]
pub struct HostError(String);

impl Host {
    /// Reads a host as a policy writes it: no port, no wildcard.
    ///
    /// # Errors
    /// When `text` is no DNS name (RFC 1123) and no IP address.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        Self::canonical(text).ok_or_else(|| HostError(text.chars().take(64).collect()))
    }

    /// Reads the host of a request: a `Host` or `:authority` value, which may carry a port.
    ///
    /// # Errors
    /// When it is not `uri-host [":" port]` of RFC 9110 section 7.2 with a name that [`Host::parse`] accepts.
    pub fn of_authority(authority: &str) -> Result<Self, HostError> {
        let host = match authority.rsplit_once(':') {
            // an IPv6 address without port ends with `]`
            Some((host, port)) if !authority.ends_with(']') => {
                if port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(HostError(authority.chars().take(64).collect()));
                }
                host
            }
            _ => authority,
        };
        Self::parse(host)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn canonical(text: &str) -> Option<Self> {
        if let Some(inner) = text.strip_prefix('[') {
            let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
            return Some(Self(format!("[{address}]").into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Self(address.to_string().into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        // the last label of a name is never a number: that would be an address in another spelling
        let last = name.rsplit('.').next()?;
        let numeric = last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit());
        let named = name.len() <= 253 && name.split('.').all(is_label);
        (named && !numeric).then(|| Self(name.into()))
    }
}

/// A label of a host name; underscores occur in names of services, so they are let through.
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
    fn spellings_of_one_host_are_one() {
        for text in ["orders.example.com", "ORDERS.Example.com", "orders.example.com.", "orders.example.com:8443"] {
            assert_eq!(Host::of_authority(text).expect(text).as_str(), "orders.example.com");
        }
        assert_eq!(Host::of_authority("[::1]:80").expect("v6").as_str(), "[::1]");
        assert_eq!(Host::of_authority("[0:0::1]").expect("v6").as_str(), "[::1]");
        assert_eq!(Host::of_authority("127.0.0.1:80").expect("v4").as_str(), "127.0.0.1");
    }

    #[test]
    fn what_is_no_host_is_refused() {
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
