//! The decision about a certificate request, and the certificate. All inputs are passed in, time and randomness too.

use crate::certificates_api::PodCertificateRequestSpec;
use crate::names::SIGNER_NAME;
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::pods::CertificateEntitlement;
use durward_core::principal::PrincipalId;
use durward_pki::authority::{AuthorityError, CertificateAuthority, SvidRequest, pem};
use durward_pki::request::{SubjectKey, SubjectKeyError};
use durward_pki::serial::{CertificateHolder, CertificateSerial, UidTag};
use durward_pki::svid;
use k8s_openapi::ByteString;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Time by which a certificate is backdated. The API server accepts up to five minutes.
const BACKDATE: TimeDelta = TimeDelta::seconds(svid::BACKDATE);
/// Shortest lifetime that the API server accepts from a signer.
const MIN_LIFETIME: TimeDelta = TimeDelta::hours(1);
/// Shortest time that the API server accepts between the refresh and either end of the lifetime.
const REFRESH_MARGIN: TimeDelta = TimeDelta::minutes(11);
/// Lifetime of a request that asks for none, which is the default of the API server.
const DEFAULT_LIFETIME_SECONDS: i32 = 86_400;

/// A final refusal, as a condition of `certificates.k8s.io/v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateDenial {
    pub reason: &'static str,
    pub message: String,
}

/// Reason: the signer does not certify this type of key.
const UNSUPPORTED_KEY: &str = "UnsupportedKeyType";
/// Reason: the pod has annotations that the signer does not know.
const UNKNOWN_ANNOTATIONS: &str = "InvalidUnverifiedUserAnnotations";
/// Reason: the pod, service account or node is not the one that the request names.
pub(crate) const NOT_AS_STATED: &str = "NotAsStated";

/// An issued certificate.
#[derive(Debug)]
pub struct IssuedCertificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_before: DateTime<Utc>,
    pub not_after: DateTime<Utc>,
    pub begin_refresh_at: DateTime<Utc>,
    pub serial: CertificateSerial,
}

/// Certifies the key of a request. `random` determines the serial number and the time of the refresh.
///
/// # Errors
/// If the request has annotations, or a key that is not accepted.
pub fn issue(
    authority: &CertificateAuthority,
    spec: &PodCertificateRequestSpec,
    id: &PrincipalId,
    entitlement: &CertificateEntitlement,
    now: DateTime<Utc>,
    random: [u8; 10],
) -> Result<IssuedCertificate, CertificateDenial> {
    if let Some(unknown) = spec.unverified_user_annotations.iter().flatten().map(|(key, _)| key).next() {
        let message =
            format!("annotation `{unknown}` is unknown to {SIGNER_NAME}: it takes none; leave `userAnnotations` out");
        return Err(CertificateDenial { reason: UNKNOWN_ANNOTATIONS, message });
    }
    let key = requested_key(spec).map_err(|error| match error {
        SubjectKeyError::Unsupported | SubjectKeyError::Unreadable | SubjectKeyError::Signature => {
            CertificateDenial { reason: UNSUPPORTED_KEY, message: format!("{error}; use `keyType: ECDSAP256`") }
        }
    })?;
    let requested = TimeDelta::seconds(spec.max_expiration_seconds.unwrap_or(DEFAULT_LIFETIME_SECONDS).into());
    let parameters = CertificateParameters {
        id,
        dns_names: &entitlement.dns_names,
        lifetime: entitlement.ttl.min(requested).max(MIN_LIFETIME),
        holder: CertificateHolder {
            pod: UidTag::from_uid(&spec.pod_uid),
            service_account: UidTag::from_uid(&spec.service_account_uid),
        },
        refresh_margin: REFRESH_MARGIN,
    };
    certify(authority, &key, &parameters, now, random)
        .map_err(|error| CertificateDenial { reason: UNSUPPORTED_KEY, message: error.to_string() })
}

fn requested_key(spec: &PodCertificateRequestSpec) -> Result<SubjectKey, SubjectKeyError> {
    let has_bytes = |bytes: &Option<ByteString>| bytes.as_ref().is_some_and(|bytes| !bytes.0.is_empty());
    match (&spec.stub_pkcs10_request, &spec.pkix_public_key) {
        (stub, Some(key)) if !has_bytes(stub) => SubjectKey::from_public_key(&key.0),
        (stub, _) => SubjectKey::from_csr(stub.as_ref().map(|stub| stub.0.as_slice()).unwrap_or_default()),
    }
}

/// The contents of a certificate.
#[derive(Debug)]
pub struct CertificateParameters<'w> {
    pub id: &'w PrincipalId,
    pub dns_names: &'w BTreeSet<Arc<str>>,
    pub lifetime: TimeDelta,
    pub holder: CertificateHolder,
    /// Shortest time between the refresh and either end of the lifetime.
    pub refresh_margin: TimeDelta,
}

