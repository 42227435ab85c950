//! Addresses to listen on, as arguments.

use std::net::{Ipv4Addr, SocketAddr};
use thiserror::Error;

/// A text is not an address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("write IP:PORT, such as 127.0.0.1:8180 or [::1]:8180; names other than `localhost` are not looked up")]
pub struct AddressError;

/// Parses an address to listen on. `localhost` is 127.0.0.1.
///
/// # Errors
/// When the text is not an IP address with a port.
pub fn parse_address(text: &str) -> Result<SocketAddr, AddressError> {
    if let Some(port) = text.strip_prefix("localhost:") {
        return port.parse().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map_err(|_| AddressError);
    }
    text.parse().map_err(|_| AddressError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_the_only_name() {
        assert_eq!(parse_address("localhost:8180"), Ok(SocketAddr::from(([127, 0, 0, 1], 8180))));
        assert_eq!(parse_address("127.0.0.1:0"), Ok(SocketAddr::from(([127, 0, 0, 1], 0))));
        for text in ["example.com:80", ":8180", "8180", "localhost", "localhost:x", "127.0.0.1"] {
            assert_eq!(parse_address(text), Err(AddressError), "{text}");
        }
    }
}
