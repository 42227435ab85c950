//! The enforcing proxy: forwarded and refused requests, and shutdown.

mod outbound;
mod streams;
mod websockets;

use durward_tests::corpus::POLICY;
use durward_tests::gate;
use durward_tests::gate::{GateFixture, GateProcess, RecordingApp, head};
use durward_tests::{HttpReply, eventually, request};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::SocketAddr;

const HOST: (&str, &str) = ("Host", "orders.shop.svc");
const BILLING: &str = "spiffe://cluster.local/ns/billing/sa/billing";

fn received(reply: &HttpReply) -> Value {
    assert_eq!(reply.status, 200, "{reply:?}");
    serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
}

#[test]
fn allowed_requests_reach_the_application_with_the_caller() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let billing = fixture.caller(Some("billing/billing"));
    let other = fixture.caller(Some("x/y"));
    let anonymous = fixture.caller(None);
    let ask = |caller: &gate::TlsCaller, path: &str, headers: &[(&str, &str)]| {
        caller.request(gate.address(), "GET", path, &[&[HOST], headers].concat())
    };

    // by certificate
    let forwarded = received(&ask(&billing, "/orders/7?full=1", &[]));
    assert_eq!((&forwarded["method"], &forwarded["uri"]), (&json!("GET"), &json!("/orders/7?full=1")));
    let headers = &forwarded["headers"];
    assert_eq!(headers["x-durward-principal"], json!([BILLING]));
    assert_eq!(headers["x-durward-scopes"], json!(["orders.read"]));
    assert_eq!(headers["x-durward-operation"], json!(["list-orders"]));
    assert_eq!(headers["x-durward-assurance"], json!(["ProofOfPossession"]));
    assert_eq!(headers["host"], json!(["orders.shop.svc"]));
    assert_eq!(
        (&headers["x-forwarded-for"], &headers["x-forwarded-proto"]),
        (&json!(["127.0.0.1"]), &json!(["https"]))
    );
    // by token
    let token = format!("Bearer {}", fixture.token("billing/billing", "orders.shop"));
    let forwarded = received(&ask(&anonymous, "/orders", &[("Authorization", &token)]));
    assert_eq!(forwarded["headers"]["x-durward-assurance"], json!(["Bearer"]));
    // without either
    assert_eq!(received(&ask(&anonymous, "/healthz", &[]))["headers"]["x-durward-principal"], json!([""]));

    let count = app.requests().len();
    let unreachable = ask(&anonymous, "/orders", &[]);
    assert_eq!(
        (unreachable.status, unreachable.header("www-authenticate")),
        (401, Some(r#"Bearer realm="orders.shop""#))
    );
    let bad = ask(&anonymous, "/orders", &[("Authorization", "Bearer x")]);
    assert_eq!((bad.status, bad.body.as_str()), (401, r#"{"error":"invalid_token"}"#));
    let refused = ask(&other, "/orders", &[]);
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (403, r#"{"error":"insufficient_scope","scope":"orders.read"}"#)
    );
    assert_eq!(ask(&billing, "/nothing", &[]).status, 403);
    assert_eq!(app.requests().len(), count, "refused requests never reach the application");

    let records = gate.records(7);
    let reasons: Vec<_> = records.iter().map(|record| record["reason"].as_str().unwrap()).collect();
    assert_eq!(
        reasons,
        [
            "Granted",
            "Granted",
            "Public",
            "Unauthenticated",
            "Unauthenticated",
            "InsufficientScope",
            "OperationUndeclared"
        ]
    );
    assert!(records.iter().all(|record| record["door"] == "gate" && record["request"]["source"] == "127.0.0.1"));
    let metrics = request(gate.listen["admin"], "GET", "/metrics", &[("Host", "x")], "").body;
    assert!(metrics.contains(r#"durward_decisions_total{door="gate",reason="Granted",passed="true"} 2"#), "{metrics}");
}

#[test]
fn identity_headers_of_callers_are_dropped() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let anonymous = fixture.caller(None);
    let headers = [
        HOST,
        ("x-durward-principal", "user:corporate/root"),
        ("x-durward-scopes", "admin"),
        ("x-durward-assurance", "PhishingResistant"),
        ("x-durward-decision", "1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "admin.example"),
        ("x-forwarded-uri", "/admin"),
        ("x-forwarded-client-cert", "By=x;URI=spiffe://cluster.local/ns/billing/sa/billing"),
        ("x-original-url", "/healthz"),
        ("x-rewrite-url", "/healthz"),
        ("forwarded", "for=10.0.0.1"),
        ("x-http-method-override", "GET"),
        ("connection", "close, accept-language"),
        ("accept-language", "de"),
        ("keep-alive", "timeout=5"),
        ("te", "gzip"),
        ("proxy-authorization", "Basic eDp5"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
        ("x-request-id", "r-1"),
        ("cookie", "a=b"),
    ];
    let forwarded = received(&anonymous.request(gate.address(), "GET", "/healthz", &headers));
    let names: Vec<_> = forwarded["headers"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "cookie",
            "host",
            "http2-settings",
            "x-durward-assurance",
            "x-durward-decision",
            "x-durward-operation",
            "x-durward-principal",
            "x-durward-scopes",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-request-id"
        ]
    );
    assert_eq!(forwarded["headers"]["x-forwarded-for"], json!(["127.0.0.1"]));
    assert_ne!(forwarded["headers"]["x-durward-decision"], json!(["1"]));
}

#[test]
fn misleading_headers_are_refused() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let anonymous = fixture.caller(None);
    // a certificate in a header is ignored
    let forwarded = [HOST, ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/billing/sa/billing")];
    assert_eq!(anonymous.request(gate.address(), "GET", "/orders", &forwarded).status, 401);
    // disguised names, another path or method, headers named by `Connection`
    for header in [
        ("x_durward_principal", "a"),
        ("x_http_method_override", "DELETE"),
        ("x-http-method", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
    ] {
        assert_eq!(anonymous.request(gate.address(), "GET", "/healthz", &[HOST, header]).status, 403, "{header:?}");
    }
    for named in ["x-durward-principal", "host", "close, Authorization"] {
        let reply = anonymous.request(
            gate.address(),
            "GET",
            "/healthz",
            &[HOST, ("Connection", named), ("Connection", "close")],
        );
        assert_eq!(reply.status, 403, "{named}");
    }
}

#[test]
fn response_headers_named_by_connection_are_dropped() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let reply = fixture.caller(None).request(gate.address(), "GET", "/files/names-headers", &[HOST]);
    assert_eq!((reply.status, reply.header("x-secret")), (200, None), "{reply:?}");
}

#[test]
fn bodies_stream_both_ways() {
    let fixture = GateFixture::new(
        &POLICY.replace("methods: [GET], paths: [\"/files/*\"]", "methods: [GET, POST], paths: [\"/files/*\"]"),
    );
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let mut stream = fixture.caller(None).connect(gate.address());
    stream
        .write_all(b"POST /files/echo HTTP/1.1\r\nHost: orders.shop.svc\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    // each chunk arrives before the next one is sent, so the gate buffers nothing
    let mut answer = Vec::new();
    for piece in ["one", "two", "three"] {
        stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).unwrap();
        let mut buffer = [0; 1024];
        while !answer.ends_with(format!("{piece}\r\n").as_bytes()) {
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend(&buffer[..length]);
        }
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    // large bodies are not held in memory
    let mut stream = fixture.caller(None).connect(gate.address());
    let count = 1024;
    let piece = vec![b'x'; 16 << 10];
    let head = format!(
        "POST /files/echo HTTP/1.1\r\nHost: orders.shop.svc\r\nContent-Length: {}\r\n\r\n",
        count * piece.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut back = vec![0; piece.len()];
    for number in 0..count {
        stream.write_all(&piece).unwrap();
        if number == 0 {
            assert!(read_head(&mut stream).starts_with("HTTP/1.1 200"));
        }
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, piece);
    }
    let resident = durward_tests::usage::resident(gate.id()).unwrap();
    assert!(resident < 100_000, "{resident} kB");
}

/// Reads the head of a response.
fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

const UPGRADE: &str = "Host: orders.shop.svc\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

#[test]
fn only_allowed_websockets_are_upgraded() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let caller = fixture.caller(None);
    let mut stream = caller.connect(gate.address());
    stream.write_all(format!("GET /files/socket HTTP/1.1\r\nUpgrade: WebSocket\r\n{UPGRADE}\r\n").as_bytes()).unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    for message in ["hello", "GET /admin HTTP/1.1\r\n\r\n"] {
        stream.write_all(message.as_bytes()).unwrap();
        let mut back = vec![0; message.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, message.as_bytes());
    }
    drop(stream);
    // a WebSocket that needs a credential
    let mut stream = caller.connect(gate.address());
    stream.write_all(format!("GET /orders/1 HTTP/1.1\r\nUpgrade: websocket\r\n{UPGRADE}\r\n").as_bytes()).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 401"));
    // other protocols are not upgraded
    for to in ["h2c", "websocket, h2c", "TLS/1.0", "foo"] {
        let mut stream = caller.connect(gate.address());
        stream.write_all(format!("GET /files/socket HTTP/1.1\r\nUpgrade: {to}\r\n{UPGRADE}\r\n").as_bytes()).unwrap();
        assert!(read_head(&mut stream).starts_with("HTTP/1.1 200"), "{to}");
    }
    // no tunnel to another host
    for target in ["orders.shop.svc:443", "127.0.0.1:22"] {
        let reply = caller.raw(
            gate.address(),
            format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert_eq!(reply.status, 403, "{target}");
    }
}

#[test]
fn only_tls_1_3_and_valid_certificates_are_accepted() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let older = fixture.caller_by(None, &[&rustls::version::TLS12], &[]);
    assert_eq!(older.request(gate.address(), "GET", "/healthz", &[HOST]).status, 0);
    assert_eq!(request(gate.address(), "GET", "/healthz", &[HOST], "").status, 0, "plain HTTP");
    // a certificate of another CA fails the handshake instead of being ignored
    let others = GateFixture::new(POLICY);
    let forged = others.svid("billing/billing");
    let own = fixture.svid("billing/billing");
    for file in ["svid.pem", "key.pem"] {
        std::fs::copy(forged.join(file), own.join(file)).unwrap();
    }
    let status = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: orders.shop.svc", "--cacert"])
        .arg(own.join("bundle.pem"))
        .arg("--cert")
        .arg(own.join("svid.pem"))
        .arg("--key")
        .arg(own.join("key.pem"))
        .arg(format!("https://localhost:{}/healthz", gate.address().port()))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&status.stdout), "000");
    let willing = fixture.gate("shop/web", &app.upstream(), &["--tls12"]);
    assert_eq!(older.request(willing.address(), "GET", "/healthz", &[HOST]).status, 200);
}

#[test]
fn oversized_requests_are_refused_and_the_next_passes() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let caller = fixture.caller(Some("billing/billing"));
    for (name, length) in [("X-Big", 10 << 20), ("Authorization", 1 << 20), ("Cookie", 65 << 10)] {
        let value = format!("Bearer {}", "a".repeat(length));
        let reply = caller.request(gate.address(), "GET", "/healthz", &[HOST, (name, &value)]);
        assert!(matches!(reply.status, 0 | 431), "{name}: {}", reply.status);
    }
    // within the limit, but not a token
    let long = format!("Bearer {}", "a".repeat(40 << 10));
    let reply = fixture.caller(None).request(gate.address(), "GET", "/orders", &[HOST, ("Authorization", &long)]);
    assert_eq!((reply.status, reply.body.as_str()), (401, r#"{"error":"invalid_token"}"#));
    assert_eq!(app.requests(), Vec::<Value>::new());
    received(&caller.request(gate.address(), "GET", "/orders", &[HOST]));
    let resident = durward_tests::usage::resident(gate.id()).unwrap();
    assert!(resident < 100_000, "{resident} kB");
}

#[test]
fn an_unreachable_application_is_reported() {
    let fixture = GateFixture::new(POLICY);
    let unreachable = durward_tests::free();
    let gate = fixture.gate("shop/orders", &format!("http://{unreachable}"), &["--response-timeout", "1s"]);
    let caller = fixture.caller(None);
    let reply = caller.request(gate.address(), "GET", "/healthz", &[HOST]);
    assert_eq!((reply.status, reply.body.as_str()), (502, r#"{"error":"bad_gateway"}"#));
    assert_eq!(
        caller.request(gate.address(), "GET", "/orders", &[HOST]).status,
        401,
        "the decision comes before the upstream error"
    );
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/late", &app.upstream(), &["--response-timeout", "300ms", "--max-requests", "1"]);
    let mut first = caller.connect(gate.address());
    first.write_all(head("GET", "/files/never", &[HOST]).as_bytes()).unwrap();
    gate.records(1);
    let second = caller.request(gate.address(), "GET", "/healthz", &[HOST]);
    // the first request may already be finished
    assert!(matches!(second.status, 503 | 200), "{second:?}");
    assert!(read_head(&mut first).starts_with("HTTP/1.1 504"));
}

#[test]
fn shutdown_lets_open_requests_finish() {
    let fixture = GateFixture::new(
        &POLICY.replace("methods: [GET], paths: [\"/files/*\"]", "methods: [GET, POST], paths: [\"/files/*\"]"),
    );
    let app = RecordingApp::start();
    let mut gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let caller = fixture.caller(None);
    let mut stream = caller.connect(gate.address());
    stream.write_all(b"POST /files/echo HTTP/1.1\r\nHost: orders.shop.svc\r\nContent-Length: 4\r\n\r\nab").unwrap();
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    gate.terminate();
    // no new connections
    eventually("the closed port", || std::net::TcpStream::connect(gate.address()).err()).unwrap();
    stream.write_all(b"cd").unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    let body = String::from_utf8_lossy(&rest).into_owned();
    assert!(body.contains("ab") && body.contains("cd"), "{body}");
    assert_eq!(gate.wait(), Some(0));
}

#[test]
fn valid_policy_changes_apply_and_invalid_ones_do_not() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let billing = fixture.caller(Some("billing/billing"));
    let ask = || billing.request(gate.address(), "GET", "/orders", &[HOST]).status;
    assert_eq!(ask(), 200);
    fixture.write("manifests/policy.yaml", "kind: AccessPolicy\napiVersion: durward.dev/v1alpha1\nmetadata: {name: orders, namespace: shop}\nspec: {operations: nonsense}\n");
    eventually("the mistake is reported", || gate.stderr().contains("operations").then_some(())).unwrap();
    assert_eq!(ask(), 200, "the last valid version stays");
    fixture.write(
        "manifests/policy.yaml",
        &POLICY.replace("namespace: billing, name: billing", "namespace: billing, name: other"),
    );
    eventually("the removal of the grant", || (ask() == 403).then_some(())).unwrap();
}

#[test]
fn the_certificate_can_come_from_files() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let write = |account: &str| {
        let svid = fixture.svid(account);
        let read = |name: &str| std::fs::read_to_string(svid.join(name)).unwrap();
        fixture.write("bundle.pem", &(read("key.pem") + &read("svid.pem")));
        svid.join("bundle.pem")
    };
    let roots = write("shop/orders");
    let bundle = fixture.path("bundle.pem");
    let arguments = ["--certificate", bundle.to_str().unwrap(), "--roots", roots.to_str().unwrap()];
    let gate = fixture.gate("shop/orders", &app.upstream(), &arguments);
    let billing = fixture.caller(Some("billing/billing"));
    received(&billing.request(gate.address(), "GET", "/orders", &[HOST]));
    let token = format!("Bearer {}", fixture.token("billing/billing", "orders.shop"));
    let by_token = fixture.caller(None).request(gate.address(), "GET", "/orders", &[HOST, ("Authorization", &token)]);
    assert_eq!(by_token.status, 401, "without keys tokens are invalid");
    // a new certificate is used as soon as it is written
    let server_certificate = || {
        let mut stream = billing.connect(gate.address());
        let _ = stream.write_all(head("GET", "/healthz", &[HOST]).as_bytes());
        let _ = stream.read_to_end(&mut Vec::new());
        stream.conn.peer_certificates().unwrap()[0].to_vec()
    };
    let before = server_certificate();
    fixture.write("bundle.pem", "nonsense");
    eventually("a report of the failure", || gate.stderr().contains("keeping the previous one").then_some(())).unwrap();
    assert_eq!(server_certificate(), before);
    write("shop/orders");
    eventually("the other certificate", || (server_certificate() != before).then_some(())).unwrap();
}
