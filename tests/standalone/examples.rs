//! The examples: FastAPI with PyJWT, and nginx and Envoy in front of an app without authorization code.

use durward_tests::proxies::{ServerProcess, envoy, nginx};
use durward_tests::venv::venv;
use durward_tests::{HttpReply, UpProcess, eventually, free, raw, repository, request};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

fn app(module: &str, jwks: &str) -> ServerProcess {
    let address = free();
    let mut command = Command::new(venv("uvicorn"));
    command.args([module, "--port", &address.port().to_string(), "--log-level", "warning"]);
    ServerProcess::start(
        command.current_dir(repository("examples/orders")).env("JWKS_URL", jwks).env("PYTHONDONTWRITEBYTECODE", "1"),
        address,
        None,
    )
}

fn durward() -> UpProcess {
    let read = |name: &str| fs::read_to_string(repository(&format!("examples/orders/{name}"))).unwrap();
    UpProcess::with(&[
        ("namespace.yaml", &read("namespace.yaml")),
        ("policy.yaml", &read("policy.yaml")),
        ("partners.yaml", &read("partners.yaml")),
    ])
}

#[test]
fn a_service_verifies_tokens_itself() {
    let up = durward();
    let app = app("app:app", &format!("http://{}/.well-known/jwks.json", up.listen["tokens"]));
    let token = |more: &[&str]| {
        let mut arguments = vec!["jwt", "--service-account", "billing/billing", "--audience", "orders-api"];
        arguments.extend(more);
        format!("Bearer {}", up.mint(&arguments))
    };
    let good = app.get("/orders", &[("Authorization", &token(&["--scope", "orders.read"]))]);
    assert_eq!(good.status, 200, "{good:?}");
    assert_eq!(
        serde_json::from_str::<Value>(&good.body).unwrap()["for"],
        "spiffe://cluster.local/ns/billing/sa/billing"
    );
    let without_scope = app.get("/orders", &[("Authorization", &token(&[]))]);
    assert_eq!((without_scope.status, without_scope.body.as_str()), (403, r#"{"detail":"Insufficient scope"}"#));
    let other_audience = format!(
        "Bearer {}",
        up.mint(&[
            "jwt",
            "--service-account",
            "billing/billing",
            "--audience",
            "billing-api",
            "--scope",
            "orders.read"
        ])
    );
    for bad in [other_audience.as_str(), "Bearer nonsense", "Basic x"] {
        let refused = app.get("/orders", &[("Authorization", bad)]);
        assert_eq!((refused.status, refused.body.as_str()), (401, r#"{"detail":"Invalid token"}"#), "{bad}");
    }
    assert_eq!(app.get("/orders", &[]).status, 401);
}

#[test]
fn a_service_that_verifies_itself_accepts_exchanged_tokens() {
    let up = durward();
    let app = app("app:app", &format!("http://{}/.well-known/jwks.json", up.listen["tokens"]));
    let exchange = |service_account: &str, scope: &str| {
        let parameters = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", &up.token(service_account, "durward")),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("audience", "orders-api"),
            ("scope", scope),
        ];
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let headers = [("Host", "durward"), ("Content-Type", "application/x-www-form-urlencoded")];
        let reply = request(up.listen["tokens"], "POST", "/token", &headers, &form);
        let answer: Value = serde_json::from_str(&reply.body).unwrap();
        answer["access_token"].as_str().map(|token| format!("Bearer {token}"))
    };
    let token = exchange("billing/billing", "").expect("a token with billing's scopes");
    let good = app.get("/orders", &[("Authorization", &token)]);
    let who: Value = serde_json::from_str(&good.body).unwrap();
    assert_eq!((good.status, &who["for"]), (200, &json!("spiffe://cluster.local/ns/billing/sa/billing")));
    assert_eq!(exchange("billing/billing", "orders.refund"), None, "a bearer token does not allow refunds");
    assert_eq!(exchange("other/other", ""), None);
}

/// Asserts that a refusal is Durward's own: its body, and one challenge.
fn assert_refusal(reply: &HttpReply, body: &str) {
    assert_eq!((reply.body.as_str(), reply.header("content-type")), (body, Some("application/json")), "{reply:?}");
    let challenges = reply.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"));
    assert_eq!(challenges.count(), 1, "{reply:?}");
}

/// Asserts the decisions and headers of a proxy in front of the app.
fn guards(proxy: &ServerProcess, up: &UpProcess) {
    let billing = format!("Bearer {}", up.token("billing/billing", "orders-api"));
    let other_workload = format!("Bearer {}", up.token("other/other", "orders-api"));
    let allowed = proxy.get("/orders/7", &[("Authorization", &billing)]);
    assert_eq!(allowed.status, 200, "{allowed:?}");
    let received: Value = serde_json::from_str(&allowed.body).unwrap();
    assert_eq!(
        (&received["for"], &received["scopes"]),
        (&json!("spiffe://cluster.local/ns/billing/sa/billing"), &json!(["orders.read"]))
    );
    assert_eq!(proxy.get("/healthz", &[]).status, 200);

    let anonymous = proxy.get("/orders", &[]);
    assert_eq!((anonymous.status, anonymous.header("www-authenticate")), (401, Some(r#"Bearer realm="orders-api""#)));
    assert_refusal(&anonymous, r#"{"error":"invalid_token"}"#);
    let bad = proxy.get("/orders", &[("Authorization", "Bearer nonsense")]);
    assert_eq!(
        (bad.status, bad.header("www-authenticate")),
        (401, Some(r#"Bearer realm="orders-api", error="invalid_token""#))
    );
    let refused = proxy.get("/orders", &[("Authorization", &other_workload)]);
    assert_eq!(refused.status, 403, "{refused:?}");
    assert_refusal(&refused, r#"{"error":"insufficient_scope","scope":"orders.read"}"#);
    let step_up = proxy.ask("POST", "/orders/7/refund", &[("Authorization", &billing)]);
    assert_eq!(step_up.status, 401);
    assert!(step_up.header("www-authenticate").unwrap().contains("insufficient_user_authentication"), "{step_up:?}");

    // headers of a caller about its identity or its request are ignored
    let spoofed = [
        ("Authorization", billing.as_str()),
        ("x-durward-principal", "user:corporate/root"),
        ("x-durward-scopes", "admin"),
    ];
    let received: Value = serde_json::from_str(&proxy.get("/orders", &spoofed).body).unwrap();
    assert_eq!(
        (&received["for"], &received["scopes"]),
        (&json!("spiffe://cluster.local/ns/billing/sa/billing"), &json!(["orders.read"]))
    );
    for header in [
        ("X-Original-URI", "/healthz"),
        ("X-Original-URL", "http://orders.example.com/healthz"),
        ("X-Forwarded-Uri", "/healthz"),
        ("X-Forwarded-Method", "OPTIONS"),
        ("X-Forwarded-Host", "other.example.com"),
        ("X-Original-Host", "other.example.com"),
        ("X-HTTP-Method-Override", "GET"),
    ] {
        let reply = proxy.get("/orders", &[header]);
        assert!(matches!(reply.status, 401 | 403), "{header:?}: {reply:?}");
    }
    // no path bypasses the policy
    for path in [
        "//orders",
        "/./orders",
        "/healthz/../orders",
        "/healthz/%2e%2e/orders",
        "/healthz%2f..%2forders",
        "/%6frders",
        "/orders/",
        "/orders;x",
        "/ORDERS",
        "/healthz/..;/orders",
        "/orders%00",
        "/orders?x=/healthz",
    ] {
        let reply = raw(
            proxy.address,
            format!("GET {path} HTTP/1.1\r\nHost: orders.example.com\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert!(reply.status >= 400, "{path}: {reply:?}");
    }
}

/// Requests are denied while Durward is down, and allowed again afterwards.
fn fails_closed(proxy: &ServerProcess, mut up: UpProcess) {
    let billing = format!("Bearer {}", up.token("billing/billing", "orders-api"));
    assert_eq!(proxy.get("/orders", &[("Authorization", &billing)]).status, 200);
    up.interrupt();
    for path in ["/orders", "/healthz"] {
        let reply = proxy.get(path, &[("Authorization", &billing)]);
        assert!(reply.status >= 400, "{path}: {reply:?}");
    }
    // the first request after the restart succeeds
    up.restart();
    assert_eq!(proxy.get("/orders", &[("Authorization", &billing)]).status, 200);
    assert_eq!(proxy.get("/orders", &[]).status, 401);
}

#[test]
fn nginx_authorizes_every_request() {
    let up = durward();
    let app = app("bare:app", "");
    let proxy = nginx(&up, app.address);
    guards(&proxy, &up);
    fails_closed(&proxy, up);
}

#[test]
fn envoy_authorizes_every_request() {
    let up = durward();
    let app = app("bare:app", "");
    let proxy = envoy(&up, app.address);
    guards(&proxy, &up);
    fails_closed(&proxy, up);
    // the access log tells what Durward refused from what it could not be asked about, and holds no query
    let refused = |status: u16, details: &str| {
        let log = proxy.log();
        let mut lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = lines.find(|line| line["status"] == status && line["details"] == details)?;
        Some((found["method"].clone(), found["path"].clone()))
    };
    for (status, details) in [(401, "ext_authz_denied"), (403, "ext_authz_denied"), (503, "ext_authz_error")] {
        let line = eventually(details, || refused(status, details)).unwrap_or_else(|_| panic!("{}", proxy.log()));
        assert_eq!(line.0, "GET", "{line:?}");
    }
    assert!(!proxy.log().contains("?x="), "{}", proxy.log());
}
