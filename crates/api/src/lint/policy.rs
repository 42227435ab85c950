//! Findings in one policy, given the other policies of its service.

use crate::compile::{ClusterDomains, compile};
use crate::lint::{LintCode, LintFinding, silence};
use crate::ownership::is_own_name;
use crate::resources::{AccessPolicy, AccessPolicySpec, CallerSelector, GrantRule, Operation, Risk};
use durward_core::condition::Condition;
use durward_core::principal::PrincipalId;
use durward_core::service::unreachable;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Requests with the same effect: resource and verb of the governed request, and the resource that bypasses it.
const BYPASSES: [(&str, &str, &str); 4] = [
    ("pods/exec", "CONNECT", "pods/attach"),
    ("pods/exec", "CONNECT", "pods/ephemeralcontainers"),
    ("pods", "DELETE", "pods/eviction"),
    ("deployments", "UPDATE", "deployments/scale"),
];
/// Words in names of operations that cost much if the wrong caller gets through.
const COSTLY: [&str; 8] = ["delete", "remove", "purge", "refund", "export", "admin", "impersonate", "payout"];
/// Number of operations from which on a grant of all of them is reported.
const MANY: usize = 3;

pub(super) fn lint(policy: &AccessPolicy, others: &[&AccessPolicy]) -> Vec<LintFinding> {
    let spec = &policy.spec;
    let mut findings = Vec::new();
    operations(policy, others, &mut findings);
    grants(spec, others, &mut findings);
    for (i, denial) in spec.denials.iter().enumerate() {
        let field = format!("spec.denials[{i}].when");
        constant(spec, &field, &denial.name, denial.when.as_deref(), &mut findings);
    }
    silence(policy, &mut findings);
    findings
}

fn operations(policy: &AccessPolicy, others: &[&AccessPolicy], findings: &mut Vec<LintFinding>) {
    let spec = &policy.spec;
    let all = std::iter::once(spec).chain(others.iter().map(|other| &other.spec));
    let granted: BTreeSet<&str> =
        all.flat_map(|spec| spec.grants.iter().flat_map(|grant| scopes(spec, grant))).collect();
    let hidden = shadowed(policy);
    let users = user_facing(policy);
    for (i, operation) in spec.operations.iter().enumerate() {
        let field = format!("spec.operations[{i}]");
        let name = &operation.name;
        if hidden.contains(name) {
            let message =
                format!("no request matches `{name}`: other operations match all of its requests more exactly");
            findings.push(LintFinding::new(LintCode::Shadowed, &field, name, message));
        }
        if operation.public {
            continue;
        }
        for scope in required(operation).filter(|scope| !granted.contains(scope)) {
            let message = format!(
                "no grant of this policy gives `{scope}`; unless another policy of the service does, no caller can `{name}`"
            );
            findings.push(LintFinding::new(LintCode::Ungranted, format!("{field}.scopes"), name, message));
        }
        if operation.risk.is_none()
            && let Some(why) = costly(operation)
        {
            let message =
                format!("`{name}` {why} and states no risk; set `risk: High`, or `risk: Standard` if that is intended");
            findings.push(LintFinding::new(LintCode::UnstatedRisk, format!("{field}.risk"), name, message));
        }
        if let (true, Some(host)) = (is_administration(operation), &users) {
            let message = format!(
                "`{name}` is administration on a host for users (`{host}`); give it a service of its own, with a host inside the cluster"
            );
            findings.push(LintFinding::new(LintCode::AdminOnUserHost, &field, name, message));
        }
        if shares_its_scopes(spec, operation) {
            let message = format!(
                "`{name}` has high risk and no scope of its own, so access tokens of callers that may only call the other operations carry \
                 none of its scopes; give it one"
            );
            findings.push(LintFinding::new(LintCode::SharedScopes, format!("{field}.scopes"), name, message));
        }
        for message in bypasses(spec, operation) {
            findings.push(LintFinding::new(LintCode::Bypass, format!("{field}.kubernetes"), name, message));
        }
    }
}

