//! The admin listener: its callers, and that no other listener allows administration.

use durward_tests::gate::{GateFixture, RecordingApp};
use durward_tests::tokens::{IssuerKey, manifests};
use durward_tests::{HttpReply, UpProcess, durward, request, run};
use envoy_types::ext_authz::v3::pb::{CheckRequest, HttpResponse};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::{Value, json};

/// The audience of administration.
const AUDIENCE: &str = "durward-admin";
const OPERATOR: &str = "durward-system/admin";

fn ask(up: &UpProcess, door: &str, path: &str, headers: &[(&str, &str)]) -> HttpReply {
    request(up.listen[door], "GET", path, &[&[("Host", "durward-admin")], headers].concat(), "")
}

#[test]
fn only_workloads_named_by_the_policy_reach_the_admin_listener() {
    let issuer = IssuerKey::rsa("k1");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("acme.yaml");
    let mint = ["mint", "api-key", "--provider", "partners", "--name", "acme", "--out"];
    let (_, key, _) = run(durward().args(mint).arg(&file));
    // a namespace that may claim any audience, and a policy that opens administration to every caller
    let shop = manifests(&[&issuer])
        .replace("allowed-audiences: orders-api", "allowed-audiences: 'orders-api, durward-admin'");
    let greedy = r#"
apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {name: greedy, namespace: shop}
spec:
  service: {audience: durward-admin, hosts: [durward-admin.shop.svc]}
  authentication: [{workload: {}}, {provider: corporate}, {provider: partners}]
  operations: [{name: read-snapshot, public: true, http: [{methods: ["*"], paths: ["/*"]}]}]
"#;
    let up = UpProcess::with(&[
        ("shop.yaml", &shop),
        ("greedy.yaml", greedy),
        ("acme.yaml", &std::fs::read_to_string(&file).unwrap()),
    ]);
    up.wait_for_stderr("`durward-admin` is reserved for Durward's own administration");
    let bearer = |token: String| format!("Bearer {token}");
    let operator = bearer(up.token(OPERATOR, AUDIENCE));
    let authorization = |value: &str| ask(&up, "admin", "/snapshot", &[("Authorization", value)]);
    assert_eq!(authorization(&operator).status, 200);
    let cases = [
        ("no credential", ask(&up, "admin", "/snapshot", &[]), 401, "Unauthenticated"),
        (
            "a token for users' services",
            authorization(&bearer(up.token(OPERATOR, "orders-api"))),
            401,
            "Unauthenticated",
        ),
        (
            "a token of a person",
            authorization(&bearer(issuer.token(&json!({"aud": AUDIENCE})))),
            401,
            "Unauthenticated",
        ),
        ("an API key", ask(&up, "admin", "/snapshot", &[("x-api-key", key.trim())]), 401, "Unauthenticated"),
        ("another workload", authorization(&bearer(up.token("billing/billing", AUDIENCE))), 403, "InsufficientScope"),
        (
            "a forwarded client certificate",
            ask(
                &up,
                "admin",
                "/snapshot",
                &[("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/durward-system/sa/admin")],
            ),
            401,
            "Unauthenticated",
        ),
    ];
    let records = up.records(1 + cases.len());
    for ((what, reply, status, reason), record) in cases.into_iter().zip(&records[1..]) {
        assert_eq!(reply.status, status, "{what}: {reply:?}");
        assert!(!reply.body.contains("orders"), "{what}: {reply:?}");
        assert_eq!((&record["door"], &record["reason"]), (&json!("admin"), &json!(reason)), "{what}: {record}");
    }
    // the policy declares other methods only
    let post = request(up.listen["admin"], "POST", "/snapshot", &[("Host", "x"), ("Authorization", &operator)], "{}");
    assert_eq!(post.status, 403, "{post:?}");
    // the policy does not declare the path
    assert_eq!(ask(&up, "admin", "/nothing", &[("Authorization", &operator)]).status, 404);
    // kubelet, and by default Prometheus, need no credential
    for open in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(ask(&up, "admin", open, &[]).status, 200, "{open}");
    }
    // a replay skips decisions of this listener: their policy is not in the directory
    let mut replay = durward();
    let (code, stdout, stderr) =
        run(replay.args(["audit", "replay"]).arg(&up.audit).arg("--policies").arg(&up.manifests));
    assert!(stdout.contains("0 decided differently, 0 lines unreadable"), "{stdout}{stderr}");
    assert_eq!(code, 2, "the manifest that the engine rejected makes a replay incomplete: {stdout}{stderr}");
}

