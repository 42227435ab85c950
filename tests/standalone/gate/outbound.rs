//! The application's outbound calls: its identity, and the servers that it may reach.

use super::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use std::sync::Arc;

/// Two services that call each other by `localhost`.
const TWO: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {durward.dev/allowed-hosts: localhost}}
---
apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders, namespace: shop}
spec:
  service: {hosts: [localhost]}
  authentication: [{workload: {}}]
  operations:
    - {name: files, http: [{methods: [GET, POST], paths: ['/files/*', /orders]}], scopes: [read], risk: High}
    - {name: admin, http: [{methods: [GET], paths: [/admin]}]}
    - {name: check, grpc: [{service: grpc.health.v1.Health, methods: [Check, Watch]}], scopes: [read]}
    - {name: list, grpc: [{service: grpc.health.v1.Health, methods: [List]}]}
  grants:
    - {name: web, to: [{serviceAccount: {namespace: shop, name: web}}], scopes: [read]}
";

/// Sends plain HTTP, as an application does to its gate.
fn outward(gate: &GateProcess, to: SocketAddr, method: &str, path: &str) -> HttpReply {
    request(gate.listen["outbound"], method, path, &[("Host", &format!("localhost:{}", to.port()))], "")
}

#[test]
fn outbound_calls_use_the_certificate_of_the_pod() {
    let fixture = GateFixture::new(TWO);
    let app = RecordingApp::start();
    let orders = fixture.gate("shop/orders", &app.upstream(), &[]);
    let web = fixture.gate("shop/web", &app.upstream(), &["--outbound", "127.0.0.1:0"]);
    let forwarded = received(&outward(&web, orders.address(), "GET", "/orders?x=1"));
    assert_eq!(forwarded["headers"]["x-durward-principal"], json!(["spiffe://cluster.local/ns/shop/sa/web"]));
    assert_eq!(forwarded["headers"]["x-durward-assurance"], json!(["ProofOfPossession"]));
    assert_eq!(forwarded["uri"], "/orders?x=1");
    assert_eq!(outward(&web, orders.address(), "GET", "/admin").status, 403);
    assert_eq!(outward(&web, orders.address(), "GET", "/nothing").status, 403);
    // an absolute URL, as for a proxy
    let url = format!("http://localhost:{}/orders", orders.address().port());
    let host = format!("localhost:{}", orders.address().port());
    received(&request(web.listen["outbound"], "GET", &url, &[("Host", &host)], ""));
    // a WebSocket passes both gates
    let mut stream = std::net::TcpStream::connect(web.listen["outbound"]).unwrap();
    let upgrade = UPGRADE.replace("orders.shop.svc", &host);
    stream.write_all(format!("GET /files/socket HTTP/1.1\r\nUpgrade: websocket\r\n{upgrade}\r\n").as_bytes()).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 101"));
    stream.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    // unsupported requests
    for (method, path, host) in [
        ("CONNECT", "localhost:443", "localhost:443"),
        ("GET", "https://localhost/x", "localhost"),
        ("GET", "http://other/x", "localhost"),
        ("GET", "/x", "user@localhost"),
        ("GET", "/x", "local host"),
    ] {
        let reply = request(web.listen["outbound"], method, path, &[("Host", host)], "");
        assert!(matches!(reply.status, 0 | 400), "{method} {path}: {reply:?}");
    }
}

