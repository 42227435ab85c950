//! Challenges at the doors and through proxies, and the rights of the new token.

use durward_tests::gate;
use durward_tests::passkey;
use durward_tests::passkey::exchange_from;
use durward_tests::proxies;
use durward_tests::step_up;
use durward_tests::step_up::FormBrowser;
use durward_tests::tokens::{IssuerKey, manifests};
use durward_tests::{HttpReply, UpProcess, eventually, repository, request, run};
use envoy_types::ext_authz::v3::pb::{CheckRequest, HttpResponse};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::{Value, json};

const HOST: &str = "orders.example.com";
const HTML: &str = "text/html,application/xhtml+xml;q=0.9";

/// The orders policy, with refunds for support.
fn world(key: &IssuerKey) -> String {
    manifests(&[key])
        .replace("group: support}], scopes: [orders.write]", "group: support}], scopes: [orders.write, orders.refund]")
}

fn access_token_of(reply: &HttpReply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    body["access_token"].as_str().unwrap().to_owned()
}

/// Status, challenge headers and body.
type ChallengeResponse = (u16, [Option<String>; 4], String);
const CHALLENGE_HEADERS: [&str; 4] = ["www-authenticate", "link", "content-type", "vary"];

fn challenge_response(reply: &HttpReply) -> ChallengeResponse {
    (reply.status, CHALLENGE_HEADERS.map(|name| reply.header(name).map(ToOwned::to_owned)), reply.body.clone())
}

/// The response that `ext_authz` gives to Envoy.
async fn ext_authz(up: &UpProcess, headers: &[(&str, &str)]) -> ChallengeResponse {
    let http = HttpRequest {
        method: "POST".to_owned(),
        host: HOST.to_owned(),
        path: "/orders/7/refund".to_owned(),
        headers: headers.iter().map(|(name, value)| (name.to_lowercase(), (*value).to_owned())).collect(),
        ..HttpRequest::default()
    };
    let request = Some(Request { http: Some(http), ..Request::default() });
    let attributes = Some(AttributeContext { request, ..AttributeContext::default() });
    let mut client = AuthorizationClient::connect(format!("http://{}", up.listen["grpc"])).await.unwrap();
    let answer = client.check(CheckRequest { attributes }).await.unwrap().into_inner();
    let Some(HttpResponse::DeniedResponse(denied)) = answer.http_response else { panic!("{answer:?}") };
    let header = |name: &str| {
        let mut all = denied.headers.iter().filter_map(|option| option.header.as_ref());
        all.find(|header| header.key == name).map(|header| header.value.clone())
    };
    let status = u16::try_from(denied.status.unwrap().code).unwrap();
    (status, CHALLENGE_HEADERS.map(header), denied.body)
}

