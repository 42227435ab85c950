//! WebSockets over HTTP/2 (RFC 8441).

use super::*;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

type Sender = SendRequest<Empty<Bytes>>;

async fn connected(gate: &GateProcess, caller: &gate::TlsCaller) -> Sender {
    let stream = tokio::net::TcpStream::connect(gate.address()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(caller.config()).connect(name, stream).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Requests a protocol at a path.
async fn ask(sender: &mut Sender, protocol: &'static str, path: &str, headers: &[(&str, &str)]) -> Response<Incoming> {
    let mut request = Request::builder().method(Method::CONNECT).uri(format!("https://orders.shop.svc{path}"));
    request = request.extension(Protocol::from_static(protocol)).header("sec-websocket-version", "13");
    request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_work_over_http_2() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let anonymous = fixture.caller_by(None, rustls::ALL_VERSIONS, &[b"h2"]);
    let mut sender = connected(&gate, &anonymous).await;
    // HTTP/2 has no `sec-websocket-key`
    let headers = [("sec-websocket-protocol", "chat"), ("sec-websocket-key", "AAAA"), ("x-durward-principal", "root")];
    let answer = ask(&mut sender, "websocket", "/files/socket", &headers).await;
    assert_eq!(answer.status(), StatusCode::OK, "{answer:?}");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    for absent in ["sec-websocket-accept", "connection", "upgrade"] {
        assert!(!answer.headers().contains_key(absent), "{absent}");
    }
    let mut open = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    for message in ["hello", "GET /admin HTTP/1.1\r\n\r\n"] {
        open.write_all(message.as_bytes()).await.unwrap();
        let mut back = vec![0; message.len()];
        open.read_exact(&mut back).await.unwrap();
        assert_eq!(back, message.as_bytes());
    }
    // other streams of the connection are decided separately
    let ordinary = Request::get("https://orders.shop.svc/orders").body(Empty::new()).unwrap();
    assert_eq!(sender.send_request(ordinary).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    // closing one side closes the other
    open.shutdown().await.unwrap();
    assert_eq!(open.read(&mut [0]).await.unwrap(), 0);

    for (protocol, path, status) in [
        ("websocket", "/orders/1", StatusCode::UNAUTHORIZED),
        ("websocket", "/admin", StatusCode::UNAUTHORIZED),
        ("websocket", "/nothing", StatusCode::FORBIDDEN),
        ("websocket", "/files/..%2fadmin", StatusCode::FORBIDDEN),
        ("connect-udp", "/files/socket", StatusCode::FORBIDDEN),
        // without an upgrade or with a wrong proof there is no WebSocket
        ("websocket", "/files/plain", StatusCode::BAD_GATEWAY),
        ("websocket", "/files/liar", StatusCode::BAD_GATEWAY),
    ] {
        assert_eq!(ask(&mut sender, protocol, path, &[]).await.status(), status, "{protocol} {path}");
    }
    assert_eq!(app.requests().len(), 1, "refused requests never reach the application: {:?}", app.requests());
    let record = gate.record("the WebSocket", |record| record["request"]["path"] == "/files/socket");
    assert_eq!(record["request"]["method"], "GET");
    let names: Vec<_> = gate.records(9).iter().map(|record| record["reason"].clone()).collect();
    assert_eq!(names.iter().filter(|reason| **reason == "AmbiguousPath").count(), 2, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_application_gets_no_websockets() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let upstream = app.upstream().replace("http://", "h2c://");
    let gate = fixture.gate("shop/orders", &upstream, &[]);
    let mut sender = connected(&gate, &fixture.caller_by(None, rustls::ALL_VERSIONS, &[b"h2"])).await;
    let ordinary = Request::get("https://orders.shop.svc/healthz").body(Empty::new()).unwrap();
    let answer = sender.send_request(ordinary).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await.unwrap();
    let request = Request::builder().method(Method::CONNECT).uri("https://orders.shop.svc/files/socket");
    let request = request.extension(Protocol::from_static("websocket")).body(Empty::new()).unwrap();
    let refused = sender.send_request(request).await;
    assert!(refused.map_or(true, |answer| !answer.status().is_success()));
    assert_eq!(app.requests().len(), 1);
}
