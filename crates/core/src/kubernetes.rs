//! Requests to the Kubernetes API, as admission webhooks receive them, and patterns over them.

use crate::namespaced_name::NamespacedName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use thiserror::Error;

/// The verb of a request (`admission.k8s.io/v1`, `AdmissionRequest.operation`). A patch is an update, and so is a
/// server-side apply. Deleting a collection is a deletion of each object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// Creates an object, or a subresource that acts like one, such as an eviction.
    Create,
    /// Changes an object.
    Update,
    /// Deletes an object.
    Delete,
    /// Opens a connection through the API server: exec, attach, port-forward, proxy.
    Connect,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 4] = [Self::Create, Self::Update, Self::Delete, Self::Connect];

    /// The name in Kubernetes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text is not a verb of admission.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` is not an admission verb: use `CREATE`, `UPDATE` (a patch is one), `DELETE`, `CONNECT` or `*`")]
pub struct VerbError(String);

impl FromStr for Verb {
    type Err = VerbError;

    fn from_str(text: &str) -> Result<Self, VerbError> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == text).ok_or_else(|| VerbError(text.to_owned()))
    }
}

/// A group, resource or subresource that no pattern contains, for [`ApiPattern::examples`].
const EXAMPLE: &str = "~~any~~";

/// One request to the Kubernetes API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiCall<'a> {
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Resource, in the plural.
    pub resource: &'a str,
    /// Subresource; empty for the resource itself.
    pub subresource: &'a str,
    /// The verb.
    pub verb: Verb,
    /// Name of the object; empty if it is not known yet, or if the request is for a collection.
    pub name: &'a str,
}

impl ApiCall<'_> {
    /// Whether it is for the `AccessPolicy` of this name, in the request's namespace.
    pub(crate) fn is_policy(&self, key: &NamespacedName) -> bool {
        (self.group, self.resource) == ("durward.dev", "accesspolicies") && self.name == &*key.name
    }
}

/// Requests by group, resource, subresource and verb; `None` matches any.
///
/// It matches what a rule of a `ValidatingWebhookConfiguration` with the same texts matches: `pods` is the resource
/// itself, `pods/exec` the subresource alone, `pods/*` the resource and all its subresources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiPattern {
    /// API group.
    pub group: Option<Arc<str>>,
    /// Resource.
    pub resource: Option<Arc<str>>,
    /// Subresource; empty for the resource itself.
    pub subresource: Option<Arc<str>>,
    /// The verb.
    pub verb: Option<Verb>,
}

/// How specific a pattern is: resource before subresource, group and verb. Two patterns that match the same request
/// and are equally specific are equal.
type Specificity = [bool; 4];

impl ApiPattern {
    /// Whether the pattern matches the request.
    #[must_use]
    pub fn matches(&self, call: &ApiCall<'_>) -> bool {
        let is = |pattern: &Option<Arc<str>>, text: &str| pattern.as_deref().is_none_or(|pattern| pattern == text);
        is(&self.group, call.group)
            && is(&self.resource, call.resource)
            && is(&self.subresource, call.subresource)
            && self.verb.is_none_or(|verb| verb == call.verb)
    }

    /// The requests that both patterns match.
    pub(crate) fn meet(a: &Self, b: &Self) -> Option<Self> {
        fn part<T: Clone + PartialEq>(a: &Option<T>, b: &Option<T>) -> Option<Option<T>> {
            match (a, b) {
                (Some(a), Some(b)) if a != b => None,
                (a, b) => Some(a.clone().or_else(|| b.clone())),
            }
        }
        Some(Self {
            group: part(&a.group, &b.group)?,
            resource: part(&a.resource, &b.resource)?,
            subresource: part(&a.subresource, &b.subresource)?,
            verb: part(&a.verb, &b.verb)?,
        })
    }

    /// Requests that it matches, one of each verb. Where the pattern has no text, no other pattern has their text.
    pub(crate) fn examples(&self) -> impl Iterator<Item = ApiCall<'_>> {
        let verbs = Verb::ALL.into_iter().filter(|verb| self.verb.is_none_or(|own| own == *verb));
        verbs.map(move |verb| ApiCall {
            group: self.group.as_deref().unwrap_or(EXAMPLE),
            resource: self.resource.as_deref().unwrap_or(EXAMPLE),
            subresource: self.subresource.as_deref().unwrap_or(EXAMPLE),
            verb,
            name: "",
        })
    }

    pub(crate) fn specificity(&self) -> Specificity {
        [self.resource.is_some(), self.subresource.is_some(), self.group.is_some(), self.verb.is_some()]
    }

    /// Resource and subresource, in the form of webhook rules.
    #[must_use]
    pub fn resources(&self) -> String {
        let resource = self.resource.as_deref().unwrap_or("*");
        match self.subresource.as_deref() {
            Some("") => resource.to_owned(),
            Some(subresource) => format!("{resource}/{subresource}"),
            None => format!("{resource}/*"),
        }
    }
}

impl fmt::Display for ApiPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb.map_or("*", Verb::as_str), self.resources())?;
        match self.group.as_deref() {
            Some("") => Ok(()),
            group => write!(f, " of {}", group.unwrap_or("*")),
        }
    }
}
