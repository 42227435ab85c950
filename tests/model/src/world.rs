//! What decisions depend on, as plain data.

use crate::conditions::HeaderCase;
use chrono::{DateTime, Utc};
use durward_api::resources::{AccessPolicy, Relationship};
use durward_core::principal::Identity;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// The trust domain of the cluster.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// The DNS domain of the cluster.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// All resources of a cluster.
#[derive(Clone, Default)]
pub struct ModelWorld {
    pub policies: Vec<AccessPolicy>,
    pub relationships: Vec<Relationship>,
    pub namespaces: Vec<ModelNamespace>,
    pub approvals: Vec<ModelApproval>,
}

/// As documents, in the shortest form.
impl fmt::Debug for ModelWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for policy in &self.policies {
            writeln!(f, "\nAccessPolicy {}", json!({"metadata": policy.metadata, "spec": policy.spec}))?;
        }
        for one in &self.relationships {
            writeln!(f, "Relationship {}", json!({"metadata": one.metadata, "spec": one.spec}))?;
        }
        self.namespaces.iter().try_for_each(|one| writeln!(f, "{one:?}"))?;
        self.approvals.iter().try_for_each(|one| writeln!(f, "{one:?}"))
    }
}

/// A Namespace.
#[derive(Debug, Clone)]
pub struct ModelNamespace {
    pub name: String,
    pub annotations: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// An approval that was granted.
#[derive(Debug, Clone)]
pub struct ModelApproval {
    /// Namespace and name of the policy.
    pub policy: (String, String),
    pub policy_uid: String,
    pub operation: String,
    pub principal: String,
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

/// A request, with what a parser would find out about it.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    pub service: ModelTarget,
    pub call: ModelCall,
    pub source: Option<IpAddr>,
    /// The headers, if they are known.
    pub headers: Option<&'static HeaderCase>,
    /// `object` and `oldObject`, if they are known.
    pub objects: Option<Map<String, Value>>,
    /// `type`, `id` and `properties`, if they are known.
    pub resource: Option<Map<String, Value>>,
}

/// How a request names its service.
#[derive(Debug, Clone)]
pub enum ModelTarget {
    /// An authority as sent, and the host that it stands for, if any.
    Host(&'static str, Option<&'static str>),
    Audience(String),
}

/// A call of a service.
#[derive(Debug, Clone)]
pub enum ModelCall {
    /// A method, the segments of a path, and whether a query follows.
    Http(&'static str, Vec<PathSegment>, bool),
    /// An operation by name, with captures.
    Named(String, BTreeMap<String, String>),
    Kubernetes(KubernetesCall),
    Ambiguous,
}

/// A segment of a path: as sent, and decoded unless it is ambiguous.
pub type PathSegment = (&'static str, Option<&'static str>);

/// A request to the Kubernetes API.
#[derive(Debug, Clone)]
pub struct KubernetesCall {
    pub group: &'static str,
    pub resource: &'static str,
    pub subresource: &'static str,
    pub verb: &'static str,
    pub name: &'static str,
}

impl ModelRequest {
    /// The path as it was sent, without the query.
    #[must_use]
    pub fn path(&self) -> Option<String> {
        match &self.call {
            ModelCall::Http(_, segments, _) if segments.is_empty() => Some("/".to_owned()),
            ModelCall::Http(_, segments, _) => Some(segments.iter().map(|(raw, _)| format!("/{raw}")).collect()),
            _ => None,
        }
    }
}

/// The provider that vouches for a caller.
#[must_use]
pub fn provider(caller: &Identity) -> Option<String> {
    let id = caller.id.to_string();
    match id.split_once(':')? {
        ("user" | "key", rest) => Some(rest.split_once('/')?.0.to_owned()),
        ("kube", _) => Some("kubernetes".to_owned()),
        _ => caller.federation.as_deref().map(ToOwned::to_owned),
    }
}

/// Namespace and name of a service account of the cluster itself.
#[must_use]
pub fn own_account(caller: &Identity) -> Option<(String, String)> {
    let id = caller.id.to_string();
    let path = id.strip_prefix(&format!("spiffe://{TRUST_DOMAIN}/"))?;
    match path.split('/').collect::<Vec<_>>()[..] {
        ["ns", namespace, "sa", name] if caller.federation.is_none() => Some((namespace.to_owned(), name.to_owned())),
        _ => None,
    }
}

/// Whether the caller is a workload, of this cluster or another trust domain.
#[must_use]
pub fn is_workload(caller: &Identity) -> bool {
    caller.id.to_string().starts_with("spiffe://")
}
