//! The authorities as they are stored: one Secret of type `kubernetes.io/tls`, so that each step is one write and a crash
//! between two of them leaves either the one or the other.

use crate::ca::authorities::TrustState;
use durward_pki::authority::{CertificateAuthority, certificates, pem};
use durward_pki::rotation::RotationStep;
use durward_runtime::Failure;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Type of the Secret; what it asks for is the active authority.
const TYPE: &str = "kubernetes.io/tls";
/// Certificate, key and roots of the authority that signs.
const ACTIVE: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
/// Those of the next one.
const NEXT: [&str; 3] = ["next.crt", "next.key", "next-ca.crt"];
/// Roots that still count.
const RETIRING: &str = "retiring.crt";
/// How far the change is.
const PROGRESS: &str = "rotation.json";

/// What a person asks for: the annotation of the Secret, and its values.
pub const ROTATE_ANNOTATION: &str = "durward.dev/rotate";

/// How an authority is to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RotationRequest {
    /// Step by step, without anybody noticing.
    Planned,
    /// At once: whatever the old one signed no longer counts.
    Compromised,
}

impl RotationRequest {
    /// As the annotation has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Compromised => "compromised",
        }
    }

    /// What a Secret's annotation asks for.
    pub fn of(secret: &Secret) -> Option<Self> {
        match secret.metadata.annotations.as_ref()?.get(ROTATE_ANNOTATION)?.as_str() {
            "planned" => Some(Self::Planned),
            "compromised" => Some(Self::Compromised),
            _ => None,
        }
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct RotationProgress {
    step: RotationStep,
    /// Seconds since 1970.
    since: i64,
}

/// The authority that somebody put into a Secret.
pub(crate) fn provided(
    name: &str,
    secret: &Secret,
    trust_domain: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<CertificateAuthority, Failure> {
    authority(name, secret, ACTIVE, trust_domain, now)?
        .ok_or_else(|| format!("Secret `{name}` has no `tls.crt`").into())
}

/// Reads the Secret.
pub fn decode(
    name: &str,
    secret: &Secret,
    trust_domain: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<TrustState, Failure> {
    let retiring = secret_text(name, secret, RETIRING)?;
    let retiring = retiring.map(|pem| certificates(&pem)).transpose();
    let progress = match secret_text(name, secret, PROGRESS)? {
        Some(json) => {
            serde_json::from_str(&json).map_err(|error| format!("`{PROGRESS}` of Secret `{name}`: {error}"))?
        }
        None => RotationProgress::default(),
    };
    Ok(TrustState {
        active: Arc::new(provided(name, secret, trust_domain, now)?),
        next: authority(name, secret, NEXT, trust_domain, now)?.map(Arc::new),
        retiring: retiring.map_err(|error| format!("`{RETIRING}` of Secret `{name}`: {error}"))?.unwrap_or_default(),
        step: progress.step,
        since: progress.since,
    })
}

/// Writes the Secret, in place of `stored` if there is one: what others noted on it stays, a wish is granted.
pub fn encode(name: &str, trust: &TrustState, stored: Option<Secret>) -> Result<Secret, Failure> {
    let mut data = BTreeMap::new();
    let mut put = |key: &str, text: &str| drop(data.insert(key.to_owned(), ByteString(text.as_bytes().to_vec())));
    let pairs = [(ACTIVE, Some(&trust.active)), (NEXT, trust.next.as_ref())];
    for ([certificate, key, roots], authority) in pairs.into_iter().filter_map(|(keys, one)| Some((keys, one?))) {
        put(certificate, &authority.certificate_pem());
        put(key, &authority.key_pem());
        put(roots, &authority.roots_pem());
    }
    if !trust.retiring.is_empty() {
        put(RETIRING, &trust.retiring.iter().map(pem).collect::<String>());
    }
    put(PROGRESS, &serde_json::to_string(&RotationProgress { step: trust.step, since: trust.since })?);
    let mut metadata = stored.map(|stored| stored.metadata).unwrap_or_default();
    metadata.name = Some(name.to_owned());
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(ROTATE_ANNOTATION);
    }
    Ok(Secret { metadata, type_: Some(TYPE.to_owned()), data: Some(data), ..Secret::default() })
}

fn authority(
    name: &str,
    secret: &Secret,
    [certificate, key, roots]: [&str; 3],
    trust_domain: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Option<CertificateAuthority>, Failure> {
    let Some(chain) = secret_text(name, secret, certificate)? else { return Ok(None) };
    let private = secret_text(name, secret, key)?.ok_or_else(|| format!("Secret `{name}` has no `{key}`"))?;
    let roots = secret_text(name, secret, roots)?.filter(|pem| !pem.trim().is_empty());
    let unusable = |error| format!("the CA in `{certificate}` of Secret `{name}` can't be used: {error}");
    let authority =
        CertificateAuthority::from_pem(&chain, &private, roots.as_ref().map(|pem| pem.as_str())).map_err(unusable)?;
    if let Some(other) = authority.trust_domain().filter(|other| other != trust_domain) {
        return Err(format!("the CA in Secret `{name}` is of trust domain `{other}`, not of `{trust_domain}`: set trustDomain back, or remove the Secret to begin anew").into());
    }
    authority.check(trust_domain, now).map_err(unusable)?;
    Ok(Some(authority))
}

/// One part of a Secret, if it is there.
pub fn secret_text(name: &str, secret: &Secret, key: &str) -> Result<Option<Zeroizing<String>>, Failure> {
    let Some(bytes) = secret.data.as_ref().and_then(|data| data.get(key)) else { return Ok(None) };
    let text = String::from_utf8(bytes.0.clone()).map(Zeroizing::new);
    text.map(Some).map_err(|_| format!("`{key}` of Secret `{name}` is no text").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_pki::serial::CertificateSerial;

    fn fresh() -> Arc<CertificateAuthority> {
        Arc::new(
            CertificateAuthority::create("cluster.local", chrono::Utc::now(), CertificateSerial::unbound([1; 15]))
                .expect("a CA"),
        )
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let (active, next, old) = (fresh(), fresh(), fresh());
        let trust = TrustState {
            active,
            next: Some(next),
            retiring: old.roots().to_vec(),
            step: RotationStep::Published,
            since: 1_800_000_000,
        };
        let secret = encode("ca", &trust, None).expect("written");
        let read = decode("ca", &secret, "cluster.local", chrono::Utc::now()).expect("read");
        assert_eq!((read.step, read.since, read.digest()), (trust.step, trust.since, trust.digest()));
        assert_eq!(read.active.certificate(), trust.active.certificate());
        assert_eq!(read.roots().len(), 3);
        let other = decode("ca", &secret, "other.domain", chrono::Utc::now()).expect_err("another trust domain");
        assert!(other.to_string().contains("set trustDomain back"), "{other}");
    }

    #[test]
    fn a_wish_is_granted_once_and_what_others_noted_stays() {
        let trust = TrustState::steady(fresh());
        let mut secret = encode("ca", &trust, None).expect("written");
        let noted =
            [(ROTATE_ANNOTATION, "planned"), ("backup", "yes")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        secret.metadata.annotations = Some(noted.into());
        assert_eq!(RotationRequest::of(&secret), Some(RotationRequest::Planned));
        let secret = encode("ca", &trust, Some(secret)).expect("written");
        assert_eq!(RotationRequest::of(&secret), None);
        assert!(secret.metadata.annotations.is_some_and(|all| all.contains_key("backup")));
    }

    #[test]
    fn a_secret_that_is_no_ca_says_which_part_is_wrong() {
        let good = encode("ca", &TrustState::steady(fresh()), None).expect("written");
        let other = encode("ca", &TrustState::steady(fresh()), None).expect("written");
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
            let error = decode("ca", &secret, "cluster.local", chrono::Utc::now()).expect_err("refused");
            assert!(error.to_string().contains(expected), "{key}: {error}");
        }
    }
}
