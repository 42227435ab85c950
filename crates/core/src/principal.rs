//! Identities of callers, independent of the credential.

use crate::risk::Assurance;
use crate::scope::Scope;
use crate::unknown_facts::UnknownFacts;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// The provider that stands for the API server. No `IdentityProvider` can have this name.
pub const KUBERNETES: &str = "kubernetes";

/// The name of a principal. Policies, headers and audit records use its text form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PrincipalId {
    /// `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
    Workload {
        /// SPIFFE trust domain, in lower case.
        trust_domain: Arc<str>,
        /// Kubernetes namespace.
        namespace: Arc<str>,
        /// Kubernetes service account.
        service_account: Arc<str>,
    },
    /// `spiffe://<trust-domain>/<path>`: a workload of a trust domain with another naming scheme.
    Spiffe {
        /// SPIFFE trust domain, in lower case.
        trust_domain: Arc<str>,
        /// Path, beginning with `/`.
        path: Arc<str>,
    },
    /// `user:<provider>/<subject>`: a user of an external issuer.
    User {
        /// Name of the `IdentityProvider`.
        provider: Arc<str>,
        /// The token's `sub`.
        subject: Arc<str>,
    },
    /// `key:<provider>/<name>`: an API key.
    Key {
        /// Name of the `IdentityProvider`.
        provider: Arc<str>,
        /// The key's name.
        name: Arc<str>,
    },
    /// `kube:<username>`: a Kubernetes user that is not a service account.
    Kube {
        /// Kubernetes username.
        username: Arc<str>,
    },
}

/// A text is not the name of a principal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{text}` is no principal: {why}; write `spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT`, \
     `user:PROVIDER/SUBJECT`, `key:PROVIDER/NAME` or `kube:USERNAME`"
)]
pub struct PrincipalIdError {
    text: String,
    why: &'static str,
}

impl PrincipalIdError {
    /// The mistake, without the text.
    pub(crate) const fn why(&self) -> &'static str {
        self.why
    }
}

/// Maximum length of a subject, key name or username, in bytes (OpenID Connect limits `sub` to 255).
const MAX_NAME: usize = 255;
/// Maximum length of a SPIFFE ID, in bytes (SPIFFE-ID, section 2.3).
const MAX_SPIFFE_ID: usize = 2048;

impl PrincipalId {
    /// A workload of `trust_domain`, by namespace and service account.
    ///
    /// # Errors
    /// When SPIFFE or Kubernetes does not accept a part as a name.
    pub fn workload(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, PrincipalIdError> {
        let id = Self::Workload {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        };
        let why = if !is_trust_domain(trust_domain) {
            "the trust domain may hold lower-case letters, digits, `.`, `-` and `_`"
        } else if !is_dns_label(namespace) {
            "the namespace is not a DNS label"
        } else if !is_dns_subdomain(service_account) {
            "the service account is not a DNS name"
        } else {
            return Ok(id);
        };
        Err(id.error(why))
    }

    /// A workload by its SPIFFE ID (SPIFFE-ID, section 2), without the scheme.
    fn spiffe(text: &str, rest: &str) -> Result<Self, PrincipalIdError> {
        let error = |why| PrincipalIdError { text: text.to_owned(), why };
        let (trust_domain, path) = rest.split_once('/').ok_or_else(|| error("it has no path"))?;
        if let ["ns", namespace, "sa", account] = *path.split('/').collect::<Vec<_>>()
            && let Ok(id) = Self::workload(trust_domain, namespace, account)
        {
            return Ok(id);
        }
        let segment = |segment: &str| {
            let good = segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
            good && !matches!(segment, "" | "." | "..")
        };
        if !is_trust_domain(trust_domain) {
            Err(error("the trust domain may hold lower-case letters, digits, `.`, `-` and `_`"))
        } else if text.len() > MAX_SPIFFE_ID {
            Err(error("it is longer than 2048 bytes"))
        } else if !path.split('/').all(segment) {
            Err(error("each segment of its path is made of letters, digits, `.`, `-` and `_`"))
        } else {
            Ok(Self::Spiffe { trust_domain: trust_domain.into(), path: format!("/{path}").into() })
        }
    }

    /// A person or machine that the external issuer `provider` authenticates.
    ///
    /// # Errors
    /// When the provider is not a DNS name, or the subject is empty, too long or has control characters.
    pub fn user(provider: &str, subject: &str) -> Result<Self, PrincipalIdError> {
        let id = Self::User { provider: provider.into(), subject: subject.into() };
        id.checked(is_dns_subdomain(provider), subject)
    }

    /// The holder of an API key.
    ///
    /// # Errors
    /// As [`PrincipalId::user`].
    pub fn key(provider: &str, name: &str) -> Result<Self, PrincipalIdError> {
        let id = Self::Key { provider: provider.into(), name: name.into() };
        id.checked(is_dns_subdomain(provider), name)
    }

    /// A Kubernetes user.
    ///
    /// # Errors
    /// When the name is empty, too long or has control characters.
    pub fn kube(username: &str) -> Result<Self, PrincipalIdError> {
        Self::Kube { username: username.into() }.checked(true, username)
    }

    /// The `IdentityProvider` in the name itself: [`KUBERNETES`] for users of the API server, `None` for workloads.
    /// [`Identity::provider`] returns the provider that vouches for a caller.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        match self {
            Self::User { provider, .. } | Self::Key { provider, .. } => Some(provider),
            Self::Kube { .. } => Some(KUBERNETES),
            Self::Workload { .. } | Self::Spiffe { .. } => None,
        }
    }

    /// Whether this is a workload, which proves itself without a person.
    #[must_use]
    pub const fn is_workload(&self) -> bool {
        matches!(self, Self::Workload { .. } | Self::Spiffe { .. })
    }

    /// The trust domain of a workload.
    #[must_use]
    pub fn trust_domain(&self) -> Option<&str> {
        match self {
            Self::Workload { trust_domain, .. } | Self::Spiffe { trust_domain, .. } => Some(trust_domain),
            Self::User { .. } | Self::Key { .. } | Self::Kube { .. } => None,
        }
    }

    fn checked(self, provider_ok: bool, name: &str) -> Result<Self, PrincipalIdError> {
        let why = if !provider_ok {
            "the provider is not a DNS name"
        } else if name.is_empty() {
            "the name is empty"
        } else if name.len() > MAX_NAME {
            "the name is longer than 255 bytes"
        } else if name.chars().any(char::is_control) {
            "the name has a control character"
        } else {
            return Ok(self);
        };
        Err(self.error(why))
    }

    fn error(&self, why: &'static str) -> PrincipalIdError {
        PrincipalIdError { text: self.to_string(), why }
    }
}

