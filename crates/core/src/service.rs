//! One service: the policies that share it, united and indexed for decisions.

use crate::host::Host;
use crate::kubernetes::{ApiCall, ApiPattern};
use crate::lookup::Lookup;
use crate::namespaced_name::NamespacedName;
use crate::path::{Ambiguity, PathPattern, RequestPath};
use crate::pods::{LabelRequirement, ServicePods};
use crate::policy::{
    AuthenticationMethod, CompiledDenial, CompiledGrant, CompiledOperation, EnforcementMode, Labels, MAX_SCOPES,
    Policy, SpiffePattern, SubjectMatcher,
};
use crate::principal::{Identity, PrincipalId};
use crate::relations::{RelationBackend, RelationModel, RelationTarget};
use crate::routes::Routes;
use crate::scope::Scope;
use crate::token::TokenSettings;
use foldhash::fast::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use thiserror::Error;

/// Namespace and audience of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// `aud` of tokens for the service.
    pub audience: Arc<str>,
}

/// The policies of one service, united. Immutable.
#[derive(Debug)]
pub struct CompiledService {
    pub(crate) key: ServiceKey,
    pub(crate) hosts: Box<[Host]>,
    /// The policies in order, with their generations.
    pub(crate) policies: Box<[(NamespacedName, Option<i64>)]>,
    /// Pods that are the service, each with the policy that says so.
    pub(crate) pods: Box<[(NamespacedName, ServicePods)]>,
    pub(crate) tokens: TokenSettings,
    pub(crate) ways: Arc<[AuthenticationMethod]>,
    pub(crate) mode: EnforcementMode,
    pub(crate) operations: Box<[ServiceOperation]>,
    pub(crate) relations: RelationModel,
    pub(crate) relation_engine: RelationBackend,
    pub(crate) grants: Box<[Arc<CompiledGrant>]>,
    pub(crate) denials: Box<[Arc<CompiledDenial>]>,
    pub(crate) denial_index: SubjectIndex<usize>,
    /// Policies of which the version that was in force is not known here. As long as there is one the service has no operation,
    /// and every request is denied.
    closed_by: Box<[NamespacedName]>,
    /// Headers that conditions read.
    pub(crate) headers: Box<[Arc<str>]>,
    /// Fields of `kubernetes` and `resource` that they read.
    pub(crate) objects: Box<[&'static str]>,
    routes: Routes,
    /// Patterns over the Kubernetes API with the operations that they are.
    kubernetes: Box<[(ApiPattern, usize)]>,
    /// Operations by name.
    names: Lookup<Arc<str>, usize>,
}

/// An operation with the grants that matter to it.
#[derive(Debug)]
pub(crate) struct ServiceOperation {
    pub(crate) operation: Arc<CompiledOperation>,
    pub(crate) policy: NamespacedName,
    pub(crate) ways: Arc<[AuthenticationMethod]>,
    pub(crate) mode: EnforcementMode,
    pub(crate) grants: SubjectIndex<GrantCandidate>,
}

/// A grant, and which of an operation's scopes it gives: bit `i` stands for scope `i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GrantCandidate {
    pub(crate) grant: usize,
    pub(crate) gives: u64,
}

/// Two policies of one service that can't be united.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OperationConflict {
    /// Both declare an operation of this name.
    #[error("operation `{name}` is already declared by policy {other}")]
    Name {
        /// Name of the operation.
        name: Arc<str>,
        /// The policy that came first.
        other: NamespacedName,
    },
    /// Both claim the same requests.
    #[error("operation `{name}` matches `{pattern}`, which operation `{other_name}` of policy {other} claims already")]
    Requests {
        /// Name of the operation.
        name: Arc<str>,
        /// Method and path.
        pattern: String,
        /// Name of the operation that came first.
        other_name: Arc<str>,
        /// The policy that came first.
        other: NamespacedName,
    },
    /// Both declare a type of objects.
    #[error("the relations of `{name}` are already declared by policy {other}")]
    ObjectType {
        /// Name of the type.
        name: Arc<str>,
        /// The policy that came first.
        other: NamespacedName,
    },
    /// They look up their relations in different places.
    #[error(
        "policy {other} of the same service has another `relationEngine`; all that declare relations need the same"
    )]
    RelationBackend {
        /// The policy that came first.
        other: NamespacedName,
    },
}