fn grants(spec: &AccessPolicySpec, others: &[&AccessPolicy], findings: &mut Vec<LintFinding>) {
    let own = || spec.operations.iter().flat_map(required);
    let of_others = others.iter().flat_map(|other| other.spec.operations.iter().flat_map(required));
    let required_scopes: BTreeSet<&str> = own().chain(of_others).collect();
    let everything: BTreeSet<&str> = own().collect();
    let operations = spec.operations.iter().filter(|operation| !operation.public).count();
    for (i, grant) in spec.grants.iter().enumerate() {
        let field = format!("spec.grants[{i}]");
        let name = &grant.name;
        if !spec.operations.is_empty() && scopes(spec, grant).all(|scope| !required_scopes.contains(scope)) {
            let message = format!("no operation of this policy needs a scope of `{name}`");
            findings.push(LintFinding::new(LintCode::Unneeded, format!("{field}.scopes"), name, message));
        }
        let gives: BTreeSet<&str> = scopes(spec, grant).collect();
        if operations >= MANY && everything.len() > 1 && everything.is_subset(&gives) {
            let message =
                format!("`{name}` gives all {operations} operations of the policy; grant only those that are needed");
            findings.push(LintFinding::new(LintCode::ServiceWide, format!("{field}.scopes"), name, message));
        }
        for (j, subject) in grant.to.iter().enumerate().filter(|(_, subject)| !can_authenticate(spec, subject)) {
            let message = format!(
                "`{name}` can never apply to {}: `spec.authentication` accepts no credential of theirs",
                describe(subject)
            );
            findings.push(LintFinding::new(LintCode::CannotAuthenticate, format!("{field}.to[{j}]"), name, message));
        }
        constant(spec, &format!("{field}.when"), name, grant.when.as_deref(), findings);
    }
}

fn constant(spec: &AccessPolicySpec, field: &str, name: &str, when: Option<&str>, findings: &mut Vec<LintFinding>) {
    let listed: Vec<Arc<str>> = spec.headers.iter().map(|name| name.as_str().into()).collect();
    // the compiler reports conditions that do not compile
    let known = when
        .and_then(|source| Condition::compile_reading(source, &listed).ok())
        .and_then(|condition| condition.constant());
    if let Some(truth) = known {
        let message = format!("the condition of `{name}` is always {truth}; remove the condition or the rule");
        findings.push(LintFinding::new(LintCode::Constant, field, name, message));
    }
}

/// Names of operations that no request matches.
fn shadowed(policy: &AccessPolicy) -> BTreeSet<String> {
    // the trust domain of the callers does not matter here
    let domains =
        ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
    let compiled = compile(policy, &domains).map(|compiled| compiled.operations).unwrap_or_default();
    unreachable(&compiled).into_iter().map(|name| name.to_string()).collect()
}

/// Why an operation costs much if the wrong caller gets through.
fn costly(operation: &Operation) -> Option<String> {
    if deletes(operation) {
        return Some("deletes".to_owned());
    }
    let word = words(&operation.name).into_iter().find(|word| COSTLY.contains(&word.as_str()))?;
    Some(format!("has a name that suggests a costly operation (`{word}`)"))
}

/// The words of a name.
fn words(name: &str) -> Vec<String> {
    name.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect()
}

fn is_administration(operation: &Operation) -> bool {
    let named = |text: &str| words(text).iter().any(|word| word == "admin" || word == "administration");
    let mut paths = operation.http.iter().flat_map(|http| &http.paths);
    named(&operation.name)
        || operation.scopes.iter().any(|scope| named(scope))
        || paths.any(|path| path.split('/').any(|segment| segment == "admin"))
}

/// A host of the policy that callers outside the cluster use.
fn user_facing(policy: &AccessPolicy) -> Option<&str> {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
    let hosts = policy.spec.service.hosts.iter().map(String::as_str);
    hosts.into_iter().find(|host| !is_own_name(host, namespace, "cluster.local") && *host != "localhost")
}

