//! Where a connection comes from, for shares per source.

use std::net::{IpAddr, Ipv6Addr};

/// Prefix of an IPv6 network that one host usually has for itself.
const IPV6_PREFIX: u32 = 64;

/// The address of a host, or the IPv6 network that a host chooses its addresses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SourceAddress(IpAddr);

impl From<IpAddr> for SourceAddress {
    fn from(address: IpAddr) -> Self {
        // on a dual-stack socket, an IPv4 address has its IPv6-mapped form
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - IPV6_PREFIX))))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// The part of a limit that one source may use, at least one.
#[must_use]
pub const fn share_of(limit: usize, percent: u8) -> usize {
    // first the division, which can't overflow
    let share = limit / 100 * percent as usize + limit % 100 * percent as usize / 100;
    if share == 0 { 1 } else { share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_host_are_one_source() {
        let source = |text: &str| SourceAddress::from(text.parse::<IpAddr>().expect("an address"));
        for (one, other, same) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:0:0:2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(source(one) == source(other), same, "{one} {other}");
        }
    }

    #[test]
    fn a_share_is_never_zero() {
        for (limit, percent, share) in [(4096, 50, 2048), (10, 33, 3), (1, 50, 1), (usize::MAX, 100, usize::MAX)] {
            assert_eq!(share_of(limit, percent), share, "{percent} % of {limit}");
        }
    }
}