/// Policies of one service on the way to being united, the oldest first.
#[derive(Debug, Default)]
pub struct PolicyUnion {
    policies: Vec<Arc<Policy>>,
    /// Name and policy of each operation.
    declared: Vec<(Arc<str>, NamespacedName)>,
    routes: Routes,
    kubernetes: Vec<(ApiPattern, usize)>,
    names: Map<Arc<str>, usize>,
}

impl PolicyUnion {
    /// Adds a policy of the same namespace and audience, as a whole or not at all.
    ///
    /// # Errors
    /// When its operations clash with those of a policy that is there.
    pub fn add(&mut self, policy: Arc<Policy>) -> Result<(), OperationConflict> {
        for name in policy.relations.types() {
            if let Some(other) = self.policies.iter().find(|other| other.relations.declares(name)) {
                return Err(OperationConflict::ObjectType { name: Arc::clone(name), other: other.key.clone() });
            }
        }
        if policy.relations.declares_any() {
            let mut others = self.policies.iter().filter(|other| other.relations.declares_any());
            if let Some(other) = others.find(|other| other.relation_engine != policy.relation_engine) {
                return Err(OperationConflict::RelationBackend { other: other.key.clone() });
            }
        }
        for operation in &policy.operations {
            if let Some((_, other)) = self.names.get(&operation.name).and_then(|index| self.declared.get(*index)) {
                return Err(OperationConflict::Name { name: Arc::clone(&operation.name), other: other.clone() });
            }
            for (pattern, holder) in self.holders(operation) {
                if let Some((other_name, other)) = self.declared.get(holder) {
                    let (name, other_name) = (Arc::clone(&operation.name), Arc::clone(other_name));
                    return Err(OperationConflict::Requests { name, pattern, other_name, other: other.clone() });
                }
            }
        }
        for operation in &policy.operations {
            let index = self.declared.len();
            self.declared.push((Arc::clone(&operation.name), policy.key.clone()));
            self.names.insert(Arc::clone(&operation.name), index);
            for (number, pattern) in operation.matches.iter().enumerate() {
                // clashes within the policy were refused when it was compiled
                let _ = self.routes.insert(pattern, (index, number));
            }
            self.kubernetes.extend(operation.kubernetes.iter().map(|pattern| (pattern.clone(), index)));
        }
        self.policies.push(policy);
        Ok(())
    }

    /// A policy that closes the service, if there is one. Nobody can tell then whether another fits in.
    #[must_use]
    pub fn closed_by(&self) -> Option<&NamespacedName> {
        self.policies.iter().find(|policy| policy.forgotten.is_some()).map(|policy| &policy.key)
    }

    /// The patterns of an operation that are taken, with the operation that has them.
    fn holders(&self, operation: &CompiledOperation) -> impl Iterator<Item = (String, usize)> {
        let http = operation.matches.iter().filter_map(|p| Some((describe(p), self.routes.holder(p)?.0)));
        let kubernetes = operation.kubernetes.iter().filter_map(|p| {
            let (_, holder) = self.kubernetes.iter().find(|(taken, _)| taken == p)?;
            Some((p.to_string(), *holder))
        });
        http.chain(kubernetes)
    }