impl fmt::Display for PrincipalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload { trust_domain, namespace, service_account } => {
                write!(f, "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
            }
            Self::Spiffe { trust_domain, path } => write!(f, "spiffe://{trust_domain}{path}"),
            Self::User { provider, subject } => write!(f, "user:{provider}/{subject}"),
            Self::Key { provider, name } => write!(f, "key:{provider}/{name}"),
            Self::Kube { username } => write!(f, "kube:{username}"),
        }
    }
}

impl FromStr for PrincipalId {
    type Err = PrincipalIdError;

    fn from_str(text: &str) -> Result<Self, PrincipalIdError> {
        let error = |why| PrincipalIdError { text: text.to_owned(), why };
        if let Some(rest) = text.strip_prefix("spiffe://") {
            return Self::spiffe(text, rest);
        }
        let (kind, rest) = text.split_once(':').ok_or_else(|| error("it has no `KIND:`"))?;
        match (kind, rest.split_once('/')) {
            ("user", Some((provider, subject))) => Self::user(provider, subject),
            ("key", Some((provider, name))) => Self::key(provider, name),
            ("user" | "key", None) => Err(error("it has no `/` after the provider")),
            ("kube", _) => Self::kube(rest),
            _ => Err(error("its kind is unknown")),
        }
    }
}

impl TryFrom<String> for PrincipalId {
    type Error = PrincipalIdError;

    fn try_from(text: String) -> Result<Self, PrincipalIdError> {
        text.parse()
    }
}

impl From<PrincipalId> for String {
    fn from(id: PrincipalId) -> Self {
        id.to_string()
    }
}

/// Whether `text` is a DNS label, as Kubernetes defines it (RFC 1123).
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// Whether `text` is a DNS subdomain, as Kubernetes defines it (RFC 1123).
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// Whether `text` is the name of a trust domain. SPIFFE-ID section 2.1: lower-case letters, digits, `.`, `-`, `_`, at most
/// 255 bytes.
#[must_use]
pub fn is_trust_domain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'))
}

/// The attributes of a caller. They are plain data and prove nothing by themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Identity {
    /// The principal.
    pub id: PrincipalId,
    /// The `IdentityProvider` that vouches for a workload of another trust domain. `None` for the cluster's own
    /// workloads, and for principals whose name contains the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub federation: Option<Arc<str>>,
    /// Groups that the provider vouches for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
    /// Mapped claims, or attributes of the workload.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
    /// Groups and attributes that the credential does not show.
    #[serde(default, skip_serializing_if = "UnknownFacts::is_empty")]
    pub unknown: UnknownFacts,
    /// Scopes in the token itself; `None` if the token has no scope claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<BTreeSet<Scope>>,
    /// Whether the caller is limited to these scopes, whatever grants give: the credential is an access token with
    /// narrowed scopes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub narrowed: bool,
    /// The strength of the authentication.
    pub assurance: Assurance,
    /// When the caller last authenticated (`auth_time`), if the credential contains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authenticated_at: Option<DateTime<Utc>>,
    /// When the credential expires. From then on the principal is no longer valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
    /// A second factor that is valid at one operation alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_up: Option<CompletedStepUp>,
}

/// A second factor that a person completed for one operation. It raises the assurance at no other operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CompletedStepUp {
    /// Name of the operation.
    pub operation: Arc<str>,
    /// The assurance at this operation.
    pub assurance: Assurance,
    /// When the person completed it.
    pub authenticated_at: DateTime<Utc>,
}

