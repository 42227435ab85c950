//! Functions on IP addresses and CIDRs, by the names of Kubernetes' CEL.

use super::function::{ConditionFunction, function};
use super::values::{self, Bool, Cidr, FunctionResult, Int, Ip, Text, failure};
use ipnet::IpNet;
use std::net::IpAddr;

pub(super) const FUNCTIONS: &[ConditionFunction] = &[
    function!("ip" = fallible ip(Text) -> Ip, "Parses an IP address."),
    function!("isIP" = is_ip(Text) -> Bool, "Whether a string is an IP address."),
    function!("string" = ip_text(Ip) -> Text, "The IP address as a string."),
    function!(on "family" = family(Ip) -> Int, "4 or 6, the version of IP."),
    function!(on "isLoopback" = is_loopback(Ip) -> Bool, "Whether the address is of the host itself."),
    function!(on "isUnspecified" = is_unspecified(Ip) -> Bool, "Whether the address is `0.0.0.0` or `::`."),
    function!(on "isLinkLocalUnicast" = is_link_local_unicast(Ip) -> Bool, "Whether the address is of the local link."),
    function!("cidr" = fallible cidr(Text) -> Cidr, "Parses a CIDR, such as `10.0.0.0/8`."),
    function!("isCIDR" = is_cidr(Text) -> Bool, "Whether a string is a CIDR."),
    function!("string" = cidr_text(Cidr) -> Text, "The CIDR as a string."),
    function!(on "containsIP" = contains_ip(Cidr, Ip) -> Bool, "Whether the CIDR contains an address."),
    function!(
        on "containsIP" = fallible contains_ip_text(Cidr, Text) -> Bool,
        "Whether the CIDR contains the address in a string."
    ),
    function!(on "containsCIDR" = contains_cidr(Cidr, Cidr) -> Bool, "Whether the CIDR contains all of another."),
    function!(
        on "containsCIDR" = fallible contains_cidr_text(Cidr, Text) -> Bool,
        "Whether the CIDR contains all of the CIDR in a string."
    ),
    function!(on "ip" = cidr_ip(Cidr) -> Ip, "The address of the CIDR."),
    function!(on "masked" = masked(Cidr) -> Cidr, "The CIDR with all bits of the host set to 0."),
    function!(on "prefixLength" = prefix_length(Cidr) -> Int, "Length of the prefix in bits."),
];

/// An address in the only form that Kubernetes accepts: no IPv4 address in an IPv6 form, no zone.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let mapped = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    text.parse().ok().filter(|ip| !mapped(ip))
}

fn parse_cidr(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    parse_ip(&net.addr().to_string()).map(|_| net)
}

fn ip(text: &Text<'_>) -> FunctionResult<Ip> {
    parse_ip(text.inner()).map_or_else(|| failure("ip", "that is no IP address"), |ip| Ok(Ip(ip)))
}

fn is_ip(text: &Text<'_>) -> Bool {
    parse_ip(text.inner()).is_some().into()
}

fn ip_text(ip: &Ip) -> Text<'static> {
    ip.0.to_string().into()
}

fn family(ip: &Ip) -> Int {
    if ip.0.is_ipv4() { 4 } else { 6 }.into()
}

fn is_loopback(ip: &Ip) -> Bool {
    ip.0.is_loopback().into()
}

fn is_unspecified(ip: &Ip) -> Bool {
    ip.0.is_unspecified().into()
}

fn is_link_local_unicast(ip: &Ip) -> Bool {
    match ip.0 {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
    .into()
}

fn cidr(text: &Text<'_>) -> FunctionResult<Cidr> {
    parse_cidr(text.inner()).map_or_else(|| failure("cidr", "that is no CIDR"), |net| Ok(Cidr(net)))
}

fn is_cidr(text: &Text<'_>) -> Bool {
    parse_cidr(text.inner()).is_some().into()
}

fn cidr_text(cidr: &Cidr) -> Text<'static> {
    cidr.0.to_string().into()
}

fn contains_ip(cidr: &Cidr, ip: &Ip) -> Bool {
    cidr.0.contains(&ip.0).into()
}

fn contains_ip_text(cidr: &Cidr, text: &Text<'_>) -> FunctionResult<Bool> {
    ip(text).map(|ip| contains_ip(cidr, &ip))
}

fn contains_cidr(outer: &Cidr, inner: &Cidr) -> Bool {
    outer.0.contains(&inner.0).into()
}

fn contains_cidr_text(outer: &Cidr, text: &Text<'_>) -> FunctionResult<Bool> {
    cidr(text).map(|inner| contains_cidr(outer, &inner))
}

fn cidr_ip(cidr: &Cidr) -> Ip {
    Ip(cidr.0.addr())
}

fn masked(cidr: &Cidr) -> Cidr {
    Cidr(cidr.0.trunc())
}

fn prefix_length(cidr: &Cidr) -> Int {
    i64::from(cidr.0.prefix_len()).into()
}