    /// The service that the policies make; none without policies.
    #[must_use]
    pub fn unite(self) -> Option<CompiledService> {
        let Self { mut policies, mut routes, mut kubernetes, .. } = self;
        let mut closed_by: Vec<NamespacedName> =
            policies.iter().filter(|p| p.forgotten.is_some()).map(|p| p.key.clone()).collect();
        closed_by.sort_unstable();
        let closed = !closed_by.is_empty();
        if closed {
            // what was denied is not known: no request is an operation any more, but all that were governed still are
            routes = Routes::default();
            let forgotten = policies.iter().flat_map(|p| p.forgotten.iter().flatten().cloned());
            kubernetes.extend(forgotten.map(|pattern| (pattern, usize::MAX)));
        }
        let first = policies.first()?;
        let key = ServiceKey { namespace: Arc::clone(&first.key.namespace), audience: Arc::clone(&first.audience) };
        let mut grants: Vec<Arc<CompiledGrant>> = policies.iter().flat_map(|p| p.grants.iter().cloned()).collect();
        grants.sort_unstable_by(|a, b| a.rule.cmp(&b.rule));
        let mut denials: Vec<Arc<CompiledDenial>> = policies.iter().flat_map(|p| p.denials.iter().cloned()).collect();
        denials.sort_unstable_by(|a, b| a.rule.cmp(&b.rule));
        let numbered = denials.iter().enumerate();
        let denial_index =
            numbered.flat_map(|(number, denial)| denial.to.iter().map(move |subject| (subject, number))).collect();
        let conditions = grants.iter().filter_map(|grant| grant.when.as_ref());
        let conditions = conditions.chain(denials.iter().filter_map(|denial| denial.when.as_ref()));
        let headers: BTreeSet<Arc<str>> = conditions.clone().flat_map(|when| when.headers().cloned()).collect();
        let objects: BTreeSet<&'static str> = conditions.flat_map(|when| when.objects()).collect();
        let givers = givers(&grants);
        // in the order in which they were added: routes and names go by it
        let operations: Box<[ServiceOperation]> = policies
            .iter()
            .filter(|_| !closed)
            .flat_map(|policy| policy.operations.iter().map(move |operation| (policy, operation)))
            .map(|(policy, operation)| ServiceOperation {
                policy: policy.key.clone(),
                ways: Arc::clone(&policy.ways),
                mode: policy.mode,
                grants: candidates(&operation.scopes, &grants, &givers),
                operation: Arc::clone(operation),
            })
            .collect();
        policies.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut relations = RelationModel::default();
        policies.iter().for_each(|policy| relations.absorb(&policy.relations));
        // all policies with relations have the same
        let relation_engine = policies.iter().find(|policy| policy.relations.declares_any());
        let relation_engine = relation_engine.map(|policy| policy.relation_engine.clone()).unwrap_or_default();
        let audits = !closed && policies.iter().all(|p| p.mode == EnforcementMode::Audit);
        Some(CompiledService {
            key,
            policies: policies.iter().map(|p| (p.key.clone(), p.generation)).collect(),
            hosts: policies.iter().flat_map(|p| &p.hosts).collect::<BTreeSet<_>>().into_iter().cloned().collect(),
            pods: policies.iter().filter_map(|p| Some((p.key.clone(), p.pods.clone()?))).collect(),
            tokens: policies.iter().fold(TokenSettings::default(), |all, policy| all.and(policy.tokens)),
            ways: in_first_order(policies.iter().flat_map(|p| p.ways.iter())),
            mode: if audits { EnforcementMode::Audit } else { EnforcementMode::Enforce },
            names: operations.iter().map(|one| Arc::clone(&one.operation.name)).zip(0..).collect(),
            operations,
            relations,
            relation_engine,
            grants: grants.into(),
            denials: denials.into(),
            denial_index,
            closed_by: closed_by.into(),
            headers: headers.into_iter().collect(),
            objects: objects.into_iter().collect(),
            routes,
            kubernetes: kubernetes.into(),
        })
    }
}

impl CompiledService {
    /// Unites policies of one namespace and audience, the oldest first. A policy whose operations clash with those
    /// of an older one is left out as a whole and returned with the clash.
    ///
    /// Returns no service when no policy is left.
    #[must_use]
    pub fn unite(oldest_first: &[Arc<Policy>]) -> (Option<Self>, Vec<(NamespacedName, OperationConflict)>) {
        let mut union = PolicyUnion::default();
        let conflicts = oldest_first
            .iter()
            .filter_map(|policy| Some((policy.key.clone(), union.add(Arc::clone(policy)).err()?)))
            .collect();
        (union.unite(), conflicts)
    }

