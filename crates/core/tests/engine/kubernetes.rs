//! Requests to the Kubernetes API.

use crate::support::*;
use durward_core::authentication::AuthenticationMethod;
use durward_core::compare::{RightsChange, compare};
use durward_core::decision::Reason;
use durward_core::kubernetes::{ApiCall, ApiPattern, Verb};
use durward_core::policy::{CompiledOperation, Policy};
use durward_core::principal::Principal;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::{Assurance, RiskLevel};
use durward_core::service::CompiledService;
use durward_core::snapshot::Snapshot;
use std::sync::Arc;

/// `VERB resource[/subresource] [group]`; `*` for any.
fn pattern(text: &str) -> ApiPattern {
    let mut words = text.split(' ');
    let (verb, resources, group) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
    let (resource, subresource) = resources.split_once('/').unwrap_or((resources, ""));
    let any = |text: &str| (text != "*").then(|| Arc::from(text));
    let verb = (verb != "*").then(|| verb.parse().unwrap());
    ApiPattern { group: any(group), resource: any(resource), subresource: any(subresource), verb }
}

fn call(text: &str) -> ApiCall<'_> {
    let mut words = text.split(' ');
    let (verb, resources, group) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap_or(""));
    let (resource, subresource) = resources.split_once('/').unwrap_or((resources, ""));
    ApiCall { group, resource, subresource, verb: verb.parse().unwrap(), name: "web-0" }
}

fn governs(name: &str, patterns: &[&str], needs: &[&str]) -> CompiledOperation {
    CompiledOperation { kubernetes: patterns.iter().map(|text| pattern(text)).collect(), ..operation(name, &[], needs) }
}

fn guard(operations: Vec<CompiledOperation>) -> Policy {
    Policy {
        operations: each(operations),
        grants: each([grant("admins", &["kube:ada", "ops@kubernetes"], &["admin"])]),
        ..policy("guard")
    }
}

fn decided(snapshot: &Snapshot, who: &str, request_text: &str) -> (Reason, Option<Arc<str>>) {
    let caller = Principal::assumed(caller(who, Assurance::Bearer));
    let request = Request {
        target: ServiceTarget::Audience("orders.shop"),
        call: Call::Kubernetes(call(request_text)),
        source: None,
        evidence: &(),
    };
    let decision = snapshot.decide(Some(&caller), &request, now());
    (decision.reason, decision.operation)
}

#[test]
fn a_pattern_matches_like_a_webhook_rule() {
    for (text, within, without) in [
        (
            "CREATE pods",
            "CREATE pods",
            vec!["DELETE pods", "CREATE pods/exec", "CREATE services", "CREATE pods metrics.k8s.io"],
        ),
        ("CONNECT pods/exec", "CONNECT pods/exec", vec!["CONNECT pods/attach", "CONNECT pods"]),
        ("* pods/*", "CREATE pods/ephemeralcontainers", vec!["CREATE services"]),
        ("* pods/*", "DELETE pods", vec![]),
        ("UPDATE */scale *", "UPDATE deployments/scale apps", vec!["UPDATE deployments apps"]),
        ("* * *", "DELETE deployments apps", vec!["UPDATE deployments/scale apps"]),
        ("* */* *", "UPDATE deployments/scale apps", vec![]),
    ] {
        assert!(pattern(text).matches(&call(within)), "{text} matches {within}");
        for other in without {
            assert!(!pattern(text).matches(&call(other)), "{text} does not match {other}");
        }
    }
}

#[test]
fn the_most_specific_api_pattern_wins() {
    let snapshot = world([guard(vec![
        governs("anything", &["* */* *"], &["a"]),
        governs("any-on-pods", &["* pods/*"], &["b"]),
        governs("exec", &["* pods/exec"], &["c"]),
        governs("exec-by-connect", &["CONNECT pods/exec"], &["d"]),
        governs("any-scale", &["UPDATE */scale *"], &["e"]),
    ])]);
    for (request_text, expected) in [
        ("DELETE services", "anything"),
        ("DELETE pods", "any-on-pods"),
        ("CREATE pods/exec", "exec"),
        ("CONNECT pods/exec", "exec-by-connect"),
        ("UPDATE deployments/scale apps", "any-scale"),
    ] {
        assert_eq!(decided(&snapshot, "kube:ada", request_text).1.as_deref(), Some(expected), "{request_text}");
    }
}

