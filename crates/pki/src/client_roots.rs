//! Clients that are no workloads, such as the Kubernetes API server, by the CA that issues their certificates.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// The roots that verify the certificates of such clients.
#[derive(Debug, Clone)]
pub struct ClientRoots(Vec<TrustAnchor<'static>>);

/// A file of roots can't be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClientRootsError {
    /// It is not PEM, or a certificate in it can't be read.
    #[error("it has a certificate that can't be read: {0}")]
    Unreadable(String),
    /// It has no certificate.
    #[error("it has no certificate in PEM")]
    Empty,
}

impl ClientRoots {
    /// Reads root certificates in PEM.
    ///
    /// # Errors
    /// When one can't be read, or there is none.
    pub fn parse(pem: &[u8]) -> Result<Self, ClientRootsError> {
        let roots = CertificateDer::pem_slice_iter(pem)
            .map(|root| {
                let root = root.map_err(|error| ClientRootsError::Unreadable(error.to_string()))?;
                let anchor = anchor_from_trusted_cert(&root);
                anchor.map(|anchor| anchor.to_owned()).map_err(|error| ClientRootsError::Unreadable(error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if roots.is_empty() { Err(ClientRootsError::Empty) } else { Ok(Self(roots)) }
    }

    /// Whether a chain, leaf first, leads to one of the roots, and is valid for a client at `now`.
    #[must_use]
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some((leaf, intermediates)) = chain.split_first() else { return false };
        let Ok(end_entity) = EndEntityCert::try_from(leaf) else { return false };
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        let usage = KeyUsage::client_auth();
        end_entity.verify_for_usage(algorithms, &self.0, intermediates, now, usage, None, None).is_ok()
    }
}

/// The common name of a certificate, which is the name of a Kubernetes user.
#[must_use]
pub fn common_name(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let mut names = certificate.subject().iter_common_name();
    let name = names.next()?.as_str().ok()?.to_owned();
    // with two names, another reader could take the other one
    names.next().is_none().then_some(name)
}
