//! The rights of callers, derived from policies alone, without any request.
//!
//! Conditions are not evaluated. A right that depends on a condition, on an unknown group membership or on a relation
//! is [`Permission::Conditional`], with what it depends on.

use crate::approval::ApprovalRequirement;
use crate::authentication::AuthenticationMethod;
use crate::namespaced_name::NamespacedName;
use crate::policy::{CompiledDenial, CompiledGrant, EnforcementMode};
use crate::principal::PrincipalId;
use crate::risk::RiskLevel;
use crate::scope::Scope;
use crate::service::{CompiledService, ServiceOperation};
use crate::snapshot::Snapshot;
use crate::subject::SubjectMatcher;
use chrono::TimeDelta;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A set of callers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallerSet {
    /// Callers without a credential.
    Anonymous,
    /// The callers that a subject of a rule matches.
    Subject(SubjectMatcher),
    /// One principal with all its groups.
    Principal(PrincipalId, BTreeSet<String>),
}

impl std::fmt::Display for CallerSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("callers without a credential"),
            Self::Subject(subject) => subject.fmt(f),
            Self::Principal(id, _) => id.fmt(f),
        }
    }
}

/// Whether callers have a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Never.
    Never,
    /// If a condition holds that policies alone do not decide.
    Conditional,
    /// Always, unless a denial applies.
    Always,
}

/// The right of some callers to one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRight {
    /// Audience of the service.
    pub audience: Arc<str>,
    /// The policy that declares the operation.
    pub policy: NamespacedName,
    /// The operation.
    pub operation: Arc<str>,
    /// Whether they have the right.
    pub permission: Permission,
    /// The requirements for [`Permission::Conditional`]; the obstacles for [`Permission::Never`].
    pub because: BTreeSet<String>,
    /// Denials that may apply all the same.
    pub unless: BTreeSet<String>,
    /// The grants that give some of the needed scopes.
    pub grants: BTreeSet<Arc<str>>,
    /// Scopes that no grant gives them.
    pub missing: Vec<Scope>,
    /// Whether the operation is public.
    pub public: bool,
    /// The risk, which sets the required assurance.
    pub risk: RiskLevel,
    /// Maximum age of a person's second factor, for high risk.
    pub max_age: Option<TimeDelta>,
    /// The approval that the operation requires, if any.
    pub approval: Option<Arc<ApprovalRequirement>>,
    /// Accepted authentication methods.
    pub authentication_methods: BTreeSet<AuthenticationMethod>,
    /// Whether denied requests are only recorded.
    pub audited: bool,
    /// Whether an enforced denial always applies.
    pub denied: bool,
}

impl AccessRight {
    /// The right to requests that match no operation of a service; `other` is their operation in the other snapshot.
    pub(crate) fn none(service: &CompiledService, other: Option<&ServiceOperation>) -> Self {
        let unnamed = || NamespacedName { namespace: Arc::clone(&service.key.namespace), name: "".into() };
        Self {
            audience: Arc::clone(&service.key.audience),
            policy: other.map_or_else(unnamed, |other| other.policy.clone()),
            operation: other.map_or_else(|| "".into(), |other| Arc::clone(&other.operation.name)),
            permission: Permission::Never,
            because: BTreeSet::from(["no operation matches".to_owned()]),
            unless: BTreeSet::new(),
            grants: BTreeSet::new(),
            missing: Vec::new(),
            public: false,
            risk: RiskLevel::Standard,
            max_age: None,
            approval: None,
            authentication_methods: BTreeSet::new(),
            audited: service.mode == EnforcementMode::Audit,
            denied: false,
        }
    }

    /// The right to requests to the Kubernetes API that no operation of a service matches: the service does not govern
    /// them.
    pub(crate) fn ungoverned(service: &CompiledService, other: Option<&ServiceOperation>) -> Self {
        Self {
            permission: Permission::Always,
            because: BTreeSet::from(["no operation matches, so the service does not govern it".to_owned()]),
            public: true,
            audited: false,
            ..Self::none(service, other)
        }
    }
}

/// How many of the callers of a set a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Covers {
    None,
    Some,
    All,
}

impl Snapshot {
    /// Every subject of a rule.
    #[must_use]
    pub fn subjects(&self) -> BTreeSet<SubjectMatcher> {
        self.services().flat_map(|service| service.subjects()).cloned().collect()
    }

