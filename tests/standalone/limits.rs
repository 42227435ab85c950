//! Budgets of connections, request bodies and slots: what one source takes leaves room for others.

use durward_tests::corpus::{HOST, POLICY};
use durward_tests::gate::{GateFixture, RecordingApp, TlsConnection};
use durward_tests::tokens::{IssuerKey, manifests};
use durward_tests::{TIMEOUT, UpProcess, eventually, request};
use futures::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// A second source address of this host.
const OTHER_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const MIB: usize = 1 << 20;

type Body = Full<Bytes>;

/// A client of one HTTP/2 connection, and the connection's task, which ends with it.
async fn http2(address: SocketAddr) -> (SendRequest<Body>, tokio::task::JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (client, tokio::spawn(connection))
}

fn post(path: &str, content_type: &str, body: Bytes) -> http::Request<Body> {
    let request = http::Request::post(format!("http://x{path}")).header("content-type", content_type);
    request.body(Full::new(body)).unwrap()
}

/// Connects from an address of this host.
async fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((source, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

/// The status of a health request on this connection; `None` if it is closed.
async fn health(stream: &mut TcpStream) -> Option<u16> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.ok()?;
    let mut answer = [0; 12];
    timeout(TIMEOUT, stream.read_exact(&mut answer)).await.unwrap().ok()?;
    str::from_utf8(&answer[9..]).ok()?.parse().ok()
}

/// The value of a metric, with its labels.
fn metric(up: &UpProcess, name: &str) -> u64 {
    let text = request(up.listen["admin"], "GET", "/metrics", &[("Host", "x")], "").body;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_on_one_connection_keep_memory_bounded() {
    let up = UpProcess::start(&[("shop.yaml", POLICY)], &["--body-memory", "16Mi"]);
    let (client, _connection) = http2(up.listen["grpc"]).await;
    // the first message's length, without its end
    let mut body = vec![0, 0, 15, 0xff, 0xf0];
    body.resize(MIB, b'x');
    let body = Bytes::from(body);
    let send = |number: usize| {
        let (mut client, body) = (client.clone(), body.clone());
        async move {
            client.ready().await.ok()?;
            let path = "/envoy.service.auth.v3.Authorization/Check";
            let response = client.send_request(post(path, "application/grpc", body)).await;
            (number, response.ok()?.into_body().collect().await.is_ok()).1.then_some(())
        }
    };
    let answers = timeout(TIMEOUT, join_all((0..1000).map(send))).await.unwrap();
    assert!(answers.into_iter().flatten().count() > 0, "checks that can't be read are denied, not dropped");
    assert!(up.resident() < 150_000, "{} kB", up.resident());
    assert_eq!(metric(&up, "durward_request_body_bytes"), 0, "all memory is given back");
    assert_eq!(up.forward_auth("GET", HOST, "/healthz", &[]).status, 200);
}

#[test]
fn bodies_are_refused_before_they_are_read() {
    let up = UpProcess::start(&[("shop.yaml", POLICY)], &["--body-memory", "256Ki", "--source-share", "50"]);
    for (door, path, length, statuses) in [
        // longer than the endpoint takes
        ("http", "/access/v1/evaluation", 257 << 10, ["400", "413"]),
        ("tokens", "/token", 33 << 10, ["400", "413"]),
        ("tokens", "/introspect", 33 << 10, ["400", "401"]),
        ("tokens", "/approvals", 5 << 10, ["400", "413"]),
        ("tokens", "/step-up/verify", 1 << 30, ["403", "413"]),
        // longer than the share of one source
        ("http", "/access/v1/evaluation", 200 << 10, ["503", "503"]),
    ] {
        let mut stream = std::net::TcpStream::connect(up.listen[door]).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let media_type = if path == "/token" { "application/x-www-form-urlencoded" } else { "application/json" };
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\n");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        // nothing of the body is sent
        stream.read_exact(&mut answer).unwrap();
        let status = str::from_utf8(&answer[9..]).unwrap();
        assert!(statuses.contains(&status), "{door} {path}: {status}");
    }
    assert_eq!(metric(&up, "durward_request_bodies_refused_total{reason=\"source_share\"}"), 1);
    assert_eq!(metric(&up, "durward_request_body_bytes"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_in_time_is_refused() {
    let up = UpProcess::start(&[("shop.yaml", POLICY)], &["--body-timeout", "100ms"]);
    // HTTP/1.1, with a byte now and then
    let mut stream = std::net::TcpStream::connect(up.listen["tokens"]).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let head = "POST /token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    write!(stream, "{head}Content-Length: 1000\r\n\r\nx").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(str::from_utf8(&answer[9..]), Ok("408"));
    // HTTP/2, at a door that answers in its own way
    let stream = TcpStream::connect(up.listen["grpc"]).await.unwrap();
    let (mut client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let never =
        http_body_util::StreamBody::new(futures::stream::pending::<Result<hyper::body::Frame<Bytes>, String>>());
    let check = http::Request::post("http://x/envoy.service.auth.v3.Authorization/Check");
    let check = check.header("content-type", "application/grpc").body(never).unwrap();
    let answer = timeout(TIMEOUT, client.send_request(check)).await.unwrap().unwrap();
    let message = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(!message.is_empty(), "the check is denied");
    let records = up.records(2);
    assert!(records.iter().any(|record| record["verdict"] == "deny"), "{records:?}");
    assert_eq!(metric(&up, "durward_request_bodies_refused_total{reason=\"timeout\"}"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_only_pings_is_closed() {
    let up =
        UpProcess::start(&[("shop.yaml", POLICY)], &["--connection-idle-timeout", "100ms", "--client-timeout", "1s"]);
    for door in ["http", "grpc", "tokens", "admin"] {
        let stream = TcpStream::connect(up.listen[door]).await.unwrap();
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder.timer(hyper_util::rt::TokioTimer::new());
        builder.keep_alive_interval(Some(Duration::from_millis(10))).keep_alive_while_idle(true);
        let (mut client, connection) = builder.handshake::<_, Body>(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = client.send_request(http::Request::get("http://x/healthz").body(Full::default()).unwrap()).await;
        answer.unwrap().into_body().collect().await.unwrap();
        timeout(TIMEOUT, connection).await.unwrap_or_else(|_| panic!("{door} stays open")).unwrap().unwrap();
    }
    assert_eq!(metric(&up, "durward_connections_refused_total{reason=\"idle\"}"), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_one_source_leave_room_for_another() {
    let up = UpProcess::start(&[("shop.yaml", POLICY)], &["--max-connections", "20", "--client-timeout", "5m"]);
    let admin = up.listen["admin"];
    let silent = join_all((0..40).map(|_| connect_from(OTHER_SOURCE, admin))).await;
    let refused = "durward_connections_refused_total{reason=\"displaced\"}";
    eventually("the oldest connections of the source make room", || (metric(&up, refused) >= 30).then_some(()))
        .unwrap();
    // others have the other half
    let mut others = join_all((0..8).map(|_| connect_from(Ipv4Addr::LOCALHOST, admin))).await;
    for other in &mut others {
        assert_eq!(health(other).await, Some(200));
    }
    // requests that are not complete hold a connection, and no further one of their source gets in
    let up = UpProcess::start(&[("shop.yaml", POLICY)], &["--max-connections", "20", "--body-timeout", "5m"]);
    let tokens = up.listen["tokens"];
    let mut open = join_all((0..10).map(|_| connect_from(OTHER_SOURCE, tokens))).await;
    for stream in &mut open {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let head = "POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut begun = [0; 25];
        timeout(TIMEOUT, stream.read_exact(&mut begun)).await.unwrap().unwrap();
    }
    assert_eq!(health(&mut connect_from(OTHER_SOURCE, tokens).await).await, None, "refused");
    assert_eq!(health(&mut connect_from(Ipv4Addr::LOCALHOST, tokens).await).await, Some(404));
    assert_eq!(metric(&up, "durward_connections_refused_total{reason=\"source_share\"}"), 1);
    drop((silent, open));
}

/// A server of keys that accepts connections and never answers; how many it has accepted.
async fn silent_key_server() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (address, accepted)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_invalid_tokens_do_not_keep_the_exchange_from_others() {
    let (keys, fetches) = silent_key_server().await;
    let key = IssuerKey::ec("one");
    let all = manifests(&[&key]);
    let start = all.find("jwks: {").unwrap();
    let end = start + all[start..].find("]}").unwrap() + 2;
    let all = all.replace(&all[start..end], &format!("jwksUri: 'http://{keys}/jwks'"));
    let up = UpProcess::with(&[("all.yaml", &all)]);
    let good = up.token("billing/billing", "durward");
    let tokens = up.listen["tokens"];
    let exchange = async |token: &str| {
        let form = format!(
            "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&audience=orders-api&subject_token={token}\
             &subject_token_type=urn:ietf:params:oauth:token-type:jwt"
        );
        let (mut client, _connection) = http2(tokens).await;
        let request = post("/token", "application/x-www-form-urlencoded", form.into());
        client.send_request(request).await.unwrap().status().as_u16()
    };
    // each waits for the keys of its issuer, and more wait than there are slots
    let forged = key.token(&json!({}));
    let waiting = join_all((0..300).map(|_| exchange(&forged)));
    let served = async {
        eventually("the keys are fetched", || (fetches.load(Ordering::Relaxed) > 0).then_some(())).unwrap();
        join_all((0..20).map(|_| exchange(&good))).await
    };
    let (forged, good) = timeout(TIMEOUT, futures::future::join(waiting, served)).await.unwrap();
    assert!(forged.iter().all(|status| *status == 400), "{forged:?}");
    assert!(good.iter().all(|status| *status == 200), "{good:?}");
}

/// The first line of the answer to a request on a connection that stays open; empty if it is closed.
fn answer(connection: &mut TlsConnection) -> String {
    let head = b"GET /healthz HTTP/1.1\r\nHost: orders.shop.svc\r\n\r\n";
    let mut answer = [0; 1024];
    let read = connection.write_all(head).and_then(|()| connection.read(&mut answer)).unwrap_or(0);
    String::from_utf8_lossy(&answer[..read]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn connections_without_a_certificate_make_room_at_a_gate() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let arguments = ["--max-connections", "8", "--source-share", "100"];
    let gate = fixture.gate("shop/orders", &app.upstream(), &arguments);
    let (billing, anonymous) = (fixture.caller(Some("billing/billing")), fixture.caller(None));
    let mut kept = billing.connect(gate.address());
    assert_eq!(answer(&mut kept), "HTTP/1.1 200 OK");
    let mut open: Vec<_> = (0..30)
        .map(|_| {
            let mut connection = anonymous.connect(gate.address());
            assert_eq!(answer(&mut connection), "HTTP/1.1 200 OK");
            connection
        })
        .collect();
    assert_eq!(answer(&mut kept), "HTTP/1.1 200 OK", "the older connection with a certificate stays open");
    assert_eq!(answer(&mut open[0]), "", "the oldest without one made room");
    assert_eq!(answer(&mut billing.connect(gate.address())), "HTTP/1.1 200 OK");
}