    /// A service that declares nothing.
    pub(crate) fn empty(key: ServiceKey) -> Self {
        Self {
            key,
            hosts: Box::default(),
            pods: Box::default(),
            policies: Box::default(),
            ways: Arc::default(),
            mode: EnforcementMode::Enforce,
            operations: Box::default(),
            relations: RelationModel::default(),
            relation_engine: RelationBackend::Own,
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

    /// Hosts under which the service is called.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The policies that close the service: the version of each that was in force is not known here.
    #[must_use]
    pub fn closed_by(&self) -> &[NamespacedName] {
        &self.closed_by
    }

    /// Accepted ways in, in the order in which they are tried.
    #[must_use]
    pub fn ways(&self) -> &[AuthenticationMethod] {
        &self.ways
    }

    /// Number of operations.
    #[must_use]
    pub fn operations(&self) -> usize {
        self.operations.len()
    }

    /// Labels of Namespaces that rules of this service ask for.
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

    /// Types of the objects that grants speak of by a capture alone, such as `order` of `order:{id}`.
    #[must_use]
    pub fn objects_by(&self, capture: &str) -> BTreeSet<&str> {
        let relations = self.grants.iter().filter_map(|grant| grant.relation.as_ref());
        relations.filter(|to| to.is_captured_by(capture)).map(RelationTarget::kind).collect()
    }

    /// The policies, in order.
    pub fn policies(&self) -> impl Iterator<Item = &NamespacedName> {
        self.policies.iter().map(|(key, _)| key)
    }

    /// Who knows the relations to the service's objects.
    #[must_use]
    pub fn relation_engine(&self) -> &RelationBackend {
        &self.relation_engine
    }

    /// How relations to the service's objects come about.
    #[must_use]
    pub fn relations(&self) -> &RelationModel {
        &self.relations
    }

    /// The operation that a request is, its path, and the pattern that it matches.
    pub(crate) fn find<'r>(&self, method: &str, path: &'r str) -> Result<Option<Match<'_, 'r>>, Ambiguity> {
        if !crate::path::is_method(method) {
            return Err(Ambiguity::Method);
        }
        let path = RequestPath::parse(path)?;
        let Some((operation, number)) = self.routes.find(method, &path)? else { return Ok(None) };
        let found = self.operations.get(operation);
        let pattern = found.and_then(|found| found.operation.matches.get(number));
        Ok(found.zip(pattern).map(|(found, pattern)| (found, path, &pattern.path)))
    }

    /// The operation that a request to the Kubernetes API is: the one whose pattern says most.
    pub(crate) fn find_kubernetes(&self, call: &ApiCall<'_>) -> Option<&ServiceOperation> {
        let matching = self.kubernetes.iter().filter(|(pattern, _)| pattern.matches(call));
        let (_, operation) = matching.max_by_key(|(pattern, _)| pattern.specificity())?;
        self.operations.get(*operation)
    }

    /// The requests to the Kubernetes API that the service declares, in its own namespace.
    pub fn kubernetes(&self) -> impl Iterator<Item = &ApiPattern> {
        self.kubernetes.iter().map(|(pattern, _)| pattern)
    }

    /// Whether a request to the Kubernetes API, in the service's namespace, is its to decide. A policy that closes it can be
    /// mended and removed by whoever else may: nothing could open it again otherwise.
    pub(crate) fn governs(&self, call: &ApiCall<'_>) -> bool {
        self.kubernetes().any(|pattern| pattern.matches(call)) && !self.closed_by.iter().any(|key| call.is_policy(key))
    }

    /// The operation of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&ServiceOperation> {
        self.names.get(name).next().and_then(|index| self.operations.get(*index))
    }
}