    /// The rights of these callers to every operation, ordered by service and operation. `own` is the trust domain of
    /// the cluster's own workloads.
    #[must_use]
    pub fn rights(&self, callers: &CallerSet, own: &str) -> Vec<AccessRight> {
        let mut services: Vec<&Arc<CompiledService>> = self.services().collect();
        services.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        services.into_iter().flat_map(|service| service.rights(callers, own)).collect()
    }
}

impl CompiledService {
    /// Every subject of a rule of this service.
    pub fn subjects(&self) -> impl Iterator<Item = &SubjectMatcher> {
        let grants = self.grants.iter().flat_map(|grant| grant.to.iter());
        grants.chain(self.denials.iter().flat_map(|denial| denial.to.iter()))
    }

    /// Every operation, with the policy that declares it.
    pub fn declared_operations(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<str>)> {
        self.operations.iter().map(|operation| (&operation.policy, &operation.operation.name))
    }

    /// Every grant and denial, by the name that decisions use.
    pub fn rules(&self) -> impl Iterator<Item = &Arc<str>> {
        let grants = self.grants.iter().map(|grant| &grant.rule);
        grants.chain(self.denials.iter().map(|denial| &denial.rule))
    }

    /// The rights of these callers to the operations of this service.
    pub fn rights(&self, callers: &CallerSet, own: &str) -> impl Iterator<Item = AccessRight> {
        self.operations.iter().map(move |operation| self.right(callers, own, operation))
    }

    pub(crate) fn right(&self, callers: &CallerSet, own: &str, operation: &ServiceOperation) -> AccessRight {
        let mut right = AccessRight {
            audience: Arc::clone(&self.key.audience),
            policy: operation.policy.clone(),
            operation: Arc::clone(&operation.operation.name),
            permission: Permission::Always,
            because: BTreeSet::new(),
            unless: BTreeSet::new(),
            grants: BTreeSet::new(),
            missing: Vec::new(),
            public: operation.operation.public,
            risk: operation.operation.risk,
            max_age: (operation.operation.risk == RiskLevel::High).then_some(operation.operation.max_age),
            approval: operation.operation.approval.clone(),
            authentication_methods: operation.authentication_methods.iter().cloned().collect(),
            audited: operation.mode == EnforcementMode::Audit,
            denied: false,
        };
        if operation.operation.public {
            return right;
        }
        self.granted(callers, own, operation, &mut right);
        let mut obstacle = obstacle(callers, own, operation);
        for denial in self.denials.iter().filter(|denial| denial.mode == EnforcementMode::Enforce) {
            match (covers(&denial.to, callers, own), &denial.when) {
                (Covers::None, _) => {}
                (Covers::All, None) => {
                    right.denied = true;
                    obstacle.get_or_insert_with(|| format!("{} denies it", denial.rule));
                }
                (covered, _) => drop(right.unless.insert(denial_terms(denial, covered))),
            }
        }
        if let Some(why) = obstacle {
            (right.permission, right.because) = (Permission::Never, BTreeSet::from([why]));
        }
        if right.permission == Permission::Never && !right.audited {
            right.unless.clear();
        }
        right
    }

    fn granted(&self, callers: &CallerSet, own: &str, operation: &ServiceOperation, right: &mut AccessRight) {
        let required: BTreeSet<&Scope> = operation.operation.scopes.iter().collect();
        let mut sure = BTreeSet::new();
        let mut possible = BTreeSet::new();
        let mut terms = Vec::new();
        for candidate in operation.grants.all() {
            let Some(grant) = self.grants.get(candidate.grant) else { continue };
            let covered = covers(&grant.to, callers, own);
            if covered == Covers::None {
                continue;
            }
            let gives: BTreeSet<&Scope> = grant.scopes.iter().filter(|scope| required.contains(scope)).collect();
            right.grants.insert(Arc::clone(&grant.rule));
            match grant_terms(grant, covered) {
                None => sure.extend(gives),
                Some(term) => {
                    possible.extend(gives.iter().copied());
                    terms.push((gives, term));
                }
            }
        }
        right.missing = required
            .iter()
            .filter(|scope| !sure.contains(*scope) && !possible.contains(*scope))
            .map(|scope| (*scope).clone())
            .collect();
        if !right.missing.is_empty() {
            let missing = right.missing.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ");
            right.permission = Permission::Never;
            right.because.insert(format!("no grant gives {missing}"));
        } else if !required.iter().all(|scope| sure.contains(scope)) {
            right.permission = Permission::Conditional;
            let needed = terms.into_iter().filter(|(gives, _)| gives.iter().any(|scope| !sure.contains(scope)));
            right.because.extend(needed.map(|(_, term)| term));
        }
    }
}

