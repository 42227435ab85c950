//! Identities that were given out or refused, in the same log as decisions.

use crate::audit::{approval, second_factor};
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::pods::CertificateEntitlement;
use durward_core::scope::Scope;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Tells such a line from a decision.
const EVENT: &str = "issuance";

/// One line about an identity.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Issuance<'i> {
    /// Always `issuance`.
    pub event: &'static str,
    /// RFC 3339 in UTC.
    pub time: DateTime<Utc>,
    /// Who gave it: the signer of PodCertificateRequests, the mint, or the exchange of tokens.
    pub by: By,
    /// What it is.
    pub kind: Kind,
    /// Whether it was given.
    pub outcome: Outcome,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'i, str>>,
    /// The identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub namespace: &'i str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub service_account: &'i str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub pod: &'i str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub pod_uid: &'i str,
    /// Serial number of a certificate, name of the key of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Seconds from now on for which it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<i64>,
    /// Name of the token itself (`jti`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<&'i str>,
    /// Who asked for it, where that is not the identity itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Scopes of an access token.
    #[serde(skip_serializing_if = "<[Scope]>::is_empty")]
    pub scopes: &'i [Scope],
    /// Audiences of a token.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub audiences: &'i [String],
    /// The policies that are about the pod.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<AboutPod>,
    /// Revision of the policies.
    pub revision: String,
}

/// A policy that is about a pod.
#[derive(Debug, Clone, Serialize)]
pub struct AboutPod {
    /// `namespace/name`.
    name: String,
    /// Its `metadata.generation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
}

impl AboutPod {
    pub fn all(minting: &CertificateEntitlement) -> Vec<Self> {
        let policies = minting.policies.iter();
        policies.map(|(policy, generation)| Self { name: policy.to_string(), generation: *generation }).collect()
    }
}

/// Who gives identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum By {
    Signer,
    Mint,
    Exchange,
}

/// What is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Certificate,
    Token,
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    Issued,
    /// Never.
    Denied,
    /// Not as things are.
    Refused,
}

impl By {
    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signer => "signer",
            Self::Mint => "mint",
            Self::Exchange => "exchange",
        }
    }
}

impl Outcome {
    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Denied => "denied",
            Self::Refused => "refused",
        }
    }
}

impl Issuance<'_> {
    /// A line that says no more than what became of it.
    pub fn new(by: By, kind: Kind, outcome: Outcome, revision: String) -> Self {
        Self {
            event: EVENT,
            time: Utc::now(),
            by,
            kind,
            outcome,
            reason: None,
            principal: None,
            namespace: "",
            service_account: "",
            pod: "",
            pod_uid: "",
            serial: None,
            lifetime: None,
            token: None,
            client: None,
            scopes: &[],
            audiences: &[],
            policies: Vec::new(),
            revision,
        }
    }

    /// What became of it, and by whom, for metrics.
    pub const fn labels(&self) -> (By, Outcome) {
        (self.by, self.outcome)
    }

    /// When the certificate that was given ends.
    pub fn certificate_ends(&self) -> Option<DateTime<Utc>> {
        let given = self.kind == Kind::Certificate && self.outcome == Outcome::Issued;
        self.lifetime.filter(|_| given).map(|seconds| self.time + TimeDelta::seconds(seconds))
    }

    /// Seconds until an end.
    pub fn until(&self, end: DateTime<Utc>) -> i64 {
        (end - self.time).max(TimeDelta::zero()).num_seconds()
    }
}

/// Whether a line of the log is about an identity, a second factor, or an approval.
pub(super) fn is_no_decision(line: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Line<'l> {
        event: Option<Cow<'l, str>>,
    }
    serde_json::from_slice::<Line<'_>>(line)
        .is_ok_and(|line| matches!(line.event.as_deref(), Some(EVENT | second_factor::EVENT | approval::EVENT)))
}
