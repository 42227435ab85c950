//! Which policies are in force, and which operation a request is: `docs/doors.md`, "Paths", and `docs/install.md`.

use crate::world::{CLUSTER_DOMAIN, KubernetesCall, ModelTarget, ModelWorld, PathSegment};
use durward_api::resources::{ALLOWED_AUDIENCES, ALLOWED_HOSTS, AccessPolicy, Operation};
use std::collections::{BTreeMap, BTreeSet};

/// Namespace and name of a policy.
#[must_use]
pub fn name(policy: &AccessPolicy) -> (&str, &str) {
    (policy.metadata.namespace.as_deref().unwrap(), policy.metadata.name.as_deref().unwrap())
}

/// The audience of a policy's service: by default `NAME.NAMESPACE`.
#[must_use]
pub fn audience(policy: &AccessPolicy) -> String {
    let (namespace, name) = name(policy);
    policy.spec.service.audience.clone().unwrap_or_else(|| format!("{name}.{namespace}"))
}

fn same_service(a: &AccessPolicy, b: &AccessPolicy) -> bool {
    name(a).0 == name(b).0 && audience(a) == audience(b)
}

/// The policies in force, the oldest first. A policy is in force as a whole or not at all: if it is valid, owns what it
/// claims, no older one claims it for another service, and none in force conflicts with it.
#[must_use]
pub fn in_force(world: &ModelWorld) -> Vec<&AccessPolicy> {
    let mut by_age: Vec<&AccessPolicy> = world.policies.iter().filter(|policy| is_valid(policy)).collect();
    let created = |policy: &AccessPolicy| policy.metadata.creation_timestamp.clone();
    // without a time of creation a policy is the youngest
    by_age.sort_by_key(|policy| (created(policy).is_none(), created(policy), name(policy)));
    let mut claiming: Vec<&AccessPolicy> = Vec::new();
    let mut in_force: Vec<&AccessPolicy> = Vec::new();
    for policy in by_age {
        if !owns_its_names(world, policy) {
            continue;
        }
        let free = claiming.iter().all(|older| {
            let hosts = &policy.spec.service.hosts;
            let shared = older.spec.service.hosts.iter().any(|host| hosts.contains(host));
            same_service(older, policy) || (!shared && audience(older) != audience(policy))
        });
        claiming.push(policy);
        if free && in_force.iter().all(|older| !same_service(older, policy) || !conflict(older, policy)) {
            in_force.push(policy);
        }
    }
    in_force
}

fn is_valid(policy: &AccessPolicy) -> bool {
    let requests: Vec<String> = policy.spec.operations.iter().flat_map(claims).collect();
    requests.iter().collect::<BTreeSet<_>>().len() == requests.len()
}

/// `*.NAMESPACE.svc` belongs to a namespace, and what the annotations of the Namespace list.
fn owns_its_names(world: &ModelWorld, policy: &AccessPolicy) -> bool {
    let (namespace, policy_name) = name(policy);
    let listed = |annotation: &str| -> Vec<String> {
        let of = world.namespaces.iter().find(|one| one.name == namespace);
        let text = of.and_then(|one| one.annotations.get(annotation)).cloned().unwrap_or_default();
        text.split(',').map(|item| item.trim().to_owned()).collect()
    };
    let owns_host = |host: &String| {
        let parent = host.split_once('.').map_or("", |(_, parent)| parent);
        parent == format!("{namespace}.svc")
            || parent == format!("{namespace}.svc.{CLUSTER_DOMAIN}")
            || listed(ALLOWED_HOSTS).contains(host)
            || listed(ALLOWED_HOSTS).contains(&format!("*.{parent}"))
    };
    let audience = audience(policy);
    policy.spec.service.hosts.iter().all(owns_host)
        && audience != "durward-admin"
        && (audience == format!("{policy_name}.{namespace}") || listed(ALLOWED_AUDIENCES).contains(&audience))
}

/// Two policies of one service declare an operation, a request, or a type twice.
fn conflict(a: &AccessPolicy, b: &AccessPolicy) -> bool {
    let all = |policy: &AccessPolicy| -> BTreeSet<String> {
        let operations = policy.spec.operations.iter();
        let named = operations.flat_map(|one| claims(one).into_iter().chain([format!("operation {}", one.name)]));
        named.chain(policy.spec.relations.iter().map(|one| format!("type {}", one.object))).collect()
    };
    !all(a).is_disjoint(&all(b))
}