/// Why a request of these callers fails before any grant is considered.
fn obstacle(callers: &CallerSet, own: &str, operation: &ServiceOperation) -> Option<String> {
    let id = match callers {
        CallerSet::Anonymous => return Some("a credential is needed".to_owned()),
        CallerSet::Subject(SubjectMatcher::Principal(id)) | CallerSet::Principal(id, _) => Some(id),
        CallerSet::Subject(_) => None,
    };
    if let Some(PrincipalId::Key { .. }) = id
        && operation.operation.risk > RiskLevel::Low
    {
        return Some(format!("an API key is not enough for risk {:?}", operation.operation.risk));
    }
    // the API server has authenticated callers of the Kubernetes API by its own methods
    let admitted = !operation.operation.kubernetes.is_empty()
        || operation.authentication_methods.iter().any(|method| match (method, callers, id) {
            (AuthenticationMethod::Workload, _, Some(id)) => voucher(id, own) == Voucher::Own,
            (AuthenticationMethod::Provider(name), _, Some(id)) => voucher(id, own).by(name) != Covers::None,
            (
                method,
                CallerSet::Subject(
                    SubjectMatcher::Provider(provider)
                    | SubjectMatcher::Group { provider, .. }
                    | SubjectMatcher::Claims { provider, .. },
                ),
                _,
            ) => *method == AuthenticationMethod::Provider(Arc::clone(provider)),
            _ => true,
        });
    (!admitted).then(|| "the policy does not accept their authentication method".to_owned())
}

/// The party that vouches for a principal.
#[derive(Debug, PartialEq, Eq)]
enum Voucher<'i> {
    /// The cluster itself.
    Own,
    Provider(&'i str),
    /// Some provider with a federated trust domain, which the principal's name does not contain.
    Federated,
}

impl Voucher<'_> {
    fn by(&self, provider: &str) -> Covers {
        match self {
            Self::Provider(name) if *name == provider => Covers::All,
            Self::Federated => Covers::Some,
            Self::Own | Self::Provider(_) => Covers::None,
        }
    }
}

fn voucher<'i>(id: &'i PrincipalId, own: &str) -> Voucher<'i> {
    match (id.provider(), id.trust_domain()) {
        (Some(provider), _) => Voucher::Provider(provider),
        (None, Some(domain)) if domain != own => Voucher::Federated,
        (None, _) => Voucher::Own,
    }
}

fn covers(to: &[SubjectMatcher], callers: &CallerSet, own: &str) -> Covers {
    to.iter().map(|subject| covers_one(subject, callers, own)).max().unwrap_or(Covers::None)
}

