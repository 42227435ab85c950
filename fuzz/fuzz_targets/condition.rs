//! An expression compiles or is refused, and what compiles always comes to an answer.
#![no_main]

use chrono::DateTime;
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_core::condition::Condition;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use libfuzzer_sys::fuzz_target;
use serde_json::json;

fuzz_target!(|source: &str| {
    if Condition::compile(source).is_err() {
        return;
    }
    let policy = serde_json::from_value(json!({
        "metadata": {"name": "a", "namespace": "b"},
        "spec": {
            "authentication": [{"provider": "p"}],
            "operations": [{"name": "o", "http": [{"methods": ["GET"], "paths": ["/{id}"]}]}],
            "grants": [{"name": "g", "to": [{"authenticated": true}], "scopes": ["o"], "when": source}],
        },
    }))
    .expect("a policy");
    let settings = ClusterDomains { trust_domain: "td".to_owned(), cluster_domain: "cluster.local".to_owned() };
    let mut catalog = Catalog::new(settings);
    let fates = catalog.apply([CatalogChange::PolicyApplied(Box::new(policy))]);
    assert!(fates.iter().all(|(_, fate)| fate.rejected.is_none()));
    let mut alice = Identity::new(PrincipalId::user("p", "alice").expect("an id"), Assurance::Bearer);
    alice.groups.insert("dev".to_owned());
    alice.attributes.insert("level".to_owned(), json!({"n": 3, "list": [1, "a", null]}));
    let principal = Principal::assumed(alice);
    let request = Request {
        target: ServiceTarget::Audience("a.b"),
        call: Call::Http { method: "GET", path: "/4711" },
        source: Some([127, 0, 0, 1].into()),
        evidence: &(),
    };
    let decide = || catalog.snapshot().decide(Some(&principal), &request, DateTime::UNIX_EPOCH);
    assert_eq!(decide(), decide());
});