/// What an operation claims: patterns that differ in the names of captures alone claim the same requests.
#[must_use]
pub fn claims(operation: &Operation) -> Vec<String> {
    let http = patterns(operation).into_iter().map(|one| {
        let segments = one.segments.iter().map(|segment| match segment {
            PatternSegment::Literal(text) => format!("/{text}"),
            PatternSegment::Capture(_) => "/{}".to_owned(),
            PatternSegment::Rest => "/*".to_owned(),
        });
        format!("{} {}", one.method, segments.collect::<String>())
    });
    let kubernetes = kubernetes_patterns(operation).into_iter().map(|pattern| format!("{pattern:?}"));
    http.chain(kubernetes).collect()
}

/// The policies of the service of a request; none if no policy in force has its host or audience.
#[must_use]
pub fn service<'w>(in_force: &[&'w AccessPolicy], target: &ModelTarget) -> Vec<&'w AccessPolicy> {
    let names_it = |policy: &&&AccessPolicy| match target {
        ModelTarget::Host(_, None) => false,
        ModelTarget::Host(_, Some(host)) => policy.spec.service.hosts.iter().any(|other| other == host),
        ModelTarget::Audience(of) => audience(policy) == *of,
    };
    let Some(first) = in_force.iter().find(names_it) else { return Vec::new() };
    in_force.iter().filter(|policy| same_service(policy, first)).copied().collect()
}

/// One method and path of an operation.
#[derive(Debug, Clone)]
pub struct ModelPattern {
    /// `*` for any.
    pub method: String,
    pub segments: Vec<PatternSegment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternSegment {
    Literal(String),
    Capture(String),
    Rest,
}

/// Every combination of methods and paths; a gRPC method is a `POST` of `/SERVICE/METHOD`.
#[must_use]
pub fn patterns(operation: &Operation) -> Vec<ModelPattern> {
    let mut all = Vec::new();
    for http in &operation.http {
        for path in &http.paths {
            all.extend(
                http.methods.iter().map(|method| ModelPattern { method: method.clone(), segments: parse(path) }),
            );
        }
    }
    for grpc in &operation.grpc {
        let any = |method: &String| if method == "*" { "{method}".to_owned() } else { method.clone() };
        let path = |method| parse(&format!("/{}/{}", grpc.service, any(method)));
        all.extend(
            grpc.methods.iter().map(|method| ModelPattern { method: "POST".to_owned(), segments: path(method) }),
        );
    }
    all
}

fn parse(path: &str) -> Vec<PatternSegment> {
    let segments = path.split('/').skip(1).filter(|segment| !segment.is_empty());
    let segment = |text: &str| match text.strip_prefix('{') {
        _ if text == "*" => PatternSegment::Rest,
        Some(capture) => PatternSegment::Capture(capture.trim_end_matches('}').to_owned()),
        None => PatternSegment::Literal(text.to_owned()),
    };
    segments.map(segment).collect()
}

/// How specific a pattern is, segment by segment from the left: literal, capture, wildcard. Less is more specific.
fn rank(segments: &[PatternSegment]) -> Vec<u8> {
    let rank = |segment: &PatternSegment| match segment {
        PatternSegment::Literal(_) => 0,
        PatternSegment::Capture(_) => 1,
        PatternSegment::Rest => 2,
    };
    segments.iter().map(rank).collect()
}

fn begins(segments: &[PatternSegment], path: &[&str]) -> bool {
    segments.len() <= path.len()
        && segments.iter().zip(path).all(|(segment, text)| match segment {
            PatternSegment::Literal(literal) => literal == text,
            PatternSegment::Capture(_) | PatternSegment::Rest => true,
        })
}

fn matches(pattern: &ModelPattern, method: &str, path: &[&str]) -> bool {
    let whole = pattern.segments.len() == path.len() || pattern.segments.last() == Some(&PatternSegment::Rest);
    whole && begins(&pattern.segments, path) && (pattern.method == "*" || pattern.method == method)
}

/// A request is not read in the one way that every parser reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

/// An operation with the policy that declares it, and the captures of a request.
pub type FoundOperation<'w> = (&'w AccessPolicy, &'w Operation, BTreeMap<String, String>);

/// The operation of an HTTP request: the one with the most specific pattern that matches.
///
/// # Errors
/// If the method or the path is ambiguous. A path is, where a segment is a literal but for upper and lower case,
/// unless it is another literal there, or a more specific pattern matches.
pub fn find_http<'w>(
    service: &[&'w AccessPolicy],
    method: &str,
    path: &[PathSegment],
) -> Result<Option<FoundOperation<'w>>, Ambiguous> {
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err(Ambiguous);
    }
    let path: Vec<&str> = path.iter().map(|(_, decoded)| decoded.ok_or(Ambiguous)).collect::<Result<_, _>>()?;
    let declared = service.iter().flat_map(|policy| policy.spec.operations.iter().map(move |one| (*policy, one)));
    let declared: Vec<_> =
        declared.flat_map(|(policy, one)| patterns(one).into_iter().map(move |p| (p, policy, one))).collect();
    let matching = declared.iter().filter(|(pattern, ..)| matches(pattern, method, &path));
    let best = matching.min_by_key(|(pattern, ..)| (rank(&pattern.segments), pattern.method == "*"));
    for (pattern, ..) in &declared {
        for (at, segment) in pattern.segments.iter().enumerate() {
            let (before, PatternSegment::Literal(literal)) = (&pattern.segments[..at], segment) else { continue };
            let Some(text) = path.get(at).filter(|_| begins(before, &path)) else { continue };
            let exact = declared.iter().any(|(other, ..)| {
                other.segments.get(at) == Some(&PatternSegment::Literal((*text).to_owned()))
                    && rank(&other.segments[..at]) == rank(before)
                    && begins(&other.segments[..at], &path)
            });
            let more_specific = best.is_some_and(|(other, ..)| {
                let shared = at.min(other.segments.len());
                rank(&other.segments[..shared]) < rank(before)[..shared].to_vec()
            });
            if !exact && !more_specific && fold(literal) == fold(text) {
                return Err(Ambiguous);
            }
        }
    }
    Ok(best.map(|(pattern, policy, operation)| {
        let pairs = pattern.segments.iter().zip(&path).filter_map(|(segment, text)| match segment {
            PatternSegment::Capture(name) => Some((name.clone(), (*text).to_owned())),
            PatternSegment::Literal(_) | PatternSegment::Rest => None,
        });
        (*policy, *operation, pairs.collect())
    }))
}