fn covers_one(subject: &SubjectMatcher, callers: &CallerSet, own: &str) -> Covers {
    match (subject, callers) {
        (_, CallerSet::Anonymous) => Covers::None,
        (SubjectMatcher::Authenticated, _) => Covers::All,
        (subject, CallerSet::Subject(named)) if subject == named => Covers::All,
        (
            SubjectMatcher::Principal(principal),
            CallerSet::Subject(SubjectMatcher::Principal(id)) | CallerSet::Principal(id, _),
        ) => {
            if principal == id {
                Covers::All
            } else {
                Covers::None
            }
        }
        (
            SubjectMatcher::Provider(provider),
            CallerSet::Subject(SubjectMatcher::Principal(id)) | CallerSet::Principal(id, _),
        ) => voucher(id, own).by(provider),
        (SubjectMatcher::Group { provider, group }, CallerSet::Principal(id, groups)) => {
            if groups.contains(group.as_ref()) { voucher(id, own).by(provider) } else { Covers::None }
        }
        // the groups of the principal are unknown
        (SubjectMatcher::Group { provider, .. }, CallerSet::Subject(SubjectMatcher::Principal(id))) => {
            voucher(id, own).by(provider).min(Covers::Some)
        }
        (_, CallerSet::Subject(SubjectMatcher::Authenticated)) => Covers::Some,
        (subject, CallerSet::Subject(SubjectMatcher::Principal(id))) => covers_principal(subject, id, None, own),
        (subject, CallerSet::Principal(id, groups)) => covers_principal(subject, id, Some(groups), own),
        (subject, CallerSet::Subject(SubjectMatcher::Claims { provider: of, group: in_group, .. })) => match subject {
            SubjectMatcher::Provider(provider) if provider == of => Covers::All,
            SubjectMatcher::Group { provider, group } if provider == of && in_group.as_ref() == Some(group) => {
                Covers::All
            }
            SubjectMatcher::Group { provider, .. } | SubjectMatcher::Claims { provider, .. } if provider == of => {
                Covers::Some
            }
            SubjectMatcher::Principal(id) => voucher(id, own).by(of).min(Covers::Some),
            SubjectMatcher::Spiffe(pattern) if *pattern.trust_domain != *own => Covers::Some,
            _ => Covers::None,
        },
        (subject, CallerSet::Subject(SubjectMatcher::Namespace { .. } | SubjectMatcher::Namespaces { .. })) => {
            match subject {
                SubjectMatcher::Provider(_) | SubjectMatcher::Group { .. } | SubjectMatcher::Claims { .. } => {
                    Covers::None
                }
                _ => Covers::Some,
            }
        }
        // patterns alone do not show how they overlap
        (_, CallerSet::Subject(SubjectMatcher::Spiffe(_))) => Covers::Some,
        (SubjectMatcher::Provider(provider), CallerSet::Subject(SubjectMatcher::Group { provider: of, .. })) => {
            if provider == of {
                Covers::All
            } else {
                Covers::None
            }
        }
        (subject, CallerSet::Subject(SubjectMatcher::Provider(provider) | SubjectMatcher::Group { provider, .. })) => {
            let within = match subject {
                SubjectMatcher::Principal(id) => voucher(id, own).by(provider),
                SubjectMatcher::Group { provider: of, .. }
                | SubjectMatcher::Provider(of)
                | SubjectMatcher::Claims { provider: of, .. }
                    if of == provider =>
                {
                    Covers::Some
                }
                SubjectMatcher::Spiffe(pattern) if *pattern.trust_domain != *own => Covers::Some,
                _ => Covers::None,
            };
            within.min(Covers::Some)
        }
    }
}

/// How many of a principal's identities a subject matches; `groups` are its groups, if known.
fn covers_principal(
    subject: &SubjectMatcher,
    id: &PrincipalId,
    groups: Option<&BTreeSet<String>>,
    own: &str,
) -> Covers {
    let sure = |holds: bool| if holds { Covers::All } else { Covers::None };
    match subject {
        SubjectMatcher::Spiffe(pattern) => sure(pattern.matches(id)),
        SubjectMatcher::Namespace { trust_domain, namespace } => {
            sure(matches!(id, PrincipalId::Workload { trust_domain: of, namespace: within, .. }
                if of == trust_domain && within == namespace))
        }
        // the labels of the namespace are unknown here
        SubjectMatcher::Namespaces { trust_domain, .. } => {
            sure(matches!(id, PrincipalId::Workload { trust_domain: of, .. } if of == trust_domain)).min(Covers::Some)
        }
        SubjectMatcher::Claims { provider, group, .. } => {
            let outside = group.as_ref().is_some_and(|group| groups.is_some_and(|all| !all.contains(group.as_ref())));
            if outside { Covers::None } else { voucher(id, own).by(provider).min(Covers::Some) }
        }
        SubjectMatcher::Authenticated
        | SubjectMatcher::Principal(_)
        | SubjectMatcher::Provider(_)
        | SubjectMatcher::Group { .. } => Covers::None,
    }
}

/// The terms that a grant depends on; `None` if it always gives its scopes.
fn grant_terms(grant: &CompiledGrant, covered: Covers) -> Option<String> {
    let mut terms = Vec::new();
    if covered == Covers::Some {
        terms.push(format!("the caller is {}", join_subjects(&grant.to)));
    }
    if grant.from_token {
        terms.push("the token carries the scope too".to_owned());
    }
    terms.extend(grant.when.as_ref().map(|when| when.source().to_owned()));
    terms.extend(grant.relation.as_ref().map(|to| format!("the caller is {to}")));
    (!terms.is_empty()).then(|| format!("{}: {}", grant.rule, terms.join(", and ")))
}

fn denial_terms(denial: &CompiledDenial, covered: Covers) -> String {
    let mut terms = Vec::new();
    if covered == Covers::Some {
        terms.push(format!("the caller is {}", join_subjects(&denial.to)));
    }
    terms.extend(denial.when.as_ref().map(|when| when.source().to_owned()));
    format!("{}: {}", denial.rule, terms.join(", and "))
}

fn join_subjects(to: &[SubjectMatcher]) -> String {
    to.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}