/// Certifies a key. `random` determines the serial number and the time of the refresh.
///
/// # Errors
/// If the authority can't certify the key.
pub fn certify(
    authority: &CertificateAuthority,
    key: &SubjectKey,
    parameters: &CertificateParameters<'_>,
    now: DateTime<Utc>,
    random: [u8; 10],
) -> Result<IssuedCertificate, AuthorityError> {
    let [jitter, random @ ..] = random;
    let serial = CertificateSerial::for_pod(parameters.holder, random);
    // X.509 and the Kubernetes API have whole seconds
    let not_before = DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now) - BACKDATE;
    let not_after = not_before + parameters.lifetime;
    let dns_names: Vec<String> = parameters.dns_names.iter().map(ToString::to_string).collect();
    let id = parameters.id.to_string();
    let request = SvidRequest { id: &id, dns_names: &dns_names, addresses: &[], not_before, not_after, serial };
    let certificate = authority.certify(&request, key)?;
    Ok(IssuedCertificate {
        chain: authority.with_chain(certificate),
        not_before,
        not_after,
        begin_refresh_at: refresh_time(not_before, parameters.lifetime, parameters.refresh_margin, jitter),
        serial,
    })
}

/// The time of the refresh: after half of the lifetime, plus up to a tenth of it, so that pods that started together do
/// not refresh together.
fn refresh_time(not_before: DateTime<Utc>, lifetime: TimeDelta, margin: TimeDelta, jitter: u8) -> DateTime<Utc> {
    let delay = lifetime / 10 * i32::from(jitter) / 255;
    let after = (lifetime / 2 + delay).clamp(margin, lifetime - margin);
    DateTime::from_timestamp((not_before + after).timestamp(), 0).unwrap_or(not_before + after)
}

impl IssuedCertificate {
    /// The status of the issued request.
    pub fn status(&self, now: DateTime<Utc>, message: &str) -> Value {
        json!({
            "certificateChain": self.chain.iter().map(pem).collect::<String>(),
            "notBefore": rfc3339(self.not_before),
            "notAfter": rfc3339(self.not_after),
            "beginRefreshAt": rfc3339(self.begin_refresh_at),
            "conditions": [condition("Issued", "Issued", message, now)],
        })
    }
}

impl CertificateDenial {
    /// The status of the denied request.
    pub fn status(&self, now: DateTime<Utc>) -> Value {
        json!({"conditions": [condition("Denied", self.reason, &self.message, now)]})
    }
}

fn condition(kind: &str, reason: &str, message: &str, now: DateTime<Utc>) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": rfc3339(now)})
}

fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates_api::PodCertificateRequest;
    use rcgen::{CertificateParams, KeyPair};

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_687_200, 0).unwrap_or_default()
    }

    /// The certificate of a pod with lifetime `ttl` in its policies and `max_seconds` in its request.
    fn issued(ttl: TimeDelta, max_seconds: i32, random: [u8; 10]) -> IssuedCertificate {
        let key = KeyPair::generate().expect("generates a key");
        let request = CertificateParams::default().serialize_request(&key);
        let request = ByteString(request.expect("creates a CSR").der().to_vec());
        let request = serde_json::from_value::<PodCertificateRequest>(json!({
            "metadata": {},
            "spec": {
                "podName": "web", "podUID": "p", "serviceAccountName": "web", "serviceAccountUID": "s", "nodeName": "n",
                "nodeUID": "m", "maxExpirationSeconds": max_seconds, "stubPKCS10Request": request,
            },
        }));
        let authority = CertificateAuthority::create("cluster.local", now(), CertificateSerial::unbound([1; 15]))
            .expect("creates an authority");
        let id = PrincipalId::workload("cluster.local", "shop", "web").expect("the SPIFFE ID is valid");
        let entitlement = CertificateEntitlement { ttl, dns_names: BTreeSet::new(), policies: Default::default() };
        let request = request.expect("parses the request");
        issue(&authority, &request.spec, &id, &entitlement, now(), random).expect("issues a certificate")
    }

    #[test]
    fn refreshes_are_spread_after_half_of_the_lifetime() {
        let refresh_after = |jitter| {
            let certificate = issued(TimeDelta::hours(10), 86_400, [jitter, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            certificate.begin_refresh_at - certificate.not_before
        };
        assert_eq!([0, 255].map(refresh_after), [TimeDelta::hours(5), TimeDelta::hours(6)]);
        let all: BTreeSet<_> = (0..=255).step_by(15).map(refresh_after).collect();
        assert_eq!(all.len(), 18, "every jitter gives another time");
    }

    #[test]
    fn a_refresh_keeps_the_margin_that_the_api_server_requires() {
        let refresh_after =
            |lifetime| [0, 255].map(|jitter| refresh_time(now(), lifetime, REFRESH_MARGIN, jitter) - now());
        assert_eq!(refresh_after(TimeDelta::minutes(22)), [TimeDelta::minutes(11); 2]);
        assert_eq!(refresh_after(TimeDelta::minutes(23)), [TimeDelta::seconds(690), TimeDelta::minutes(12)]);
    }

    #[test]
    fn the_shorter_lifetime_applies_down_to_the_api_servers_minimum() {
        let hours = TimeDelta::hours;
        for (policy, requested, lifetime) in
            [(hours(2), 86_400, hours(2)), (hours(24), 3 * 3600, hours(3)), (TimeDelta::minutes(5), 86_400, hours(1))]
        {
            let certificate = issued(policy, requested, [7; 10]);
            assert_eq!(certificate.not_after - certificate.not_before, lifetime, "{policy} {requested}");
            assert_eq!(now() - certificate.not_before, BACKDATE);
        }
    }
}
