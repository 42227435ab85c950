//! The compiled service: policies united and indexed for decisions.

use super::key::ServiceKey;
use super::subject_index::SubjectIndex;
use crate::authentication::AuthenticationMethod;
use crate::host::Host;
use crate::kubernetes::{ApiCall, ApiPattern};
use crate::labels::LabelRequirement;
use crate::lookup::Lookup;
use crate::namespaced_name::NamespacedName;
use crate::path::{Ambiguity, PathPattern, RequestPath, is_method, overrides_method};
use crate::policy::{CompiledDenial, CompiledGrant, CompiledOperation, EnforcementMode, ServicePods, TokenSettings};
use crate::relations::{RelationBackend, RelationModel, RelationTarget};
use crate::routes::Routes;
use crate::subject::SubjectMatcher;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The policies of one service, united. Immutable.
#[derive(Debug)]
pub struct CompiledService {
    pub(crate) key: ServiceKey,
    pub(crate) hosts: Box<[Host]>,
    /// The policies in order, with their generations.
    pub(crate) policies: Box<[(NamespacedName, Option<i64>)]>,
    /// The pods of the service, each with the policy that selects them.
    pub(crate) pods: Box<[(NamespacedName, ServicePods)]>,
    pub(crate) tokens: TokenSettings,
    pub(crate) authentication_methods: Arc<[AuthenticationMethod]>,
    pub(crate) mode: EnforcementMode,
    pub(crate) operations: Box<[ServiceOperation]>,
    pub(crate) relations: RelationModel,
    pub(crate) relation_engine: RelationBackend,
    pub(crate) grants: Box<[Arc<CompiledGrant>]>,
    pub(crate) denials: Box<[Arc<CompiledDenial>]>,
    pub(crate) denial_index: SubjectIndex<usize>,
    /// Policies whose version in force is unknown on this replica. As long as there is one, the service has no
    /// operations and every request is denied.
    pub(super) closed_by: Box<[NamespacedName]>,
    /// Headers that conditions read.
    pub(crate) headers: Box<[Arc<str>]>,
    /// Fields of `kubernetes` and `resource` that conditions read.
    pub(crate) objects: Box<[&'static str]>,
    pub(super) routes: Routes,
    /// Patterns over the Kubernetes API, each with the index of its operation.
    pub(super) kubernetes: Box<[(ApiPattern, usize)]>,
    /// Operations by name.
    pub(super) names: Lookup<Arc<str>, usize>,
}

/// An operation with the grants that give its scopes.
#[derive(Debug)]
pub(crate) struct ServiceOperation {
    pub(crate) operation: Arc<CompiledOperation>,
    pub(crate) policy: NamespacedName,
    pub(crate) authentication_methods: Arc<[AuthenticationMethod]>,
    pub(crate) mode: EnforcementMode,
    pub(crate) grants: SubjectIndex<GrantCandidate>,
}

/// A grant, and which of an operation's scopes it gives: bit `i` stands for scope `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GrantCandidate {
    pub(crate) grant: usize,
    pub(crate) gives: u64,
}

impl CompiledService {
    /// A service that declares nothing.
    pub(crate) fn empty(key: ServiceKey) -> Self {
        Self {
            key,
            hosts: Box::default(),
            pods: Box::default(),
            policies: Box::default(),
            authentication_methods: Arc::default(),
            mode: EnforcementMode::Enforce,
            operations: Box::default(),
            relations: RelationModel::default(),
            relation_engine: RelationBackend::BuiltIn,
            grants: Box::default(),
            denials: Box::default(),
            denial_index: SubjectIndex::default(),
            closed_by: Box::default(),
            headers: Box::default(),
            objects: Box::default(),
            routes: Routes::default(),
            kubernetes: Box::default(),
            tokens: TokenSettings::default(),
            names: Lookup::default(),
        }
    }

    /// Namespace and audience.
    #[must_use]
    pub fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Hosts of the service.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The policies that close the service: their versions in force are unknown on this replica.
    #[must_use]
    pub fn closed_by(&self) -> &[NamespacedName] {
        &self.closed_by
    }

