//! One public key that verifies tokens, read from a JWK (RFC 7517, RFC 7518).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

/// Minimum size of an RSA modulus, in bytes: 2048 bits (RFC 7518, section 3.3).
const MIN_MODULUS: usize = 256;

/// A public key that verifies tokens.
#[derive(Debug)]
pub struct VerificationKey {
    pub(super) kid: Option<String>,
    key: DecodingKey,
    /// The algorithms for which the key may be used.
    algorithms: Vec<Algorithm>,
}

impl VerificationKey {
    /// The key with the algorithms of its type and curve, limited to its own `alg` if it has one. `None` if the key is
    /// of an unsupported type, or not for verifying signatures.
    pub fn of(jwk: &Jwk) -> Option<Self> {
        let common = &jwk.common;
        let for_signatures = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let verifies = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        if !for_signatures || !verifies {
            return None;
        }
        let (key, mut algorithms) = parameters(jwk)?;
        if let Some(stated) = &common.key_algorithm {
            algorithms.retain(|algorithm| signature_algorithm(stated) == Some(*algorithm));
        }
        (!algorithms.is_empty()).then(|| Self { kid: common.key_id.clone(), key, algorithms })
    }

    /// Whether signatures of this algorithm can be of this key.
    pub fn accepts(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether the signature is of this key.
    pub fn verifies(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        self.accepts(algorithm)
            && jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, algorithm).unwrap_or(false)
    }
}

/// The key of a JWK, and the algorithms of its type.
fn parameters(jwk: &Jwk) -> Option<(DecodingKey, Vec<Algorithm>)> {
    match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            // the crypto library refuses leading zeros, which some issuers send
            let (modulus, exponent) = (number(&rsa.n)?, number(&rsa.e)?);
            let algorithms = vec![
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ];
            (modulus.len() >= MIN_MODULUS)
                .then(|| (DecodingKey::from_rsa_raw_components(&modulus, &exponent), algorithms))
        }
        AlgorithmParameters::EllipticCurve(curve) => {
            let (size, algorithm) = match curve.curve {
                EllipticCurve::P256 => (32, Algorithm::ES256),
                EllipticCurve::P384 => (48, Algorithm::ES384),
                _ => return None,
            };
            let (x, y) = (coordinate(&curve.x, size)?, coordinate(&curve.y, size)?);
            Some((DecodingKey::from_ec_components(&x, &y).ok()?, vec![algorithm]))
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            Some((DecodingKey::from_jwk(jwk).ok()?, vec![Algorithm::EdDSA]))
        }
        _ => None,
    }
}

/// A number without leading zeros.
fn number(text: &str) -> Option<Vec<u8>> {
    Some(URL_SAFE_NO_PAD.decode(text).ok()?.into_iter().skip_while(|byte| *byte == 0).collect())
}

/// A coordinate with exactly the size of its curve (RFC 7518, section 6.2.1.2), in base64url.
fn coordinate(text: &str, size: usize) -> Option<String> {
    let number = number(text)?;
    let zeros = size.checked_sub(number.len())?;
    Some(URL_SAFE_NO_PAD.encode([vec![0; zeros], number].concat()))
}

fn signature_algorithm(algorithm: &KeyAlgorithm) -> Option<Algorithm> {
    algorithm.to_string().parse().ok()
}
