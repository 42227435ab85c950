//! Keys that sign tokens.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;
use std::fmt;
use thiserror::Error;
use zeroize::Zeroizing;

/// An RSA key of 2048 bits that signs with RS256, the algorithm that every JWT library knows.
pub struct TokenKey {
    der: Zeroizing<Vec<u8>>,
    key: EncodingKey,
    jwk: Jwk,
    kid: String,
}

/// A key can't be made, read or used.
#[derive(Debug, Error)]
pub enum TokenKeyError {
    /// The crypto library failed.
    #[error("the key can't be made or read")]
    Key,
    /// Not a private key in PEM form.
    #[error("no private key in PEM form (PKCS #8) found")]
    Pem,
    /// The token library failed.
    #[error("{0}")]
    Token(#[from] jsonwebtoken::errors::Error),
}

impl TokenKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the crypto library can't.
    pub fn generate() -> Result<Self, TokenKeyError> {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| TokenKeyError::Key)?;
        let der = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).map_err(|_| TokenKeyError::Key)?;
        Self::from_der(der.as_ref())
    }

    /// Reads a key from PEM (PKCS #8).
    ///
    /// # Errors
    /// When it is not one, or not RSA of 2048 bits and more.
    pub fn from_pem(pem: &str) -> Result<Self, TokenKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| TokenKeyError::Pem)?;
        Self::from_der(der.secret_pkcs8_der())
    }

    fn from_der(pkcs8: &[u8]) -> Result<Self, TokenKeyError> {
        // the token library refuses keys that are no RSA keys, or too short ones, when it first signs
        let key = EncodingKey::from_rsa_der(&pkcs1(pkcs8)?);
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256)?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { der: Zeroizing::new(pkcs8.to_vec()), key, jwk, kid })
    }

    /// The key in PEM (PKCS #8).
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        use base64::Engine;
        let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(&*self.der));
        Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", *text))
    }

    /// Name of the key: its thumbprint (RFC 7638).
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key as a set (RFC 7517, section 5).
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: vec![self.jwk.clone()] }
    }

    /// Signs claims (RFC 7519) under a `typ`, `JWT` or `at+jwt`.
    ///
    /// # Errors
    /// When the claims can't be written as JSON, or the crypto library fails.
    pub fn sign(&self, claims: &impl Serialize, typ: &str) -> Result<String, TokenKeyError> {
        let mut header = Header::new(Algorithm::RS256);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.kid.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }
}

/// The RSA key within PKCS #8.
fn pkcs1(pkcs8: &[u8]) -> Result<Zeroizing<Vec<u8>>, TokenKeyError> {
    use x509_parser::asn1_rs::{FromDer, Integer, OctetString, Sequence};
    let (_, outer) = Sequence::from_der(pkcs8).map_err(|_| TokenKeyError::Key)?;
    let (rest, _version) = Integer::from_der(&outer.content).map_err(|_| TokenKeyError::Key)?;
    let (rest, _algorithm) = Sequence::from_der(rest).map_err(|_| TokenKeyError::Key)?;
    let (_, key) = OctetString::from_der(rest).map_err(|_| TokenKeyError::Key)?;
    Ok(Zeroizing::new(key.as_ref().to_vec()))
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}
