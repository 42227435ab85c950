//! Certificates that pods are entitled to.

use crate::support::*;
use chrono::TimeDelta;
use durward_core::labels::{LabelMatcher, LabelRequirement};
use durward_core::namespaced_name::NamespacedName;
use durward_core::pods::{CertificateEntitlement, DEFAULT_TTL};
use durward_core::policy::{CompiledDenial, EnforcementMode, Policy, ServicePods};
use durward_core::snapshot::Snapshot;
use std::collections::BTreeMap;
use std::sync::Arc;

fn labels(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn app(name: &str) -> LabelMatcher {
    LabelMatcher { requirements: vec![LabelRequirement::In("app".into(), [Arc::from(name)].into())] }
}

fn selecting(name: &str, selector: LabelMatcher, ttl: i64, dns: &[&str]) -> Policy {
    let pods = ServicePods {
        selector,
        ttl: TimeDelta::hours(ttl),
        dns_names: dns.iter().map(|name| Arc::from(*name)).collect(),
    };
    Policy { audience: format!("{name}.shop").into(), hosts: vec![], pods: Some(pods), ..policy(name) }
}

fn minting(snapshot: &Snapshot, who: &str, namespace: &str, of: &str) -> Option<CertificateEntitlement> {
    snapshot.certificate_entitlement(&id(who), namespace, &labels(of)).ok()
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

#[test]
fn label_matchers_match_like_kubernetes_selectors() {
    let (key, values) = (Arc::<str>::from("app"), [Arc::from("web"), Arc::from("api")]);
    for (requirement, selected) in [
        (LabelRequirement::In(key.clone(), values.clone().into()), [true, false, false]),
        (LabelRequirement::NotIn(key.clone(), values.into()), [false, true, true]),
        (LabelRequirement::Exists(key.clone()), [true, true, false]),
        (LabelRequirement::DoesNotExist(key), [false, false, true]),
    ] {
        let selector = LabelMatcher { requirements: vec![requirement.clone()] };
        let found = ["app=web", "app=other", "tier=web"].map(|of| selector.selects(&labels(of)));
        assert_eq!(found, selected, "{requirement:?}");
    }
    assert!(LabelMatcher::default().selects(&labels("")), "no requirement matches every pod");
}

#[test]
fn policies_of_a_pod_unite_with_the_shortest_lifetime() {
    let snapshot = world([
        selecting("long", app("web"), 12, &["web.shop.svc"]),
        selecting("short", LabelMatcher::default(), 2, &["any.shop.svc"]),
        selecting("other", app("api"), 1, &["api.shop.svc"]),
    ]);
    let web = minting(&snapshot, WEB, "shop", "app=web").unwrap();
    assert_eq!(web.ttl, TimeDelta::hours(2));
    assert_eq!(web.dns_names.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["any.shop.svc", "web.shop.svc"]);
    assert_eq!(web.policies.keys().map(|policy| policy.name.as_ref()).collect::<Vec<_>>(), ["long", "short"]);
    assert_eq!(minting(&snapshot, WEB, "farm", "app=web"), None, "a policy selects pods of its own namespace");
}

#[test]
fn a_rule_that_names_a_service_account_entitles_its_pods() {
    let named = Policy {
        grants: each([grant(
            "callers",
            &["spiffe://cluster.local/ns/billing/sa/billing", "user:corporate/alice"],
            &["read"],
        )]),
        denials: each([denial("never", &["spiffe://cluster.local/ns/evil/sa/evil"])]),
        ..orders()
    };
    let mut snapshot = world([named]);
    let billing = "spiffe://cluster.local/ns/billing/sa/billing";
    let minted = minting(&snapshot, billing, "billing", "").unwrap();
    assert_eq!((minted.ttl, minted.dns_names.len()), (DEFAULT_TTL, 0));
    assert_eq!(minted.policies, [(NamespacedName { namespace: "shop".into(), name: "orders".into() }, Some(1))].into());
    assert!(
        minting(&snapshot, "spiffe://cluster.local/ns/evil/sa/evil", "evil", "").is_some(),
        "a denial names a workload, too"
    );
    assert!(minting(&snapshot, "spiffe://cluster.local/ns/billing/sa/other", "billing", "").is_none());
    let service = snapshot.by_audience("orders.shop").unwrap().key().clone();
    snapshot.remove(&service);
    assert!(minting(&snapshot, billing, "billing", "").is_none(), "removed with the policy");
}

#[test]
fn a_workload_denied_by_its_own_namespace_is_not_entitled() {
    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
    let cart =
        |denial: CompiledDenial| world([Policy { denials: each([denial]), ..selecting("cart", app("cart"), 1, &[]) }]);
    let rule = "shop/orders/denials/stop";
    let minted = |denial: CompiledDenial, who: &str, namespace: &str| {
        let minted = cart(denial).certificate_entitlement(&id(who), namespace, &labels("app=cart"));
        minted.map(|_| ()).map_err(|why| why.to_string())
    };
    let refused = Err(format!("{rule} denies this workload; it gets nothing new while that stands"));
    assert_eq!(minted(denial("stop", &[CART]), CART, "shop"), refused);
    assert_eq!(minted(denial("stop", &["user:corporate/alice", CART]), CART, "shop"), refused);
    for (denial, why) in [
        (denial("stop", &["*"]), "a denial of every caller closes a service"),
        (denial_when("stop", &[CART], "request.method == 'GET'"), "a denial with a condition applies to requests only"),
        (
            CompiledDenial { mode: EnforcementMode::Audit, ..denial("stop", &[CART]) },
            "an audited denial does not refuse",
        ),
        (denial("stop", &[WEB]), "a denial of another workload"),
    ] {
        assert_eq!(minted(denial, CART, "shop"), Ok(()), "{why}");
    }
    let billing = "spiffe://cluster.local/ns/billing/sa/billing";
    assert_eq!(
        minted(denial("stop", &[billing]), billing, "billing"),
        Ok(()),
        "a namespace can't deny identities of another one"
    );
}
