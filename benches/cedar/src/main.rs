//! A decision by the same rules, here and in Cedar, as policies and grants grow.
//!
//! CPU time of the one thread, so that what else the machine does counts little. Cedar gets request and entities ready-made, and
//! is asked twice: with all policies, since its authorizer looks at each of them, and with those of the one service alone, as if
//! somebody had found them for it. Our figure has in it what that leaves out: finding service and operation by host and path.

use cedar_policy::{Authorizer, Context, Decision, Entities, EntityUid, PolicySet, Request as CedarRequest};
use chrono::{DateTime, Utc};
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::fs;
use std::hint::black_box;
use std::time::Duration;

const POLICIES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
const GRANTS: [usize; 4] = [1, 10, 100, 1_000];
/// How long each thing is done over and over, in nanoseconds of CPU.
const BUDGET: u64 = 400_000_000;
/// How long one of them goes on before it is the other's turn, in nanoseconds of CPU.
const TURN: f64 = 5_000_000.0;

#[derive(Clone, Copy, PartialEq)]
enum Rules {
    Scopes,
    Roles,
    Condition,
}

impl Rules {
    const ALL: [(Self, &str); 3] =
        [(Self::Scopes, "scopes"), (Self::Roles, "a role"), (Self::Condition, "scopes and a condition")];
}

fn main() {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load of the machine before: {}", load.trim());
    for (rules, name) in Rules::ALL {
        println!("\n### Policies, by {name}\n");
        println!("| policies | Durward | Cedar, those of the service alone | Cedar, all policies |\n|---|---|---|---|");
        for policies in POLICIES {
            let [durward, alone] = measured([durward(policies, 1, rules), cedar(1, 1, rules)]);
            let [all] = measured([cedar(policies, 1, rules)]);
            println!("| {policies} | {durward} | {alone} | {all} |");
        }
        println!("\n### Grants of one policy, by {name}\n");
        println!("| grants | Durward | Cedar |\n|---|---|---|");
        for grants in GRANTS {
            let [durward, cedar] = measured([durward(1, grants, rules), cedar(1, grants, rules)]);
            println!("| {grants} | {durward} | {cedar} |");
        }
    }
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("\nload of the machine after: {}", load.trim());
}

/// CPU time of this thread, in nanoseconds.
fn cpu() -> u64 {
    // the kernel's own statistics move by clock ticks alone, which are thousands of calls long
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(spent).map_or(0, |spent| spent.as_nanos() as u64)
}

