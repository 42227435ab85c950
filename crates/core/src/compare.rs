//! Compares two sets of policies: which callers gain or lose rights, and to which requests.
//!
//! Requests are compared exactly: for each pair of an old and a new pattern that overlap, one request that matches
//! both is decided. Callers are compared by the names that rules give them. Conditions are compared as texts and never
//! evaluated.

use crate::kubernetes::ApiPattern;
use crate::path::{ANY_METHOD, HttpPattern, PathPattern};
use crate::rights::{AccessRight, CallerSet, Permission};
use crate::service::{CompiledService, ServiceKey, ServiceOperation};
use crate::snapshot::Snapshot;
use crate::subject::SubjectMatcher;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Maximum number of pattern pairs that are compared for one service.
const MOST_PAIRS: usize = 1 << 20;

/// The rights of some callers to some requests, before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RightsChange {
    /// The service.
    pub service: ServiceKey,
    /// The callers.
    pub callers: CallerSet,
    /// The operation of the requests before, if any.
    pub old: Option<Arc<str>>,
    /// The operation of the requests after, if any.
    pub new: Option<Arc<str>>,
    /// The requests, as `METHOD /pattern`, or the operation by its name.
    pub requests: BTreeSet<String>,
    /// The kind of the change.
    pub effect: Effect,
    /// The right before.
    pub before: AccessRight,
    /// The right after.
    pub after: AccessRight,
}

/// The kind of a change, for some callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// They gain a right that they never had.
    Gains,
    /// They always have a right that depended on a condition before.
    Widened,
    /// They have a right under other conditions, denials or risks. The comparison does not say whether it grew.
    Conditions,
    /// They have a right that now depends on a condition.
    Narrowed,
    /// They lose the right.
    Loses,
}

/// All changes, and what was not compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Ordered by service, kind and callers.
    pub changes: Vec<RightsChange>,
    /// Services with too many patterns to compare.
    pub too_large: Vec<ServiceKey>,
    /// Services whose hosts changed, or that are new or gone.
    pub services: Vec<(ServiceKey, String)>,
}

/// Compares two snapshots. `own` is the trust domain of the cluster's own workloads.
#[must_use]
pub fn compare(old: &Snapshot, new: &Snapshot, own: &str) -> Comparison {
    let mut comparison = Comparison::default();
    let keys: BTreeSet<&ServiceKey> = old.services().chain(new.services()).map(|service| service.key()).collect();
    let empty = |key: &ServiceKey| CompiledService::empty(key.clone());
    for key in keys {
        let (before, after) = (old.service(key), new.service(key));
        let of_service = |what: String| (key.clone(), what);
        match (before, after) {
            (None, Some(_)) => comparison.services.push(of_service("is new".to_owned())),
            (Some(_), None) => comparison.services.push(of_service("is gone".to_owned())),
            (Some(before), Some(after)) => comparison.services.extend(names(before, after).map(of_service)),
            (None, None) => {}
        }
        let nothing = Arc::new(empty(key));
        let (before, after) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
        let Some(requests) = requests(before, after) else {
            comparison.too_large.push(key.clone());
            continue;
        };
        comparison.changes.extend(changes(before, after, requests, own));
    }
    comparison.changes.sort_by(|a, b| {
        let key =
            |change: &RightsChange| (change.service.clone(), change.effect, change.callers.clone(), change.new.clone());
        key(a).cmp(&key(b))
    });
    comparison
}

/// Changes of the hosts of a service.
fn names(old: &CompiledService, new: &CompiledService) -> impl Iterator<Item = String> {
    let list = |service: &CompiledService| service.hosts.iter().cloned().collect::<BTreeSet<_>>();
    let (before, after) = (list(old), list(new));
    let gone: Vec<String> = before.difference(&after).map(|host| format!("no longer has host {host}")).collect();
    let come: Vec<String> = after.difference(&before).map(|host| format!("now also has host {host}")).collect();
    gone.into_iter().chain(come)
}

/// Requests by the operations that they were and are.
#[derive(Default)]
struct OperationPairs<'s>(BTreeMap<PairKey, OperationPair<'s>>);

