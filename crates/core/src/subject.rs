//! Subjects of rules: which callers a policy names.

use crate::labels::{LabelMatcher, Labels};
use crate::principal::{Identity, PrincipalId};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// Whether a caller is one of a subject's callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Membership {
    /// It certainly is not.
    Outside,
    /// The facts that decide it are unknown.
    Unknown,
    /// It certainly is.
    Member,
}

impl Membership {
    const fn of(holds: bool) -> Self {
        if holds { Self::Member } else { Self::Outside }
    }
}

/// Matches some callers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SubjectMatcher {
    /// Every authenticated caller.
    Authenticated,
    /// One principal.
    Principal(PrincipalId),
    /// Every caller that this `IdentityProvider` vouches for.
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
        /// A group that they are in as well, if the policy names one.
        group: Option<Arc<str>>,
        /// Text attributes with these values.
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

impl SubjectMatcher {
    /// Whether it certainly matches `caller`; `labels` are those of the caller's Namespace, if known. Grants ask this.
    #[must_use]
    pub fn includes(&self, caller: &Identity, labels: Option<&Labels>) -> bool {
        self.membership(caller, labels) == Membership::Member
    }

    /// Whether it matches `caller`, as far as the facts are known. For denials, an unknown membership is one.
    #[must_use]
    pub fn membership(&self, caller: &Identity, labels: Option<&Labels>) -> Membership {
        match self {
            Self::Claims { provider, group, claims } if caller.provider() == Some(provider) => {
                let group = group.as_ref().map(|group| group_membership(caller, group));
                let claims = claims.iter().map(|(name, value)| claim_membership(caller, name, value));
                claims.chain(group).min().unwrap_or(Membership::Member)
            }
            Self::Claims { .. } => Membership::Outside,
            Self::Namespace { trust_domain, namespace } => {
                Membership::of(own_namespace(caller, trust_domain).is_some_and(|of| of == namespace))
            }
            Self::Namespaces { trust_domain, labels: wanted } => {
                let selects = || labels.is_some_and(|labels| wanted.selects(labels));
                Membership::of(own_namespace(caller, trust_domain).is_some() && selects())
            }
            Self::Spiffe(pattern) => Membership::of(pattern.matches(&caller.id)),
            Self::Authenticated => Membership::Member,
            Self::Principal(id) => Membership::of(caller.id == *id),
            Self::Provider(provider) => Membership::of(caller.provider() == Some(provider)),
            Self::Group { provider, group } if caller.provider() == Some(provider) => group_membership(caller, group),
            Self::Group { .. } => Membership::Outside,
        }
    }
}

impl fmt::Display for SubjectMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticated => f.write_str("every authenticated caller"),
            Self::Principal(id) => id.fmt(f),
            Self::Provider(provider) => write!(f, "every caller of provider {provider}"),
            Self::Group { provider, group } => write!(f, "group {group} of provider {provider}"),
            Self::Claims { provider, group, claims } => {
                match group {
                    Some(group) => write!(f, "group {group} of provider {provider} with ")?,
                    None => write!(f, "every caller of provider {provider} with ")?,
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

/// Whether the caller is in a group of its own provider.
pub(crate) fn group_membership(caller: &Identity, group: &str) -> Membership {
    match caller.unknown.groups {
        _ if caller.groups.contains(group) => Membership::Member,
        Some(_) => Membership::Unknown,
        None => Membership::Outside,
    }
}

/// Whether an attribute of the caller is this text. A value of another type does not tell.
fn claim_membership(caller: &Identity, name: &str, value: &str) -> Membership {
    match caller.attributes.get(name) {
        Some(serde_json::Value::String(text)) => Membership::of(text == value),
        Some(_) => Membership::Unknown,
        None if caller.unknown.attributes.contains_key(name) => Membership::Unknown,
        None => Membership::Outside,
    }
}

/// The namespace of a workload of trust domain `ours`.
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

/// A pattern of SPIFFE IDs: `*` matches exactly one whole segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffePattern {
    /// Trust domain; a pattern matches exactly one.
    pub trust_domain: Arc<str>,
    /// Segments of the path; `None` for any.
    segments: Vec<Option<Arc<str>>>,
}

/// A text is not a pattern of SPIFFE IDs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a pattern of SPIFFE IDs: {why}")]
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
            return Err(error("a pattern matches one trust domain; name it"));
        }
        if segments.iter().flatten().any(|segment| segment.contains('*')) {
            return Err(error("`*` matches a whole segment, not a part of one"));
        }
        // the text must be a SPIFFE ID once each `*` is replaced by a segment
        let example = text.replace('*', "a").parse::<PrincipalId>();
        example.map_err(|problem| error(problem.why()))?;
        Ok(Self { trust_domain: trust_domain.into(), segments })
    }
}

impl SpiffePattern {
    /// Whether the principal is a workload whose SPIFFE ID matches.
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
