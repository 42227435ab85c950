//! A compiled policy: everything parsed, nothing left to look up but other policies of the same service.

use crate::approval::ApprovalRequirement;
use crate::condition::Condition;
use crate::digest::Digest;
use crate::host::Host;
use crate::kubernetes::ApiPattern;
use crate::namespaced_name::NamespacedName;
use crate::path::{Method, PathPattern};
use crate::pods::{LabelMatcher, ServicePods};
use crate::principal::{Identity, PrincipalId};
use crate::relations::{RelationBackend, RelationModel, RelationTarget};
use crate::risk::RiskLevel;
use crate::scope::Scope;
use crate::token::TokenSettings;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Most scopes that one operation can require.
pub const MAX_SCOPES: usize = 64;

/// One accepted way in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthenticationMethod {
    /// Certificates, JWT-SVIDs and service-account tokens of this trust domain.
    Workload,
    /// The `IdentityProvider` of this name.
    Provider(Arc<str>),
}

impl AuthenticationMethod {
    /// Whether `caller` came in this way.
    #[must_use]
    pub fn admits(&self, caller: &Identity) -> bool {
        match self {
            Self::Workload => caller.is_own_workload(),
            Self::Provider(name) => caller.provider() == Some(name),
        }
    }
}

impl fmt::Display for AuthenticationMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload => f.write_str("workload"),
            Self::Provider(name) => write!(f, "provider {name}"),
        }
    }
}

/// Whether decisions are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EnforcementMode {
    /// What is denied is refused.
    #[default]
    Enforce,
    /// What is denied is recorded and let through.
    Audit,
}

/// Requests that are an operation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpPattern {
    /// The method; `None` for any.
    pub method: Option<Method>,
    /// The path.
    pub path: PathPattern,
}

/// One thing that can be done with a service.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledOperation {
    /// Unique in the service.
    pub name: Arc<str>,
    /// The requests that are this operation.
    pub matches: Vec<HttpPattern>,
    /// The requests to the Kubernetes API, in the policy's own namespace, that are this operation.
    pub kubernetes: Vec<ApiPattern>,
    /// Scopes that a caller needs, all of them; at most [`MAX_SCOPES`].
    pub scopes: Arc<[Scope]>,
    /// Decides which credentials are good enough.
    pub risk: RiskLevel,
    /// Oldest second factor of a person, for [`RiskLevel::High`].
    pub max_age: TimeDelta,
    /// Who has to approve it first, if anybody.
    pub approval: Option<Arc<ApprovalRequirement>>,
    /// Open to everybody.
    pub public: bool,
}

/// Some callers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectMatcher {
    /// Everybody who is authenticated.
    Authenticated,
    /// One principal.
    Principal(PrincipalId),
    /// Everybody whom this `IdentityProvider` vouches for.
    Provider(Arc<str>),
    /// The members of a group of this `IdentityProvider`.
    Group {
        /// Name of the provider.
        provider: Arc<str>,
        /// Name of the group.
        group: Arc<str>,
    },
    /// Callers of this `IdentityProvider` with these attributes.
    Claims {
        /// Name of the provider.
        provider: Arc<str>,
        /// A group that they are in as well, if it says.
        group: Option<Arc<str>>,
        /// Attributes that are texts, and equal these.
        claims: BTreeMap<Arc<str>, Arc<str>>,
    },
    /// Every service account of a namespace.
    Namespace {
        /// Trust domain of the cluster.
        trust_domain: Arc<str>,
        /// Name of the Namespace.
        namespace: Arc<str>,
    },
    /// Every service account of the Namespaces with these labels.
    Namespaces {
        /// Trust domain of the cluster.
        trust_domain: Arc<str>,
        /// The labels.
        labels: LabelMatcher,
    },
    /// Workloads by their SPIFFE IDs.
    Spiffe(SpiffePattern),
}

/// Labels of a Namespace.
pub type Labels = BTreeMap<String, String>;