impl Identity {
    /// An identity with a name and an assurance, and nothing else.
    #[must_use]
    pub fn new(id: PrincipalId, assurance: Assurance) -> Self {
        Self {
            id,
            federation: None,
            groups: BTreeSet::new(),
            attributes: Map::new(),
            unknown: UnknownFacts::default(),
            scopes: None,
            narrowed: false,
            assurance,
            authenticated_at: None,
            expires_at: None,
            step_up: None,
        }
    }

    /// The identity at an operation: with its step-up, if that is for this operation.
    #[must_use]
    pub fn at_operation(&self, operation: &str) -> Cow<'_, Self> {
        match &self.step_up {
            Some(step_up) if *step_up.operation == *operation => Cow::Owned(Self {
                assurance: step_up.assurance,
                authenticated_at: Some(step_up.authenticated_at),
                ..self.clone()
            }),
            _ => Cow::Borrowed(self),
        }
    }

    /// The `IdentityProvider` that vouches for the caller: [`KUBERNETES`] for users of the API server, `None` for the
    /// cluster's own workloads.
    #[must_use]
    pub fn provider(&self) -> Option<&str> {
        self.id.provider().or(self.federation.as_deref())
    }

    /// The memory that the identity takes, in bytes, for caches that are bounded by memory.
    #[must_use]
    pub fn size(&self) -> usize {
        // a text of a set or a map has its own allocation and a share of a node
        const TEXT: usize = 48;
        let texts = |texts: &mut dyn Iterator<Item = usize>| texts.map(|length| TEXT + length).sum::<usize>();
        let scopes = self.scopes.iter().flatten().map(|scope| scope.as_str().len());
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + json_size(value));
        size_of::<Self>()
            + self.id.to_string().len()
            + texts(&mut self.groups.iter().map(String::len))
            + texts(&mut scopes.into_iter())
            + texts(&mut attributes.into_iter())
            + texts(&mut self.unknown.attributes.keys().map(String::len))
    }

    /// Whether this is a workload of the cluster's own trust domain.
    #[must_use]
    pub fn is_own_workload(&self) -> bool {
        self.id.is_workload() && self.federation.is_none()
    }
}

/// The memory of a JSON value, in bytes.
fn json_size(value: &Value) -> usize {
    let inner = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(json_size).sum(),
        Value::Object(members) => members.iter().map(|(name, value)| 48 + name.len() + json_size(value)).sum(),
    };
    size_of::<Value>() + inner
}

/// An authenticated caller. Decisions take this type and never a credential.
///
/// Two functions make one, and a test on the architecture limits who may call them: [`Principal::authenticated`]
/// belongs to the authenticator alone, [`Principal::assumed`] to the tools that explain and replay decisions without
/// enforcing any.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal(Identity);

impl Principal {
    /// The outcome of a successful authentication. Only the authenticator calls this.
    #[must_use]
    pub fn authenticated(identity: Identity) -> Self {
        Self(identity)
    }

    /// A caller that is assumed, not authenticated, to explain what would be decided. Enforcement points never call
    /// this.
    #[must_use]
    pub fn assumed(identity: Identity) -> Self {
        Self(identity)
    }

    /// The attributes of the caller.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_their_text() {
        for text in [
            "spiffe://cluster.local/ns/shop/sa/orders",
            "spiffe://td.example/ns/shop/sa/orders.v2",
            "spiffe://partner.example/spire/agent/x509pop/0A_b-c.d",
            "spiffe://partner.example/ns/Shop_1/sa/orders",
            "spiffe://partner.example/ns/shop",
            "user:corporate/alice",
            "user:corporate/https://x/y?z",
            "key:partners/acme",
            "kube:system:admin",
            "kube:alice@example.com",
        ] {
            assert_eq!(text.parse::<PrincipalId>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in [
            "",
            "alice",
            "user:alice",
            "user:/alice",
            "user:corporate/",
            "user:Corporate/alice",
            "user:corporate/a\nb",
            "spiffe://Cluster.local/ns/shop/sa/orders",
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe://cluster.local/ns/shop/sa/orders/",
            "spiffe://cluster.local//ns/shop/sa/orders",
            "spiffe://cluster.local/ns/../sa/orders",
            "spiffe://cluster.local/ns/./sa/orders",
            "spiffe://cluster.local/ns/shop/sa/orders?x",
            "spiffe://cluster.local/ns/shop/sa/orders#x",
            "spiffe://cluster.local/ns/sh%6Fp/sa/orders",
            "spiffe://cluster.local/ns/shop/sa/örders",
            "spiffe://cluster.local:443/ns/shop/sa/orders",
            "spiffe://u@cluster.local/ns/shop/sa/orders",
            "spiffe:///ns/shop/sa/orders",
            "SPIFFE://cluster.local/ns/shop/sa/orders",
            "kube:",
        ] {
            assert!(text.parse::<PrincipalId>().is_err(), "{text:?}");
        }
    }
}
