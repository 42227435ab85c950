//! Identities for pods that ask for them themselves: by a service-account token of theirs that is meant for Durward, and
//! that is bound to the pod.

use crate::issuance::issue::{CertificateParameters, certify};
use crate::issuance::pods;
use crate::issuance::pods::LabelledPod as Labelled;
use crate::{Authorities, IssuedCertificate, TokenKeys, not_entitled_message};
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::pods::CertificateEntitlement;
use durward_core::principal::PrincipalId;
use durward_engine::Engine;
use durward_engine::audit::issuance::{AboutPod, By, Issuance, Kind, Outcome};
use durward_kubernetes::requests::{REQUEST_TIMEOUT, redacted, with_timeout};
use durward_pki::request::SubjectKey;
use durward_pki::serial::{CertificateHolder, UidTag};
use durward_pki::token::SigningAlgorithm;
use durward_runtime::random::random_bytes;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::Client;
use kube::api::{Api, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::Semaphore;

/// Audience of the tokens by which pods ask.
pub const AUDIENCE: &str = "durward";
/// Shortest lifetime of a certificate: a refresh that fails has to have time for another.
const SHORTEST: TimeDelta = TimeDelta::minutes(5);
/// A refresh begins at least this long before the end.
const MARGIN: TimeDelta = TimeDelta::minutes(1);
/// Lifetime of a JWT-SVID: it is a bearer's, so it is short.
const TOKEN: TimeDelta = TimeDelta::minutes(5);
/// Most audiences of one JWT-SVID; more are more services that could pass it on.
const MAX_AUDIENCES: usize = 8;
/// Longest audience, in bytes.
const MAX_AUDIENCE: usize = 255;
/// Requests that are worked on at once; the API server is asked twice for each.
const CONCURRENCY: usize = 64;

/// Mints.
#[derive(Clone)]
pub struct CertificateMint {
    client: Client,
    engine: Arc<Engine>,
    authorities: Authorities,
    keys: TokenKeys,
    trust_domain: Arc<str>,
    issuer: Arc<str>,
    slots: Arc<Semaphore>,
}

impl std::fmt::Debug for CertificateMint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertificateMint").finish_non_exhaustive()
    }
}

/// Why nothing is minted.
#[derive(Debug, Error)]
pub enum MintError {
    /// The token is none that counts. Callers are not told more.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// No policy is about the pod, or its own namespace denies it.
    #[error("{0}")]
    NotEntitled(String),
    /// What is asked for can't be.
    #[error("{0}")]
    Invalid(String),
    /// It may come right.
    #[error("{0}")]
    Unavailable(String),
}

impl From<kube::Error> for MintError {
    fn from(error: kube::Error) -> Self {
        Self::Unavailable(redacted(&error))
    }
}

/// A JWT-SVID.
pub struct Token {
    pub id: PrincipalId,
    pub text: String,
    pub expires_at: DateTime<Utc>,
}

/// Names the type alone: what it holds is secret or large.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// A pod that proved itself, and what policies let it have.
struct Caller {
    id: PrincipalId,
    namespace: String,
    account: String,
    pod: String,
    pod_uid: String,
    account_uid: String,
    labels: BTreeMap<String, String>,
    minting: CertificateEntitlement,
}

impl Caller {
    /// Says of an issuance whose it is.
    fn of<'i>(&'i self, issuance: Issuance<'i>) -> Issuance<'i> {
        Issuance {
            principal: Some(self.id.to_string()),
            namespace: &self.namespace,
            service_account: &self.account,
            pod: &self.pod,
            pod_uid: &self.pod_uid,
            policies: AboutPod::all(&self.minting),
            ..issuance
        }
    }
}

impl CertificateMint {
    pub fn new(
        client: Client,
        engine: Arc<Engine>,
        authorities: Authorities,
        keys: TokenKeys,
        trust_domain: &str,
        issuer: &str,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        Self { client, engine, authorities, keys, trust_domain: trust_domain.into(), issuer: issuer.into(), slots }
    }

    /// A certificate (X509-SVID) for the key of a signed request in DER, of at most `ttl`.
    pub async fn certificate(
        &self,
        token: &str,
        request: &[u8],
        ttl: Option<TimeDelta>,
    ) -> Result<(PrincipalId, IssuedCertificate), MintError> {
        let began = Utc::now();
        // a signature is verified for whoever may ask, not for everybody
        let caller = self.caller(token, Kind::Certificate).await?;
        let key = SubjectKey::from_signed_csr(request).map_err(|error| MintError::Invalid(error.to_string()))?;
        let longest = ttl.unwrap_or(caller.minting.ttl);
        let wanted = CertificateParameters {
            id: &caller.id,
            names: &caller.minting.dns_names,
            lifetime: caller.minting.ttl.min(longest).max(SHORTEST),
            holder: CertificateHolder {
                pod: UidTag::from_uid(&caller.pod_uid),
                service_account: UidTag::from_uid(&caller.account_uid),
            },
            margin: MARGIN,
        };
        let random = random_bytes().map_err(|error| MintError::Unavailable(error.to_string()))?;
        let granted = certify(&self.authorities.active(), &key, &wanted, Utc::now(), random);
        let granted = granted.map_err(|error| MintError::Invalid(error.to_string()))?;
        let issuance = self.issuance(Kind::Certificate, Outcome::Issued);
        let lifetime = issuance.until(granted.not_after);
        let issuance = Issuance { serial: Some(granted.serial.to_string()), lifetime: Some(lifetime), ..issuance };
        self.record(caller.of(issuance), began)?;
        Ok((caller.id, granted))
    }

