//! Policies that share a service, and snapshots that share services.

use crate::support::*;
use durward_core::authentication::AuthenticationMethod;
use durward_core::decision::Reason;
use durward_core::digest::Digest;
use durward_core::host::Host;
use durward_core::policy::Policy;
use durward_core::service::CompiledService;
use durward_core::snapshot::Snapshot;
use std::sync::Arc;

fn with(name: &str, requests: &[(&str, &str)]) -> Policy {
    let operations = each(requests.iter().map(|(name, request)| operation(name, &[request], &["read"])));
    Policy { operations, ..policy(name) }
}

fn united(policies: &[Policy]) -> (Option<CompiledService>, Vec<String>) {
    let policies: Vec<Arc<Policy>> = policies.iter().cloned().map(Arc::new).collect();
    let (service, conflicts) = CompiledService::unite(&policies);
    (service, conflicts.into_iter().map(|(policy, conflict)| format!("{policy}: {conflict}")).collect())
}

#[test]
fn operations_grants_hosts_and_methods_unite() {
    let a = Policy {
        hosts: vec![Host::parse("b.shop").unwrap(), Host::parse("a.shop").unwrap()],
        authentication_methods: [AuthenticationMethod::Provider("partners".into())].into(),
        grants: each([grant("all", &["*"], &["read"])]),
        ..with("a", &[("one", "GET /one")])
    };
    let b = Policy { hosts: vec![Host::parse("a.shop").unwrap()], ..with("b", &[("two", "GET /two")]) };
    let (service, conflicts) = united(&[b.clone(), a.clone()]);
    let service = service.unwrap();
    assert!(conflicts.is_empty());
    assert_eq!(service.operations(), 2);
    assert_eq!(service.hosts().iter().map(Host::as_str).collect::<Vec<_>>(), ["a.shop", "b.shop"]);
    assert_eq!(service.key(), &service_key());

    let snapshot = world([a, b]);
    let request = durward_core::request::Request {
        target: durward_core::request::ServiceTarget::Host("b.shop"),
        ..http("GET /two")
    };
    assert!(decide(&snapshot, Some(&alice()), &request, now()).allowed());
    let authentication_methods: Vec<String> =
        snapshot.route(&request).accepted_methods().unwrap().1.iter().map(ToString::to_string).collect();
    assert_eq!(authentication_methods, ["provider partners", "workload", "provider corporate"]);
}

#[test]
fn a_conflict_excludes_the_whole_younger_policy() {
    let older = with("z", &[("list", "GET /orders"), ("any", "* /any")]);
    for (younger, conflict) in [
        (
            with("a", &[("new", "GET /new"), ("list", "GET /else")]),
            "shop/a: operation `list` is already declared by policy shop/z",
        ),
        (
            with("a", &[("new", "GET /new"), ("mine", "GET /orders")]),
            "shop/a: operation `mine` matches `GET /orders`, which operation `list` of policy shop/z already claims",
        ),
        (
            with("a", &[("new", "GET /new"), ("mine", "* /any")]),
            "shop/a: operation `mine` matches `* /any`, which operation `any` of policy shop/z already claims",
        ),
    ] {
        let (service, conflicts) = united(&[older.clone(), younger]);
        assert_eq!(conflicts, [conflict]);
        assert_eq!(service.unwrap().operations(), 2);
    }
}

#[test]
fn names_of_captures_do_not_distinguish_patterns() {
    let older = with("a", &[("one", "GET /{id}/x/*")]);
    let (_, conflicts) = united(&[older.clone(), with("b", &[("two", "GET /{name}/x/*")])]);
    assert_eq!(conflicts.len(), 1);
    for other in ["POST /{id}/x/*", "* /{id}/x/*", "GET /{id}/x/{y}", "GET /{id}/x", "GET /id/x/*"] {
        let (service, conflicts) = united(&[older.clone(), with("b", &[("two", other)])]);
        assert_eq!((service.unwrap().operations(), conflicts), (2, vec![]), "{other}");
    }
}

#[test]
fn a_rejected_policy_conflicts_with_no_other() {
    let (service, conflicts) = united(&[
        with("a", &[("one", "GET /one")]),
        with("b", &[("two", "GET /two"), ("one", "GET /other")]),
        with("c", &[("two", "GET /two")]),
    ]);
    assert_eq!(conflicts, ["shop/b: operation `one` is already declared by policy shop/a"]);
    assert_eq!(service.unwrap().operations(), 2);
}

#[test]
fn no_policies_make_no_service() {
    assert!(united(&[]).0.is_none());
}

fn service(audience: &str, host: &str) -> CompiledService {
    let hosts = vec![Host::parse(host).unwrap()];
    let policy = Policy { audience: audience.into(), hosts, ..orders() };
    CompiledService::unite(&[Arc::new(policy)]).0.unwrap()
}

#[test]
fn a_clone_of_a_snapshot_does_not_change() {
    let mut snapshot = Snapshot::default();
    snapshot.put(service("orders.shop", HOST));
    snapshot.update_revision();
    let before = snapshot.clone();
    snapshot.remove(&service_key());
    snapshot.record("something", Some(Digest::of([b"x".as_slice()])));
    snapshot.update_revision();
    assert_eq!(ask(&snapshot, None, "GET /healthz").reason, Reason::NoPolicy);
    assert_eq!(ask(&before, None, "GET /healthz").reason, Reason::Public);
    assert_ne!(before.revision(), snapshot.revision());
}

#[test]
fn a_service_that_changes_its_host_releases_the_old_one() {
    let mut snapshot = Snapshot::default();
    snapshot.put(service("orders.shop", HOST));
    snapshot.put(service("orders.shop", "new.shop.svc"));
    assert!(snapshot.by_host(&Host::parse(HOST).unwrap()).is_none());
    assert!(snapshot.by_host(&Host::parse("new.shop.svc").unwrap()).is_some());
    assert_eq!(snapshot.services().count(), 1);
}

#[test]
fn a_host_stays_with_the_service_that_took_it_over() {
    let mut snapshot = Snapshot::default();
    snapshot.put(service("orders.shop", HOST));
    snapshot.put(service("next.shop", HOST));
    snapshot.remove(&service_key());
    let holder = snapshot.by_host(&Host::parse(HOST).unwrap()).unwrap();
    assert_eq!(&*holder.key().audience, "next.shop");
}