/// An operation, with the path of a request and the pattern that it matches.
type Match<'s, 'r> = (&'s ServiceOperation, RequestPath<'r>, &'s PathPattern);

/// Segments that a path captured, by name.
pub type Captures = BTreeMap<Arc<str>, Arc<str>>;

/// The first two operations of one policy that claim the same requests: their names and the pattern.
#[must_use]
pub fn shadowed(operations: &[CompiledOperation]) -> Option<(Arc<str>, Arc<str>, String)> {
    let mut routes = Routes::default();
    operations
        .iter()
        .enumerate()
        .find_map(|(index, operation)| {
            operation.matches.iter().enumerate().find_map(|(number, pattern)| {
                let (other, _) = routes.insert(pattern, (index, number)).err()?;
                let other = operations.get(other)?;
                Some((Arc::clone(&other.name), Arc::clone(&operation.name), describe(pattern)))
            })
        })
        .or_else(|| shadowed_kubernetes(operations))
}

/// Operations that no HTTP request is, although they declare some: others say more exactly what all of those are.
#[must_use]
pub fn unreachable(operations: &[Arc<CompiledOperation>]) -> Vec<Arc<str>> {
    let mut routes = Routes::default();
    for (index, operation) in operations.iter().enumerate() {
        for (number, pattern) in operation.matches.iter().enumerate() {
            // two that claim the same are refused elsewhere
            let _ = routes.insert(pattern, (index, number));
        }
    }
    let longest = operations.iter().flat_map(|o| &o.matches).map(|one| one.path.segments().len()).max().unwrap_or(0);
    let reached = |index: usize, operation: &CompiledOperation| {
        operation.matches.iter().any(|one| {
            let method = one.method.as_ref().map_or(crate::path::ANY_METHOD, |method| method.as_str());
            one.path.examples(longest + 1).any(|path| {
                let found = RequestPath::parse(&path).map(|path| routes.find(method, &path));
                // what can't be told counts as reached
                !matches!(found, Ok(Ok(Some((other, _)))) if other != index)
            })
        })
    };
    let hidden = operations.iter().enumerate().filter(|(index, o)| !o.matches.is_empty() && !reached(*index, o));
    hidden.map(|(_, operation)| Arc::clone(&operation.name)).collect()
}

fn shadowed_kubernetes(operations: &[CompiledOperation]) -> Option<(Arc<str>, Arc<str>, String)> {
    let mut taken: BTreeMap<&ApiPattern, &CompiledOperation> = BTreeMap::new();
    let mut all = operations.iter().flat_map(|operation| operation.kubernetes.iter().map(move |p| (p, operation)));
    all.find_map(|(pattern, operation)| {
        let other = taken.insert(pattern, operation)?;
        Some((Arc::clone(&other.name), Arc::clone(&operation.name), pattern.to_string()))
    })
}

fn describe(pattern: &crate::policy::HttpPattern) -> String {
    format!("{} {}", pattern.method.as_ref().map_or("*", |m| m.as_str()), pattern.path)
}

/// Which grants give a scope.
fn givers(grants: &[Arc<CompiledGrant>]) -> HashMap<&Scope, Vec<usize>> {
    let mut givers: HashMap<&Scope, Vec<usize>> = HashMap::new();
    for (number, grant) in grants.iter().enumerate() {
        grant.scopes.iter().for_each(|scope| givers.entry(scope).or_default().push(number));
    }
    givers
}

/// The grants that give any of `scopes`, by subject.
fn candidates(
    scopes: &[Scope],
    grants: &[Arc<CompiledGrant>],
    givers: &HashMap<&Scope, Vec<usize>>,
) -> SubjectIndex<GrantCandidate> {
    let mut gives: BTreeMap<usize, u64> = BTreeMap::new();
    for (bit, scope) in scopes.iter().take(MAX_SCOPES).enumerate() {
        for grant in givers.get(scope).into_iter().flatten() {
            *gives.entry(*grant).or_default() |= 1 << bit;
        }
    }
    let to = |grant: usize| grants.get(grant).map(|grant| &*grant.to).unwrap_or_default();
    let candidates = gives.into_iter().map(|(grant, gives)| GrantCandidate { grant, gives });
    candidates.flat_map(|candidate| to(candidate.grant).iter().map(move |subject| (subject, candidate))).collect()
}

fn in_first_order<'w>(ways: impl Iterator<Item = &'w AuthenticationMethod>) -> Arc<[AuthenticationMethod]> {
    let mut seen = BTreeSet::new();
    ways.filter(|way| seen.insert(*way)).cloned().collect()
}

/// A map that is asked on the way to a decision; its hash is quick, and seeded anew in each process.
type Map<K, V> = HashMap<K, V, RandomState>;

/// Rules by the subjects that they are for, so that a decision looks only at rules that concern the caller.
#[derive(Debug)]
pub(crate) struct SubjectIndex<T> {
    anyone: Box<[T]>,
    principals: Lookup<PrincipalId, T>,
    providers: Lookup<Arc<str>, T>,
    /// By group, each with its provider.
    groups: Lookup<Arc<str>, (Arc<str>, T)>,
    /// Subjects that more has to be asked of, by what their callers have at least.
    others: Lookup<SubjectTrait, (SubjectMatcher, T)>,
}

/// What callers of some subjects have at least.
#[derive(Debug, PartialEq, Eq, Hash)]
enum SubjectTrait {
    TrustDomain(Arc<str>),
    Namespace(Arc<str>),
    /// Provider, name and value.
    Claim(Arc<str>, Arc<str>, Arc<str>),
}

impl<T> Default for SubjectIndex<T> {
    fn default() -> Self {
        Self {
            anyone: Box::default(),
            principals: Lookup::default(),
            providers: Lookup::default(),
            groups: Lookup::default(),
            others: Lookup::default(),
        }
    }
}

