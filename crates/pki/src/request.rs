//! Public keys to certify, from certificate requests (PKCS #10).

use rcgen::{PublicKeyData, SignatureAlgorithm, SubjectPublicKeyInfo};
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Smallest RSA modulus, in bits.
const SMALLEST_RSA: usize = 3072;
/// Largest RSA modulus, in bits; every client verifies it quickly.
const LARGEST_RSA: usize = 4096;

/// A public key to certify.
#[derive(Debug)]
pub struct SubjectKey(SubjectPublicKeyInfo);

/// Why a key is not certified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SubjectKeyError {
    /// The request is not PKCS #10 (RFC 2986), or the key is not a SubjectPublicKeyInfo.
    #[error("the request can't be read")]
    Unreadable,
    /// The requester does not hold the private key.
    #[error("the request is not signed by its own key")]
    Signature,
    /// The type or the size of the key is not accepted.
    #[error("the key is not accepted: use ECDSA P-256, P-384 or P-521, RSA of 3072 to 4096 bits, or Ed25519")]
    Unsupported,
}

impl SubjectKey {
    /// The key of a PKCS #10 request in DER, without a check of the request's signature.
    ///
    /// The rest of the request is ignored. Use this for requests whose signature the API server has already verified.
    ///
    /// # Errors
    /// When the request is unreadable, or its key is not accepted.
    pub fn from_csr(der: &[u8]) -> Result<Self, SubjectKeyError> {
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| SubjectKeyError::Unreadable)?;
        if !rest.is_empty() {
            return Err(SubjectKeyError::Unreadable);
        }
        Self::from_info(&request.certification_request_info.subject_pki)
    }

    /// A bare key (SubjectPublicKeyInfo in DER, RFC 5280 section 4.1). As in [`SubjectKey::from_csr`], the API server
    /// has already verified that the requester holds it.
    ///
    /// # Errors
    /// When the key is unreadable or not accepted.
    pub fn from_public_key(der: &[u8]) -> Result<Self, SubjectKeyError> {
        let (rest, info) =
            x509_parser::x509::SubjectPublicKeyInfo::from_der(der).map_err(|_| SubjectKeyError::Unreadable)?;
        if rest.is_empty() { Self::from_info(&info) } else { Err(SubjectKeyError::Unreadable) }
    }

    fn from_info(info: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> Result<Self, SubjectKeyError> {
        match info.parsed().map_err(|_| SubjectKeyError::Unsupported)? {
            PublicKey::RSA(key) if !(SMALLEST_RSA..=LARGEST_RSA).contains(&key.key_size()) => {
                return Err(SubjectKeyError::Unsupported);
            }
            _ => {}
        }
        let key = SubjectPublicKeyInfo::from_der(info.raw).map_err(|_| SubjectKeyError::Unsupported)?;
        Ok(Self(key))
    }

    /// Same as [`SubjectKey::from_csr`], after a check that the request is signed with the key.
    ///
    /// # Errors
    /// Same as [`SubjectKey::from_csr`], and when the signature is not valid.
    pub fn from_signed_csr(der: &[u8]) -> Result<Self, SubjectKeyError> {
        let key = Self::from_csr(der)?;
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
