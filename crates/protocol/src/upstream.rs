//! Address of the application behind a gate, as a setting or an annotation gives it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use thiserror::Error;
use url::{Host, Url};

/// The application behind a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its address, on loopback.
    pub address: SocketAddr,
    /// Whether it expects HTTP/2 for all requests, not only for gRPC.
    pub http2: bool,
}

/// The text is not the address of an application on this host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{0}` is not the address of an application behind this gate; write `http://127.0.0.1:PORT`, or \
     `h2c://127.0.0.1:PORT` if it speaks HTTP/2 alone. It must listen on loopback only, because other clients that \
     reach it could forge identity headers"
)]
pub struct UpstreamError(String);

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        let invalid = || UpstreamError(text.to_owned());
        let url: Url = text.parse().map_err(|_| invalid())?;
        let http2 = match url.scheme() {
            "http" => false,
            "h2c" => true,
            _ => return Err(invalid()),
        };
        // under a scheme that the URL standard does not know, an address is parsed as a domain
        let host = match url.host() {
            Some(Host::Domain("localhost")) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Some(Host::Domain(name)) => name.parse().ok(),
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            None => None,
        };
        let host = host.filter(IpAddr::is_loopback).ok_or_else(invalid)?;
        let port = url.port_or_known_default().filter(|port| *port > 0).ok_or_else(invalid)?;
        let has_no_path = matches!(url.path(), "" | "/") && url.query().is_none() && url.username().is_empty();
        if has_no_path { Ok(Self { address: SocketAddr::new(host, port), http2 }) } else { Err(invalid()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_are_on_this_host() {
        for (text, valid) in [
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
            assert_eq!(text.parse::<Upstream>().is_ok(), valid, "{text}");
        }
    }
}