#[test]
fn outbound_calls_verify_the_server() {
    let fixture = GateFixture::new(TWO);
    let app = RecordingApp::start();
    let web = fixture.gate("shop/web", &app.upstream(), &["--outbound", "127.0.0.1:0"]);
    // an identity of another namespace
    let other_workload = fixture.gate("other/orders", &app.upstream(), &[]);
    assert_eq!(outward(&web, other_workload.address(), "GET", "/orders").status, 502);
    // an address does not name the expected identity
    let orders = fixture.gate("shop/orders", &app.upstream(), &[]);
    let by_address = request(web.listen["outbound"], "GET", "/orders", &[("Host", &orders.address().to_string())], "");
    assert_eq!(by_address.status, 502);
    // another CA
    let others = GateFixture::new(TWO);
    let forged = others.gate("shop/orders", &app.upstream(), &[]);
    assert_eq!(outward(&web, forged.address(), "GET", "/orders").status, 502);
    // a server without TLS
    assert_eq!(outward(&web, app.address, "GET", "/orders").status, 502);
    assert_eq!(app.requests(), Vec::<Value>::new());
    eventually("a report of the cause", || web.stderr().contains("names another workload").then_some(())).unwrap();
    let (code, _, stderr) = durward_tests::run(durward_tests::durward().args([
        "gate",
        "--policies",
        fixture.path("manifests").to_str().unwrap(),
        "--state",
        fixture.path("state").to_str().unwrap(),
        "--service-account",
        "shop/web",
        "--upstream",
        "http://127.0.0.1:1",
        "--listen",
        "127.0.0.1:0",
        "--outbound",
        "0.0.0.0:0",
    ]));
    assert_eq!((code, stderr.contains("would give the pod's identity to others")), (2, true), "{stderr}");
}

/// A server with the expected identity that supports one version of TLS.
fn of_version(fixture: &GateFixture, version: &'static SupportedProtocolVersion) -> SocketAddr {
    let svid = fixture.svid("shop/orders");
    let chain = CertificateDer::pem_file_iter(svid.join("svid.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(svid.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
            let mut head = [0; 1024];
            if tls.read(&mut head).is_ok() {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        }
    });
    address
}

#[test]
fn outbound_calls_use_tls_1_3_only() {
    let fixture = GateFixture::new(TWO);
    let app = RecordingApp::start();
    let web = fixture.gate("shop/web", &app.upstream(), &["--outbound", "127.0.0.1:0"]);
    for (version, status) in [(&TLS13, 200), (&TLS12, 502)] {
        let server = of_version(&fixture, version);
        assert_eq!(outward(&web, server, "GET", "/orders").status, status, "{version:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_streams_pass_and_denials_are_grpc_statuses() {
    use tonic::Code;
    use tonic::transport::{Channel, Server};
    use tonic_health::ServingStatus;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(
        Server::builder()
            .add_service(health)
            .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)),
    );
    let fixture = GateFixture::new(TWO);
    let orders = fixture.gate("shop/orders", &upstream, &[]);
    let web = fixture.gate("shop/web", &upstream, &["--outbound", "127.0.0.1:0"]);
    let other_workload = fixture.gate("shop/stranger", &upstream, &["--outbound", "127.0.0.1:0"]);
    let client = async |gate: &GateProcess| {
        let channel = Channel::from_shared(format!("http://{}", gate.listen["outbound"])).unwrap();
        let origin = format!("http://localhost:{}", orders.address().port()).parse().unwrap();
        HealthClient::new(channel.origin(origin).connect().await.unwrap())
    };
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let mut known = client(&web).await;
    assert_eq!(known.check(ask("")).await.unwrap().into_inner().status, 1);
    // the application's own error arrives in trailers only
    assert_eq!(known.check(ask("nothing")).await.unwrap_err().code(), Code::NotFound);
    // a stream, message by message
    reporter.set_service_status("x", ServingStatus::Serving).await;
    let mut watch = known.watch(ask("x")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    reporter.set_service_status("x", ServingStatus::NotServing).await;
    assert_eq!(watch.message().await.unwrap().unwrap().status, 2);
    // denied: no scope
    let refused = client(&other_workload).await.check(ask("")).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, r#"{"error":"insufficient_scope","scope":"read"}"#)
    );
    let records = orders.records(4);
    assert_eq!(records.last().unwrap()["reason"], "InsufficientScope");
    assert_eq!(records[0]["request"]["path"], "/grpc.health.v1.Health/Check");
}
