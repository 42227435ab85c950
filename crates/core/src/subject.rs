//! Subjects of rules: which callers a policy names.

use crate::labels::{LabelMatcher, Labels};
use crate::principal::{Identity, PrincipalId};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

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
    /// Whether it matches `caller`; `labels` are those of the caller's Namespace, if known.
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
