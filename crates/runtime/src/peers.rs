//! The peer of a connection, and which peers are trusted to speak for others.

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
    /// Whether the connection uses TLS.
    pub secure: bool,
    /// Its certificate chain, leaf first, verified in the handshake.
    pub certificate: Option<Arc<[CertificateDer<'static>]>>,
    /// The SPIFFE ID in the certificate.
    pub id: Option<PrincipalId>,
}

/// A peer or a network of peers in a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerName {
    /// Every peer in a network.
    Network(IpNet),
    /// The peer whose certificate has this SPIFFE ID.
    Workload(PrincipalId),
}

/// The text does not name a peer.
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

/// The peers that are trusted to speak for others.
#[derive(Debug, Clone, Default)]
pub struct TrustedPeers {
    /// Proxies whose forwarded-request headers are trusted. Their own certificate is not the caller's.
    pub proxies: Vec<PeerName>,
    /// Proxies that are also trusted to forward the certificate of their client.
    pub client_certificates: Vec<PeerName>,
    /// Enforcement points that may ask for a decision about any principal.
    pub enforcement_points: Vec<PeerName>,
}

impl TrustedPeers {
    /// Whether forwarded-request headers of the peer are trusted.
    #[must_use]
    pub fn is_proxy(&self, peer: &Peer) -> bool {
        contains(&self.proxies, peer)
    }

    /// Whether the peer is trusted to forward the certificate of its client.
    #[must_use]
    pub fn forwards_certificates(&self, peer: &Peer) -> bool {
        contains(&self.client_certificates, peer)
    }

    /// Whether the peer may ask for a decision about any principal.
    #[must_use]
    pub fn is_enforcement_point(&self, peer: &Peer) -> bool {
        contains(&self.enforcement_points, peer)
    }

    /// The certificate of the caller: that of the peer, unless the peer speaks for others.
    ///
    /// A peer that is named by its SPIFFE ID always speaks for others. In a trusted network there can be proxies and
    /// callers: there, a peer speaks for another one if the request is `forwarded`.
    #[must_use]
    pub fn caller_certificate<'p>(&self, peer: &'p Peer, forwarded: bool) -> Option<&'p [CertificateDer<'static>]> {
        let named = |names: &[PeerName]| {
            names.iter().any(|name| matches!(name, PeerName::Workload(id) if peer.id.as_ref() == Some(id)))
        };
        let is_named = named(&self.proxies) || named(&self.client_certificates) || named(&self.enforcement_points);
        if is_named || forwarded && (self.is_proxy(peer) || self.forwards_certificates(peer)) {
            return None;
        }
        peer.certificate.as_deref()
    }
}

/// Whether one of the names covers the peer.
fn contains(names: &[PeerName], peer: &Peer) -> bool {
    // on a dual-stack socket, an IPv4 address has its IPv6-mapped form
    let address = peer.address.ip().to_canonical();
    names.iter().any(|name| match name {
        PeerName::Network(network) => network.contains(&address),
        PeerName::Workload(id) => peer.id.as_ref() == Some(id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The certificate of a trusted proxy is not the caller's, however the proxy is named.
    #[test]
    fn a_proxy_does_not_lend_its_certificate() {
        let id: PrincipalId = "spiffe://cluster.local/ns/edge/sa/envoy".parse().expect("a SPIFFE ID");
        let certificate = vec![CertificateDer::from(vec![1])].into();
        let address = "10.0.0.7:4711".parse().expect("an address");
        let peer = Peer { address, secure: true, certificate: Some(certificate), id: Some(id.clone()) };
        let network = || vec!["10.0.0.0/8".parse().expect("a network")];
        let named = || vec![PeerName::Workload(id.clone())];
        for (trust, own, forwarded) in [
            (TrustedPeers::default(), true, true),
            (TrustedPeers { proxies: network(), ..TrustedPeers::default() }, true, false),
            (TrustedPeers { client_certificates: network(), ..TrustedPeers::default() }, true, false),
            (TrustedPeers { enforcement_points: network(), ..TrustedPeers::default() }, true, true),
            (TrustedPeers { proxies: named(), ..TrustedPeers::default() }, false, false),
            (TrustedPeers { client_certificates: named(), ..TrustedPeers::default() }, false, false),
            (TrustedPeers { enforcement_points: named(), ..TrustedPeers::default() }, false, false),
        ] {
            assert_eq!(trust.caller_certificate(&peer, false).is_some(), own, "{trust:?}");
            assert_eq!(trust.caller_certificate(&peer, true).is_some(), forwarded, "{trust:?}");
        }
    }

    #[test]
    fn peers_are_named_by_network_or_spiffe_id() {
        for (text, valid) in [
            ("10.0.0.0/8", true),
            ("::1", true),
            ("127.0.0.1", true),
            ("spiffe://cluster.local/ns/edge/sa/envoy", true),
            ("user:corporate/alice", false),
            ("localhost", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<PeerName>().is_ok(), valid, "{text}");
        }
    }
}
