//! Certificates and JWT-SVIDs for pods that request them from the controller. A pod authenticates by a service-account
//! token that has the audience of Durward and is bound to the pod.

use crate::ca::authorities::Authorities;
use crate::issuance::issue::{CertificateParameters, IssuedCertificate, certify};
use crate::issuance::not_entitled_message;
use crate::issuance::pods::{LabelledPod, PodFacts, check_pod};
use crate::names::DURWARD_AUDIENCE;
use crate::tokens::token_keys::TokenKeys;
use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::{Authenticator, LocalVerdict};
use durward_core::pods::CertificateEntitlement;
use durward_core::principal::PrincipalId;
use durward_engine::Engine;
use durward_engine::audit::issuance::{CredentialKind, IssuanceRecord, PodPolicy};
use durward_engine::outcome::{IssuanceOutcome, IssuedBy};
use durward_kubernetes::requests::{REQUEST_TIMEOUT, RequestError, with_timeout};
use durward_pki::request::SubjectKey;
use durward_pki::serial::{CertificateHolder, UidTag};
use durward_pki::token::SigningAlgorithm;
use durward_runtime::random::random_bytes;
use durward_runtime::slots::SourceSlots;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use thiserror::Error;

/// Shortest lifetime of a certificate: after a failed refresh there has to be time for another one.
const MIN_LIFETIME: TimeDelta = TimeDelta::minutes(5);
/// Shortest time between the refresh and either end of the lifetime.
const REFRESH_MARGIN: TimeDelta = TimeDelta::minutes(1);
/// Lifetime of a JWT-SVID. It is short, since a bearer token can be stolen.
const TOKEN_LIFETIME: TimeDelta = TimeDelta::minutes(5);
/// Most audiences of one JWT-SVID: each of these services could forward the token to the others.
const MAX_AUDIENCES: usize = 8;
/// Longest audience, in bytes.
const MAX_AUDIENCE_LENGTH: usize = 255;
/// Requests that are answered at the same time. Each needs two answers of the API server.
const CONCURRENCY: usize = 64;
/// Requests that are answered at the same time although the keys that are known here can't verify their token. Forged
/// tokens can take these, but not those of verified tokens.
const UNVERIFIED_CONCURRENCY: usize = 16;

/// Issues certificates and JWT-SVIDs to pods.
#[derive(Clone)]
pub struct CertificateMint {
    client: Client,
    engine: Arc<Engine>,
    authorities: Authorities,
    keys: TokenKeys,
    trust_domain: Arc<str>,
    issuer: Arc<str>,
    authenticator: Arc<Authenticator>,
    slots: SourceSlots,
    unverified_slots: SourceSlots,
}

/// The credential of a pod.
#[derive(Clone, Copy)]
pub struct PodCredential<'c> {
    /// A service-account token.
    pub token: &'c str,
    /// Address that the request comes from.
    pub source: IpAddr,
}

/// Shows only the source: the token is secret.
impl std::fmt::Debug for PodCredential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodCredential").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Shows only the type name: the fields are large or secret.
impl std::fmt::Debug for CertificateMint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateMint").finish_non_exhaustive()
    }
}

/// Why a pod gets no certificate or token.
#[derive(Debug, Error)]
pub enum MintError {
    /// The token is not valid. The response to the caller does not contain the reason.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// No policy selects the pod, or a policy of its namespace denies it.
    #[error("{0}")]
    NotEntitled(String),
    /// The request is not valid.
    #[error("{0}")]
    Invalid(String),
    /// The request can't be answered now; another attempt may succeed.
    #[error("{0}")]
    Unavailable(String),
}

impl From<RequestError> for MintError {
    fn from(error: RequestError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A JWT-SVID.
pub struct JwtSvid {
    pub id: PrincipalId,
    pub text: String,
    pub expires_at: DateTime<Utc>,
}

/// Shows only the type name: the token is secret.
impl std::fmt::Debug for JwtSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JwtSvid").finish_non_exhaustive()
    }
}

/// An authenticated pod, and its entitlement.
struct EntitledPod {
    id: PrincipalId,
    namespace: String,
    service_account: String,
    name: String,
    uid: String,
    service_account_uid: String,
    labels: BTreeMap<String, String>,
    entitlement: CertificateEntitlement,
}

impl EntitledPod {
    /// Adds the pod to an audit record.
    fn describe<'i>(&'i self, record: IssuanceRecord<'i>) -> IssuanceRecord<'i> {
        IssuanceRecord {
            principal: Some(self.id.to_string()),
            namespace: &self.namespace,
            service_account: &self.service_account,
            pod: &self.name,
            pod_uid: &self.uid,
            policies: PodPolicy::all(&self.entitlement),
            ..record
        }
    }
}

