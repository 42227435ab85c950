//! The application behind a gate, as a setting or an annotation names it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use thiserror::Error as ThisError;
use url::{Host, Url};

/// Where the application listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its address, on loopback.
    pub address: SocketAddr,
    /// Whether it speaks HTTP/2 for everything, not only for gRPC.
    pub http2: bool,
}

/// A text names no application.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[error(
    "`{0}` is no application behind this gate; write `http://127.0.0.1:PORT`, or `h2c://127.0.0.1:PORT` if it speaks HTTP/2 alone. \
     It has to be on loopback: whoever else reaches it could write identity headers of its own"
)]
pub struct UpstreamError(String);

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        let wrong = || UpstreamError(text.to_owned());
        let url: Url = text.parse().map_err(|_| wrong())?;
        let http2 = match url.scheme() {
            "http" => false,
            "h2c" => true,
            _ => return Err(wrong()),
        };
        // a host of a scheme that the standard does not know is a text, whatever it is
        let host = match url.host() {
            Some(Host::Domain("localhost")) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Some(Host::Domain(name)) => name.parse().ok(),
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            None => None,
        };
        let host = host.filter(IpAddr::is_loopback).ok_or_else(wrong)?;
        let port = url.port_or_known_default().filter(|port| *port > 0).ok_or_else(wrong)?;
        let bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.username().is_empty();
        if bare { Ok(Self { address: SocketAddr::new(host, port), http2 }) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_on_this_host() {
        for (text, good) in [
            ("http://127.0.0.1:8080", true),
            ("http://localhost:8080/", true),
            ("http://[::1]:8080", true),
            ("h2c://127.0.0.1:50051", true),
            ("http://10.0.0.1:8080", false),
            ("http://orders:8080", false),
            ("https://127.0.0.1:8443", false),
            ("http://127.0.0.1:8080/base", false),
            ("127.0.0.1:8080", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Upstream>().is_ok(), good, "{text}");
        }
    }
}
