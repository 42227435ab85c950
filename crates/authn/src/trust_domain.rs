//! The trust domain of this installation.

use crate::keys::KeySource;
use rustls_pki_types::CertificateDer;

/// The trust domain of the cluster's own workloads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustDomain {
    /// Name of the trust domain.
    pub name: String,
    /// Roots of its certificates.
    pub roots: Vec<CertificateDer<'static>>,
    /// Keys of its JWT-SVIDs and access tokens, as a JWKS in JSON.
    pub own_keys: Option<String>,
    /// Issuer of the cluster's service-account tokens.
    pub service_accounts: Option<ServiceAccountIssuer>,
}

/// The cluster's issuer of service-account tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccountIssuer {
    /// The exact `iss` of its tokens.
    pub issuer: String,
    /// Source of its keys.
    pub keys: KeySource,
}
