//! Public keys that are to be certified.

use rcgen::{PublicKeyData, SignatureAlgorithm, SubjectPublicKeyInfo};
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Smallest RSA modulus, in bits.
const SMALLEST_RSA: usize = 3072;
/// Largest RSA modulus, in bits: every client can verify it, and quickly.
const LARGEST_RSA: usize = 4096;

/// A public key whose holder asks for a certificate.
#[derive(Debug)]
pub struct SubjectKey(SubjectPublicKeyInfo);

/// Why a request's key is not certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubjectKeyError {
    /// No PKCS#10 (RFC 2986).
    #[error("the request can't be read")]
    Unreadable,
    /// Whoever asks does not have the key.
    #[error("the request is not signed by its own key")]
    Signature,
    /// Another kind of key.
    #[error("the key is none of ECDSA P-256, P-384 and P-521, RSA of 3072 to 4096 bits, and Ed25519")]
    Unsupported,
}

impl SubjectKey {
    /// The key of a PKCS#10 request in DER. What else the request says does not count. That whoever asks
    /// has the key was verified by the API server before the request came to be.
    ///
    /// # Errors
    /// When the request or its key can't be used.
    pub fn of_request(der: &[u8]) -> Result<Self, SubjectKeyError> {
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| SubjectKeyError::Unreadable)?;
        if !rest.is_empty() {
            return Err(SubjectKeyError::Unreadable);
        }
        Self::of_info(&request.certification_request_info.subject_pki)
    }

    /// A key by itself (SubjectPublicKeyInfo in DER, RFC 5280 section 4.1). That whoever asks has it was verified by the
    /// API server, as in [`SubjectKey::of_request`].
    ///
    /// # Errors
    /// When it can't be used.
    pub fn of_public_key(der: &[u8]) -> Result<Self, SubjectKeyError> {
        let (rest, info) =
            x509_parser::x509::SubjectPublicKeyInfo::from_der(der).map_err(|_| SubjectKeyError::Unreadable)?;
        if rest.is_empty() { Self::of_info(&info) } else { Err(SubjectKeyError::Unreadable) }
    }

    fn of_info(info: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<Self, SubjectKeyError> {
        match info.parsed().map_err(|_| SubjectKeyError::Unsupported)? {
            PublicKey::RSA(key) if !(SMALLEST_RSA..=LARGEST_RSA).contains(&key.key_size()) => {
                return Err(SubjectKeyError::Unsupported);
            }
            _ => {}
        }
        let key = SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| SubjectKeyError::Unsupported)?;
        Ok(Self(key))
    }
}

impl SubjectKey {
    /// As [`SubjectKey::of_request`], once the request's own signature shows that whoever asks has the key.
    ///
    /// # Errors
    /// As there, and when the signature does not hold.
    pub fn of_signed_request(der: &[u8]) -> Result<Self, SubjectKeyError> {
        let key = Self::of_request(der)?;
        let (_, request) = X509CertificationRequest::from_der(der).map_err(|_| SubjectKeyError::Unreadable)?;
        request.verify_signature().map_err(|_| SubjectKeyError::Signature)?;
        Ok(key)
    }
}

impl PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}
