//! Hostile, broken and slow clients.

use super::*;
use http::uri::PathAndQuery;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

#[test]
fn oversized_requests_are_refused_and_the_next_is_served() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let big = "a".repeat(10 * 1024 * 1024);
    for door in ["http", "grpc", "tokens", "admin"] {
        let reply = raw(up.listen[door], format!("GET / HTTP/1.1\r\nHost: x\r\nX-Big: {big}\r\n\r\n").as_bytes());
        assert!(matches!(reply.status, 0 | 400 | 431), "{door}: {}", reply.status);
    }
    let token = format!("Bearer {}", "a".repeat(1024 * 1024));
    assert!(matches!(up.forward_auth("GET", HOST, "/orders", &[("Authorization", &token)]).status, 0 | 431));
    let form = format!("subject_token={}", &token["Bearer ".len()..]);
    let typed = [("Host", "x"), ("Content-Type", "application/x-www-form-urlencoded")];
    let exchanged = request(up.listen["tokens"], "POST", "/token", &typed, &form);
    assert!(matches!(exchanged.status, 0 | 400), "{}", exchanged.status);
    for bytes in [
        &b"\x00\x01\x02\xff\r\n\r\n"[..],
        b"GET /forward-auth HTTP/1.1\r\n\r\n",
        b"GET http://a/forward-auth HTTP/1.1\r\nHost: b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense",
    ] {
        let reply = raw(up.listen["http"], [bytes, b"x\r\nConnection: close\r\n\r\n"].concat().as_slice());
        assert_ne!(reply.status, 200);
    }
    assert_eq!(up.forward_auth("GET", HOST, "/healthz", &[]).status, 200);
    assert!(up.resident() < 200_000, "{} kB", up.resident());
}