    /// Accepted authentication methods, in the order in which they are tried.
    #[must_use]
    pub fn authentication_methods(&self) -> &[AuthenticationMethod] {
        &self.authentication_methods
    }

    /// Number of operations.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// Keys of Namespace labels that rules of this service read.
    #[must_use]
    pub fn namespace_labels(&self) -> BTreeSet<&str> {
        let to = self.grants.iter().flat_map(|grant| grant.to.iter());
        let to = to.chain(self.denials.iter().flat_map(|denial| denial.to.iter()));
        to.filter_map(
            |subject| if let SubjectMatcher::Namespaces { labels, .. } = subject { Some(labels) } else { None },
        )
        .flat_map(|labels| labels.requirements.iter().map(LabelRequirement::key))
        .collect()
    }

    /// Types of the objects whose id is this capture alone, such as `order` of `order:{id}`.
    #[must_use]
    pub fn object_types_captured_by(&self, capture: &str) -> BTreeSet<&str> {
        let relations = self.grants.iter().filter_map(|grant| grant.relation.as_ref());
        relations.filter(|to| to.is_captured_by(capture)).map(RelationTarget::kind).collect()
    }

    /// The policies, in order.
    pub fn policies(&self) -> impl Iterator<Item = &NamespacedName> {
        self.policies.iter().map(|(key, _)| key)
    }

    /// Where the relations to the service's objects are evaluated.
    #[must_use]
    pub fn relation_engine(&self) -> &RelationBackend {
        &self.relation_engine
    }

    /// The relation model of the service.
    #[must_use]
    pub fn relations(&self) -> &RelationModel {
        &self.relations
    }

    /// The operation of an HTTP request, its path, and the pattern that it matches.
    pub(crate) fn find<'r>(&self, method: &str, path: &'r str) -> Result<Option<HttpMatch<'_, 'r>>, Ambiguity> {
        if !is_method(method) {
            return Err(Ambiguity::Method);
        }
        if overrides_method(path, method) {
            return Err(Ambiguity::MethodParameter);
        }
        let path = RequestPath::parse(path)?;
        let Some((operation, number)) = self.routes.find(method, &path)? else { return Ok(None) };
        let found = self.operations.get(operation);
        let pattern = found.and_then(|found| found.operation.matches.get(number));
        Ok(found.zip(pattern).map(|(found, pattern)| (found, path, &pattern.path)))
    }

    /// The operation of a request to the Kubernetes API: the one with the most specific pattern.
    pub(crate) fn find_kubernetes(&self, call: &ApiCall<'_>) -> Option<&ServiceOperation> {
        let matching = self.kubernetes.iter().filter(|(pattern, _)| pattern.matches(call));
        let (_, operation) = matching.max_by_key(|(pattern, _)| pattern.specificity())?;
        self.operations.get(*operation)
    }

    /// The requests to the Kubernetes API that the service declares, in its own namespace.
    pub fn kubernetes(&self) -> impl Iterator<Item = &ApiPattern> {
        self.kubernetes.iter().map(|(pattern, _)| pattern)
    }

    /// Whether the service decides about a request to the Kubernetes API in its namespace. Requests for a policy that
    /// closes the service are exempt: otherwise no one could fix or remove that policy.
    pub(crate) fn governs(&self, call: &ApiCall<'_>) -> bool {
        self.kubernetes().any(|pattern| pattern.matches(call)) && !self.closed_by.iter().any(|key| call.is_policy(key))
    }

    /// The operation of this name.
    pub(crate) fn operation_named(&self, name: &str) -> Option<&ServiceOperation> {
        self.names.get(name).next().and_then(|index| self.operations.get(*index))
    }
}

/// An operation, with the path of a request and the pattern that it matches.
type HttpMatch<'s, 'r> = (&'s ServiceOperation, RequestPath<'r>, &'s PathPattern);
