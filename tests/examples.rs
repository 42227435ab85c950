//! The examples, run for real: FastAPI with PyJWT, nginx and Envoy in front of an app without auth code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect"
)]

#[path = "harness/mod.rs"]
mod harness;
#[path = "harness/venv.rs"]
mod venv;

use harness::{Reply, Up, eventually, raw, repository, request};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use venv::venv;

/// A program that runs as long as the test needs it.
struct Server {
    child: Child,
    address: SocketAddr,
    _directory: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // a proxy ends its own workers when it is asked to
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(command: &mut Command, address: SocketAddr, directory: Option<TempDir>) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let child =
            command.stdout(log.reopen().unwrap()).stderr(log.reopen().unwrap()).stdin(Stdio::null()).spawn().unwrap();
        let server = Self { child, address, _directory: directory };
        eventually(&format!("{command:?} listens"), || TcpStream::connect(address).ok())
            .unwrap_or_else(|what| panic!("{what}:\n{}", fs::read_to_string(log.path()).unwrap_or_default()));
        server
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.ask("GET", path, headers)
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let mut all = vec![("Host", "orders.example.com")];
        all.extend(headers);
        request(self.address, method, path, &all, "")
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn app(module: &str, jwks: &str) -> Server {
    let address = free();
    let mut command = Command::new(venv("uvicorn"));
    command.args([module, "--port", &address.port().to_string(), "--log-level", "warning"]);
    Server::start(
        command.current_dir(repository("examples/orders")).env("JWKS_URL", jwks).env("PYTHONDONTWRITEBYTECODE", "1"),
        address,
        None,
    )
}

fn durward() -> Up {
    let read = |name: &str| fs::read_to_string(repository(&format!("examples/orders/{name}"))).unwrap();
    Up::with(&[
        ("namespace.yaml", &read("namespace.yaml")),
        ("policy.yaml", &read("policy.yaml")),
        ("partners.yaml", &read("partners.yaml")),
    ])
}

/// An example's configuration, with the ports of this test for its own.
fn configuration(path: &str, ports: &[(&str, SocketAddr)]) -> String {
    let mut text = fs::read_to_string(repository(path)).unwrap();
    for (from, to) in ports {
        assert!(text.contains(from), "{path} has no {from}");
        text = text.replace(from, &to.port().to_string());
    }
    text
}

fn nginx(up: &Up, app: &Server) -> Server {
    let (address, directory) = (free(), tempfile::tempdir().unwrap());
    let text = configuration(
        "examples/nginx/nginx.conf",
        &[("8180", up.listen["http"]), ("8000", app.address), ("8080", address)],
    );
    let file = directory.path().join("nginx.conf");
    fs::write(&file, text).unwrap();
    let mut command = Command::new("nginx");
    Server::start(command.arg("-p").arg(directory.path()).arg("-c").arg(&file), address, Some(directory))
}

fn envoy(up: &Up, app: &Server) -> Server {
    let (address, directory) = (free(), tempfile::tempdir().unwrap());
    let text = configuration(
        "examples/envoy/envoy.yaml",
        &[("9180", up.listen["grpc"]), ("8000", app.address), ("8081", address)],
    );
    let file = directory.path().join("envoy.yaml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(venv("envoy"));
    command.arg("-c").arg(&file).args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]);
    Server::start(&mut command, address, Some(directory))
}

#[test]
fn a_service_verifies_tokens_on_its_own() {
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
fn a_service_that_verifies_on_its_own_takes_exchanged_tokens() {
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
    let token = exchange("billing/billing", "").expect("billing is granted something");
    let good = app.get("/orders", &[("Authorization", &token)]);
    let who: Value = serde_json::from_str(&good.body).unwrap();
    assert_eq!((good.status, &who["for"]), (200, &json!("spiffe://cluster.local/ns/billing/sa/billing")));
    assert_eq!(exchange("billing/billing", "orders.refund"), None, "a bearer may not refund");
    assert_eq!(exchange("other/other", ""), None);
}

/// What every proxy in front of the app has to show.
fn guards(proxy: &Server, up: &Up) {
    let billing = format!("Bearer {}", up.token("billing/billing", "orders-api"));
    let stranger = format!("Bearer {}", up.token("other/other", "orders-api"));
    let allowed = proxy.get("/orders/7", &[("Authorization", &billing)]);
    assert_eq!(allowed.status, 200, "{allowed:?}");
    let seen: Value = serde_json::from_str(&allowed.body).unwrap();
    assert_eq!(
        (&seen["for"], &seen["scopes"]),
        (&json!("spiffe://cluster.local/ns/billing/sa/billing"), &json!(["orders.read"]))
    );
    assert_eq!(proxy.get("/healthz", &[]).status, 200);

    let nobody = proxy.get("/orders", &[]);
    assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, Some(r#"Bearer realm="orders-api""#)));
    let bad = proxy.get("/orders", &[("Authorization", "Bearer nonsense")]);
    assert_eq!(
        (bad.status, bad.header("www-authenticate")),
        (401, Some(r#"Bearer realm="orders-api", error="invalid_token""#))
    );
    let refused = proxy.get("/orders", &[("Authorization", &stranger)]);
    assert_eq!(refused.status, 403, "{refused:?}");
    let step_up = proxy.ask("POST", "/orders/7/refund", &[("Authorization", &billing)]);
    assert_eq!(step_up.status, 401);
    assert!(step_up.header("www-authenticate").unwrap().contains("insufficient_user_authentication"), "{step_up:?}");

    // what a caller says of itself, or of its request, is never believed
    let spoofed = [
        ("Authorization", billing.as_str()),
        ("x-durward-principal", "user:corporate/root"),
        ("x-durward-scopes", "admin"),
    ];
    let seen: Value = serde_json::from_str(&proxy.get("/orders", &spoofed).body).unwrap();
    assert_eq!(
        (&seen["for"], &seen["scopes"]),
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
    // no path leads around the policy
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

/// No answer from Durward means no; its return means yes again.
fn fails_closed(proxy: &Server, mut up: Up) {
    let billing = format!("Bearer {}", up.token("billing/billing", "orders-api"));
    assert_eq!(proxy.get("/orders", &[("Authorization", &billing)]).status, 200);
    up.interrupt();
    for path in ["/orders", "/healthz"] {
        let reply = proxy.get(path, &[("Authorization", &billing)]);
        assert!(reply.status >= 400, "{path}: {reply:?}");
    }
}

#[test]
fn nginx_asks_before_every_request() {
    let up = durward();
    let app = app("bare:app", "");
    let proxy = nginx(&up, &app);
    guards(&proxy, &up);
    fails_closed(&proxy, up);
}

#[test]
fn envoy_asks_before_every_request() {
    let up = durward();
    let app = app("bare:app", "");
    let proxy = envoy(&up, &app);
    guards(&proxy, &up);
    fails_closed(&proxy, up);
}
