//! The Secret format of the authorities: one Secret of type `kubernetes.io/tls`. Each step of a rotation is one write,
//! so a crash between two steps leaves a valid Secret.

use crate::ca::authorities::TrustState;
use chrono::{DateTime, Utc};
use durward_pki::authority::{AuthorityError, CertificateAuthority, certificates, pem};
use durward_pki::rotation::RotationStep;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;
use zeroize::Zeroizing;

/// Type of the Secret; the entries that the type requires are those of the active authority.
const TYPE: &str = "kubernetes.io/tls";
/// Certificate, key and roots of the active authority.
const ACTIVE: AuthorityEntries = AuthorityEntries { certificate: "tls.crt", key: "tls.key", roots: "ca.crt" };
/// Certificate, key and roots of the next authority.
const NEXT: AuthorityEntries = AuthorityEntries { certificate: "next.crt", key: "next.key", roots: "next-ca.crt" };
/// Roots of previous authorities that are still trusted.
const RETIRING: &str = "retiring.crt";
/// Progress of the rotation.
const PROGRESS: &str = "rotation.json";

/// The annotation of the Secret by which an administrator requests a rotation.
pub const ROTATE_ANNOTATION: &str = "durward.dev/rotate";

/// Names of the entries of one authority.
struct AuthorityEntries {
    certificate: &'static str,
    key: &'static str,
    roots: &'static str,
}

/// A rotation that an administrator requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationRequest {
    /// Rotate step by step, without an interruption.
    Planned,
    /// Replace the authority at once: certificates of the old one are no longer valid.
    Compromised,
}

impl RotationRequest {
    /// The value of the annotation.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Compromised => "compromised",
        }
    }

    /// The request in the annotations of a Secret.
    pub fn of(secret: &Secret) -> Option<Self> {
        match secret.metadata.annotations.as_ref()?.get(ROTATE_ANNOTATION)?.as_str() {
            "planned" => Some(Self::Planned),
            "compromised" => Some(Self::Compromised),
            _ => None,
        }
    }
}

/// An entry of a Secret is not text.
#[derive(Debug, Error)]
#[error("`{entry}` of Secret `{secret}` is not UTF-8 text")]
pub struct SecretTextError {
    secret: String,
    entry: String,
}

/// A Secret does not hold usable authorities.
#[derive(Debug, Error)]
pub enum CaSecretError {
    /// An entry is missing.
    #[error("Secret `{secret}` has no `{entry}`")]
    MissingEntry {
        /// Name of the Secret.
        secret: String,
        /// Name of the entry.
        entry: &'static str,
    },
    /// An entry is not text.
    #[error(transparent)]
    Text(#[from] SecretTextError),
    /// The progress of the rotation is not valid.
    #[error("`{PROGRESS}` of Secret `{secret}`: {source}")]
    Progress {
        /// Name of the Secret.
        secret: String,
        /// The JSON error.
        source: serde_json::Error,
    },
    /// The roots of previous authorities are not valid.
    #[error("`{RETIRING}` of Secret `{secret}`: {source}")]
    RetiringRoots {
        /// Name of the Secret.
        secret: String,
        /// What is wrong with the certificates.
        source: AuthorityError,
    },
    /// An authority is not valid.
    #[error("the CA in `{entry}` of Secret `{secret}` can't be used: {source}")]
    Authority {
        /// Name of the Secret.
        secret: String,
        /// Name of the entry with the certificate.
        entry: &'static str,
        /// What is wrong with the authority.
        source: AuthorityError,
    },
    /// The authority was created for another trust domain.
    #[error(
        "the CA in Secret `{secret}` is of trust domain `{found}`, not of `{expected}`: set trustDomain back, or \
         remove the Secret to start with a new CA"
    )]
    TrustDomain {
        /// Name of the Secret.
        secret: String,
        /// Trust domain of the authority.
        found: String,
        /// Trust domain of the installation.
        expected: String,
    },
    /// The progress of the rotation can't be encoded.
    #[error("the progress of the CA rotation can't be encoded: {0}")]
    Encode(serde_json::Error),
}

