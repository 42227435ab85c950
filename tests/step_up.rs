//! Step-up: a person with a plain token shows a second factor, and what attackers make of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect"
)]

#[path = "harness/mod.rs"]
mod harness;
#[path = "harness/step_up.rs"]
mod step_up;
#[path = "harness/tokens.rs"]
mod tokens;
#[path = "harness/venv.rs"]
mod venv;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::{Reply, Up, request};
use serde_json::{Value, json};
use step_up::Browser;
use tokens::{Key, manifests};

const HOST: &str = "orders.example.com";
const ALICE: &str = "user:corporate/alice";

/// Orders where support may refund, too.
fn world(key: &Key, max_age: &str) -> String {
    let refund = format!("scopes: [orders.refund], risk: High, stepUp: {{maxAge: {max_age}}}}}");
    let cancel = "    - {name: cancel-order, http: [{methods: [DELETE], paths: [\"/orders/{id}\"]}], scopes: [orders.cancel], risk: High}\n";
    manifests(&[key]).replace("scopes: [orders.refund], risk: High}\n", &format!("{refund}\n{cancel}")).replace(
        "group: support}], scopes: [orders.write]",
        "group: support}], scopes: [orders.write, orders.refund, orders.cancel]",
    )
}

fn start(key: &Key) -> Up {
    Up::with(&[("all.yaml", &world(key, "5m"))])
}

fn post(up: &Up, fields: &[(&str, &str)]) -> Reply {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let headers = [("Host", "durward"), ("Content-Type", "application/x-www-form-urlencoded")];
    request(up.listen["tokens"], "POST", "/token", &headers, &body)
}

/// Exchanges a first token, with more parameters.
fn exchange(up: &Up, token: &str, more: &[(&str, &str)]) -> Reply {
    let mut all = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("subject_token", token),
        ("audience", "orders-api"),
    ];
    all.extend(more);
    post(up, &all)
}

fn given(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    body(reply)["access_token"].as_str().unwrap().to_owned()
}

fn body(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
}

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn door(up: &Up, method: &str, path: &str, token: &str) -> Reply {
    up.forward_auth(method, HOST, path, &[("Authorization", &format!("Bearer {token}"))])
}

/// What became of second factors, as the log tells it.
fn outcomes(up: &Up) -> Vec<(String, String)> {
    let all = up.records(1);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let factors = all.iter().filter(|record| record["event"] == "second-factor");
    factors.map(|record| (text(&record["outcome"]), text(&record["factor"]))).collect()
}

#[test]
fn a_person_steps_up_and_the_log_tells_the_whole_story() {
    let key = Key::rsa("one");
    let up = start(&key);
    let first = key.token(&json!({}));
    assert_eq!(door(&up, "GET", "/orders/7", &first).status, 200);
    let challenge = door(&up, "POST", "/orders/7/refund", &first);
    assert_eq!(challenge.status, 401);
    let told = challenge.header("www-authenticate").unwrap();
    for part in ["insufficient_user_authentication", "urn:durward:assurance:multi-factor", r#"max_age="300""#] {
        assert!(told.contains(part), "{told}");
    }

    let mut browser = Browser::come(&up, &first, &[]);
    let (app, codes) = browser.enrol();
    assert_eq!(codes.len(), 10);
    let code = app.code(0);
    let reply = exchange(&up, &first, &[("otp", &code)]);
    let token = given(&reply);
    let said = claims(&token);
    assert_eq!((&said["sub"], &said["acr"]), (&json!(ALICE), &json!("urn:durward:assurance:multi-factor")));
    assert_eq!((&said["amr"], &said["aud"]), (&json!(["mfa", "otp"]), &json!("orders-api")));
    assert!((said["auth_time"].as_i64().unwrap() - tokens::now()).abs() < 5, "{said}");
    assert!(said["exp"].as_i64().unwrap() - said["iat"].as_i64().unwrap() <= 300, "{said}");
    let refunded = door(&up, "POST", "/orders/7/refund", &token);
    assert_eq!((refunded.status, refunded.header("x-durward-assurance")), (200, Some("MultiFactor")), "{refunded:?}");
    assert_eq!(door(&up, "GET", "/orders/7", &token).status, 200, "as with the first token");

    // no code counts twice
    let again = exchange(&up, &first, &[("otp", &code)]);
    assert_eq!((again.status, again.body.as_str()), (400, r#"{"error":"invalid_grant"}"#));

    let records = up.records(8);
    assert!(records.iter().all(|record| !record.to_string().contains(&code) && !record.to_string().contains("eyJ")));
    let told = outcomes(&up);
    let told: Vec<_> = told.iter().map(|(outcome, factor)| (outcome.as_str(), factor.as_str())).collect();
    assert_eq!(told, [("enrolled", "totp"), ("proved", "totp"), ("refused", "totp")]);
    let metrics = request(up.listen["admin"], "GET", "/metrics", &[("Host", "durward")], "").body;
    assert!(metrics.contains(r#"durward_second_factors_total{outcome="proved",factor="totp"} 1"#), "{metrics}");
}
