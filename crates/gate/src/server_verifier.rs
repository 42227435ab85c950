//! Verifies the services that the application calls, by their certificates.

use arc_swap::ArcSwap;
use durward_core::principal::PrincipalId;
use durward_pki::svid::{dns_names, verify_server};
use durward_runtime::tls::{HandshakeVerifier, ReloadableCertificate, VerifyServer};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, Error};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// Verifies servers by the current trust bundle.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    trust_domain: String,
    /// The namespace of the pod, for names without a namespace.
    namespace: String,
    cluster_domain: String,
    roots: ArcSwap<Vec<CertificateDer<'static>>>,
}

impl ServerVerifier {
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

    /// A client that presents `certificate` to the servers that this verifier accepts.
    pub(super) fn client(self: &Arc<Self>, certificate: Arc<ReloadableCertificate>) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(HandshakeVerifier::new(Arc::clone(self)))
            .with_client_cert_resolver(certificate);
        // every connection verifies again, by the current roots
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// Whether a workload may serve a host.
    fn speaks_for(&self, id: &PrincipalId, leaf: &CertificateDer<'_>, host: &str) -> bool {
        let PrincipalId::Workload { trust_domain, namespace, .. } = id else { return false };
        if trust_domain.as_ref() != self.trust_domain {
            return false;
        }
        match self.namespace_of(host) {
            Some(of_host) => namespace.as_ref() == of_host,
            // a name without a namespace must be in the certificate
            None => dns_names(leaf).iter().any(|name| name.eq_ignore_ascii_case(host)),
        }
    }

    /// The namespace of the name of a Service: `orders`, `orders.shop.svc` and with the domain of the cluster;
    /// `pod.orders.shop.svc` too. `orders.shop` has none: it could be a name of the internet, such as `google.com`.
    fn namespace_of<'n>(&'n self, host: &'n str) -> Option<&'n str> {
        let host = host.strip_suffix('.').unwrap_or(host);
        if !host.contains('.') {
            return Some(&self.namespace);
        }
        let local = host.strip_suffix(&self.cluster_domain).and_then(|rest| rest.strip_suffix('.'));
        let service = local.unwrap_or(host).strip_suffix(".svc")?;
        service.rsplit_once('.').map(|(_, namespace)| namespace)
    }
}

impl VerifyServer for ServerVerifier {
    fn verify(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let refused = |error: CertificateError| Error::InvalidCertificate(error);
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let leaf = chain.first().ok_or_else(|| refused(CertificateError::BadEncoding))?;
        let svid = verify_server(chain, &self.roots.load(), now).map_err(|error| {
            tracing::warn!(%error, "the certificate of a server is not valid; closing the connection");
            refused(CertificateError::UnknownIssuer)
        })?;
        // an address names no workload
        let host = if let ServerName::DnsName(name) = name { Some(name.as_ref()) } else { None };
        let id: Option<PrincipalId> = svid.id.parse().ok();
        if !id.zip(host).is_some_and(|(id, host)| self.speaks_for(&id, leaf, host)) {
            tracing::warn!(
                host,
                id = svid.id,
                "the certificate of a server names another workload; closing the connection"
            );
            return Err(refused(CertificateError::NotValidForName));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names_yield_a_namespace() {
        let own = PrincipalId::workload("cluster.local", "shop", "web").expect("a workload");
        let peers = ServerVerifier::new(&own, "cluster.local", Vec::new());
        for (host, namespace) in [
            ("orders", Some("shop")),
            ("orders.billing", None),
            ("google.com", None),
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