/// The JSON in the `rotation.json` entry.
#[derive(Debug, Default, Serialize, Deserialize)]
struct RotationProgress {
    step: RotationStep,
    /// Unix seconds.
    since: i64,
}

/// Reads a provided authority from a Secret.
pub(crate) fn decode_provided(
    name: &str,
    secret: &Secret,
    trust_domain: &str,
    now: DateTime<Utc>,
) -> Result<CertificateAuthority, CaSecretError> {
    let authority = decode_authority(name, secret, &ACTIVE, trust_domain, now)?;
    authority.ok_or_else(|| missing(name, ACTIVE.certificate))
}

/// Reads the authorities from a Secret.
///
/// # Errors
/// If an entry is missing or not valid, or if an authority is of another trust domain.
pub fn decode(
    name: &str,
    secret: &Secret,
    trust_domain: &str,
    now: DateTime<Utc>,
) -> Result<TrustState, CaSecretError> {
    let retiring = secret_text(name, secret, RETIRING)?;
    let retiring = retiring.map(|pem| certificates(&pem)).transpose();
    let progress = match secret_text(name, secret, PROGRESS)? {
        Some(json) => {
            serde_json::from_str(&json).map_err(|source| CaSecretError::Progress { secret: name.to_owned(), source })?
        }
        None => RotationProgress::default(),
    };
    Ok(TrustState {
        active: Arc::new(decode_provided(name, secret, trust_domain, now)?),
        next: decode_authority(name, secret, &NEXT, trust_domain, now)?.map(Arc::new),
        retiring: retiring
            .map_err(|source| CaSecretError::RetiringRoots { secret: name.to_owned(), source })?
            .unwrap_or_default(),
        step: progress.step,
        since: progress.since,
    })
}

/// Writes the authorities into a Secret. Metadata of the `stored` Secret is kept, except for the rotation request,
/// which this write fulfils.
///
/// # Errors
/// If the progress of the rotation can't be encoded.
pub fn encode(name: &str, state: &TrustState, stored: Option<Secret>) -> Result<Secret, CaSecretError> {
    let mut data = BTreeMap::new();
    let mut put = |entry: &str, text: &str| drop(data.insert(entry.to_owned(), ByteString(text.as_bytes().to_vec())));
    for (entries, authority) in [(ACTIVE, Some(&state.active)), (NEXT, state.next.as_ref())] {
        let Some(authority) = authority else { continue };
        put(entries.certificate, &authority.certificate_pem());
        put(entries.key, &authority.key_pem());
        put(entries.roots, &authority.roots_pem());
    }
    if !state.retiring.is_empty() {
        put(RETIRING, &state.retiring.iter().map(pem).collect::<String>());
    }
    let progress = RotationProgress { step: state.step, since: state.since };
    put(PROGRESS, &serde_json::to_string(&progress).map_err(CaSecretError::Encode)?);
    let mut metadata = stored.map(|stored| stored.metadata).unwrap_or_default();
    metadata.name = Some(name.to_owned());
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(ROTATE_ANNOTATION);
    }
    Ok(Secret { metadata, type_: Some(TYPE.to_owned()), data: Some(data), ..Secret::default() })
}

/// Reads one authority; `None` if the Secret has no certificate of it.
fn decode_authority(
    name: &str,
    secret: &Secret,
    entries: &AuthorityEntries,
    trust_domain: &str,
    now: DateTime<Utc>,
) -> Result<Option<CertificateAuthority>, CaSecretError> {
    let Some(chain) = secret_text(name, secret, entries.certificate)? else { return Ok(None) };
    let key = secret_text(name, secret, entries.key)?.ok_or_else(|| missing(name, entries.key))?;
    let roots = secret_text(name, secret, entries.roots)?.filter(|pem| !pem.trim().is_empty());
    let roots = roots.as_ref().map(|pem| pem.as_str());
    let unusable = |source| CaSecretError::Authority { secret: name.to_owned(), entry: entries.certificate, source };
    let authority = CertificateAuthority::from_pem(&chain, &key, roots).map_err(unusable)?;
    if let Some(found) = authority.trust_domain().filter(|found| found != trust_domain) {
        let expected = trust_domain.to_owned();
        return Err(CaSecretError::TrustDomain { secret: name.to_owned(), found, expected });
    }
    authority.check(trust_domain, now).map_err(unusable)?;
    Ok(Some(authority))
}

