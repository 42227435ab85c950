//! Reading an X.509-SVID.

use rustls_pki_types::{CertificateDer, UnixTime};
use std::time::Duration;
use thiserror::Error;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;

/// Longest chain that is looked at; longer ones only cost time.
const MAX_CHAIN: usize = 8;

/// What certificates are dated back by, in seconds, for clocks that differ.
pub const BACKDATE: i64 = 60;

/// What a leaf certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Svid {
    /// SPIFFE ID as it stands there.
    pub id: String,
    /// Beginning of its validity, in seconds since 1970.
    pub not_before: i64,
    /// End of its validity, in seconds since 1970.
    pub not_after: i64,
    /// Serial number, most significant byte first.
    pub serial: Vec<u8>,
}

/// Why a certificate is no SVID of this trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SvidError {
    /// Not DER, not X.509.
    #[error("the certificate can't be read")]
    Unreadable,
    /// More certificates than any chain needs.
    #[error("the certificate chain is too long")]
    TooLong,
    /// SPIFFE X509-SVID, section 2: exactly one URI.
    #[error("the certificate has {0} URI names instead of one")]
    Uris(usize),
    /// SPIFFE X509-SVID, section 5.2: a leaf is no CA.
    #[error("the certificate is one of a CA")]
    Authority,
    /// SPIFFE X509-SVID, section 4.3.
    #[error("the certificate's key is not for signatures, or is for signing certificates")]
    KeyUsage,
    /// Not issued by a root that counts, at this time.
    #[error("the certificate chain is not valid: {0}")]
    Chain(String),
}

/// Reads a leaf whose chain somebody has verified already.
///
/// # Errors
/// When it does not fit the profile.
pub fn read(leaf: &CertificateDer<'_>) -> Result<Svid, SvidError> {
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
        [id] => Ok(Svid {
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

/// DNS names of a certificate, for showing them; none if it can't be read.
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

/// End of a certificate's validity, in seconds since 1970; none if it can't be read.
#[must_use]
pub fn not_after(leaf: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// Verifies the chain of a client, leaf first, against `roots`, and reads the leaf.
///
/// # Errors
/// When the chain does not hold at `now` (seconds since 1970), or the leaf does not fit the profile.
pub fn verify(chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>], now: i64) -> Result<Svid, SvidError> {
    verify_for(KeyUsage::client_auth(), chain, roots, now)
}

/// As [`verify`], for server authentication. Whether the server is the one that was meant is for the caller to know.
///
/// # Errors
/// As [`verify`].
pub fn verify_server(chain: &[CertificateDer<'_>], roots: &[CertificateDer<'_>], now: i64) -> Result<Svid, SvidError> {
    verify_for(KeyUsage::server_auth(), chain, roots, now)
}

fn verify_for(
    usage: KeyUsage,
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: i64,
) -> Result<Svid, SvidError> {
    if chain.len() > MAX_CHAIN {
        return Err(SvidError::TooLong);
    }
    let (leaf, intermediates) = chain.split_first().ok_or(SvidError::Unreadable)?;
    let anchors: Vec<_> = roots.iter().filter_map(|root| anchor_from_trusted_cert(root).ok()).collect();
    let end_entity = EndEntityCert::try_from(leaf).map_err(|_| SvidError::Unreadable)?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
    end_entity
        .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, intermediates, at, usage, None, None)
        .map_err(|error| SvidError::Chain(error.to_string()))?;
    read(leaf)
}