/// Where the requests go, and the names of the operations before and after.
type PairKey = (Destination, Option<Arc<str>>, Option<Arc<str>>);

/// Where requests go. It decides what applies to those that no operation matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Destination {
    /// To the service, which refuses them.
    Service,
    /// To the Kubernetes API, where they are not governed.
    KubernetesApi,
}

struct OperationPair<'s> {
    old: Option<&'s ServiceOperation>,
    new: Option<&'s ServiceOperation>,
    requests: BTreeSet<String>,
}

impl<'s> OperationPairs<'s> {
    fn enter(
        &mut self,
        to: Destination,
        old: Option<&'s ServiceOperation>,
        new: Option<&'s ServiceOperation>,
        request: String,
    ) {
        let name = |operation: Option<&ServiceOperation>| operation.map(|one| Arc::clone(&one.operation.name));
        let pair = self.0.entry((to, name(old), name(new)));
        pair.or_insert_with(|| OperationPair { old, new, requests: BTreeSet::new() }).requests.insert(request);
    }

    /// Enters the requests to the Kubernetes API: for each overlap of an old and a new pattern, a request that no more
    /// specific pattern names.
    fn enter_kubernetes(&mut self, old: &'s CompiledService, new: &'s CompiledService) {
        let meets = old.kubernetes().flat_map(|was| new.kubernetes().filter_map(|is| ApiPattern::meet(was, is)));
        let alone = old.kubernetes().chain(new.kubernetes()).cloned();
        for pattern in meets.chain(alone).collect::<BTreeSet<_>>() {
            for call in pattern.examples() {
                let (was, is) = (old.find_kubernetes(&call), new.find_kubernetes(&call));
                self.enter(Destination::KubernetesApi, was, is, pattern.to_string());
            }
        }
    }
}

/// Every pair of operations that some request belongs to before and after.
fn requests<'s>(old: &'s CompiledService, new: &'s CompiledService) -> Option<OperationPairs<'s>> {
    let patterns = |service: &'s CompiledService| {
        service.operations.iter().flat_map(|operation| operation.operation.matches.iter()).collect::<Vec<_>>()
    };
    let (before, after) = (patterns(old), patterns(new));
    let kubernetes = old.kubernetes().count().saturating_mul(new.kubernetes().count());
    if before.len().saturating_mul(after.len()).max(kubernetes) > MOST_PAIRS {
        return None;
    }
    let longest = before.iter().chain(&after).map(|one| one.path.segments().len()).max().unwrap_or(0) + 1;
    let mut pairs = OperationPairs::default();
    let meets = before.iter().flat_map(|was| after.iter().filter_map(|is| meet(was, is)));
    let alone = before.iter().chain(&after).map(|one| (*one).clone());
    for one in meets.chain(alone).collect::<BTreeSet<_>>() {
        let method = one.method.as_ref().map_or(ANY_METHOD, |method| method.as_str());
        for path in one.path.examples(longest) {
            let find = |service: &'s CompiledService| {
                service.find(method, &path).ok().flatten().map(|(operation, ..)| operation)
            };
            let (was, is) = (find(old), find(new));
            if was.is_some() || is.is_some() {
                pairs.enter(Destination::Service, was, is, one.to_string());
            }
        }
    }
    // operations that are called by name; a call by name of an operation of the Kubernetes API alone is not compared
    let named = |service: &'s CompiledService, name: &str| service.operation_named(name);
    let all = old.operations.iter().chain(&new.operations).filter(|one| !one.operation.matches.is_empty());
    for name in all.map(|one| Arc::clone(&one.operation.name)).collect::<BTreeSet<_>>() {
        pairs.enter(Destination::Service, named(old, &name), named(new, &name), format!("operation {name}"));
    }
    pairs.enter_kubernetes(old, new);
    Some(pairs)
}