#[test]
fn challenges_pass_through_real_proxies() {
    let key = IssuerKey::rsa("one");
    let up = UpProcess::with(&[("all.yaml", &world(&key))]);
    let app = gate::RecordingApp::start();
    let nginx = proxies::nginx(&up, app.address);
    let envoy = proxies::envoy(&up, app.address);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bearer = format!("Bearer {}", key.token(&json!({})));
    let page =
        format!("http://localhost:{}/step-up?audience=orders-api&operation=refund-order", up.listen["tokens"].port());
    for accept in ["application/json", HTML] {
        let headers = [("Authorization", bearer.as_str()), ("Accept", accept)];
        let door = challenge_response(&up.forward_auth("POST", HOST, "/orders/7/refund", &headers));
        let challenge = door.1[0].clone().unwrap();
        assert!(challenge.contains(r#"error="insufficient_user_authentication""#), "{challenge}");
        assert_eq!(door.1[1], Some(format!("<{page}>; rel=\"https://durward.dev/rel/step-up\"")));
        assert!(door.2.contains(&page) || door.2.contains(&page.replace('&', "&amp;")), "{door:?}");
        assert_eq!(runtime.block_on(ext_authz(&up, &headers)), door, "ext_authz");
        assert_eq!(challenge_response(&envoy.ask("POST", "/orders/7/refund", &headers)), door, "Envoy");
        // nginx answers in JSON, with the same challenge, once
        let reply = nginx.ask("POST", "/orders/7/refund", &headers);
        let through = challenge_response(&reply);
        assert_eq!((through.0, &through.1[..2]), (door.0, &door.1[..2]), "nginx");
        assert_eq!(reply.headers.iter().filter(|(name, _)| name == "www-authenticate").count(), 1, "{reply:?}");
        let body: Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(body, json!({"error": "insufficient_user_authentication", "step_up_uri": page}));
        // pages of another origin may read the link
        for reply in [&reply, &envoy.ask("POST", "/orders/7/refund", &headers)] {
            assert_eq!(reply.header("access-control-expose-headers"), Some("link, www-authenticate"), "{reply:?}");
        }
    }
    // an invalid token gets no link to the page
    let bad = [("Authorization", "Bearer x"), ("Accept", HTML)];
    for reply in [nginx.ask("POST", "/orders/7/refund", &bad), envoy.ask("POST", "/orders/7/refund", &bad)] {
        assert_eq!((reply.status, reply.header("link")), (401, None), "{reply:?}");
    }
    assert_eq!(runtime.block_on(ext_authz(&up, &bad)).1[1], None);
    assert!(app.requests().is_empty());
}

/// A token for one service, or for one of its operations, is invalid at another service.
#[test]
fn a_stepped_up_token_is_limited_to_its_service() {
    let key = IssuerKey::rsa("one");
    let orders = world(&key).replace(
        "allowed-hosts: orders.example.com, durward.dev/allowed-audiences: orders-api",
        "allowed-hosts: 'orders.example.com, bills.example.com', durward.dev/allowed-audiences: 'orders-api, bills-api'",
    );
    let policy = orders.rsplit("---").next().unwrap();
    let bills = policy.replace("name: orders,", "name: bills,").replace("orders-api", "bills-api");
    let bills = bills.replace("orders.example.com", "bills.example.com");
    let up = UpProcess::with(&[("orders.yaml", &orders), ("bills.yaml", &bills)]);
    let first = key.token(&json!({"aud": ["orders-api", "bills-api"]}));
    let (app, codes) = FormBrowser::open(&up, &first, &[]).enrol();
    let door = |host: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        let reply = up.forward_auth("POST", host, "/orders/7/refund", &[("Authorization", &bearer)]);
        (reply.status, reply.body)
    };
    let bills = "bills.example.com";
    assert_eq!(door(bills, &first).0, 401, "requires a second factor, too");
    let all = access_token_of(&exchange_from(&up, "", &first, &[("otp", &app.code(0))]));
    let one = access_token_of(&exchange_from(
        &up,
        "",
        &first,
        &[("recovery_code", &codes[0]), ("operation", "refund-order")],
    ));
    for token in [all, one] {
        assert_eq!(door(HOST, &token).0, 200);
        assert_eq!(door(bills, &token), (401, r#"{"error":"invalid_token"}"#.to_owned()));
        // the other service can't exchange it either
        let fields = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("subject_token", token.as_str()),
            ("audience", "bills-api"),
        ];
        let reply = passkey::post(&up, "/token", &fields);
        assert!(reply.status == 400 && reply.body.contains("the subject is not accepted"), "{reply:?}");
    }
}

/// People whose issuer asserts no second factor approve with a token from our page, unless it is for one operation.
#[test]
fn a_stepped_up_token_can_approve() {
    let key = IssuerKey::rsa("one");
    let policies = world(&key).replace(
        "scopes: [orders.write]}\n",
        "scopes: [orders.write], risk: High, approval: {by: [{provider: corporate, group: oncall}]}}\n",
    );
    let policies = policies
        .replace("scopes: [orders.read, orders.refund]}", "scopes: [orders.read, orders.refund, orders.write]}");
    let up = UpProcess::with(&[("all.yaml", &policies)]);
    let ask = || {
        let evaluation_request = json!({
            "subject": {"type": "workload", "id": "spiffe://cluster.local/ns/billing/sa/billing", "properties": {"assurance": "ProofOfPossession"}},
            "action": {"name": "create-order"}, "resource": {"type": "orders-api", "id": "1"}, "context": {"explain": true},
        });
        up.authzen("/access/v1/evaluation", &evaluation_request).1
    };
    let name = ask()["context"]["approval"].as_str().unwrap_or_else(|| panic!("{}", ask())).to_owned();
    let file = up.state.join("approvals").join(name.replace('/', ".") + ".json");
    eventually("the object", || file.exists().then_some(())).unwrap();

    let first = key.token(&json!({"sub": "olga", "groups": ["oncall", "support"]}));
    let (app, codes) = FormBrowser::open(&up, &first, &[]).enrol();
    let approve = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Host", "durward"), ("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
        let path = format!("/approvals/{name}");
        let reply = request(up.listen["tokens"], "POST", &path, &headers, r#"{"decision":"approve"}"#);
        (reply.status, reply.header("www-authenticate").unwrap_or_default().to_owned())
    };
    let challenged = |(status, challenge_response): (u16, String)| {
        status == 401 && challenge_response.contains("insufficient_user_authentication")
    };
    // the endpoint has no object until it reads it
    eventually("the challenge", || challenged(approve(&first)).then_some(())).unwrap();
    let operation = [("recovery_code", codes[0].as_str()), ("operation", "refund-order")];
    let bound = access_token_of(&exchange_from(&up, "", &first, &operation));
    assert!(challenged(approve(&bound)), "valid for one operation only");
    let token = access_token_of(&exchange_from(&up, "", &first, &[("otp", &app.code(0))]));
    assert_eq!(approve(&token).0, 200);
    eventually("the approval", || (ask()["decision"] == true).then_some(())).unwrap();
    let record = up.record("it", |record| record["event"] == "approval" && record["outcome"] == "approved");
    assert_eq!(record["by"], "user:corporate/olga");
}

/// Guesses at recovery codes are throttled by address and don't affect the person.
#[test]
fn recovery_code_guesses_are_throttled_by_address() {
    let key = IssuerKey::rsa("one");
    let up = UpProcess::with(&[("all.yaml", &world(&key))]);
    let first = key.token(&json!({}));
    let (app, codes) = FormBrowser::open(&up, &first, &[]).enrol();
    let exchange_status = |address: &str, factor: (&str, &str)| exchange_from(&up, address, &first, &[factor]).status;
    let wrong = ("recovery_code", "aaaa-aaaa-aaaa-aaaa");
    let statuses: Vec<_> = (0..22).map(|_| exchange_status("203.0.113.9", wrong)).collect();
    assert_eq!(statuses, [vec![400; 20], vec![429; 2]].concat());
    assert_eq!(
        exchange_status("203.0.113.9", ("recovery_code", &codes[0])),
        429,
        "a correct code is not checked either"
    );
    assert_eq!(exchange_status("192.0.2.7", ("recovery_code", &codes[0])), 200);
    assert_eq!(exchange_status("192.0.2.7", ("otp", &app.code(0))), 200);
    // the stored state reveals no code
    let stored = std::fs::read_dir(up.state.join("second-factors")).unwrap();
    let stored: String = stored.map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    assert!(stored.contains("recoveryCodes"));
    assert!(codes.iter().all(|code| !stored.contains(code) && !stored.contains(&code.replace('-', ""))));
}

/// Only a trusted proxy can state the address: a header gives callers no further guesses.
#[test]
fn callers_cannot_choose_the_throttled_address() {
    let key = IssuerKey::rsa("one");
    let up = UpProcess::start(&[("all.yaml", &world(&key))], &["--trusted-proxy", "192.0.2.1"]);
    let statuses: Vec<_> = (0..22)
        .map(|number| {
            let token = key.token(&json!({"sub": format!("guest-{number}")}));
            exchange_from(&up, &format!("198.51.100.{number}"), &token, &[("otp", "123456")]).status
        })
        .collect();
    assert_eq!(statuses, [vec![400; 20], vec![429; 2]].concat());
}

/// A passkey's answer is bound to the page's origin, even if all else is valid.
#[test]
fn a_passkey_answer_for_another_origin_is_refused() {
    let key = IssuerKey::rsa("one");
    let up = UpProcess::with(&[("all.yaml", &world(&key))]);
    let first = key.token(&json!({}));
    let mut visit = FormBrowser::open(&up, &first, &[]);
    passkey::add(&up, &mut visit);
    let port = up.listen["tokens"].port();
    let own = format!("http://localhost:{port}");
    let others = [
        "https://evil.example".to_owned(),
        format!("http://localhost.evil.example:{port}"),
        format!("http://evil.localhost:{port}"),
        format!("https://localhost:{port}"),
        "http://localhost:1".to_owned(),
        format!("http://127.0.0.1:{port}"),
    ];
    for origin in others.iter().chain([&own]) {
        let options = passkey::challenge(&up, &first);
        let answer = passkey::authenticator_response_for(origin, "get", &up, &options, 5, &[]);
        let reply = passkey::exchange(&up, &first, &answer);
        let expected = if *origin == own { 200 } else { 400 };
        assert_eq!(reply.status, expected, "{origin}: {reply:?}");
    }
    let refused = |record: &Value| record["reason"].as_str().is_some_and(|reason| reason.contains("origin"));
    up.record("the refusal", refused);
}

/// A stolen first token can neither read nor confirm the secret of an app that the person is enrolling.
#[test]
fn a_pending_secret_is_sent_to_its_owner_only() {
    let key = IssuerKey::rsa("one");
    let up = UpProcess::with(&[("all.yaml", &world(&key))]);
    let first = key.token(&json!({}));
    let mut person = FormBrowser::open(&up, &first, &[]);
    person.submit("/step-up/totp", &[]);
    let secret = person.between("<code id=\"secret\">", "</code>");
    let right = step_up::AuthenticatorApp::new(&secret).code(0);
    let mut thief = FormBrowser::open(&up, &first, &[]);
    let sealed = thief.visit();
    for code in ["000000", right.as_str(), ""] {
        let reply = thief.send("/step-up/totp/confirm", &[("visit", &sealed), ("otp", code)]);
        assert!(reply.status == 400 && !reply.body.contains(&secret), "{code}: {reply:?}");
        assert!(!reply.body.contains("<svg") && !reply.body.contains("Recovery codes"), "{code}: {reply:?}");
    }
    // after a typing error the page repeats the secret, and the person can confirm it
    person.submit("/step-up/totp/confirm", &[("otp", "00000x")]);
    assert!(person.page.status == 400 && person.page.body.contains(&secret), "{:?}", person.page);
    person.submit("/step-up/totp/confirm", &[("otp", &right)]);
    assert!(person.page.status == 200 && person.page.body.contains("Recovery codes"), "{:?}", person.page);
}

/// Runs the commands of the document for clients without a browser.
#[test]
fn the_token_exchange_document_runs() {
    let key = IssuerKey::rsa("one");
    let up = UpProcess::with(&[("all.yaml", &world(&key))]);
    let first = key.token(&json!({}));
    let mut visit = FormBrowser::open(&up, &first, &[]);
    let (app, _) = visit.enrol();
    passkey::add(&up, &mut visit);
    let document = std::fs::read_to_string(repository("docs/step-up.md")).unwrap();
    let blocks: Vec<&str> = document.split("```bash\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [exchange, challenge] = blocks[..] else { panic!("two: {blocks:?}") };
    let listener = up.listen["tokens"].to_string();
    let output = |commands: &str| -> Value {
        let commands = commands.replace("127.0.0.1:8182", &listener);
        let mut bash = std::process::Command::new("bash");
        let (code, stdout, stderr) = run(bash.args(["-euc", &commands]).env("TOKEN", &first));
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    };
    let token = output(&exchange.replace("123456", &app.code(0)));
    let bearer = format!("Bearer {}", token["access_token"].as_str().unwrap());
    let refunded = up.forward_auth("POST", HOST, "/orders/7/refund", &[("Authorization", &bearer)]);
    assert_eq!(refunded.status, 200, "{token}");
    assert_eq!(output(challenge)["publicKey"]["rpId"], "localhost");
}