impl SubjectMatcher {
    /// Whether `caller` is one of them; `labels` are those of its Namespace, if it is a workload of one that is known.
    #[must_use]
    pub fn includes(&self, caller: &Identity, labels: Option<&Labels>) -> bool {
        match self {
            Self::Claims { provider, group, claims } => {
                let text = |name: &Arc<str>| caller.attributes.get(name.as_ref()).and_then(serde_json::Value::as_str);
                caller.provider() == Some(provider)
                    && group.as_ref().is_none_or(|group| caller.groups.contains(group.as_ref()))
                    && claims.iter().all(|(name, value)| text(name) == Some(value))
            }
            Self::Namespace { trust_domain, namespace } => {
                own_namespace(caller, trust_domain).is_some_and(|of| of == namespace)
            }
            Self::Namespaces { trust_domain, labels: wanted } => {
                own_namespace(caller, trust_domain).is_some() && labels.is_some_and(|labels| wanted.selects(labels))
            }
            Self::Spiffe(pattern) => pattern.matches(&caller.id),
            Self::Authenticated => true,
            Self::Principal(id) => caller.id == *id,
            Self::Provider(provider) => caller.provider() == Some(provider),
            Self::Group { provider, group } => {
                caller.provider() == Some(provider) && caller.groups.contains(group.as_ref())
            }
        }
    }
}

impl fmt::Display for SubjectMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticated => f.write_str("everybody authenticated"),
            Self::Principal(id) => id.fmt(f),
            Self::Provider(provider) => write!(f, "everybody of provider {provider}"),
            Self::Group { provider, group } => write!(f, "group {group} of provider {provider}"),
            Self::Claims { provider, group, claims } => {
                match group {
                    Some(group) => write!(f, "group {group} of provider {provider} with ")?,
                    None => write!(f, "everybody of provider {provider} with ")?,
                }
                let claims = claims.iter().map(|(name, value)| format!("{name} = {value}"));
                f.write_str(&claims.collect::<Vec<_>>().join(", "))
            }
            Self::Namespace { namespace, .. } => write!(f, "service accounts of namespace {namespace}"),
            Self::Namespaces { labels, .. } => write!(f, "service accounts of namespaces with {labels}"),
            Self::Spiffe(pattern) => pattern.fmt(f),
        }
    }
}

/// The namespace of a workload of our own.
fn own_namespace<'c>(caller: &'c Identity, ours: &str) -> Option<&'c Arc<str>> {
    match &caller.id {
        PrincipalId::Workload { trust_domain, namespace, .. }
            if caller.is_own_workload() && **trust_domain == *ours =>
        {
            Some(namespace)
        }
        _ => None,
    }
}

/// SPIFFE IDs by segments; `*` stands for any one segment, never for a part of one or for several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffePattern {
    /// Trust domain; no pattern spans two.
    pub trust_domain: Arc<str>,
    /// Segments of the path; `None` for any.
    segments: Vec<Option<Arc<str>>>,
}

/// Why a text is no pattern over SPIFFE IDs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is no pattern of SPIFFE IDs: {why}")]
pub struct SpiffePatternError {
    text: String,
    why: String,
}

impl FromStr for SpiffePattern {
    type Err = SpiffePatternError;

    fn from_str(text: &str) -> Result<Self, SpiffePatternError> {
        let error = |why: &str| SpiffePatternError { text: text.to_owned(), why: why.to_owned() };
        let (trust_domain, path) = text
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| error("write `spiffe://DOMAIN/SEGMENT/…`, with `*` for any one segment"))?;
        let segments: Vec<Option<Arc<str>>> =
            path.split('/').map(|segment| (segment != "*").then(|| segment.into())).collect();
        if trust_domain.contains('*') {
            return Err(error("no pattern spans trust domains; name one"));
        }
        if segments.iter().flatten().any(|segment| segment.contains('*')) {
            return Err(error("`*` stands for a whole segment, not for a part of one"));
        }
        // what is left must be a SPIFFE ID once each `*` is one
        let example = text.replace('*', "a").parse::<PrincipalId>();
        example.map_err(|problem| error(problem.why()))?;
        Ok(Self { trust_domain: trust_domain.into(), segments })
    }
}

