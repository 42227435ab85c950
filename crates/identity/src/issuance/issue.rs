//! What a certificate request is answered: pure, all that it depends on is passed in.

use crate::issuance::served::PodCertificateRequestSpec;
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

/// The API server takes up to five minutes.
const BACKDATE: TimeDelta = TimeDelta::seconds(svid::BACKDATE);
/// Shortest lifetime that the API server lets a signer issue.
const SHORTEST: TimeDelta = TimeDelta::hours(1);
/// The API server wants a refresh to begin at least this long after the beginning and before the end.
const REFRESH_MARGIN: TimeDelta = TimeDelta::minutes(11);

/// Why a request is never granted, as the API knows it (`certificates.k8s.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateDenial {
    pub reason: &'static str,
    pub message: String,
}

/// The key is of a kind that this signer does not certify.
const UNSUPPORTED_KEY: &str = "UnsupportedKeyType";
/// The pod's author asks for something that this signer does not know.
const UNKNOWN_ANNOTATIONS: &str = "InvalidUnverifiedUserAnnotations";
/// The request speaks of something that is no longer, or never was.
pub(crate) const NOT_AS_STATED: &str = "NotAsStated";

/// A certificate, ready to be handed out.
#[derive(Debug)]
pub struct IssuedCertificate {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_before: DateTime<Utc>,
    pub not_after: DateTime<Utc>,
    pub begin_refresh_at: DateTime<Utc>,
    pub serial: CertificateSerial,
}

/// Certifies the key of a request. `random` decides serial and jitter.
pub fn issue(
    authority: &CertificateAuthority,
    spec: &PodCertificateRequestSpec,
    id: &PrincipalId,
    minting: &CertificateEntitlement,
    now: DateTime<Utc>,
    random: [u8; 10],
) -> Result<IssuedCertificate, CertificateDenial> {
    if let Some(unknown) = spec.unverified_user_annotations.iter().flatten().map(|(key, _)| key).next() {
        let message = format!(
            "annotation `{unknown}` is unknown to {}: it takes none; leave `userAnnotations` out",
            crate::SIGNER_NAME
        );
        return Err(CertificateDenial { reason: UNKNOWN_ANNOTATIONS, message });
    }
    let filled = |bytes: &'_ Option<ByteString>| bytes.as_ref().is_some_and(|bytes| !bytes.0.is_empty());
    let key = match (&spec.stub_pkcs10_request, &spec.pkix_public_key) {
        (stub, Some(key)) if !filled(stub) => SubjectKey::from_public_key(&key.0),
        (stub, _) => SubjectKey::from_csr(stub.as_ref().map(|stub| stub.0.as_slice()).unwrap_or_default()),
    };
    let key = key.map_err(|error| match error {
        SubjectKeyError::Unsupported | SubjectKeyError::Unreadable | SubjectKeyError::Signature => {
            CertificateDenial { reason: UNSUPPORTED_KEY, message: format!("{error}; use `keyType: ECDSAP256`") }
        }
    })?;
    let longest = TimeDelta::seconds(spec.max_expiration_seconds.unwrap_or(86_400).into());
    let wanted = CertificateParameters {
        id,
        names: &minting.dns_names,
        lifetime: minting.ttl.min(longest).max(SHORTEST),
        holder: CertificateHolder {
            pod: UidTag::from_uid(&spec.pod_uid),
            service_account: UidTag::from_uid(&spec.service_account_uid),
        },
        margin: REFRESH_MARGIN,
    };
    certify(authority, &key, &wanted, now, random)
        .map_err(|error| CertificateDenial { reason: UNSUPPORTED_KEY, message: error.to_string() })
}

/// What a certificate is to say.
#[derive(Debug)]
pub struct CertificateParameters<'w> {
    pub id: &'w PrincipalId,
    pub names: &'w BTreeSet<Arc<str>>,
    pub lifetime: TimeDelta,
    pub holder: CertificateHolder,
    /// A refresh begins at least this long after the beginning and before the end.
    pub margin: TimeDelta,
}

/// Certifies a key. `random` decides serial and jitter.
pub fn certify(
    authority: &CertificateAuthority,
    key: &SubjectKey,
    wanted: &CertificateParameters<'_>,
    now: DateTime<Utc>,
    random: [u8; 10],
) -> Result<IssuedCertificate, AuthorityError> {
    let [jitter, random @ ..] = random;
    let serial = CertificateSerial::for_pod(wanted.holder, random);
    // whole seconds, as X.509 and the API have them
    let not_before = DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now) - BACKDATE;
    let not_after = not_before + wanted.lifetime;
    let names: Vec<String> = wanted.names.iter().map(ToString::to_string).collect();
    let certificate = authority.certify(
        &SvidRequest { id: &wanted.id.to_string(), dns_names: &names, addresses: &[], not_before, not_after, serial },
        key,
    )?;
    Ok(IssuedCertificate {
        chain: authority.with_chain(certificate),
        not_before,
        not_after,
        begin_refresh_at: refresh(not_before, wanted.lifetime, wanted.margin, jitter),
        serial,
    })
}

