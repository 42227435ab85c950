//! Keys that sign tokens (JWT, RFC 7519).

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
pub use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::jwk::{PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{EncodingKey, Header};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;
use std::fmt;
use thiserror::Error;
use zeroize::Zeroizing;

/// Signature algorithm of a token key (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SigningAlgorithm {
    /// ECDSA on P-256: short tokens, fast signatures.
    Es256,
    /// RSA of 2048 bits: every JWT library supports it.
    Rs256,
}

impl SigningAlgorithm {
    /// All algorithms.
    pub const ALL: [Self; 2] = [Self::Es256, Self::Rs256];

    /// The name in `alg`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    const fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

/// A key that signs tokens with one algorithm.
pub struct TokenKey {
    algorithm: SigningAlgorithm,
    der: Zeroizing<Vec<u8>>,
    key: EncodingKey,
    jwk: Jwk,
    kid: String,
}

/// Why a token key can't be generated, read or used.
#[derive(Debug, Error)]
pub enum TokenKeyError {
    /// The crypto library failed.
    #[error("the key can't be generated or read")]
    Key,
    /// The text holds no private key in PEM form.
    #[error("no private key in PEM form (PKCS #8) found")]
    Pem,
    /// The token library failed.
    #[error("{0}")]
    Token(#[from] jsonwebtoken::errors::Error),
}

impl TokenKey {
    /// Generates a key.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn generate(algorithm: SigningAlgorithm) -> Result<Self, TokenKeyError> {
        match algorithm {
            SigningAlgorithm::Rs256 => {
                let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| TokenKeyError::Key)?;
                let der =
                    AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).map_err(|_| TokenKeyError::Key)?;
                Self::from_der(algorithm, der.as_ref())
            }
            SigningAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| TokenKeyError::Key)?;
                let der = pair.to_pkcs8v1().map_err(|_| TokenKeyError::Key)?;
                Self::from_der(algorithm, der.as_ref())
            }
        }
    }

    /// Reads a key from PEM (PKCS #8).
    ///
    /// # Errors
    /// When the text holds no key, or a key of another type (`RS256` needs RSA of 2048 bits or more, `ES256` P-256).
    pub fn from_pem(algorithm: SigningAlgorithm, pem: &str) -> Result<Self, TokenKeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| TokenKeyError::Pem)?;
        Self::from_der(algorithm, der.secret_pkcs8_der())
    }

    fn from_der(algorithm: SigningAlgorithm, pkcs8: &[u8]) -> Result<Self, TokenKeyError> {
        let key = match algorithm {
            // the token library refuses a key of another type, and a key that is too short, at its first signature
            SigningAlgorithm::Rs256 => EncodingKey::from_rsa_der(&pkcs1(pkcs8)?),
            SigningAlgorithm::Es256 => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).map_err(|_| TokenKeyError::Key)?;
                EncodingKey::from_ec_der(pkcs8)
            }
        };
        let mut jwk = Jwk::from_encoding_key(&key, algorithm.of_library())?;
        let kid = jwk.thumbprint(ThumbprintHash::SHA256)?;
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        Ok(Self { algorithm, der: Zeroizing::new(pkcs8.to_vec()), key, jwk, kid })
    }

    /// The key in PEM (PKCS #8).
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        use base64::Engine;
        let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(&*self.der));
        Zeroizing::new(format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", *text))
    }

    /// Key ID: the thumbprint of the key (RFC 7638).
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Signature algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// The public key (RFC 7517, section 4).
    #[must_use]
    pub const fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// Signs claims (RFC 7519). `typ` is the token type, such as `JWT` or `at+jwt`.
    ///
    /// # Errors
    /// When the claims can't be written as JSON, or the crypto library fails.
    pub fn sign(&self, claims: &impl Serialize, typ: &str) -> Result<String, TokenKeyError> {
        let mut header = Header::new(self.algorithm.of_library());
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.kid.clone());
        Ok(jsonwebtoken::encode(&header, claims, &self.key)?)
    }
}

/// Public keys as a JWK set in JSON (RFC 7517, section 5).
#[must_use]
pub fn jwks<'k>(keys: impl IntoIterator<Item = &'k Jwk>) -> String {
    serde_json::json!({"keys": keys.into_iter().collect::<Vec<_>>()}).to_string()
}

/// The PKCS #1 key inside a PKCS #8 key.
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
