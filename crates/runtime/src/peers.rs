//! Which peers are believed what they say of others.

use durward_core::principal::PrincipalId;
use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// Its certificate chain, verified in the handshake.
    pub certificate: Option<Arc<[CertificateDer<'static>]>>,
    /// The workload that the certificate names.
    pub id: Option<PrincipalId>,
}

/// A peer, or a network of peers, as a setting names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerName {
    /// By address.
    Network(IpNet),
    /// By certificate.
    Workload(PrincipalId),
}

/// A text names no peer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is neither an address, nor a network such as `10.0.0.0/8`, nor a SPIFFE ID")]
pub struct PeerNameError(String);

impl FromStr for PeerName {
    type Err = PeerNameError;

    fn from_str(text: &str) -> Result<Self, PeerNameError> {
        if let Ok(network) = text.parse() {
            return Ok(Self::Network(network));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        match text.parse::<PrincipalId>() {
            Ok(id) if id.is_workload() => Ok(Self::Workload(id)),
            _ => Err(PeerNameError(text.to_owned())),
        }
    }
}

/// Which peers are believed what.
#[derive(Debug, Clone, Default)]
pub struct TrustedPeers {
    /// Proxies: believed which request they forward, and their own certificate is not the caller's.
    pub proxies: Vec<PeerName>,
    /// Proxies that are also believed which certificate their client showed them.
    pub client_certificates: Vec<PeerName>,
    /// Enforcement points that may ask about anybody by name.
    pub enforcement_points: Vec<PeerName>,
}

impl TrustedPeers {
    /// Whether the peer is believed which request it forwards.
    #[must_use]
    pub fn is_proxy(&self, peer: &Peer) -> bool {
        any(&self.proxies, peer)
    }

    /// Whether the peer is believed which certificate its client showed.
    #[must_use]
    pub fn forwards_certificates(&self, peer: &Peer) -> bool {
        any(&self.client_certificates, peer)
    }

    /// Whether the peer may ask about anybody by name.
    #[must_use]
    pub fn is_enforcement_point(&self, peer: &Peer) -> bool {
        any(&self.enforcement_points, peer)
    }

    /// The certificate of the caller, if the peer is the caller: a proxy's own is not.
    #[must_use]
    pub fn caller_certificate<'p>(&self, peer: &'p Peer) -> Option<&'p [CertificateDer<'static>]> {
        let named = |names: &[PeerName]| {
            names.iter().any(|name| matches!(name, PeerName::Workload(id) if peer.id.as_ref() == Some(id)))
        };
        let proxy = named(&self.proxies) || named(&self.client_certificates) || named(&self.enforcement_points);
        peer.certificate.as_deref().filter(|_| !proxy)
    }
}

fn any(names: &[PeerName], peer: &Peer) -> bool {
    // an address of IPv4 can arrive in the form of IPv6
    let address = peer.address.ip().to_canonical();
    names.iter().any(|name| match name {
        PeerName::Network(network) => network.contains(&address),
        PeerName::Workload(id) => peer.id.as_ref() == Some(id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_by_network_or_certificate() {
        for (text, good) in [
            ("10.0.0.0/8", true),
            ("::1", true),
            ("127.0.0.1", true),
            ("spiffe://cluster.local/ns/edge/sa/envoy", true),
            ("user:corporate/alice", false),
            ("localhost", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<PeerName>().is_ok(), good, "{text}");
        }
    }
}