#[test]
fn users_of_the_api_server_need_scopes_and_assurance_but_no_method() {
    let high = CompiledOperation {
        risk: RiskLevel::High,
        ..governs("debug", &["UPDATE pods/ephemeralcontainers"], &["admin"])
    };
    let policy = Policy {
        authentication_methods: [AuthenticationMethod::Provider("corporate".into())].into(),
        ..guard(vec![governs("exec", &["CONNECT pods/exec"], &["admin"]), high])
    };
    let snapshot = world([policy]);
    assert_eq!(decided(&snapshot, "kube:ada", "CONNECT pods/exec").0, Reason::Granted);
    assert_eq!(decided(&snapshot, "kube:eve", "CONNECT pods/exec").0, Reason::InsufficientScope);
    assert_eq!(
        decided(&snapshot, "spiffe://cluster.local/ns/shop/sa/web", "CONNECT pods/exec").0,
        Reason::InsufficientScope
    );
    assert_eq!(decided(&snapshot, "kube:ada", "UPDATE pods/ephemeralcontainers").0, Reason::AssuranceTooLow);
    assert_eq!(decided(&snapshot, "kube:ada", "CONNECT pods/attach").0, Reason::OperationUndeclared);
    // at another enforcement point the same principal needs an accepted authentication method
    let http_request = Request {
        target: ServiceTarget::Audience("orders.shop"),
        call: Call::Named { operation: "exec", captures: Default::default() },
        source: None,
        evidence: &(),
    };
    let ada = Principal::assumed(caller("kube:ada", Assurance::Bearer));
    assert_eq!(snapshot.decide(Some(&ada), &http_request, now()).reason, Reason::AssuranceTooLow);
}

#[test]
fn groups_are_those_of_the_api_server() {
    let snapshot = world([guard(vec![governs("exec", &["CONNECT pods/exec"], &["admin"])])]);
    let request = Request {
        target: ServiceTarget::Audience("orders.shop"),
        call: Call::Kubernetes(call("CONNECT pods/exec")),
        source: None,
        evidence: &(),
    };
    for (who, reason) in [("kube:bob", Reason::Granted), ("user:corporate/bob", Reason::InsufficientScope)] {
        let mut identity = caller(who, Assurance::Bearer);
        identity.groups.insert("ops".to_owned());
        assert_eq!(snapshot.decide(Some(&Principal::assumed(identity)), &request, now()).reason, reason, "{who}");
    }
}

#[test]
fn conditions_read_the_api_call() {
    let only_web = grant_when(
        "web",
        &["kube:ada"],
        &["admin"],
        "request.captures.name == 'web-0' && request.captures.verb == 'CONNECT'",
    );
    let policy = Policy { grants: each([only_web]), ..guard(vec![governs("any", &["* pods/*"], &["admin"])]) };
    let snapshot = world([policy]);
    assert_eq!(decided(&snapshot, "kube:ada", "CONNECT pods/exec").0, Reason::Granted);
    assert_eq!(decided(&snapshot, "kube:ada", "DELETE pods").0, Reason::InsufficientScope);
}