fn fold(text: &str) -> String {
    text.to_uppercase().to_lowercase()
}

/// Resource, subresource, group and verb; `None` for any.
type KubernetesPattern = [Option<String>; 4];

fn kubernetes_patterns(operation: &Operation) -> Vec<KubernetesPattern> {
    let any = |text: &str| (text != "*").then(|| text.to_owned());
    let mut all = Vec::new();
    for api in &operation.kubernetes {
        for resource in &api.resources {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            for group in &api.api_groups {
                all.extend(api.verbs.iter().map(|verb| [any(resource), any(subresource), any(group), any(verb)]));
            }
        }
    }
    all
}

/// The operation of a request to the Kubernetes API: resource before subresource, group and verb.
#[must_use]
pub fn find_kubernetes<'w>(service: &[&'w AccessPolicy], call: &KubernetesCall) -> Option<FoundOperation<'w>> {
    let parts = [call.resource, call.subresource, call.group, call.verb];
    let declared = service.iter().flat_map(|policy| policy.spec.operations.iter().map(move |one| (*policy, one)));
    let patterns =
        declared.flat_map(|(policy, one)| kubernetes_patterns(one).into_iter().map(move |p| (p, policy, one)));
    let matching = patterns.filter(|(pattern, ..)| {
        pattern.iter().zip(parts).all(|(wanted, is)| wanted.as_ref().is_none_or(|wanted| wanted == is))
    });
    let (_, policy, operation) = matching.max_by_key(|(pattern, ..)| pattern.clone().map(|part| part.is_some()))?;
    let names = ["resource", "subresource", "group", "verb"].into_iter().zip(parts).chain([("name", call.name)]);
    Some((policy, operation, names.map(|(name, text)| (name.to_owned(), text.to_owned())).collect()))
}

/// The audiences of the services in a namespace that declare a request to the Kubernetes API, in order. Each of them
/// decides about it; without any, nothing is refused.
#[must_use]
pub fn governing(in_force: &[&AccessPolicy], namespace: &str, call: &KubernetesCall) -> BTreeSet<String> {
    let declaring = in_force.iter().filter(|policy| name(policy).0 == namespace);
    declaring.filter(|policy| find_kubernetes(&[policy], call).is_some()).map(|policy| audience(policy)).collect()
}