#[test]
fn metrics_can_require_a_credential() {
    let up = UpProcess::start(&[], &["--closed-metrics"]);
    assert_eq!(ask(&up, "admin", "/metrics", &[]).status, 401);
    let token = format!("Bearer {}", up.token(OPERATOR, AUDIENCE));
    assert!(ask(&up, "admin", "/metrics", &[("Authorization", &token)]).body.ends_with("# EOF\n"));
    assert_eq!(ask(&up, "admin", "/readyz", &[]).status, 200);
}

#[test]
fn a_custom_admin_policy_replaces_the_built_in_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("admin.yaml");
    let policy = include_str!("../../crates/doors/src/admin/policy.yaml")
        .replace("namespace: durward-system, name: admin", "namespace: ops, name: console");
    std::fs::write(&file, policy).unwrap();
    let up = UpProcess::start(&[], &["--admin-policy", file.to_str().unwrap()]);
    let status = |account: &str| {
        let token = format!("Bearer {}", up.token(account, AUDIENCE));
        ask(&up, "admin", "/snapshot", &[("Authorization", &token)]).status
    };
    assert_eq!((status("ops/console"), status(OPERATOR)), (200, 403));

    std::fs::write(&file, "kind: AccessPolicy").unwrap();
    let mut up = durward();
    up.arg("up")
        .arg(directory.path())
        .arg("--admin-policy")
        .arg(&file)
        .arg("--state")
        .arg(directory.path().join("state"));
    for door in ["http", "https", "grpc", "grpcs", "tokens", "tokens-tls", "admin"] {
        up.args([format!("--{door}"), "127.0.0.1:0".to_owned()]);
    }
    let (code, _, stderr) = run(&mut up);
    assert_eq!(code, 2);
    assert!(stderr.contains("the admin listener's policy") && stderr.contains("admin.yaml"), "{stderr}");
}

/// A `durward up` whose operator may administer at the admin listener, and the operator's token.
fn with_operator() -> (UpProcess, String) {
    let up = UpProcess::with(&[("shop.yaml", durward_tests::corpus::POLICY)]);
    let token = up.token(OPERATOR, AUDIENCE);
    (up, token)
}

#[test]
fn user_facing_listeners_do_not_serve_administration() {
    let (up, token) = with_operator();
    // a client with the CA of `up`
    let tls = GateFixture::of(&up).caller(None);
    let bearer = format!("Bearer {token}");
    let headers = [("Host", "localhost"), ("Authorization", bearer.as_str())];
    for (_, method, path) in administration() {
        for door in ["http", "https", "grpc", "grpcs", "tokens", "tokens_tls"] {
            let reply = match door {
                "https" | "grpcs" | "tokens_tls" => tls.request(up.listen[door], &method, &path, &headers),
                _ => request(up.listen[door], &method, &path, &headers, ""),
            };
            let is_grpc = reply.header("content-type") == Some("application/grpc");
            assert!(reply.status == 404 || is_grpc && door.starts_with("grpc"), "{path} at {door}: {reply:?}");
            assert_eq!(reply.body, "", "{path} at {door}");
        }
    }
}