#[test]
fn shutdown_answers_requests_in_flight() {
    let mut up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let mut stream = TcpStream::connect(up.listen["http"]).unwrap();
    let head = "POST /access/v1/evaluation HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    // the server started to read the request
    let mut begun = [0; 25];
    stream.read_exact(&mut begun).unwrap();
    assert!(begun.starts_with(b"HTTP/1.1 100 Continue"));
    let done = std::thread::spawn(move || {
        // the server is shutting down and waits for the rest of the request
        std::thread::sleep(std::time::Duration::from_millis(300));
        stream.write_all(b"{}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let (code, took) = up.interrupt();
    assert_eq!(code, Some(0));
    assert!(took < std::time::Duration::from_secs(10));
    assert!(done.join().unwrap().starts_with("HTTP/1.1 400"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_check_is_denied() {
    use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let mut client = envoy(&up).await;
    let names = |count: usize| {
        let header =
            |number| HeaderValue { key: format!("a{number:x}"), raw_value: b"1".to_vec(), ..HeaderValue::default() };
        Some(HeaderMap { headers: (0..count).map(header).collect() })
    };
    let with = |change: &dyn Fn(&mut HttpRequest)| {
        let mut check = check_request("GET", HOST, "/healthz", &[]);
        change(check.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap());
        check
    };
    let header = |name: &str, value: &str| check_request("GET", HOST, "/healthz", &[(name, value)]);
    let checks = [
        header("authorization", &format!("Bearer {}", "a".repeat(1 << 20))),
        // over 1 MiB, as with Envoy's `with_request_body`
        with(&|http| http.body = "x".repeat(3 << 19)),
        // more names than a header map can hold
        with(&|http| http.header_map = names(40_000)),
        with(&|http| http.fragment = "x".to_owned()),
        header(":path", "/orders"),
        header(":method", "DELETE"),
        header(":authority", "trial.shop.svc"),
        header("host", "trial.shop.svc"),
        header("a b", "c"),
        header("a", "b\r\nc"),
        check_request("GET", "trial.shop.svc", "/x", &[(":authority", HOST)]),
    ];
    let count = checks.len();
    for check in checks {
        let summary: String = format!("{check:?}").chars().take(400).collect();
        let answer = client.check(check).await.unwrap_or_else(|error| panic!("{error}: {summary}")).into_inner();
        assert!(matches!(answer.http_response, Some(HttpResponse::DeniedResponse(_))), "{summary}");
    }
    assert!(up.records(count).iter().all(|record| record["verdict"] == "deny"));
    let good = with(&|http| http.header_map = names(100));
    assert!(matches!(client.check(good).await.unwrap().into_inner().http_response, Some(HttpResponse::OkResponse(_))));
    assert_eq!(request(up.listen["grpc"], "GET", "/nothing", &[("Host", "x")], "").status, 404);
}

/// Envoy's messages as they are on the wire, where a map is a list of entries and a text is bytes. Numbers are Envoy's.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct CheckRequest {
        #[prost(message, optional, tag = "1")]
        pub attributes: Option<AttributeContext>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct AttributeContext {
        #[prost(message, optional, tag = "4")]
        pub request: Option<WireRequest>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WireRequest {
        #[prost(message, optional, tag = "2")]
        pub http: Option<HttpRequest>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HttpRequest {
        #[prost(bytes = "vec", tag = "2")]
        pub method: Vec<u8>,
        #[prost(message, repeated, tag = "3")]
        pub headers: Vec<WireEntry>,
        #[prost(bytes = "vec", tag = "4")]
        pub path: Vec<u8>,
        #[prost(bytes = "vec", tag = "5")]
        pub host: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WireEntry {
        #[prost(string, tag = "1")]
        pub key: String,
        #[prost(string, tag = "2")]
        pub value: String,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_check_is_denied() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let channel = Channel::from_shared(format!("http://{}", up.listen["grpc"])).unwrap().connect().await.unwrap();
    let mut client = Grpc::new(channel);
    let token = format!("Bearer {}", up.token("billing/billing", "orders.shop"));
    let check = |host: &str, path: &[u8], headers: &[(&str, &str)]| {
        let entry =
            |(name, value): &(&str, &str)| wire::WireEntry { key: (*name).to_owned(), value: (*value).to_owned() };
        let http = wire::HttpRequest {
            method: b"GET".to_vec(),
            headers: headers.iter().map(entry).collect(),
            path: path.to_vec(),
            host: host.as_bytes().to_vec(),
        };
        let request = Some(wire::WireRequest { http: Some(http) });
        wire::CheckRequest { attributes: Some(wire::AttributeContext { request }) }
    };
    let authorization = ("authorization", token.as_str());
    for (check, passes) in [
        (check(HOST, b"/orders", &[authorization]), true),
        (check(HOST, b"/orders", &[authorization, authorization]), false),
        (check(HOST, b"/orders", &[authorization, (":path", "/orders"), (":path", "/orders")]), true),
        (check(HOST, b"/orders", &[authorization, (":path", "/orders"), (":path", "/admin")]), false),
        // this service allows every request, but ambiguous requests belong to no service
        (check("trial.shop.svc", b"/x", &[]), true),
        (check("trial.shop.svc", b"/\xff", &[]), false),
        (check("trial.shop.svc", b"/x", &[("", "c")]), false),
    ] {
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/envoy.service.auth.v3.Authorization/Check");
        let codec = ProstCodec::<wire::CheckRequest, CheckResponse>::default();
        let answer = client.unary(tonic::Request::new(check.clone()), path, codec).await.unwrap().into_inner();
        assert_eq!(matches!(answer.http_response, Some(HttpResponse::OkResponse(_))), passes, "{check:?}");
    }
}

/// An application may read such a header if its proxy passes it on; only the door can refuse it.
#[tokio::test(flavor = "multi_thread")]
async fn a_contradicting_path_header_is_refused() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let mut client = envoy(&up).await;
    for name in ["x-original-url", "x-rewrite-url"] {
        for (stdout_text, status) in [("/healthz", 200), ("/admin", 403)] {
            let header = vec![(name.to_owned(), stdout_text.as_bytes().to_vec())];
            assert_eq!(by_check(&mut client, "/healthz", header).await.0, status, "{name}: {stdout_text} at ext_authz");
        }
    }
    // forward auth reads the other header as a full URL
    for (stdout_text, status) in [("/healthz", 200), ("/admin", 403)] {
        let reply = up.forward_auth("GET", HOST, "/healthz", &[("x-rewrite-url", stdout_text)]);
        assert_eq!(reply.status, status, "{stdout_text} at forward auth");
    }
}

#[test]
fn connection_headers_cannot_drop_decisive_headers() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    for (named, status) in
        [("x-durward-principal", 403), ("te, X-Original-URI", 403), ("authorization", 403), ("keep-alive, te", 200)]
    {
        assert_eq!(up.forward_auth("GET", HOST, "/healthz", &[("Connection", named)]).status, status, "{named}");
    }
}

#[test]
fn silent_connections_time_out() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let began = std::time::Instant::now();
    let silent = ["", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"].map(|bytes| {
        let mut stream = TcpStream::connect(up.listen["http"]).unwrap();
        stream.set_read_timeout(Some(durward_tests::TIMEOUT)).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream
    });
    for mut stream in silent {
        // any error except the time-out means that the connection is closed
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(!matches!(ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(15));
}
