//! A compiled policy: everything is parsed and resolved.

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

/// Maximum number of scopes that one operation can require.
pub const MAX_SCOPES: usize = 64;

/// Whether denials are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EnforcementMode {
    /// Denied requests are refused.
    #[default]
    Enforce,
    /// Denied requests are recorded and let through.
    Audit,
}

/// One operation of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledOperation {
    /// Name, unique in the service.
    pub name: Arc<str>,
    /// The HTTP requests of this operation.
    pub matches: Vec<HttpPattern>,
    /// The requests to the Kubernetes API of this operation, in the policy's own namespace.
    pub kubernetes: Vec<ApiPattern>,
    /// Scopes that a caller needs, all of them; at most [`MAX_SCOPES`].
    pub scopes: Arc<[Scope]>,
    /// The risk, which sets the required assurance.
    pub risk: RiskLevel,
    /// Maximum age of a person's second factor, for [`RiskLevel::High`].
    pub max_age: TimeDelta,
    /// The approval that it requires, if any.
    pub approval: Option<Arc<ApprovalRequirement>>,
    /// Whether it is open without a credential.
    pub public: bool,
}

/// A grant: it gives scopes to the callers that it matches.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledGrant {
    /// Name in decisions: `<namespace>/<policy>/grants/<name>`.
    pub rule: Arc<str>,
    /// It matches callers that any of these matches.
    pub to: Arc<[SubjectMatcher]>,
    /// The scopes, those of roles included, each once.
    pub scopes: Arc<[Scope]>,
    /// Whether a scope is only given if the caller's token carries it too.
    pub from_token: bool,
    /// The condition that must hold.
    pub when: Option<Arc<Condition>>,
    /// The relation that the caller must have.
    pub relation: Option<RelationTarget>,
}

/// A denial: it refuses the callers that it matches.
#[derive(Debug, Clone, PartialEq)]
pub struct CompiledDenial {
    /// Name in decisions: `<namespace>/<policy>/denials/<name>`.
    pub rule: Arc<str>,
    /// It matches callers that any of these matches.
    pub to: Arc<[SubjectMatcher]>,
    /// The condition: the denial applies unless the condition evaluates to false.
    pub when: Option<Arc<Condition>>,
    /// The reason, for the audit record.
    pub reason: Option<Arc<str>>,
    /// Mode of the policy that declares it.
    pub mode: EnforcementMode,
}

/// The pods of a service, and the certificates that they get.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePods {
    /// Which pods.
    pub selector: LabelMatcher,
    /// Maximum lifetime of their certificates.
    pub ttl: TimeDelta,
    /// DNS names besides the SPIFFE ID.
    pub dns_names: Vec<Arc<str>>,
}

/// The signature algorithm of a token (RFC 7518, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenSignature {
    /// RSA, which every JWT library supports.
    Rs256,
    /// ECDSA on P-256.
    Es256,
}

/// The settings of access tokens for a service, as far as policies set them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenSettings {
    /// The signature algorithm.
    pub signature: Option<TokenSignature>,
    /// Maximum lifetime.
    pub ttl: Option<TimeDelta>,
}

impl TokenSettings {
    /// The settings of two policies of one service: the shorter lifetime, and the first algorithm.
    #[must_use]
    pub(crate) fn merged_with(self, other: Self) -> Self {
        Self { signature: self.signature.or(other.signature), ttl: self.ttl.into_iter().chain(other.ttl).min() }
    }
}

/// A compiled policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Namespace and name.
    pub key: NamespacedName,
    /// Audience of the service. Policies of the same namespace and audience share a service.
    pub audience: Arc<str>,
    /// Hosts of the service.
    pub hosts: Vec<Host>,
    /// The pods of the service, if the policy selects any.
    pub pods: Option<ServicePods>,
    /// The settings of access tokens for the service.
    pub tokens: TokenSettings,
    /// Accepted authentication methods, in the order in which they are tried.
    pub authentication_methods: Arc<[AuthenticationMethod]>,
    /// The operations of the service.
    pub operations: Vec<Arc<CompiledOperation>>,
    /// The relation model: how relations between callers and objects follow from tuples.
    pub relations: RelationModel,
    /// Where these relations are evaluated.
    pub relation_engine: RelationBackend,
    /// Request headers that conditions may read.
    pub headers: Vec<Arc<str>>,
    /// The grants.
    pub grants: Vec<Arc<CompiledGrant>>,
    /// The denials.
    pub denials: Vec<Arc<CompiledDenial>>,
    /// Whether denials are enforced.
    pub mode: EnforcementMode,
    /// `metadata.generation`, if the policy has one.
    pub generation: Option<i64>,
    /// Digest of the source of the policy.
    pub digest: Digest,
    /// Set if this policy is a placeholder: a version was in force that this replica does not know, so the service is
    /// closed. The patterns are the requests to the Kubernetes API that the unknown version governed.
    pub forgotten: Option<Vec<ApiPattern>>,
}
