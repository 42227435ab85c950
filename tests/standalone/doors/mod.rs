//! The doors: trusted headers, responses, and paths that they never serve.

mod authzen;
mod hostile;

use durward_tests::corpus::{HOST, HeaderCase, POLICY, RequestCase, corpus, request_cases};
use durward_tests::{UpProcess, raw, request};
use envoy_types::ext_authz::v3::pb::{CheckRequest, CheckResponse, HttpResponse};
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use tonic::transport::Channel;

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

/// The doors whose protocol can carry a case unchanged.
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
    let cases = request_cases();
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
        // the subject is authenticated and has no grant
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
        // the caller's own is overwritten
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
    // a public operation names no one, in all five headers, so that a proxy overwrites the caller's own
    let public = up.forward_auth("GET", HOST, "/healthz", &spoofed);
    for name in ["x-durward-principal", "x-durward-scopes", "x-durward-assurance"] {
        assert_eq!(public.header(name), Some(""), "{name}");
    }
    assert_eq!(public.header("x-durward-operation"), Some("health"));
    assert!(public.header("x-durward-decision").is_some_and(|id| !id.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_removes_identity_headers_of_callers() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let mut client = envoy(&up).await;
    let spoofed = [("x-durward-principal", "user:corporate/root")];
    let answer = client.check(check_request("GET", HOST, "/healthz", &spoofed)).await.unwrap().into_inner();
    let Some(HttpResponse::OkResponse(ok)) = answer.http_response else { panic!("{answer:?}") };
    for name in ["x-durward-principal", "x-durward-scopes", "x-durward-assurance"] {
        let mut set = ok.headers.iter().map(|option| option.header.as_ref().unwrap());
        assert!(set.any(|header| header.key == name && header.value.is_empty()), "{name}: {ok:?}");
    }
    assert!(ok.headers_to_remove.iter().any(|removed| removed == "x-http-method-override"), "{ok:?}");
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
    // the header is overwritten, never appended to the caller's value
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

#[tokio::test(flavor = "multi_thread")]
async fn ext_authz_believes_addresses_from_trusted_peers_only() {
    for (flags, source) in [(&[][..], "10.1.1.1"), (&["--trusted-proxy", "10.0.0.0/8"], "127.0.0.1")] {
        let up = UpProcess::start(&[("shop.yaml", POLICY)], flags);
        let mut check = check_request("GET", HOST, "/healthz", &[]);
        let socket = SocketAddress { address: "10.1.1.1".to_owned(), ..SocketAddress::default() };
        let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
        check.attributes.as_mut().unwrap().source = Some(Peer { address, ..Peer::default() });
        envoy(&up).await.check(check).await.unwrap();
        assert_eq!(up.records(1)[0]["request"]["source"], source, "{flags:?}");
    }
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
fn audit_mode_records_and_allows() {
    let up = UpProcess::with(&[("shop.yaml", POLICY)]);
    let token = format!("Bearer {}", up.token("reports/nightly", "trial.shop"));
    assert_eq!(up.forward_auth("GET", "trial.shop.svc", "/x", &[]).status, 200);
    let known = up.forward_auth("GET", "trial.shop.svc", "/x", &[("Authorization", &token)]);
    assert_eq!(
        (known.status, known.header("x-durward-principal"), known.header("x-durward-scopes")),
        (200, Some("spiffe://cluster.local/ns/reports/sa/nightly"), Some(""))
    );
    let records = up.records(2);
    assert_eq!(
        (&records[0]["verdict"], &records[0]["mode"], &records[0]["reason"]),
        (&json!("deny"), &json!("Audit"), &json!("Unauthenticated"))
    );
    assert_eq!((&records[1]["verdict"], &records[1]["missing"]), (&json!("deny"), &json!(["trial"])));
}
