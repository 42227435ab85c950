//! Verification and parsing of X.509-SVIDs.

use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// Maximum number of certificates in a chain; a longer chain only costs time.
const MAX_CHAIN: usize = 8;

/// How far `not_before` is set back for clocks that differ, in seconds.
pub const BACKDATE: i64 = 60;

/// Content of a leaf certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct X509Svid {
    /// SPIFFE ID, unparsed.
    pub id: String,
    /// Start of the validity, in Unix seconds.
    pub not_before: i64,
    /// End of the validity, in Unix seconds.
    pub not_after: i64,
    /// Serial number, most significant byte first.
    pub serial: Vec<u8>,
}

/// Why a certificate chain is not a valid X.509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SvidError {
    /// The certificate is not X.509 in DER.
    #[error("the certificate can't be read")]
    Unreadable,
    /// The chain has too many certificates.
    #[error("the certificate chain is too long")]
    TooLong,
    /// SPIFFE X509-SVID, section 2: exactly one URI.
    #[error("the certificate must have one URI name; it has {0}")]
    Uris(usize),
    /// SPIFFE X509-SVID, section 5.2: a leaf is not a CA.
    #[error("the certificate is a CA certificate")]
    Authority,
    /// SPIFFE X509-SVID, section 4.3.
    #[error("the certificate's key usage must allow signatures and must not allow signing certificates or CRLs")]
    KeyUsage,
    /// The chain does not lead to a trusted root, or is not valid at this time.
    #[error("the certificate chain is not valid: {0}")]
    Chain(webpki::Error),
}

/// Parses a leaf, without verifying its chain.
///
/// # Errors
/// When the certificate does not fit the profile.
pub fn parse(leaf: &CertificateDer<'_>) -> Result<X509Svid, SvidError> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(|_| SvidError::Unreadable)?;
    if !rest.is_empty() {
        return Err(SvidError::Unreadable);
    }
    if certificate.is_ca() {
        return Err(SvidError::Authority);
    }
    let usage = certificate.key_usage().map_err(|_| SvidError::Unreadable)?.ok_or(SvidError::KeyUsage)?.value;
    if !usage.digital_signature() || usage.key_cert_sign() || usage.crl_sign() {
        return Err(SvidError::KeyUsage);
    }
    let uris = uris(&certificate)?;
    match uris.as_slice() {
        [id] => Ok(X509Svid {
            id: id.clone(),
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
            serial: certificate.raw_serial().to_vec(),
        }),
        others => Err(SvidError::Uris(others.len())),
    }
}

fn uris(certificate: &X509Certificate<'_>) -> Result<Vec<String>, SvidError> {
    let names = certificate.subject_alternative_name().map_err(|_| SvidError::Unreadable)?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let uris =
        names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None });
    Ok(uris.collect())
}

/// DNS names of a certificate, for display; empty if the certificate is unreadable.
#[must_use]
pub fn dns_names(leaf: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(leaf) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let names = names
        .iter()
        .filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None });
    names.collect()
}

/// End of a certificate's validity, in Unix seconds; `None` if the certificate is unreadable.
#[must_use]
pub fn not_after(leaf: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Verifies a client's chain, leaf first, against `roots`, and parses the leaf.
///
/// # Errors
/// When the chain is not valid at `now` (Unix seconds), or the leaf does not fit the profile.
pub fn verify_client(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: i64,
) -> Result<X509Svid, SvidError> {
    verify_for(KeyUsage::client_auth(), chain, roots, now)
}

/// Same as [`verify_client`], for a server's chain. The caller compares the SPIFFE ID with the one it expects.
///
/// # Errors
/// Same as [`verify_client`].
pub fn verify_server(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: i64,
) -> Result<X509Svid, SvidError> {
    verify_for(KeyUsage::server_auth(), chain, roots, now)
}

fn verify_for(
    usage: KeyUsage,
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: i64,
) -> Result<X509Svid, SvidError> {
    if chain.len() > MAX_CHAIN {
        return Err(SvidError::TooLong);
    }
    let (leaf, intermediates) = chain.split_first().ok_or(SvidError::Unreadable)?;
    let anchors: Vec<_> = roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    let end_entity = EndEntityCert::try_from(leaf).map_err(|_| SvidError::Unreadable)?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
    end_entity
        .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, intermediates, at, usage, None, None)
        .map_err(SvidError::Chain)?;
    parse(leaf)
}