/// The requests that both patterns match.
fn meet(a: &HttpPattern, b: &HttpPattern) -> Option<HttpPattern> {
    let method = match (&a.method, &b.method) {
        (Some(a), Some(b)) if a != b => return None,
        (a, b) => a.clone().or_else(|| b.clone()),
    };
    Some(HttpPattern { method, path: PathPattern::meet(&a.path, &b.path)? })
}

fn changes<'s>(
    old: &'s CompiledService,
    new: &'s CompiledService,
    pairs: OperationPairs<'s>,
    own: &str,
) -> Vec<RightsChange> {
    let mut subjects: BTreeSet<SubjectMatcher> = old.subjects().chain(new.subjects()).cloned().collect();
    subjects.insert(SubjectMatcher::Authenticated);
    let sets: Vec<CallerSet> =
        std::iter::once(CallerSet::Anonymous).chain(subjects.into_iter().map(CallerSet::Subject)).collect();
    let mut changes = Vec::new();
    for ((to, old_name, new_name), pair) in pairs.0 {
        // the API server knows the user of each request
        let known = |callers: &&CallerSet| to == Destination::Service || **callers != CallerSet::Anonymous;
        for callers in sets.iter().filter(known) {
            let right =
                |service: &CompiledService, operation: Option<&ServiceOperation>, other: Option<&ServiceOperation>| {
                    match (operation, to) {
                        (Some(operation), _) => service.right(callers, own, operation),
                        (None, Destination::Service) => AccessRight::none(service, other),
                        (None, Destination::KubernetesApi) => AccessRight::ungoverned(service, other),
                    }
                };
            let (before, after) = (right(old, pair.old, pair.new), right(new, pair.new, pair.old));
            if let Some(effect) = effect(&before, &after) {
                changes.push(RightsChange {
                    service: new.key.clone(),
                    callers: callers.clone(),
                    old: old_name.clone(),
                    new: new_name.clone(),
                    requests: pair.requests.clone(),
                    effect,
                    before,
                    after,
                });
            }
        }
    }
    without_shared(changes)
}

/// Removes callers whose change is the same as that of everybody.
fn without_shared(changes: Vec<RightsChange>) -> Vec<RightsChange> {
    let everybody = CallerSet::Subject(SubjectMatcher::Authenticated);
    let shared: Vec<RightsChange> = changes.iter().filter(|change| change.callers == everybody).cloned().collect();
    let same = |change: &RightsChange| {
        shared.iter().any(|all| {
            (&all.old, &all.new, all.effect) == (&change.old, &change.new, change.effect)
                && (all.before.permission, all.after.permission) == (change.before.permission, change.after.permission)
                && all.before.because == change.before.because
                && all.after.because == change.after.because
                && all.before.unless == change.before.unless
                && all.after.unless == change.after.unless
        })
    };
    changes
        .into_iter()
        .filter(|change| change.callers == everybody || change.callers == CallerSet::Anonymous || !same(change))
        .collect()
}

fn effect(before: &AccessRight, after: &AccessRight) -> Option<Effect> {
    // a service in audit mode lets every caller through, unless a policy that enforces denies the request
    let can = |right: &AccessRight| match right.audited {
        true if right.denied => Permission::Never,
        true => Permission::Always,
        false => right.permission,
    };
    match (can(before), can(after)) {
        (Permission::Never, Permission::Never) => None,
        (Permission::Never, _) => Some(Effect::Gains),
        (_, Permission::Never) => Some(Effect::Loses),
        (Permission::Conditional, Permission::Always) => Some(Effect::Widened),
        (Permission::Always, Permission::Conditional) => Some(Effect::Narrowed),
        (Permission::Conditional, Permission::Conditional) | (Permission::Always, Permission::Always) => {
            let terms = |right: &AccessRight| {
                let free = right.audited || right.public;
                // callers who need an approval do not care which object requires it
                let approval = right.approval.as_ref().map(|approval| (approval.approvers.clone(), approval.valid_for));
                let requirements = (!free).then(|| {
                    (right.risk, right.max_age, approval, right.because.clone(), right.authentication_methods.clone())
                });
                (requirements, right.unless.clone())
            };
            (terms(before) != terms(after)).then_some(Effect::Conditions)
        }
    }
}
