//! Why a gate can't start, or can't use a new certificate.

use durward_core::principal::{PrincipalId, PrincipalIdError};
use durward_pki::svid::SvidError;
use durward_runtime::tls::TlsError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use thiserror::Error;

/// Why a gate can't start, or can't use a new certificate.
#[derive(Debug, Error)]
pub enum GateError {
    /// The address for the application's calls is not on loopback.
    #[error("--outbound {0} would give the pod's identity to others; use 127.0.0.1")]
    PublicOutbound(SocketAddr),
    /// A file can't be read.
    #[error("can't read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file can be read but not used.
    #[error("{}: {problem}", .path.display())]
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: CertificateFileProblem,
    },
    /// The certificate belongs to another trust domain.
    #[error("the certificate is of {id}, not of trust domain {trust_domain}")]
    ForeignTrustDomain {
        /// Subject of the certificate.
        id: PrincipalId,
        /// Trust domain of the gate.
        trust_domain: String,
    },
    /// The certificate has expired already.
    #[error("the certificate of {0} has expired")]
    Expired(PrincipalId),
    /// The subject of the certificate is not a workload.
    #[error(transparent)]
    Subject(#[from] PrincipalIdError),
    /// TLS can't be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What is wrong with a file of certificates.
#[derive(Debug, Error)]
pub enum CertificateFileProblem {
    /// It is not PEM.
    #[error("{0}")]
    Pem(rustls_pki_types::pem::Error),
    /// It has no certificate.
    #[error("there is no certificate in it")]
    NoCertificate,
    /// The certificate is not an X.509-SVID.
    #[error(transparent)]
    Svid(SvidError),
    /// The certificate is not that of a workload.
    #[error("`{0}` is not a workload")]
    NotAWorkload(String),
    /// It has no usable key.
    #[error("its key: {0}")]
    Key(rustls_pki_types::pem::Error),
}