/// From half of the lifetime on, up to a tenth of it later, so that pods which began together don't come back together.
fn refresh(not_before: DateTime<Utc>, lifetime: TimeDelta, margin: TimeDelta, jitter: u8) -> DateTime<Utc> {
    let late = lifetime / 10 * i32::from(jitter) / 255;
    let after = (lifetime / 2 + late).clamp(margin, lifetime - margin);
    DateTime::from_timestamp((not_before + after).timestamp(), 0).unwrap_or(not_before + after)
}

impl IssuedCertificate {
    /// As the status of the request.
    pub fn status(&self, now: DateTime<Utc>, message: &str) -> Value {
        json!({
            "certificateChain": self.chain.iter().map(pem).collect::<String>(),
            "notBefore": stamp(self.not_before),
            "notAfter": stamp(self.not_after),
            "beginRefreshAt": stamp(self.begin_refresh_at),
            "conditions": [condition("Issued", "Issued", message, now)],
        })
    }
}

impl CertificateDenial {
    /// As the status of the request.
    pub fn status(&self, now: DateTime<Utc>) -> Value {
        json!({"conditions": [condition("Denied", self.reason, &self.message, now)]})
    }
}

fn condition(kind: &str, reason: &str, message: &str, now: DateTime<Utc>) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": stamp(now)})
}

fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuance::served::PodCertificateRequest;
    use rcgen::{CertificateParams, KeyPair};

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_687_200, 0).unwrap_or_default()
    }

    /// What a pod gets whose policies say this lifetime, and who itself asks for no more than so many seconds.
    fn granted(ttl: TimeDelta, longest: i32, random: [u8; 10]) -> IssuedCertificate {
        let request = CertificateParams::default().serialize_request(&KeyPair::generate().expect("a key"));
        let request = ByteString(request.expect("a request").der().to_vec());
        let request = serde_json::from_value::<PodCertificateRequest>(json!({
            "metadata": {},
            "spec": {
                "podName": "web", "podUID": "p", "serviceAccountName": "web", "serviceAccountUID": "s", "nodeName": "n",
                "nodeUID": "m", "maxExpirationSeconds": longest, "stubPKCS10Request": request,
            },
        }));
        let begin = now();
        let authority = CertificateAuthority::create("cluster.local", begin, CertificateSerial::unbound([1; 15]))
            .expect("an authority");
        let id = PrincipalId::workload("cluster.local", "shop", "web").expect("an ID");
        let minting = CertificateEntitlement { ttl, dns_names: BTreeSet::new(), policies: Default::default() };
        issue(&authority, &request.expect("a request").spec, &id, &minting, now(), random).expect("granted")
    }

    #[test]
    fn pods_that_began_together_come_back_from_half_of_the_lifetime_on_spread_over_a_tenth_of_it() {
        let after = |jitter| {
            let granted = granted(TimeDelta::hours(10), 86_400, [jitter, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            granted.begin_refresh_at - granted.not_before
        };
        assert_eq!([0, 255].map(after), [TimeDelta::hours(5), TimeDelta::hours(6)]);
        let all: BTreeSet<_> = (0..=255).step_by(15).map(after).collect();
        assert_eq!(all.len(), 18, "each its own moment");
    }

    #[test]
    fn a_refresh_keeps_the_distance_that_the_api_server_asks_for() {
        let of = |lifetime| [0, 255].map(|jitter| refresh(now(), lifetime, REFRESH_MARGIN, jitter) - now());
        assert_eq!(of(TimeDelta::minutes(22)), [TimeDelta::minutes(11); 2]);
        assert_eq!(of(TimeDelta::minutes(23)), [TimeDelta::seconds(690), TimeDelta::minutes(12)]);
    }

    #[test]
    fn the_shortest_lifetime_counts_but_none_is_shorter_than_the_api_server_takes() {
        let hours = TimeDelta::hours;
        for (policy, asked, lifetime) in
            [(hours(2), 86_400, hours(2)), (hours(24), 3 * 3600, hours(3)), (TimeDelta::minutes(5), 86_400, hours(1))]
        {
            let granted = granted(policy, asked, [7; 10]);
            assert_eq!(granted.not_after - granted.not_before, lifetime, "{policy} {asked}");
            assert_eq!(now() - granted.not_before, BACKDATE);
        }
    }
}
