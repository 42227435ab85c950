//! Listing the callers who can do an operation.

use crate::support::*;
use durward_core::policy::{CompiledGrant, Policy};

#[test]
fn every_holder_of_a_scope_is_listed() {
    let policy = Policy {
        grants: each([
            grant("readers", &["*"], &["read"]),
            grant("staff", &["user:corporate/alice", "clerks@corporate"], &["refund"]),
            CompiledGrant {
                from_token: true,
                ..grant_when("partners", &["@partners"], &["other", "refund"], "request.method == 'POST'")
            },
        ]),
        denials: each([denial("suspended", &["user:corporate/eve"])]),
        ..orders()
    };
    let snapshot = world([policy]);
    let [refund] = snapshot.who_can("refund", None).try_into().unwrap();
    assert_eq!(refund.required.iter().map(|s| s.as_str()).collect::<Vec<_>>(), ["read", "refund"]);
    let listed: Vec<(&str, usize, usize)> =
        refund.holders.iter().map(|holder| (&*holder.subject, holder.missing.len(), holder.grants.len())).collect();
    assert_eq!(
        listed,
        [
            ("every caller of provider partners", 0, 2),
            ("group clerks of provider corporate", 0, 2),
            ("user:corporate/alice", 0, 2),
            ("every authenticated caller", 1, 1),
        ]
    );
    let partners = &refund.holders[0];
    let conditions: Vec<&str> =
        partners.grants.iter().flat_map(|(_, conditions)| conditions).map(String::as_str).collect();
    assert_eq!(conditions, ["the token carries the scope too", "when request.method == 'POST'"]);
    assert_eq!(refund.denials[0].1, ["user:corporate/eve"]);
    assert!(snapshot.who_can("refund", Some("elsewhere")).is_empty());
    assert!(snapshot.who_can("health", None)[0].public);
}
