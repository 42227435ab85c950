//! The trust bundle of a trust domain, as a JWK set (SPIFFE Trust Domain and Bundle, section 4).

use crate::token::Jwk;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use thiserror::Error;
use x509_parser::oid_registry::{OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519};
use x509_parser::public_key::PublicKey;

/// Content of a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BundleContents {
    /// Roots of X.509-SVIDs.
    pub roots: Vec<CertificateDer<'static>>,
    /// Keys of JWT-SVIDs, as a JWKS in JSON.
    pub jwks: String,
    /// Sequence number; it grows with each version of the bundle.
    pub sequence: Option<u64>,
    /// Interval at which to fetch the bundle again, in seconds.
    pub refresh_hint: Option<u64>,
}

/// Why a document is not a usable trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleError {
    /// The document is not JSON.
    #[error("not a SPIFFE bundle: {0}")]
    NotJson(String),
    /// The document has no list of keys.
    #[error("not a SPIFFE bundle: it has no `keys`")]
    NoKeys,
    /// A root is not a certificate.
    #[error("`keys[{0}].x5c` must be one certificate in base64")]
    Certificate(usize),
    /// The bundle has too many keys.
    #[error("the bundle has {0} keys; the limit is {MAX_KEYS}")]
    TooLarge(usize),
}

/// Maximum number of keys; real trust domains have a handful.
const MAX_KEYS: usize = 200;

/// Writes a bundle as JSON.
#[must_use]
pub fn write<'k>(
    roots: &[CertificateDer<'_>],
    keys: impl IntoIterator<Item = &'k Jwk>,
    sequence: i64,
    refresh_hint: u32,
) -> String {
    let keys = keys.into_iter().filter_map(|key| serde_json::to_value(key).ok());
    json!({"spiffe_sequence": sequence, "spiffe_refresh_hint": refresh_hint, "keys": key_list(roots, keys)}).to_string()
}

impl BundleContents {
    /// The bundle as JSON, without the members that [`read`] ignores.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let keys: Option<Value> = serde_json::from_str(&self.jwks).ok();
        let keys = keys.as_ref().and_then(|set| set.get("keys")?.as_array()).cloned().unwrap_or_default();
        let mut bundle = json!({"keys": key_list(&self.roots, keys)});
        for (name, number) in [("spiffe_sequence", self.sequence), ("spiffe_refresh_hint", self.refresh_hint)] {
            bundle = number.into_iter().fold(bundle, |bundle, number| with(bundle, name, json!(number)));
        }
        bundle
    }
}

/// Roots and JWT-SVID keys, as one list of JWKs.
fn key_list(roots: &[CertificateDer<'_>], keys: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let keys = keys.into_iter().map(|key| with(key, "use", json!("jwt-svid")));
    roots.iter().filter_map(root_jwk).chain(keys).collect()
}

/// A root as a JWK (RFC 7517, section 4).
fn root_jwk(certificate: &CertificateDer<'_>) -> Option<Value> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let key = match parsed.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let curve = parsed.public_key().algorithm.parameters.as_ref()?.as_oid().ok()?;
            let name = match curve {
                curve if curve == OID_NIST_EC_P384 => "P-384",
                curve if curve == OID_NIST_EC_P521 => "P-521",
                _ => "P-256",
            };
            // an uncompressed point: a byte for the form, then the two coordinates
            let (form, coordinates) = point.data().split_first()?;
            if *form != 4 {
                return None;
            }
            let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
            json!({"kty": "EC", "crv": name, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
        }
        PublicKey::RSA(rsa) => {
            let number = |bytes: &[u8]| {
                let start = bytes.iter().position(|byte| *byte != 0).unwrap_or_default();
                URL_SAFE_NO_PAD.encode(bytes.get(start..).unwrap_or_default())
            };
            json!({"kty": "RSA", "n": number(rsa.modulus), "e": number(rsa.exponent)})
        }
        PublicKey::Unknown(bytes) if parsed.public_key().algorithm.algorithm == OID_SIG_ED25519 => {
            json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(bytes)})
        }
        _ => return None,
    };
    Some(with(with(key, "use", json!("x509-svid")), "x5c", json!([STANDARD.encode(certificate)])))
}

fn with(mut object: Value, name: &str, value: Value) -> Value {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
    object
}

/// Reads a bundle. As the standard requires, it skips keys with another `use`.
///
/// # Errors
/// When the document is not a bundle, or one of its roots is unreadable.
pub fn read(json: &[u8]) -> Result<BundleContents, BundleError> {
    let document: Value = serde_json::from_slice(json).map_err(|error| BundleError::NotJson(error.to_string()))?;
    let keys = document.get("keys").and_then(Value::as_array);
    let keys = keys.ok_or(BundleError::NoKeys)?;
    if keys.len() > MAX_KEYS {
        return Err(BundleError::TooLarge(keys.len()));
    }
    let mut roots = Vec::new();
    let mut tokens = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        match key.get("use").and_then(Value::as_str) {
            Some("x509-svid") => {
                let one = key.get("x5c").and_then(Value::as_array).filter(|all| all.len() == 1);
                let one = one.and_then(|all| all.first()?.as_str()).and_then(|text| STANDARD.decode(text).ok());
                let der = one.filter(|der| x509_parser::parse_x509_certificate(der).is_ok());
                roots.push(CertificateDer::from(der.ok_or(BundleError::Certificate(i))?));
            }
            // JWT libraries expect the standard `use` of a signature key
            Some("jwt-svid") => tokens.push(with(key.clone(), "use", json!("sig"))),
            _ => {}
        }
    }
    let number = |name: &str| document.get(name).and_then(Value::as_u64);
    Ok(BundleContents {
        roots,
        jwks: json!({"keys": tokens}).to_string(),
        sequence: number("spiffe_sequence"),
        refresh_hint: number("spiffe_refresh_hint"),
    })
}