impl CertificateMint {
    pub fn new(
        client: Client,
        engine: Arc<Engine>,
        authenticator: Arc<Authenticator>,
        authorities: Authorities,
        keys: TokenKeys,
        trust_domain: &str,
        issuer: &str,
    ) -> Self {
        let metrics = engine.metrics().listeners();
        let slots = SourceSlots::new("mint", CONCURRENCY, metrics.clone());
        let unverified_slots = SourceSlots::new("mint_unverified", UNVERIFIED_CONCURRENCY, metrics.clone());
        Self {
            client,
            engine,
            authorities,
            keys,
            trust_domain: trust_domain.into(),
            issuer: issuer.into(),
            authenticator,
            slots,
            unverified_slots,
        }
    }

    /// Issues a certificate (X509-SVID) for the key of a signed request in DER, with a lifetime of at most `ttl`.
    ///
    /// # Errors
    /// If the pod does not authenticate or is not entitled, or if the request is not valid.
    pub async fn certificate(
        &self,
        credential: PodCredential<'_>,
        request: &[u8],
        ttl: Option<TimeDelta>,
    ) -> Result<(PrincipalId, IssuedCertificate), MintError> {
        let requested_at = Utc::now();
        // authenticate first, so that only entitled pods cause the verification of a signature
        let pod = self.entitled_pod(credential, CredentialKind::Certificate).await?;
        let key = SubjectKey::from_signed_csr(request).map_err(|error| MintError::Invalid(error.to_string()))?;
        let requested = ttl.unwrap_or(pod.entitlement.ttl);
        let parameters = CertificateParameters {
            id: &pod.id,
            dns_names: &pod.entitlement.dns_names,
            lifetime: pod.entitlement.ttl.min(requested).max(MIN_LIFETIME),
            holder: CertificateHolder {
                pod: UidTag::from_uid(&pod.uid),
                service_account: UidTag::from_uid(&pod.service_account_uid),
            },
            refresh_margin: REFRESH_MARGIN,
        };
        let random = random_bytes().map_err(|error| MintError::Unavailable(error.to_string()))?;
        let certificate = certify(&self.authorities.active(), &key, &parameters, Utc::now(), random);
        let certificate = certificate.map_err(|error| MintError::Invalid(error.to_string()))?;
        let record = self.new_record(CredentialKind::Certificate, IssuanceOutcome::Issued, requested_at);
        let lifetime = record.seconds_until(certificate.not_after);
        let serial = Some(certificate.serial.to_string());
        self.record(&pod.describe(IssuanceRecord { serial, lifetime: Some(lifetime), ..record }))?;
        Ok((pod.id, certificate))
    }

    /// Issues a JWT-SVID (SPIFFE JWT-SVID, section 3) for these audiences.
    ///
    /// # Errors
    /// If the pod does not authenticate or is not entitled, or if the audiences are not valid.
    pub async fn token(&self, credential: PodCredential<'_>, audiences: &[String]) -> Result<JwtSvid, MintError> {
        let has_valid_length = |audience: &String| (1..=MAX_AUDIENCE_LENGTH).contains(&audience.len());
        if !(1..=MAX_AUDIENCES).contains(&audiences.len()) || !audiences.iter().all(has_valid_length) {
            return Err(MintError::Invalid(format!(
                "name 1 to {MAX_AUDIENCES} audiences of up to {MAX_AUDIENCE_LENGTH} bytes"
            )));
        }
        let now = Utc::now();
        let pod = self.entitled_pod(credential, CredentialKind::Token).await?;
        let expires_at = now + TOKEN_LIFETIME;
        let claims = json!({
            "iss": &*self.issuer, "sub": pod.id, "aud": audiences,
            "iat": now.timestamp(), "exp": expires_at.timestamp(),
            // enforcement points reject the token once the pod or the service account is deleted
            "kubernetes.io": {"pod": {"uid": pod.uid}, "serviceaccount": {"uid": pod.service_account_uid}},
        });
        let keys = self.keys.current();
        let key = keys
            .signing_key(SigningAlgorithm::Es256, now)
            .ok_or_else(|| MintError::Unavailable("there is no token key".to_owned()))?;
        let text = key.sign(&claims, "JWT").map_err(|error| MintError::Unavailable(error.to_string()))?;
        let record = IssuanceRecord {
            serial: Some(key.kid().to_owned()),
            lifetime: Some(TOKEN_LIFETIME.num_seconds()),
            audiences,
            ..self.new_record(CredentialKind::Token, IssuanceOutcome::Issued, now)
        };
        self.record(&pod.describe(record))?;
        Ok(JwtSvid { id: pod.id, text, expires_at })
    }

    /// The namespace and labels of the pod to which a token is bound.
    ///
    /// # Errors
    /// If the pod does not authenticate or is not entitled.
    pub async fn pod_labels(&self, credential: PodCredential<'_>) -> Result<LabelledPod, MintError> {
        let EntitledPod { namespace, labels, .. } = self.authenticate(credential).await?;
        Ok(LabelledPod { namespace, labels })
    }

