//! Services that the application calls: they show by their certificates who they are.

use arc_swap::ArcSwap;
use durward_core::principal::PrincipalId;
use durward_pki::svid::{dns_names, verify_server};
use durward_runtime::tls::{ServerCertificate, Verifier, VerifyServer};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// Verifies servers by the trust bundle that counts now.
#[derive(Debug)]
pub(super) struct Peers {
    trust_domain: String,
    /// The own namespace, in which names without one are.
    namespace: String,
    cluster_domain: String,
    roots: ArcSwap<Vec<CertificateDer<'static>>>,
}

impl Peers {
    pub(super) fn new(own: &PrincipalId, cluster_domain: &str, roots: Vec<CertificateDer<'static>>) -> Arc<Self> {
        let (trust_domain, namespace) = match own {
            PrincipalId::Workload { trust_domain, namespace, .. } => (trust_domain.to_string(), namespace.to_string()),
            _ => Default::default(),
        };
        Arc::new(Self {
            trust_domain,
            namespace,
            cluster_domain: cluster_domain.to_owned(),
            roots: ArcSwap::from_pointee(roots),
        })
    }

    /// Replaces the roots, for every handshake from now on.
    pub(super) fn replace(&self, roots: &[CertificateDer<'static>]) {
        self.roots.store(Arc::new(roots.to_vec()));
    }

    /// A client that shows `certificate` to servers that this verifies.
    pub(super) fn client(self: &Arc<Self>, certificate: Arc<ServerCertificate>) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Verifier::new(Arc::clone(self)))
            .with_client_cert_resolver(certificate);
        // every connection verifies anew, by the roots of its time
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Whether a workload may answer for a host.
    fn speaks_for(&self, id: &PrincipalId, leaf: &CertificateDer<'_>, host: &str) -> bool {
        let PrincipalId::Workload { trust_domain, namespace, .. } = id else { return false };
        if trust_domain.as_ref() != self.trust_domain {
            return false;
        }
        match self.namespace_of(host) {
            Some(of_host) => namespace.as_ref() == of_host,
            // a name that says no namespace has to stand in the certificate
            None => dns_names(leaf).iter().any(|name| name.eq_ignore_ascii_case(host)),
        }
    }

    /// The namespace that the name of a Service is in: `orders`, `orders.shop`, `orders.shop.svc` and with the domain of the
    /// cluster; `pod.orders.shop.svc` too.
    fn namespace_of<'n>(&'n self, host: &'n str) -> Option<&'n str> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if !host.contains('.') {
            return Some(&self.namespace);
        }
        let local = host.strip_suffix(&self.cluster_domain).and_then(|rest| rest.strip_suffix('.'));
        if let Some(service) = local.unwrap_or(host).strip_suffix(".svc") {
            return service.rsplit_once('.').map(|(_, namespace)| namespace);
        }
        let mut labels = host.split('.');
        match (labels.next(), labels.next(), labels.next()) {
            (Some(_), Some(namespace), None) => Some(namespace),
            _ => None,
        }
    }
}

impl VerifyServer for Peers {
    fn verify(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let refused = |error: CertificateError| Error::InvalidCertificate(error);
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let leaf = chain.first().ok_or_else(|| refused(CertificateError::BadEncoding))?;
        let svid = verify_server(chain, &self.roots.load(), now).map_err(|error| {
            tracing::warn!(%error, "a server's certificate does not count");
            refused(CertificateError::UnknownIssuer)
        })?;
        // an address says nothing of who it should be
        let host = if let ServerName::DnsName(name) = name { Some(name.as_ref()) } else { None };
        let id: Option<PrincipalId> = svid.id.parse().ok();
        if !id.zip(host).is_some_and(|(id, host)| self.speaks_for(&id, leaf, host)) {
            tracing::warn!(host, id = svid.id, "a server is not the one that was meant");
            return Err(refused(CertificateError::NotValidForName));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_the_cluster_says_its_namespace() {
        let own = PrincipalId::workload("cluster.local", "shop", "web").expect("a workload");
        let peers = Peers::new(&own, "cluster.local", Vec::new());
        for (host, namespace) in [
            ("orders", Some("shop")),
            ("orders.billing", Some("billing")),
            ("orders.billing.svc", Some("billing")),
            ("orders.billing.svc.", Some("billing")),
            ("orders.billing.svc.cluster.local", Some("billing")),
            ("orders-0.orders.billing.svc", Some("billing")),
            ("orders.billing.svc.other.local", None),
            ("api.orders.example", None),
        ] {
            assert_eq!(peers.namespace_of(host), namespace, "{host}");
        }
    }
}
