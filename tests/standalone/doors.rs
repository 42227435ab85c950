//! The doors: what they trust, how they answer, what they never serve.

use durward_tests::corpus::{HOST, HeaderCase, POLICY, RequestCase, corpus};
use durward_tests::{UpProcess, raw, request};
use envoy_types::ext_authz::v3::pb::{CheckRequest, CheckResponse, HttpResponse};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use http::uri::PathAndQuery;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

fn check_request(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> CheckRequest {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let http = HttpRequest {
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        headers,
        ..HttpRequest::default()
    };
    let request = Some(Request { http: Some(http), ..Request::default() });
    CheckRequest { attributes: Some(AttributeContext { request, ..AttributeContext::default() }) }
}

async fn envoy(up: &UpProcess) -> AuthorizationClient<Channel> {
    AuthorizationClient::connect(format!("http://{}", up.listen["grpc"])).await.unwrap()
}

/// The doors whose protocol can carry a case as it stands.
fn doors(case: &RequestCase) -> Vec<&'static str> {
    let text = |text: &str| text.bytes().all(|b| (0x20..0x7f).contains(&b)) && text.trim() == text;
    // a URL's path begins with a slash
    let doors = [
        ("ext_authz", true),
        ("forward_auth", text(&case.path) && text(&case.method)),
        ("authzen", case.path.starts_with('/')),
    ];
    doors.into_iter().filter(|(_, carries)| *carries).map(|(door, _)| door).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_reads_a_request_alike() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let mut client = envoy(&up).await;
    let cases: Vec<RequestCase> = corpus("requests.yaml");
    assert!(cases.len() > 50);
    let mut requests_sent = Vec::new();
    for case in &cases {
        for door in doors(case) {
            match door {
                "ext_authz" => {
                    drop(client.check(check_request(&case.method, &case.host, &case.path, &[])).await.unwrap())
                }
                "forward_auth" => drop(up.forward_auth(&case.method, &case.host, &case.path, &[])),
                _ => drop(up.authzen(
                    "/access/v1/evaluation",
                    &json!({
                        "subject": {"type": "workload", "id": "spiffe://cluster.local/ns/x/sa/y"},
                        "action": {"name": case.method},
                        "resource": {"type": "http", "id": format!("http://{}{}", case.host, case.path)},
                    }),
                )),
            }
            requests_sent.push((case, door));
        }
    }
    for ((case, door), record) in requests_sent.iter().zip(up.records(requests_sent.len())) {
        assert_eq!(record["door"], *door);
        // the subject is authenticated, and has no grant
        let expected =
            if *door == "authzen" && case.reason == "Unauthenticated" { "InsufficientScope" } else { &case.reason };
        assert_eq!(record["reason"], expected, "{case:?} at {door}");
        assert_eq!(record["verdict"] == "allow", case.reason == "Public", "{case:?} at {door}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_reads_headers_alike() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let token = up.token("billing/billing", "orders.shop");
    let mut client = envoy(&up).await;
    let mut wrong = Vec::new();
    for case in corpus::<HeaderCase>("headers.yaml") {
        let headers = case.headers(&token);
        let mut requests_sent = format!(
            "GET /forward-auth HTTP/1.1\r\nHost: {HOST}\r\nX-Original-Method: GET\r\nX-Original-URI: {}\r\n",
            case.path
        )
        .into_bytes();
        for (name, value) in &headers {
            requests_sent.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        let closes = headers.iter().any(|(name, _)| name == "connection");
        requests_sent.extend(if closes { &b"\r\n"[..] } else { b"Connection: close\r\n\r\n" });
        let forward_auth = raw(up.listen["http"], &requests_sent).status;
        let (check, removed) = by_check(&mut client, &case.path, headers).await;
        // headers that are not overwritten are removed, in any spelling
        if check == 200 && !removed.iter().any(|name| name == "x-durward-principal") {
            wrong.push(format!("{}: {removed:?}", case.name));
        }
        if !case.allows(forward_auth) || !case.allows(check) {
            wrong.push(format!("{}: {forward_auth} by forward auth, {check} by ext_authz", case.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The status of a check, and the headers that Envoy removes or overwrites.
async fn by_check(
    client: &mut AuthorizationClient<Channel>,
    path: &str,
    headers: Vec<(String, Vec<u8>)>,
) -> (u16, Vec<String>) {
    use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
    let raw = |(key, raw_value)| HeaderValue { key, raw_value, ..HeaderValue::default() };
    let mut check = check_request("GET", HOST, path, &[]);
    let http = check.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    // Envoy sends names in lower case
    let headers = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
    http.header_map = Some(HeaderMap { headers: headers.map(raw).collect() });
    match client.check(check).await.unwrap().into_inner().http_response.unwrap() {
        HttpResponse::OkResponse(ok) => {
            let set = ok.headers.into_iter().map(|option| option.header.unwrap().key);
            (200, set.chain(ok.headers_to_remove).collect())
        }
        HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied) => {
            (u16::try_from(denied.status.unwrap().code).unwrap(), Vec::new())
        }
    }
}

#[test]
fn identity_headers_come_from_durward_only() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let token = format!("Bearer {}", up.token("billing/billing", "orders.shop"));
    let spoofed = [
        ("Authorization", token.as_str()),
        ("x-durward-principal", "user:corporate/root"),
        ("x-durward-scopes", "admin"),
    ];
    let reply = up.forward_auth("GET", HOST, "/orders", &spoofed);
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-durward-principal"), Some("spiffe://cluster.local/ns/billing/sa/billing"));
    assert_eq!(reply.header("x-durward-scopes"), Some("orders.read"));
    assert_eq!(reply.headers.iter().filter(|(name, _)| name.starts_with("x-durward-principal")).count(), 1);
    // many applications treat underscores like hyphens
    assert_eq!(
        up.forward_auth("GET", HOST, "/orders", &[spoofed[0], ("x_durward_principal", "user:corporate/root")]).status,
        403
    );
    // a public operation sets no identity
    assert_eq!(up.forward_auth("GET", HOST, "/healthz", &spoofed).header("x-durward-principal"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_removes_identity_headers_of_callers() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let mut client = envoy(&up).await;
    let spoofed = [("x-durward-principal", "user:corporate/root")];
    let answer = client.check(check_request("GET", HOST, "/healthz", &spoofed)).await.unwrap().into_inner();
    let Some(HttpResponse::OkResponse(ok)) = answer.http_response else { panic!("{answer:?}") };
    for name in ["x-durward-principal", "x-durward-scopes", "x-durward-assurance", "x-http-method-override"] {
        assert!(ok.headers_to_remove.iter().any(|removed| removed == name), "{name}: {ok:?}");
    }
    let token = format!("Bearer {}", up.token("billing/billing", "orders.shop"));
    let answer = client
        .check(check_request("POST", HOST, "/shop.v1.Orders/Watch", &[("authorization", &token)]))
        .await
        .unwrap()
        .into_inner();
    let Some(HttpResponse::OkResponse(ok)) = answer.http_response else { panic!("{answer:?}") };
    let set: Vec<_> = ok.headers.iter().map(|option| option.header.as_ref().unwrap()).collect();
    assert!(
        set.iter().any(|header| header.key == "x-durward-principal"
            && header.value == "spiffe://cluster.local/ns/billing/sa/billing")
    );
    // overwritten, never appended to what the caller sent
    assert!(ok.headers.iter().all(|option| option.append_action == 2), "{ok:?}");
    // an empty request is denied
    let empty = client.check(CheckRequest::default()).await.unwrap().into_inner();
    assert!(matches!(empty.http_response, Some(HttpResponse::DeniedResponse(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_offers_health_and_reflection() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response};
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let channel = Channel::from_shared(format!("http://{}", up.listen["grpc"])).unwrap().connect().await.unwrap();
    let service = "envoy.service.auth.v3.Authorization".to_owned();
    let health = HealthClient::new(channel.clone())
        .check(HealthCheckRequest { service: service.clone() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);
    let ask =
        |message| tokio_stream::once(ServerReflectionRequest { host: String::new(), message_request: Some(message) });
    let mut client = ServerReflectionClient::new(channel);
    let mut list =
        client.server_reflection_info(ask(MessageRequest::ListServices(String::new()))).await.unwrap().into_inner();
    let answer = list.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(services)) = answer else { panic!("{answer:?}") };
    assert!(services.service.iter().any(|found| found.name == service), "{services:?}");
    let mut file =
        client.server_reflection_info(ask(MessageRequest::FileContainingSymbol(service))).await.unwrap().into_inner();
    let answer: Option<server_reflection_response::MessageResponse> =
        file.message().await.unwrap().unwrap().message_response;
    assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
}

#[test]
fn only_configured_proxies_are_trusted() {
    let up = UpProcess::start(&[("shop.yaml", POLICY)], &["--trusted-proxy", "10.0.0.0/8"]);
    let reply = up.forward_auth("GET", HOST, "/healthz", &[("X-Forwarded-For", "10.1.1.1")]);
    assert_eq!(reply.status, 403, "the forwarded-request headers must be ignored");
    let record = &up.records(1)[0];
    assert_eq!(
        (&record["request"]["path"], &record["reason"], &record["request"]["source"]),
        (&json!("/forward-auth"), &json!("OperationUndeclared"), &json!("127.0.0.1"))
    );
}

#[test]
fn headers_cannot_switch_to_a_lenient_service() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    // a client names a service whose policy only audits, in a header that its proxy does not overwrite
    for header in [
        ("X-Original-URL", "http://trial.shop.svc/orders"),
        ("X-Original-Host", "trial.shop.svc"),
        ("X-Forwarded-Host", "trial.shop.svc"),
    ] {
        let reply = up.forward_auth("GET", HOST, "/orders", &[header]);
        assert_eq!(reply.status, 403, "nginx, {header:?}");
        let traefik = [
            ("Host", "durward"),
            ("X-Forwarded-Method", "GET"),
            ("X-Forwarded-Host", HOST),
            ("X-Forwarded-Uri", "/orders"),
            header,
        ];
        let reply = request(up.listen["http"], "GET", "/forward-auth", &traefik, "");
        assert_eq!(reply.status, 403, "Traefik, {header:?}");
    }
    assert!(up.records(6).iter().all(|record| record["reason"] == "AmbiguousPath" && record["mode"] == "Enforce"));
}

#[test]
fn admin_paths_and_doors_are_separate() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let token = format!("Bearer {}", up.token("durward-system/admin", "durward-admin"));
    let operator = [("Host", "x"), ("Authorization", token.as_str())];
    for path in ["/healthz", "/readyz", "/metrics", "/snapshot"] {
        assert_eq!(request(up.listen["admin"], "GET", path, &operator, "").status, 200, "{path}");
        for door in ["http", "grpc", "tokens"] {
            let reply = request(up.listen[door], "GET", path, &operator, "");
            assert!(
                reply.status == 404 || (door == "grpc" && reply.header("content-type") == Some("application/grpc")),
                "{path} at {door}: {reply:?}"
            );
            assert_eq!(reply.body, "", "{path} at {door}");
        }
        for door in ["https", "grpcs", "tokens_tls"] {
            let url = format!("https://{}{path}", up.listen[door]);
            let bearer = format!("Authorization: {}", operator[1].1);
            let (code, status, error) = durward_tests::run(std::process::Command::new("curl").args([
                "--silent",
                "--insecure",
                "--output",
                "/dev/null",
                "--write-out",
                "%{http_code}",
                "--header",
                &bearer,
                &url,
            ]));
            assert_eq!((code, status.as_str()), (0, "404"), "{path} at {door}: {error}");
        }
    }
    for path in [
        "/forward-auth",
        "/access/v1/evaluation",
        "/.well-known/jwks.json",
        "/envoy.service.auth.v3.Authorization/Check",
    ] {
        assert_eq!(request(up.listen["admin"], "POST", path, &[("Host", "x")], "{}").status, 404, "{path}");
    }
    up.forward_auth("GET", HOST, "/healthz", &[]);
    let metrics = request(up.listen["admin"], "GET", "/metrics", &[("Host", "x")], "").body;
    assert!(
        metrics.contains(r#"durward_decisions_total{door="forward_auth",reason="Public",passed="true"} 1"#),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    let snapshot: Value =
        serde_json::from_str(&request(up.listen["admin"], "GET", "/snapshot", &operator, "").body).unwrap();
    assert_eq!(snapshot["services"][0]["audience"], "orders.shop");
}

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
    assert_eq!((unread.status, unread.header("x-request-id")), (401, Some("r-2")), "nobody reads a stranger's body");
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

#[test]
fn audit_mode_records_and_allows() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let token = format!("Bearer {}", up.token("reports/nightly", "trial.shop"));
    assert_eq!(up.forward_auth("GET", "trial.shop.svc", "/x", &[]).status, 200);
    let known = up.forward_auth("GET", "trial.shop.svc", "/x", &[("Authorization", &token)]);
    assert_eq!(
        (known.status, known.header("x-durward-principal"), known.header("x-durward-scopes")),
        (200, Some("spiffe://cluster.local/ns/reports/sa/nightly"), None)
    );
    let records = up.records(2);
    assert_eq!(
        (&records[0]["verdict"], &records[0]["mode"], &records[0]["reason"]),
        (&json!("deny"), &json!("Audit"), &json!("Unauthenticated"))
    );
    assert_eq!((&records[1]["verdict"], &records[1]["missing"]), (&json!("deny"), &json!(["trial"])));
}

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
    // the server has begun to read the request
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
        // more names than a header map holds
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
        pub request: Option<Request>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Request {
        #[prost(message, optional, tag = "2")]
        pub http: Option<HttpRequest>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct HttpRequest {
        #[prost(bytes = "vec", tag = "2")]
        pub method: Vec<u8>,
        #[prost(message, repeated, tag = "3")]
        pub headers: Vec<Entry>,
        #[prost(bytes = "vec", tag = "4")]
        pub path: Vec<u8>,
        #[prost(bytes = "vec", tag = "5")]
        pub host: Vec<u8>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Entry {
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
        let entry = |(name, value): &(&str, &str)| wire::Entry { key: (*name).to_owned(), value: (*value).to_owned() };
        let http = wire::HttpRequest {
            method: b"GET".to_vec(),
            headers: headers.iter().map(entry).collect(),
            path: path.to_vec(),
            host: host.as_bytes().to_vec(),
        };
        let request = Some(wire::Request { http: Some(http) });
        wire::CheckRequest { attributes: Some(wire::AttributeContext { request }) }
    };
    let authorization = ("authorization", token.as_str());
    for (check, passes) in [
        (check(HOST, b"/orders", &[authorization]), true),
        (check(HOST, b"/orders", &[authorization, authorization]), false),
        (check(HOST, b"/orders", &[authorization, (":path", "/orders"), (":path", "/orders")]), true),
        (check(HOST, b"/orders", &[authorization, (":path", "/orders"), (":path", "/admin")]), false),
        // this service allows everything, but ambiguous requests belong to no service
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

/// An application may obey such a header if its proxy passes it on; only the door can refuse it.
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
        // any error except the time-out also means closed
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(!matches!(ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
    }
    assert!(began.elapsed() < std::time::Duration::from_secs(15));
}