    /// A JWT-SVID (SPIFFE JWT-SVID, section 3) for some audiences.
    pub async fn token(&self, token: &str, audiences: &[String]) -> Result<Token, MintError> {
        let fits = |audience: &String| (1..=MAX_AUDIENCE).contains(&audience.len());
        if !(1..=MAX_AUDIENCES).contains(&audiences.len()) || !audiences.iter().all(fits) {
            return Err(MintError::Invalid(format!(
                "name 1 to {MAX_AUDIENCES} audiences of up to {MAX_AUDIENCE} bytes"
            )));
        }
        let now = Utc::now();
        let caller = self.caller(token, Kind::Token).await?;
        let expires_at = now + TOKEN;
        let claims = json!({
            "iss": &*self.issuer, "sub": caller.id, "aud": audiences, "iat": now.timestamp(), "exp": expires_at.timestamp(),
            // doors refuse it once these are gone
            "kubernetes.io": {"pod": {"uid": caller.pod_uid}, "serviceaccount": {"uid": caller.account_uid}},
        });
        let keys = self.keys.current();
        let key = keys
            .signing_key(SigningAlgorithm::Es256, now)
            .ok_or_else(|| MintError::Unavailable("there is no key".to_owned()))?;
        let text = key.sign(&claims, "JWT").map_err(|error| MintError::Unavailable(error.to_string()))?;
        let issuance = Issuance {
            serial: Some(key.kid().to_owned()),
            lifetime: Some(TOKEN.num_seconds()),
            audiences,
            ..self.issuance(Kind::Token, Outcome::Issued)
        };
        self.record(caller.of(issuance), now)?;
        Ok(Token { id: caller.id, text, expires_at })
    }

    /// The pod that a token is of.
    pub async fn pod_labels(&self, token: &str) -> Result<Labelled, MintError> {
        let Caller { namespace, labels, .. } = self.proved(token).await?;
        Ok(Labelled { namespace, labels })
    }

    fn issuance(&self, kind: Kind, outcome: Outcome) -> Issuance<'_> {
        Issuance::new(By::Mint, kind, outcome, self.engine.snapshot().revision().to_string())
    }

    /// Records it; what has to be recorded and can't be is not given out.
    fn record(&self, issuance: Issuance<'_>, began: DateTime<Utc>) -> Result<(), MintError> {
        let recorded = self.engine.issuance(&issuance, began);
        if recorded { Ok(()) } else { Err(MintError::Unavailable("it can't be recorded".to_owned())) }
    }

    /// Who asks, and what policies let them have.
    async fn caller(&self, token: &str, kind: Kind) -> Result<Caller, MintError> {
        let began = Utc::now();
        let caller = self.proved(token).await;
        let cause = match &caller {
            Ok(_) | Err(MintError::Unavailable(_)) => return caller,
            Err(error) => error.to_string(),
        };
        let refused = Issuance { reason: Some(cause.into()), ..self.issuance(kind, Outcome::Refused) };
        self.record(refused, began)?;
        caller
    }

    async fn proved(&self, token: &str) -> Result<Caller, MintError> {
        let Ok(_slot) = self.slots.try_acquire() else {
            return Err(MintError::Unavailable("too many ask at once".to_owned()));
        };
        let user = self.review(token).await?;
        let refused = MintError::Unauthenticated;
        let username = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
        let (namespace, account) =
            username.and_then(|name| name.split_once(':')).ok_or(refused("the token is of no service account"))?;
        let extra = |name: &str| {
            let values = user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{name}"))?;
            values.first().filter(|_| values.len() == 1)
        };
        let unbound = refused("the token is bound to no pod");
        let (Some(pod), Some(pod_uid)) = (extra("pod-name"), extra("pod-uid")) else { return Err(unbound) };
        let account_uid = user.uid.clone().ok_or(refused("the service account has no UID"))?;
        let labels = self.labels(namespace, pod, pod_uid, account).await?;
        let id = PrincipalId::workload(&self.trust_domain, namespace, account)
            .map_err(|_| refused("the service account is no SPIFFE ID"))?;
        match self.engine.snapshot().certificate_entitlement(&id, namespace, &labels) {
            Ok(minting) => {
                let (namespace, account) = (namespace.to_owned(), account.to_owned());
                let (pod, pod_uid) = (pod.clone(), pod_uid.clone());
                Ok(Caller { id, namespace, account, pod, pod_uid, account_uid, labels, minting })
            }
            Err(why) => Err(MintError::NotEntitled(not_entitled_message(&why, namespace))),
        }
    }

    /// Whom the API server sees behind a token that is meant for Durward.
    async fn review(&self, token: &str) -> Result<UserInfo, MintError> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let status = with_timeout(REQUEST_TIMEOUT, reviews.create(&PostParams::default(), &review)).await?.status;
        let status = status.filter(|status| {
            let meant = status.audiences.iter().flatten().any(|audience| audience == AUDIENCE);
            status.authenticated == Some(true) && meant
        });
        let refused = MintError::Unauthenticated("the API server does not take the token, or not for this audience");
        status.and_then(|status| status.user).ok_or(refused)
    }

    /// Labels of the pod, which has to be what the token says, and to live.
    async fn labels(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        account: &str,
    ) -> Result<BTreeMap<String, String>, MintError> {
        let check = |pod: Option<pods::Found>| {
            let pod = pod.filter(|pod| pod.is(uid)).ok_or(MintError::Unauthenticated("the pod is gone"))?;
            if pod.account() == account {
                Ok(pod.into_labels())
            } else {
                Err(MintError::Unauthenticated("the pod runs as another service account"))
            }
        };
        with_timeout(REQUEST_TIMEOUT, pods::checked(&self.client, namespace, name, check)).await?
    }
}