impl<'s, T: Copy> FromIterator<(&'s SubjectMatcher, T)> for SubjectIndex<T> {
    fn from_iter<I: IntoIterator<Item = (&'s SubjectMatcher, T)>>(rules: I) -> Self {
        let (mut anyone, mut principals, mut providers) = (Vec::new(), Vec::new(), Vec::new());
        let (mut groups, mut others) = (Vec::new(), Vec::new());
        for (subject, rule) in rules {
            let mut other = |least| others.push((least, (subject.clone(), rule)));
            match subject {
                SubjectMatcher::Authenticated => anyone.push(rule),
                SubjectMatcher::Principal(id) => principals.push((id.clone(), rule)),
                SubjectMatcher::Provider(provider) => providers.push((Arc::clone(provider), rule)),
                SubjectMatcher::Group { provider, group } => {
                    groups.push((Arc::clone(group), (Arc::clone(provider), rule)))
                }
                SubjectMatcher::Namespace { namespace, .. } => other(SubjectTrait::Namespace(Arc::clone(namespace))),
                SubjectMatcher::Namespaces { trust_domain, .. }
                | SubjectMatcher::Spiffe(SpiffePattern { trust_domain, .. }) => {
                    other(SubjectTrait::TrustDomain(Arc::clone(trust_domain)));
                }
                SubjectMatcher::Claims { provider, claims, .. } => {
                    // one without claims includes nobody; the compiler refuses it
                    if let Some((name, value)) = claims.iter().next() {
                        other(SubjectTrait::Claim(Arc::clone(provider), Arc::clone(name), Arc::clone(value)));
                    }
                }
            }
        }
        Self {
            anyone: anyone.into(),
            principals: principals.into_iter().collect(),
            providers: providers.into_iter().collect(),
            groups: groups.into_iter().collect(),
            others: others.into_iter().collect(),
        }
    }
}

impl<T: Copy + Ord> SubjectIndex<T> {
    /// The rules of subjects that more has to be asked of.
    fn of_others(&self, caller: &Identity, labels: Option<&Labels>) -> impl Iterator<Item = T> {
        let mut traits = Vec::new();
        match &caller.id {
            PrincipalId::Workload { trust_domain, namespace, .. } => {
                traits.extend([
                    SubjectTrait::TrustDomain(Arc::clone(trust_domain)),
                    SubjectTrait::Namespace(Arc::clone(namespace)),
                ]);
            }
            PrincipalId::Spiffe { trust_domain, .. } => {
                traits.push(SubjectTrait::TrustDomain(Arc::clone(trust_domain)))
            }
            PrincipalId::User { .. } | PrincipalId::Key { .. } | PrincipalId::Kube { .. } => {}
        }
        if let Some(provider) = caller.provider() {
            let provider: Arc<str> = provider.into();
            let texts = caller.attributes.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
            traits.extend(
                texts.map(|(name, value)| SubjectTrait::Claim(Arc::clone(&provider), name.into(), value.into())),
            );
        }
        let found: Vec<T> = traits
            .iter()
            .flat_map(|least| self.others.get(least))
            .filter(|(subject, _)| subject.includes(caller, labels))
            .map(|(_, rule)| *rule)
            .collect();
        found.into_iter()
    }

    /// The rules for `caller`, in order, each once.
    pub(crate) fn concerning(&self, caller: &Identity, labels: Option<&Labels>) -> Vec<T> {
        let mut rules = self.anyone.to_vec();
        rules.extend(self.principals.get(&caller.id));
        if let Some(provider) = caller.provider() {
            rules.extend(self.providers.get(provider));
            if !self.groups.is_empty() {
                let found = caller.groups.iter().flat_map(|group| self.groups.get(group.as_str()));
                rules.extend(found.filter(|(of, _)| **of == *provider).map(|(_, rule)| *rule));
            }
        }
        if !self.others.is_empty() {
            rules.extend(self.of_others(caller, labels));
        }
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    /// Every rule, in order, each once.
    pub(crate) fn all(&self) -> Vec<T> {
        let mut rules: Vec<T> = self.anyone.to_vec();
        rules.extend(self.principals.values().chain(self.providers.values()));
        rules.extend(self.groups.values().map(|(_, rule)| *rule));
        rules.extend(self.others.values().map(|(_, rule)| *rule));
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}