    fn new_record(
        &self,
        kind: CredentialKind,
        outcome: IssuanceOutcome,
        requested_at: DateTime<Utc>,
    ) -> IssuanceRecord<'_> {
        let revision = self.engine.snapshot().revision().to_string();
        IssuanceRecord::new(IssuedBy::Mint, kind, outcome, revision, requested_at)
    }

    /// Records an issuance. If the audit log requires a record and it fails, nothing is issued.
    fn record(&self, record: &IssuanceRecord<'_>) -> Result<(), MintError> {
        let recorded = self.engine.record(record);
        if recorded { Ok(()) } else { Err(MintError::Unavailable("the issuance can't be recorded".to_owned())) }
    }

    /// Authenticates the pod, and records a refusal.
    async fn entitled_pod(
        &self,
        credential: PodCredential<'_>,
        kind: CredentialKind,
    ) -> Result<EntitledPod, MintError> {
        let requested_at = Utc::now();
        let pod = self.authenticate(credential).await;
        let reason = match &pod {
            Ok(_) | Err(MintError::Unavailable(_)) => return pod,
            Err(error) => error.to_string(),
        };
        let refusal = self.new_record(kind, IssuanceOutcome::Refused, requested_at);
        self.record(&IssuanceRecord { reason: Some(reason.into()), ..refusal })?;
        pod
    }

    /// Authenticates the pod to which a token is bound, and looks up its entitlement.
    async fn authenticate(&self, credential: PodCredential<'_>) -> Result<EntitledPod, MintError> {
        // a slot is only for a token that the API server is likely to accept
        let slots = match self.authenticator.check_pod_token(credential.token, DURWARD_AUDIENCE, Utc::now()).await {
            LocalVerdict::Valid => &self.slots,
            LocalVerdict::Unknown => &self.unverified_slots,
            LocalVerdict::Invalid(failure) => {
                tracing::info!(cause = %failure, "token of a pod is not valid; the API server is not asked");
                return Err(MintError::Unauthenticated("the token is not valid"));
            }
        };
        let slot = slots.try_acquire(credential.source);
        let _slot = slot.ok_or_else(|| MintError::Unavailable("too many requests at the same time".to_owned()))?;
        let user = self.review(credential.token).await?;
        let unauthenticated = MintError::Unauthenticated;
        let username = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
        let (namespace, service_account) = username
            .and_then(|name| name.split_once(':'))
            .ok_or(unauthenticated("the token is of no service account"))?;
        let unbound = "the token is bound to no pod";
        let name = single_extra(&user, "pod-name").ok_or(unauthenticated(unbound))?;
        let uid = single_extra(&user, "pod-uid").ok_or(unauthenticated(unbound))?;
        let service_account_uid = user.uid.clone().ok_or(unauthenticated("the service account has no UID"))?;
        let labels = self.labels(namespace, name, uid, service_account).await?;
        let id = PrincipalId::workload(&self.trust_domain, namespace, service_account)
            .map_err(|_| unauthenticated("the service account is no SPIFFE ID"))?;
        let entitlement = self.engine.snapshot().certificate_entitlement(&id, namespace, &labels);
        let entitlement =
            entitlement.map_err(|reason| MintError::NotEntitled(not_entitled_message(&reason, namespace)))?;
        Ok(EntitledPod {
            id,
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            service_account_uid,
            labels,
            entitlement,
        })
    }

    /// The user of a token with the audience of Durward, according to the API server.
    async fn review(&self, token: &str) -> Result<UserInfo, MintError> {
        let spec = TokenReviewSpec { audiences: Some(vec![DURWARD_AUDIENCE.to_owned()]), token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let status = with_timeout(REQUEST_TIMEOUT, reviews.create(&PostParams::default(), &review)).await?.status;
        let accepted = status.filter(|status| {
            let for_durward = status.audiences.iter().flatten().any(|audience| audience == DURWARD_AUDIENCE);
            status.authenticated == Some(true) && for_durward
        });
        accepted
            .and_then(|status| status.user)
            .ok_or(MintError::Unauthenticated("the API server does not take the token, or not for this audience"))
    }

    /// The labels of the pod, which has to exist and to run as the service account of the token.
    async fn labels(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        service_account: &str,
    ) -> Result<BTreeMap<String, String>, MintError> {
        let check = |pod: Option<PodFacts>| {
            let pod = pod.filter(|pod| pod.has_uid(uid)).ok_or(MintError::Unauthenticated("the pod is gone"))?;
            if pod.service_account() == service_account {
                Ok(pod.into_labels())
            } else {
                Err(MintError::Unauthenticated("the pod runs as another service account"))
            }
        };
        with_timeout(REQUEST_TIMEOUT, check_pod(&self.client, namespace, name, check)).await?
    }
}

/// The value of an extra attribute of the user, if it has exactly one value.
fn single_extra<'u>(user: &'u UserInfo, name: &str) -> Option<&'u str> {
    match user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{name}"))?.as_slice() {
        [value] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