#[test]
fn proxies_and_gates_do_not_allow_administration() {
    let (up, token) = with_operator();
    let fixture = GateFixture::new(durward_tests::corpus::POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let caller = fixture.caller(Some(OPERATOR));
    let bearer = format!("Bearer {token}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (_, method, path) in administration() {
        for host in ["durward-admin", "durward-admin.durward-system.svc", "durward"] {
            let reply = up.forward_auth(&method, host, &path, &[("Authorization", &bearer)]);
            assert_eq!(reply.status, 403, "{host}{path}: {reply:?}");
            assert_eq!(runtime.block_on(envoy(&up, &method, host, &path, &bearer)), 403, "{host}{path}");
            let through = caller.request(gate.address(), &method, &path, &[("Host", host)]);
            assert_ne!(through.status, 200, "{host}{path}: {through:?}");
        }
    }
    assert!(app.requests().is_empty(), "{:?}", app.requests());
}

#[test]
fn authzen_does_not_allow_administration() {
    let (up, _) = with_operator();
    let subject = json!({
        "type": "workload", "id": "spiffe://cluster.local/ns/durward-system/sa/admin",
        "properties": {"assurance": "ProofOfPossession"},
    });
    let finds_nothing = |search: &str, query: &Value| {
        let (status, found) = up.authzen(search, query);
        assert!(status != 200 || found["results"] == json!([]), "{query}: {found}");
    };
    for (operation, method, path) in administration() {
        let named = json!({"action": {"name": operation}, "resource": {"type": AUDIENCE, "id": "x"}});
        let url = json!({"action": {"name": method}, "resource": {"type": "http", "id": format!("https://{AUDIENCE}{path}")}});
        for mut query in [named, url] {
            query["subject"] = subject.clone();
            assert_eq!(up.authzen("/access/v1/evaluation", &query), (200, json!({"decision": false})), "{query}");
            query["subject"] = json!({"type": "workload"});
            finds_nothing("/access/v1/search/subject", &query);
        }
    }
    let all = json!({"subject": subject, "resource": {"type": AUDIENCE, "id": "x"}});
    finds_nothing("/access/v1/search/action", &all);
}

#[test]
fn the_token_listener_does_not_allow_administration() {
    let (up, token) = with_operator();
    let bearer = format!("Bearer {token}");
    // no approval can be requested
    for (operation, _, _) in administration() {
        let approval = json!({"audience": AUDIENCE, "operation": operation}).to_string();
        let headers = [("Host", "x"), ("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
        let reply = request(up.listen["tokens"], "POST", "/approvals", &headers, &approval);
        assert_eq!(reply.status, 401, "{reply:?}");
    }
    // no token can be exchanged
    let body = format!(
        "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:ietf:params:oauth:token-type:jwt&audience={AUDIENCE}&subject_token={token}"
    );
    let form = [("Host", "x"), ("Content-Type", "application/x-www-form-urlencoded")];
    let reply = request(up.listen["tokens"], "POST", "/token", &form, &body);
    assert_eq!((reply.status, reply.body.as_str()), (400, r#"{"error":"invalid_target"}"#));
    // no second factor can be proved
    let page = format!("/step-up?audience={AUDIENCE}");
    assert_eq!(ask(&up, "tokens", &page, &[("Authorization", &bearer)]).status, 401);
}

/// Name, method and path of each administrative operation of the policy.
fn administration() -> Vec<(String, String, String)> {
    let policy: Value = serde_saphyr::from_str(include_str!("../../crates/doors/src/admin/policy.yaml")).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let operations = policy["spec"]["operations"].as_array().unwrap();
    let each = operations.iter().map(|operation| {
        let http = &operation["http"][0];
        (text(&operation["name"]), text(&http["methods"][0]), text(&http["paths"][0]))
    });
    let all: Vec<_> = each.collect();
    assert!(all.len() >= 2, "{all:?}");
    all
}

/// The status from `ext_authz`.
async fn envoy(up: &UpProcess, method: &str, host: &str, path: &str, token: &str) -> i32 {
    let http = HttpRequest {
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        headers: [("authorization".to_owned(), token.to_owned())].into(),
        ..HttpRequest::default()
    };
    let request = Some(Request { http: Some(http), ..Request::default() });
    let attributes = Some(AttributeContext { request, ..AttributeContext::default() });
    let mut client = AuthorizationClient::connect(format!("http://{}", up.listen["grpc"])).await.unwrap();
    let answer = client.check(CheckRequest { attributes }).await.unwrap().into_inner();
    match answer.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied.status.unwrap().code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_administration_document_runs() {
    let document = std::fs::read_to_string(durward_tests::repository("docs/doors.md")).unwrap();
    let commands = document.split("```bash\n").nth(1).unwrap().split("```").next().unwrap();
    let up = UpProcess::with(&[("shop.yaml", durward_tests::corpus::POLICY)]);
    let mut bash = std::process::Command::new("bash");
    bash.args(["-euc", commands]).env("PATH", durward_tests::path_with_program()).env("DURWARD_STATE", &up.state);
    let (code, stdout, stderr) = run(bash.env("ADMIN", up.listen["admin"].to_string()));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("\"audience\":\"orders.shop\""), "{stdout}");
}