/// CPU time of one call of each. They take turns, so that a machine whose speed changes is as fast for one as for the other.
fn measured<const N: usize>(mut calls: [Box<dyn FnMut() + '_>; N]) -> [String; N] {
    let mut timed = [(1_u32, f64::MAX); N];
    let begun = cpu();
    while cpu() - begun < N as u64 * BUDGET {
        for (call, (turns, best)) in calls.iter_mut().zip(&mut timed) {
            let before = cpu();
            (0..*turns).for_each(|_| call());
            let took = (cpu() - before) as f64;
            match took < TURN {
                true => *turns = turns.saturating_mul(2),
                false => *best = best.min(took / f64::from(*turns)),
            }
        }
    }
    timed.map(|(_, best)| if best >= 1e6 { format!("{:.1} ms", best / 1e6) } else { format!("{:.2} µs", best / 1e3) })
}

/// One of them is for the caller, the last; others are for service accounts.
fn grants(number: usize, rules: Rules) -> Vec<Value> {
    let gives = |mut grant: Value| {
        match rules {
            Rules::Roles => grant["roles"] = json!(["clerk"]),
            Rules::Scopes | Rules::Condition => grant["scopes"] = json!(["orders.read"]),
        }
        if rules == Rules::Condition {
            grant["when"] = json!(r#"principal.attributes.level >= 3 && principal.attributes.department == "sales""#);
        }
        grant
    };
    let other = |i| json!({"name": format!("team-{i}"), "to": [{"serviceAccount": {"namespace": "teams", "name": format!("team-{i}")}}]});
    let support = json!({"name": "support", "to": [{"provider": "corporate", "group": "support"}]});
    (1..number).map(other).chain([support]).map(gives).collect()
}

fn durward(policies: usize, number: usize, rules: Rules) -> Box<dyn FnMut()> {
    let policy = |policy: usize| {
        let resource = json!({
            "apiVersion": "durward.dev/v1alpha1",
            "kind": "AccessPolicy",
            "metadata": {"name": format!("orders-{policy}"), "namespace": "shop"},
            "spec": {
                "service": {"hosts": [format!("orders-{policy}.shop.svc")]},
                "authentication": [{"workload": {}}, {"provider": "corporate"}],
                "operations": [
                    {"name": "list", "http": [{"methods": ["GET"], "paths": ["/orders", "/orders/{id}"]}], "scopes": ["orders.read"]},
                    {"name": "refund", "http": [{"methods": ["POST"], "paths": ["/orders/{id}/refund"]}], "scopes": ["orders.refund"]},
                ],
                "roles": [{"name": "clerk", "scopes": ["orders.read", "orders.refund"]}],
                "denials": [{"name": "mallory", "to": [{"principal": "user:corporate/mallory"}]}],
                "grants": grants(number, rules),
            },
        });
        CatalogChange::PolicyApplied(Box::new(serde_json::from_value(resource).expect("a policy")))
    };
    let mut catalog =
        Catalog::new(ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() });
    let fates = catalog.apply((0..policies).map(policy));
    assert!(fates.iter().all(|(_, fate)| fate.rejected.is_none()), "{:?}", fates.first());
    let mut identity = Identity::new(PrincipalId::user("corporate", "alice").expect("an id"), Assurance::Bearer);
    identity.groups = ["dev", "support", "berlin"].map(ToOwned::to_owned).into();
    identity.attributes =
        [("department".to_owned(), json!("sales")), ("level".to_owned(), json!(3))].into_iter().collect();
    let (alice, now): (_, DateTime<Utc>) =
        (Principal::assumed(identity), "2026-07-01T10:00:00Z".parse().expect("an instant"));
    let host = format!("orders-{}.shop.svc:8080", policies / 2);
    let decide = move || {
        let request = Request {
            target: ServiceTarget::Host(&host),
            call: Call::Http { method: "GET", path: "/orders/4711" },
            source: Some([10, 0, 0, 7].into()),
            evidence: &(),
        };
        catalog.snapshot().decide(Some(black_box(&alice)), black_box(&request), now).allowed()
    };
    assert!(decide());
    Box::new(move || {
        black_box(decide());
    })
}

/// The same rules: a scope is a group of actions, a role a group of those.
fn cedar(policies: usize, number: usize, rules: Rules) -> Box<dyn FnMut()> {
    let action = if rules == Rules::Roles { "clerk" } else { "orders.read" };
    let when = match rules {
        Rules::Condition => r#" when { principal.level >= 3 && principal.department == "sales" }"#,
        Rules::Scopes | Rules::Roles => "",
    };
    let mut text = String::new();
    for policy in 0..policies {
        let about = format!("action in Action::\"{action}\", resource == Service::\"orders-{policy}\"");
        for team in 1..number {
            text += &format!("permit(principal == ServiceAccount::\"teams/team-{team}\", {about}){when};\n");
        }
        text += &format!("permit(principal in Group::\"support\", {about}){when};\n");
        text += &format!("forbid(principal == User::\"mallory\", action, resource == Service::\"orders-{policy}\");\n");
    }
    let set: PolicySet = text.parse().expect("policies");
    let group = |name: &str| json!({"uid": {"type": "Group", "id": name}, "attrs": {}, "parents": []});
    let action_in = |name: &str, parents: &[&str]| {
        let parents: Vec<Value> = parents.iter().map(|parent| json!({"type": "Action", "id": parent})).collect();
        json!({"uid": {"type": "Action", "id": name}, "attrs": {}, "parents": parents})
    };
    let service = format!("orders-{}", policies / 2);
    let parents = ["dev", "support", "berlin"].map(|name| json!({"type": "Group", "id": name}));
    let entities = json!([
        {"uid": {"type": "User", "id": "alice"}, "attrs": {"department": "sales", "level": 3},
         "parents": parents},
        group("dev"), group("support"), group("berlin"),
        action_in("clerk", &[]), action_in("orders.read", &["clerk"]), action_in("orders.refund", &["clerk"]),
        action_in("list", &["orders.read"]), action_in("refund", &["orders.refund"]),
        {"uid": {"type": "Service", "id": service}, "attrs": {}, "parents": []},
    ]);
    let entities = Entities::from_json_value(entities, None).expect("entities");
    let id = |text: String| text.parse::<EntityUid>().expect("an id");
    let request = CedarRequest::new(
        id("User::\"alice\"".to_owned()),
        id("Action::\"list\"".to_owned()),
        id(format!("Service::\"{service}\"")),
        Context::empty(),
        None,
    );
    let request = request.expect("a request");
    let authorizer = Authorizer::new();
    assert_eq!(authorizer.is_authorized(&request, &set, &entities).decision(), Decision::Allow);
    Box::new(move || {
        black_box(authorizer.is_authorized(black_box(&request), &set, &entities));
    })
}