#[test]
fn every_service_that_declares_a_request_governs_it() {
    let exec = || vec![governs("exec", &["CONNECT pods/exec"], &["admin"])];
    let other = Policy { audience: "other".into(), hosts: vec![], ..guard(exec()) };
    let elsewhere = Policy {
        audience: "elsewhere".into(),
        hosts: vec![],
        key: durward_core::namespaced_name::NamespacedName { namespace: "farm".into(), name: "guard".into() },
        ..guard(exec())
    };
    let mut snapshot = world([guard(exec()), other, elsewhere]);
    let governing = |snapshot: &Snapshot, namespace: &str, request_text: &str| -> Vec<String> {
        snapshot.governing(namespace, &call(request_text)).map(|service| service.key().audience.to_string()).collect()
    };
    assert_eq!(governing(&snapshot, "shop", "CONNECT pods/exec"), ["orders.shop", "other"]);
    assert_eq!(governing(&snapshot, "farm", "CONNECT pods/exec"), ["elsewhere"]);
    assert!(governing(&snapshot, "shop", "CONNECT pods/attach").is_empty(), "no policy declares it");
    assert!(governing(&snapshot, "kube-system", "CONNECT pods/exec").is_empty());
    let without_other = snapshot.by_audience("other").unwrap().key().clone();
    snapshot.remove(&without_other);
    assert_eq!(governing(&snapshot, "shop", "CONNECT pods/exec"), ["orders.shop"]);
    assert_eq!(snapshot.governed_namespaces().count(), 2);
}

#[test]
fn two_policies_of_a_service_can_not_claim_the_same_requests() {
    let first = Policy { operations: each([governs("exec", &["CONNECT pods/exec"], &["a"])]), ..policy("first") };
    let second = Policy { operations: each([governs("shell", &["CONNECT pods/exec"], &["b"])]), ..policy("second") };
    let (_, conflicts) = CompiledService::unite(&[Arc::new(first), Arc::new(second)]);
    let [(_, conflict)] = conflicts.as_slice() else { panic!("{conflicts:?}") };
    assert_eq!(
        conflict.to_string(),
        "operation `shell` matches `CONNECT pods/exec`, which operation `exec` of policy shop/first already claims"
    );
}

#[test]
fn verbs_parse_as_in_admission() {
    for verb in Verb::ALL {
        assert_eq!(verb.as_str().parse::<Verb>(), Ok(verb));
    }
    assert!("PATCH".parse::<Verb>().unwrap_err().to_string().contains("a patch is one"));
}

#[test]
fn changed_requests_to_the_kubernetes_api_are_compared() {
    let ops = |patterns: &[&str]| governs("ops", patterns, &["admin"]);
    let changes = |old: Vec<CompiledOperation>, new: Vec<CompiledOperation>| {
        let comparison = compare(&world([guard(old)]), &world([guard(new)]), "cluster.local");
        let name = |name: &Option<Arc<str>>| name.as_deref().unwrap_or("-").to_owned();
        let of = |change: &RightsChange| {
            let requests: Vec<&str> = change.requests.iter().map(String::as_str).collect();
            let (old, new) = (name(&change.old), name(&change.new));
            format!("{:?} {}: {old} → {new}, {}", change.effect, change.callers, requests.join(", "))
        };
        comparison.changes.iter().map(of).collect::<Vec<_>>()
    };
    let operations = || vec![ops(&["CREATE pods", "DELETE pods"])];
    assert_eq!(changes(operations(), operations()), Vec::<String>::new());
    let everybody = durward_core::subject::SubjectMatcher::Authenticated;
    // a request that is no longer governed is open to everyone
    let freed = changes(operations(), vec![ops(&["CREATE pods"])]);
    assert!(freed.contains(&format!("Widened {everybody}: ops → -, DELETE pods")), "{freed:?}");
    let governed = changes(vec![ops(&["CREATE pods"])], operations());
    assert!(governed.contains(&format!("Narrowed {everybody}: - → ops, DELETE pods")), "{governed:?}");
    assert!(governed.iter().all(|change| !change.starts_with("Gains")), "{governed:?}");
    // another operation takes over what it names more exactly
    let taken =
        changes(vec![ops(&["* pods/*"])], vec![ops(&["* pods/*"]), governs("exec", &["CONNECT pods/exec"], &["x"])]);
    assert!(taken.contains(&"Loses kube:ada: ops → exec, CONNECT pods/exec".to_owned()), "{taken:?}");
    assert!(taken.iter().all(|change| change.contains("CONNECT pods/exec")), "{taken:?}");
}
