//! A compiled policy: everything parsed, nothing left to look up but other policies of the same service.

use crate::approval::ApprovalRequirement;
use crate::authentication::AuthenticationMethod;
use crate::condition::Condition;
use crate::digest::Digest;
use crate::host::Host;
use crate::kubernetes::ApiPattern;
use crate::labels::LabelMatcher;
use crate::namespaced_name::NamespacedName;
use crate::path::HttpPattern;
use crate::relations::{RelationBackend, RelationModel, RelationTarget};
use crate::risk::RiskLevel;
use crate::scope::Scope;
use crate::subject::SubjectMatcher;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most scopes that one operation can require.
pub const MAX_SCOPES: usize = 64;

/// Whether decisions are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EnforcementMode {
    /// What is denied is refused.
    #[default]
    Enforce,
    /// What is denied is recorded and let through.
    Audit,
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

/// The pods that are a service, and what they are minted.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePods {
    /// Which.
    pub selector: LabelMatcher,
    /// Lifetime of their certificates, at most.
    pub ttl: TimeDelta,
    /// DNS names beside the SPIFFE ID.
    pub dns_names: Vec<Arc<str>>,
}

/// How a token is signed (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenSignature {
    /// RSA, which every JWT library knows.
    Rs256,
    /// ECDSA on P-256.
    Es256,
}

/// How access tokens for a service are made, as far as policies say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenSettings {
    /// How they are signed.
    pub signature: Option<TokenSignature>,
    /// How long they live at most.
    pub ttl: Option<TimeDelta>,
}

impl TokenSettings {
    /// What holds where another policy of the service says something too: the shorter life, and the first signature.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self { signature: self.signature.or(other.signature), ttl: self.ttl.into_iter().chain(other.ttl).min() }
    }
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
    /// Accepted authentication_methods in, in the order in which they are tried.
    pub authentication_methods: Arc<[AuthenticationMethod]>,
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
