//! A compiled policy: everything parsed, nothing left to look up but other policies of the same service.

use crate::condition::Condition;
use crate::digest::Digest;
use crate::host::Host;
use crate::kubernetes::ApiPattern;
use crate::path::{Method, PathPattern};
use crate::pods::Pods;
use crate::principal::{Identity, PrincipalId};
use crate::relations::{Model, RelationTo};
use crate::risk::Risk;
use crate::scope::Scope;
use crate::token::Tokens;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Most scopes that one operation can require.
pub const MAX_SCOPES: usize = 64;

/// Namespace and name of a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Name of the `AccessPolicy`.
    pub name: Arc<str>,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One accepted way in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    /// Certificates, JWT-SVIDs and service-account tokens of this trust domain.
    Workload,
    /// The `IdentityProvider` of this name.
    Provider(Arc<str>),
}

impl Way {
    /// Whether `caller` came in this way.
    #[must_use]
    pub fn admits(&self, caller: &Identity) -> bool {
        match self {
            Self::Workload => caller.is_own_workload(),
            Self::Provider(name) => caller.provider() == Some(name),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload => f.write_str("workload"),
            Self::Provider(name) => write!(f, "provider {name}"),
        }
    }
}

/// Whether decisions are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    /// What is denied is refused.
    #[default]
    Enforce,
    /// What is denied is recorded and let through.
    Audit,
}

/// Requests that are an operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Match {
    /// The method; `None` for any.
    pub method: Option<Method>,
    /// The path.
    pub path: PathPattern,
}

/// One thing that can be done with a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Unique in the service.
    pub name: Arc<str>,
    /// The requests that are this operation.
    pub matches: Vec<Match>,
    /// The requests to the Kubernetes API, in the policy's own namespace, that are this operation.
    pub kubernetes: Vec<ApiPattern>,
    /// Scopes that a caller needs, all of them; at most [`MAX_SCOPES`].
    pub scopes: Arc<[Scope]>,
    /// Decides which credentials are good enough.
    pub risk: Risk,
    /// Oldest second factor of a person, for [`Risk::High`].
    pub max_age: TimeDelta,
    /// Open to everybody.
    pub public: bool,
}

/// Some callers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
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
}

impl Subject {
    /// Whether `caller` is one of them.
    #[must_use]
    pub fn includes(&self, caller: &Identity) -> bool {
        match self {
            Self::Authenticated => true,
            Self::Principal(id) => caller.id == *id,
            Self::Provider(provider) => caller.provider() == Some(provider),
            Self::Group { provider, group } => {
                caller.provider() == Some(provider) && caller.groups.contains(group.as_ref())
            }
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Authenticated => f.write_str("everybody authenticated"),
            Self::Principal(id) => id.fmt(f),
            Self::Provider(provider) => write!(f, "everybody of provider {provider}"),
            Self::Group { provider, group } => write!(f, "group {group} of provider {provider}"),
        }
    }
}

/// Scopes for some callers.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// How decisions name it: `<namespace>/<policy>/grants/<name>`.
    pub rule: Arc<str>,
    /// Any of these.
    pub to: Vec<Subject>,
    /// What it gives, roles included.
    pub scopes: BTreeSet<Scope>,
    /// A scope counts only if the caller's token carries it too.
    pub from_token: bool,
    /// Must hold.
    pub when: Option<Arc<Condition>>,
    /// The caller must stand in this relation.
    pub relation: Option<RelationTo>,
}

/// Nothing for some callers.
#[derive(Debug, Clone, PartialEq)]
pub struct Denial {
    /// How decisions name it: `<namespace>/<policy>/denials/<name>`.
    pub rule: Arc<str>,
    /// Any of these.
    pub to: Vec<Subject>,
    /// Applies unless this is known not to hold.
    pub when: Option<Arc<Condition>>,
    /// Why, for the audit record.
    pub reason: Option<Arc<str>>,
    /// Mode of the policy that it comes from.
    pub mode: Mode,
}

/// A compiled policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Which one.
    pub key: PolicyKey,
    /// Audience of the service; with the namespace it says which policies share a service.
    pub audience: Arc<str>,
    /// Hosts of the service.
    pub hosts: Vec<Host>,
    /// The pods that are the service, if it says.
    pub pods: Option<Pods>,
    /// How access tokens for the service are made.
    pub tokens: Tokens,
    /// Accepted ways in, in the order in which they are tried.
    pub ways: Vec<Way>,
    /// What can be done.
    pub operations: Vec<Operation>,
    /// How relations between callers and the service's objects come about.
    pub relations: Model,
    /// Who may.
    pub grants: Vec<Grant>,
    /// Who may not.
    pub denials: Vec<Denial>,
    /// Whether decisions are enforced.
    pub mode: Mode,
    /// Digest of what was compiled.
    pub digest: Digest,
}