fn missing(name: &str, entry: &'static str) -> CaSecretError {
    CaSecretError::MissingEntry { secret: name.to_owned(), entry }
}

/// The text of one entry of a Secret, if the entry exists.
///
/// # Errors
/// If the entry is not UTF-8 text.
pub fn secret_text(name: &str, secret: &Secret, entry: &str) -> Result<Option<Zeroizing<String>>, SecretTextError> {
    let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(entry)) else { return Ok(None) };
    let text = String::from_utf8(bytes.0.clone()).map(Zeroizing::new);
    text.map(Some).map_err(|_| SecretTextError { secret: name.to_owned(), entry: entry.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_pki::serial::CertificateSerial;

    fn new_authority() -> Arc<CertificateAuthority> {
        Arc::new(
            CertificateAuthority::create("cluster.local", Utc::now(), CertificateSerial::unbound([1; 15]))
                .expect("creates a CA"),
        )
    }

    #[test]
    fn decoding_restores_the_encoded_state() {
        let active = new_authority();
        let next = new_authority();
        let old = new_authority();
        let state = TrustState {
            active,
            next: Some(next),
            retiring: old.roots().to_vec(),
            step: RotationStep::Published,
            since: 1_800_000_000,
        };
        let secret = encode("ca", &state, None).expect("encodes the state");
        let decoded = decode("ca", &secret, "cluster.local", Utc::now()).expect("decodes the Secret");
        assert_eq!((decoded.step, decoded.since, decoded.digest()), (state.step, state.since, state.digest()));
        assert_eq!(decoded.active.certificate(), state.active.certificate());
        assert_eq!(decoded.roots().len(), 3);
        let error = decode("ca", &secret, "other.domain", Utc::now()).expect_err("the trust domain is another one");
        assert!(error.to_string().contains("set trustDomain back"), "{error}");
    }

    #[test]
    fn encoding_removes_only_the_rotation_annotation() {
        let state = TrustState::steady(new_authority());
        let mut secret = encode("ca", &state, None).expect("encodes the state");
        let annotations = [(ROTATE_ANNOTATION, "planned"), ("backup", "yes")];
        secret.metadata.annotations = Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        assert_eq!(RotationRequest::of(&secret), Some(RotationRequest::Planned));
        let secret = encode("ca", &state, Some(secret)).expect("encodes the state");
        assert_eq!(RotationRequest::of(&secret), None);
        assert!(secret.metadata.annotations.is_some_and(|all| all.contains_key("backup")));
    }

    #[test]
    fn an_unusable_secret_is_rejected_with_its_entry() {
        let good = encode("ca", &TrustState::steady(new_authority()), None).expect("encodes the state");
        let other = encode("ca", &TrustState::steady(new_authority()), None).expect("encodes the state");
        let data = |secret: &Secret, key: &str| secret.data.as_ref().and_then(|data| data.get(key).cloned());
        for (key, value, expected) in [
            ("tls.crt", None, "no `tls.crt`"),
            ("tls.key", None, "no `tls.key`"),
            ("tls.key", data(&other, "tls.key"), "does not belong"),
            ("tls.crt", Some(ByteString(b"x".to_vec())), "`tls.crt`"),
            ("ca.crt", data(&other, "ca.crt"), "not valid"),
            ("rotation.json", Some(ByteString(b"{".to_vec())), "`rotation.json`"),
        ] {
            let mut secret = good.clone();
            let all = secret.data.get_or_insert_default();
            match value {
                Some(value) => drop(all.insert(key.to_owned(), value)),
                None => drop(all.remove(key)),
            }
            let error = decode("ca", &secret, "cluster.local", Utc::now()).expect_err("the Secret is unusable");
            assert!(error.to_string().contains(expected), "{key}: {error}");
        }
    }
}