fn required(operation: &Operation) -> impl Iterator<Item = &str> {
    let own = (operation.scopes.is_empty() && !operation.public).then_some(operation.name.as_str());
    operation.scopes.iter().map(String::as_str).chain(own)
}

fn scopes<'s>(spec: &'s AccessPolicySpec, grant: &'s GrantRule) -> impl Iterator<Item = &'s str> {
    let of_roles = grant.roles.iter().flat_map(|role| spec.scopes_of_role(role));
    grant.scopes.iter().map(String::as_str).chain(of_roles)
}

fn deletes(operation: &Operation) -> bool {
    operation.http.iter().any(|http| http.methods.iter().any(|method| method == "DELETE"))
        || operation.kubernetes.iter().any(|api| api.verbs.iter().any(|verb| verb == "DELETE"))
}

/// Whether an operation of high risk has no scope of its own.
fn shares_its_scopes(spec: &AccessPolicySpec, operation: &Operation) -> bool {
    let risky = |operation: &Operation| operation.risk == Some(Risk::High);
    let by_token = |operation: &Operation| !(operation.http.is_empty() && operation.grpc.is_empty());
    let others = spec.operations.iter().filter(|other| !risky(other) && by_token(other));
    let others: BTreeSet<&str> = others.flat_map(required).collect();
    risky(operation) && by_token(operation) && required(operation).all(|scope| others.contains(scope))
}

/// Requests that have the effect of this operation and that the policy does not declare.
fn bypasses<'s>(spec: &'s AccessPolicySpec, operation: &'s Operation) -> impl Iterator<Item = String> + 's {
    let declares = |operation: &Operation, resource: &str, verb: Option<&str>| {
        let any = resource.split_once('/').map(|(resource, _)| format!("{resource}/*"));
        operation.kubernetes.iter().any(|api| {
            let named = api
                .resources
                .iter()
                .any(|listed| listed == resource || listed == "*/*" || Some(listed) == any.as_ref());
            named && verb.is_none_or(|verb| api.verbs.iter().any(|listed| listed == verb || listed == "*"))
        })
    };
    BYPASSES.iter().filter_map(move |(resource, verb, around)| {
        let open = declares(operation, resource, Some(verb))
            && !spec.operations.iter().any(|other| declares(other, around, None));
        open.then(|| {
            format!("`{}` governs `{resource}`, but `{around}` has the same effect and is not declared", operation.name)
        })
    })
}

/// Whether the policy accepts a credential of such a caller.
fn can_authenticate(spec: &AccessPolicySpec, subject: &CallerSelector) -> bool {
    let kubernetes = spec.operations.iter().any(|operation| !operation.kubernetes.is_empty());
    let workload = kubernetes || spec.authentication.iter().any(|entry| entry.workload.is_some());
    let provider = |name: &str| {
        (kubernetes && name == durward_core::principal::KUBERNETES)
            || spec.authentication.iter().any(|entry| entry.provider.as_deref() == Some(name))
    };
    if subject.namespace.is_some() || subject.namespace_selector.is_some() {
        return workload;
    }
    match (&subject.service_account, &subject.principal, &subject.provider) {
        (Some(_), ..) => workload,
        (None, Some(id), _) => match id.parse::<PrincipalId>() {
            // the own trust domain is not known here
            Ok(id) if id.is_workload() => workload || spec.authentication.iter().any(|entry| entry.provider.is_some()),
            Ok(id) => id.provider().is_some_and(provider),
            // the compiler reports it
            Err(_) => true,
        },
        (None, None, Some(name)) => provider(name),
        (None, None, None) => true,
    }
}

fn describe(subject: &CallerSelector) -> String {
    match (&subject.service_account, &subject.principal, &subject.provider) {
        (Some(account), ..) => format!("service account {}/{}", account.namespace, account.name),
        (None, Some(id), _) => format!("`{id}`"),
        _ if subject.namespace.is_some() || subject.namespace_selector.is_some() => "service accounts".to_owned(),
        (None, None, provider) => format!("callers of provider `{}`", provider.as_deref().unwrap_or_default()),
    }
}