impl SpiffePattern {
    /// Whether a principal is a workload with such an ID.
    #[must_use]
    pub fn matches(&self, id: &PrincipalId) -> bool {
        let same = |segments: &[&str]| {
            let fits =
                |(wanted, segment): (&Option<Arc<str>>, &&str)| wanted.as_ref().is_none_or(|text| **text == **segment);
            segments.len() == self.segments.len() && self.segments.iter().zip(segments).all(fits)
        };
        match id {
            PrincipalId::Workload { trust_domain, namespace, service_account } => {
                *trust_domain == self.trust_domain && same(&["ns", namespace, "sa", service_account])
            }
            PrincipalId::Spiffe { trust_domain, path } => {
                *trust_domain == self.trust_domain && same(&path.split('/').skip(1).collect::<Vec<_>>())
            }
            _ => false,
        }
    }
}

impl fmt::Display for SpiffePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.trust_domain)?;
        self.segments.iter().try_for_each(|segment| write!(f, "/{}", segment.as_deref().unwrap_or("*")))
    }
}

/// Scopes for some callers.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledGrant {
    /// How decisions name it: `<namespace>/<policy>/grants/<name>`.
    pub rule: Arc<str>,
    /// Any of these.
    pub to: Arc<[SubjectMatcher]>,
    /// What it gives, roles included, each once.
    pub scopes: Arc<[Scope]>,
    /// A scope counts only if the caller's token carries it too.
    pub from_token: bool,
    /// Must hold.
    pub when: Option<Arc<Condition>>,
    /// The caller must stand in this relation.
    pub relation: Option<RelationTarget>,
}

/// Nothing for some callers.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledDenial {
    /// How decisions name it: `<namespace>/<policy>/denials/<name>`.
    pub rule: Arc<str>,
    /// Any of these.
    pub to: Arc<[SubjectMatcher]>,
    /// Applies unless this is known not to hold.
    pub when: Option<Arc<Condition>>,
    /// Why, for the audit record.
    pub reason: Option<Arc<str>>,
    /// Mode of the policy that it comes from.
    pub mode: EnforcementMode,
}

/// A compiled policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Which one.
    pub key: NamespacedName,
    /// Audience of the service; with the namespace it says which policies share a service.
    pub audience: Arc<str>,
    /// Hosts of the service.
    pub hosts: Vec<Host>,
    /// The pods that are the service, if it says.
    pub pods: Option<ServicePods>,
    /// How access tokens for the service are made.
    pub tokens: TokenSettings,
    /// Accepted ways in, in the order in which they are tried.
    pub ways: Arc<[AuthenticationMethod]>,
    /// What can be done.
    pub operations: Vec<Arc<CompiledOperation>>,
    /// How relations between callers and the service's objects come about.
    pub relations: RelationModel,
    /// Who knows these relations.
    pub relation_engine: RelationBackend,
    /// Request headers that conditions read.
    pub headers: Vec<Arc<str>>,
    /// Who may.
    pub grants: Vec<Arc<CompiledGrant>>,
    /// Who may not.
    pub denials: Vec<Arc<CompiledDenial>>,
    /// Whether decisions are enforced.
    pub mode: EnforcementMode,
    /// Its `metadata.generation`, where there is one.
    pub generation: Option<i64>,
    /// Digest of what was compiled.
    pub digest: Digest,
    /// Set where this stands for a version that was in force and is not known here any more: its service is closed. These are
    /// the requests to the Kubernetes API that it governed.
    pub forgotten: Option<Vec<ApiPattern>>,
}
