//! The trust bundle of a domain as a set of keys (SPIFFE Trust Domain and Bundle, section 4).

use crate::token::Jwk;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use thiserror::Error;
use x509_parser::oid_registry::{OID_NIST_EC_P384, OID_NIST_EC_P521, OID_SIG_ED25519};
use x509_parser::public_key::PublicKey;

/// What a bundle holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Roots of X.509-SVIDs.
    pub roots: Vec<CertificateDer<'static>>,
    /// Keys of JWT-SVIDs, as a JWKS in JSON.
    pub jwks: String,
    /// Larger in each later bundle.
    pub sequence: Option<u64>,
    /// How often to look for another one, in seconds.
    pub refresh_hint: Option<u64>,
}

/// A text is no bundle.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BundleError {
    /// Not JSON, or not a set of keys.
    #[error("it is no SPIFFE bundle: {0}")]
    Unreadable(String),
    /// A root that is none.
    #[error("`keys[{0}].x5c` is not one certificate in base64")]
    Certificate(usize),
    /// More keys than any trust domain has.
    #[error("it has {0} keys; at most {MAX_KEYS} are read")]
    TooLarge(usize),
}

/// Most keys of one bundle; trust domains have a handful.
const MAX_KEYS: usize = 200;

/// Writes a bundle.
#[must_use]
pub fn bundle<'k>(
    roots: &[CertificateDer<'_>],
    keys: impl IntoIterator<Item = &'k Jwk>,
    sequence: i64,
    refresh_hint: u32,
) -> String {
    let keys = keys.into_iter().filter_map(|key| serde_json::to_value(key).ok());
    json!({"spiffe_sequence": sequence, "spiffe_refresh_hint": refresh_hint, "keys": all(roots, keys)}).to_string()
}

impl Contents {
    /// The bundle again, as far as it was understood.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let keys: Option<Value> = serde_json::from_str(&self.jwks).ok();
        let keys = keys.as_ref().and_then(|set| set.get("keys")?.as_array()).cloned().unwrap_or_default();
        let mut bundle = json!({"keys": all(&self.roots, keys)});
        for (name, number) in [("spiffe_sequence", self.sequence), ("spiffe_refresh_hint", self.refresh_hint)] {
            bundle = number.into_iter().fold(bundle, |bundle, number| with(bundle, name, json!(number)));
        }
        bundle
    }
}

/// Roots, and keys of JWT-SVIDs, as one list.
fn all(roots: &[CertificateDer<'_>], keys: impl IntoIterator<Item = Value>) -> Vec<Value> {
    let keys = keys.into_iter().map(|key| with(key, "use", json!("jwt-svid")));
    roots.iter().filter_map(root).chain(keys).collect()
}

/// A root as a key (RFC 7517, section 4).
fn root(certificate: &CertificateDer<'_>) -> Option<Value> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let key = match parsed.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            let curve = parsed.public_key().algorithm.parameters.as_ref()?.as_oid().ok()?;
            let name = match curve {
                curve if curve == OID_NIST_EC_P384 => "P-384",
                curve if curve == OID_NIST_EC_P521 => "P-521",
                _ => "P-256",
            };
            // an uncompressed point: a byte of form, and the two coordinates
            let (form, coordinates) = point.data().split_first()?;
            let (x, y) = coordinates.split_at_checked(coordinates.len() / 2).filter(|_| *form == 4)?;
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

/// Reads a bundle. Keys for other uses are passed over, as the standard asks.
///
/// # Errors
/// When it is none, or a root in it is not readable.
pub fn read(json: &[u8]) -> Result<Contents, BundleError> {
    let document: Value = serde_json::from_slice(json).map_err(|error| BundleError::Unreadable(error.to_string()))?;
    let keys = document.get("keys").and_then(Value::as_array);
    let keys = keys.ok_or_else(|| BundleError::Unreadable("it has no `keys`".to_owned()))?;
    if keys.len() > MAX_KEYS {
        return Err(BundleError::TooLarge(keys.len()));
    }
    let (mut roots, mut tokens) = (Vec::new(), Vec::new());
    for (i, key) in keys.iter().enumerate() {
        match key.get("use").and_then(Value::as_str) {
            Some("x509-svid") => {
                let one = key.get("x5c").and_then(Value::as_array).filter(|all| all.len() == 1);
                let one = one.and_then(|all| all.first()?.as_str()).and_then(|text| STANDARD.decode(text).ok());
                let der = one.filter(|der| x509_parser::parse_x509_certificate(der).is_ok());
                roots.push(CertificateDer::from(der.ok_or(BundleError::Certificate(i))?));
            }
            // verifiers know it as a key for signatures
            Some("jwt-svid") => tokens.push(with(key.clone(), "use", json!("sig"))),
            _ => {}
        }
    }
    let number = |name: &str| document.get(name).and_then(Value::as_u64);
    Ok(Contents {
        roots,
        jwks: json!({"keys": tokens}).to_string(),
        sequence: number("spiffe_sequence"),
        refresh_hint: number("spiffe_refresh_hint"),
    })
}
