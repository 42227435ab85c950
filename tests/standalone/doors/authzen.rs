//! The AuthZEN door.

use super::*;

#[test]
fn authzen_follows_its_specification() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let subject = json!({"type": "workload", "id": "spiffe://cluster.local/ns/billing/sa/billing"});
    let evaluation = |action: &str| json!({"subject": subject, "action": {"name": action}, "resource": {"type": "orders.shop", "id": "42"}});
    assert_eq!(up.authzen("/access/v1/evaluation", &evaluation("list-orders")), (200, json!({"decision": true})));
    assert_eq!(up.authzen("/access/v1/evaluation", &evaluation("admin")), (200, json!({"decision": false})));
    assert_eq!(up.authzen("/access/v1/evaluation", &evaluation("nothing")), (200, json!({"decision": false})));
    let mut explained = evaluation("admin");
    explained["context"] = json!({"explain": true});
    let (_, answer) = up.authzen("/access/v1/evaluation", &explained);
    assert_eq!(
        (&answer["context"]["reason"], &answer["context"]["missing"]),
        (&json!("InsufficientScope"), &json!(["admin"]))
    );

    let batch = |semantic: &str| {
        json!({
            "subject": subject, "resource": {"type": "orders.shop", "id": "42"},
            "evaluations": [{"action": {"name": "list-orders"}}, {"action": {"name": "admin"}}, {"action": {"name": "list-orders"}}],
            "options": {"evaluations_semantic": semantic},
        })
    };
    let decisions = |semantic: &str| -> Vec<bool> {
        let (status, answer) = up.authzen("/access/v1/evaluations", &batch(semantic));
        assert_eq!(status, 200, "{answer}");
        answer["evaluations"].as_array().unwrap().iter().map(|item| item["decision"].as_bool().unwrap()).collect()
    };
    assert_eq!(decisions("execute_all"), [true, false, true]);
    assert_eq!(decisions("deny_on_first_deny"), [true, false]);
    assert_eq!(decisions("permit_on_first_permit"), [true]);
    assert_eq!(up.authzen("/access/v1/evaluations", &evaluation("list-orders")), (200, json!({"decision": true})));

    for malformed in [
        json!({}),
        json!([]),
        json!({"subject": subject}),
        json!({"subject": {"type": "user", "id": "alice"}, "action": {"name": "x"}, "resource": {"type": "y", "id": "z"}}),
    ] {
        assert_eq!(up.authzen("/access/v1/evaluation", &malformed).0, 400, "{malformed}");
    }
    let echoed = request(
        up.listen["http"],
        "POST",
        "/access/v1/evaluation",
        &[("Host", "pdp:1"), ("X-Request-ID", "r-1"), ("Content-Type", "application/json")],
        &evaluation("admin").to_string(),
    );
    assert_eq!(echoed.header("x-request-id"), Some("r-1"));
    let metadata = request(up.listen["http"], "GET", "/.well-known/authzen-configuration", &[("Host", "pdp:1")], "");
    assert_eq!(
        serde_json::from_str::<Value>(&metadata.body).unwrap()["access_evaluation_endpoint"],
        "http://pdp:1/access/v1/evaluation"
    );
    let huge = request(
        up.listen["http"],
        "POST",
        "/access/v1/evaluation",
        &[("Host", "x"), ("Content-Type", "application/json")],
        &"x".repeat(300 * 1024),
    );
    assert_eq!(huge.status, 413);

    let strict = UpProcess::start(&[("shop.yaml", POLICY)], &["--enforcement-point", "10.0.0.0/8"]);
    assert_eq!(strict.authzen("/access/v1/evaluation", &evaluation("list-orders")).0, 401);
    let unread = request(
        strict.listen["http"],
        "POST",
        "/access/v1/evaluation",
        &[("Host", "x"), ("Content-Type", "application/json"), ("X-Request-ID", "r-2")],
        &"x".repeat(300 * 1024),
    );
    assert_eq!(
        (unread.status, unread.header("x-request-id")),
        (401, Some("r-2")),
        "the body of an unauthenticated caller is not read"
    );
}

#[test]
fn subject_properties_reach_conditions() {
    let policy = "
apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders, namespace: shop}
spec:
  authentication: [{provider: corporate}]
  operations: [{name: sell, http: [{methods: [POST], paths: [/sales]}]}]
  grants:
    - {name: sales, to: [{authenticated: true}], scopes: [sell], when: principal.attributes.department == 'Sales'}
";
    let up = UpProcess::with(&[("shop.yaml", policy)]);
    let sells = |properties: Value| {
        let subject = json!({"type": "user", "id": "user:corporate/alice", "properties": properties});
        let question =
            json!({"subject": subject, "action": {"name": "sell"}, "resource": {"type": "orders.shop", "id": "1"}});
        up.authzen("/access/v1/evaluation", &question)
    };
    for (properties, allowed) in [
        (json!({"department": "Sales"}), true),
        (json!({"attributes": {"department": "Sales"}}), true),
        (json!({"department": "Sales", "attributes": {"department": "Legal"}}), false),
        (json!({"department": "Legal"}), false),
        (json!({}), false),
    ] {
        assert_eq!(sells(properties.clone()), (200, json!({"decision": allowed})), "{properties}");
    }
}
