//! Step-up: a person with a plain token proves a second factor. Attacks fail.

use durward_tests::gate;
use durward_tests::gate::{GateFixture, RecordingApp};
use durward_tests::step_up::FormBrowser;
use durward_tests::tokens;
use durward_tests::tokens::{IssuerKey, claims, door, manifests};
use durward_tests::{HttpReply, UpProcess, durward, eventually, listening, request};
use serde_json::{Value, json};
use std::net::SocketAddr;

const HOST: &str = "orders.example.com";
const ALICE: &str = "user:corporate/alice";

/// The orders policy, with refunds for support.
fn world(key: &IssuerKey, max_age: &str) -> String {
    let refund = format!("scopes: [orders.refund], risk: High, stepUp: {{maxAge: {max_age}}}}}");
    let cancel = "    - {name: cancel-order, http: [{methods: [DELETE], paths: [\"/orders/{id}\"]}], scopes: [orders.cancel], risk: High}\n";
    manifests(&[key]).replace("scopes: [orders.refund], risk: High}\n", &format!("{refund}\n{cancel}")).replace(
        "group: support}], scopes: [orders.write]",
        "group: support}], scopes: [orders.write, orders.refund, orders.cancel]",
    )
}

fn start(key: &IssuerKey) -> UpProcess {
    UpProcess::with(&[("all.yaml", &world(key, "5m"))])
}

fn post(address: SocketAddr, fields: &[(&str, &str)]) -> HttpReply {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let headers = [("Host", "durward"), ("Content-Type", "application/x-www-form-urlencoded")];
    request(address, "POST", "/token", &headers, &body)
}

/// Exchanges a first token with further parameters.
fn exchange(up: &UpProcess, token: &str, more: &[(&str, &str)]) -> HttpReply {
    exchange_at(up.listen["tokens"], token, more)
}

fn exchange_at(address: SocketAddr, token: &str, more: &[(&str, &str)]) -> HttpReply {
    let mut all = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ("subject_token", token),
        ("audience", "orders-api"),
    ];
    all.extend(more);
    post(address, &all)
}

fn access_token_of(reply: &HttpReply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    body(reply)["access_token"].as_str().unwrap().to_owned()
}

fn body(reply: &HttpReply) -> Value {
    serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
}

/// The second factors in the audit log.
fn outcomes(up: &UpProcess) -> Vec<(String, String)> {
    let all = up.records(1);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let factors = all.iter().filter(|record| record["event"] == "second-factor");
    factors.map(|record| (text(&record["outcome"]), text(&record["factor"]))).collect()
}

#[test]
fn a_step_up_is_audited_from_challenge_to_decision() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let first = key.token(&json!({}));
    assert_eq!(door(&up, "GET", "/orders/7", &first).status, 200);
    let challenge = door(&up, "POST", "/orders/7/refund", &first);
    assert_eq!(challenge.status, 401);
    let described = challenge.header("www-authenticate").unwrap();
    for part in ["insufficient_user_authentication", "urn:durward:assurance:multi-factor", r#"max_age="300""#] {
        assert!(described.contains(part), "{described}");
    }

    let mut browser = FormBrowser::open(&up, &first, &[]);
    let (app, codes) = browser.enrol();
    assert_eq!(codes.len(), 10);
    let code = app.code(0);
    let reply = exchange(&up, &first, &[("otp", &code)]);
    let token = access_token_of(&reply);
    let output = claims(&token);
    assert_eq!((&output["sub"], &output["acr"]), (&json!(ALICE), &json!("urn:durward:assurance:multi-factor")));
    assert_eq!((&output["amr"], &output["aud"]), (&json!(["mfa", "otp"]), &json!("orders-api")));
    assert!((output["auth_time"].as_i64().unwrap() - tokens::now()).abs() < 5, "{output}");
    assert!(output["exp"].as_i64().unwrap() - output["iat"].as_i64().unwrap() <= 300, "{output}");
    let refunded = door(&up, "POST", "/orders/7/refund", &token);
    assert_eq!((refunded.status, refunded.header("x-durward-assurance")), (200, Some("MultiFactor")), "{refunded:?}");
    assert_eq!(door(&up, "GET", "/orders/7", &token).status, 200, "the new token allows the same as the first token");

    // no code is accepted twice
    let again = exchange(&up, &first, &[("otp", &code)]);
    assert_eq!((again.status, again.body.as_str()), (400, r#"{"error":"invalid_grant"}"#));

    let records = up.records(8);
    assert!(records.iter().all(|record| !record.to_string().contains(&code) && !record.to_string().contains("eyJ")));
    let described = outcomes(&up);
    let described: Vec<_> = described.iter().map(|(outcome, factor)| (outcome.as_str(), factor.as_str())).collect();
    assert_eq!(described, [("enrolled", "totp"), ("proved", "totp"), ("refused", "totp")]);
    let metrics = request(up.listen["admin"], "GET", "/metrics", &[("Host", "durward")], "").body;
    assert!(metrics.contains(r#"durward_second_factors_total{outcome="proved",factor="totp"} 1"#), "{metrics}");
}

#[test]
fn every_door_challenges_authenticated_people_only() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let first = key.token(&json!({}));
    let page =
        format!("http://localhost:{}/step-up?audience=orders-api&operation=refund-order", up.listen["tokens"].port());
    let challenge = door(&up, "POST", "/orders/7/refund", &first);
    let link = format!("<{page}>; rel=\"https://durward.dev/rel/step-up\"");
    assert_eq!(challenge.header("link"), Some(link.as_str()));
    assert_eq!(body(&challenge), json!({"error": "insufficient_user_authentication", "step_up_uri": page}));

    let bearer = format!("Bearer {first}");
    let browser = [("Authorization", bearer.as_str()), ("Accept", "text/html,application/xhtml+xml;q=0.9")];
    let html = up.forward_auth("POST", HOST, "/orders/7/refund", &browser);
    assert_eq!((html.status, html.header("content-type")), (401, Some("text/html; charset=utf-8")));
    assert!(html.body.contains(&format!("href=\"{}\"", page.replace('&', "&amp;"))), "{html:?}");
    assert!(html.header("www-authenticate").is_some() && html.header("location").is_none(), "{html:?}");

    let ask = |subject: Value| {
        let statuses_of = json!({
            "subject": subject, "action": {"name": "refund-order"}, "resource": {"type": "orders-api", "id": "7"},
        });
        up.authzen("/access/v1/evaluation", &statuses_of).1
    };
    let alice = json!({"type": "user", "id": "alice", "properties": {"provider": "corporate", "groups": ["support"]}});
    let obligation = json!({"acr_values": "urn:durward:assurance:multi-factor", "max_age": 300, "step_up_uri": page});
    assert_eq!(ask(alice), json!({"decision": false, "context": obligation}));

    // unauthenticated callers and workloads get no challenge
    let wrong = [("X-API-Key", "dw_wrong")];
    for (status, headers) in [(401, &[][..]), (401, &wrong[..]), (401, &[("Authorization", "Bearer x")][..])] {
        let reply = up.forward_auth("POST", HOST, "/orders/7/refund", headers);
        assert_eq!((reply.status, reply.header("link")), (status, None), "{reply:?}");
        assert_eq!(reply.body, r#"{"error":"invalid_token"}"#);
    }
    let billing = up.token("billing/billing", "orders-api");
    let reply = door(&up, "POST", "/orders/7/refund", &billing);
    assert_eq!((reply.status, reply.header("link")), (401, None), "{reply:?}");
}

#[test]
fn a_stepped_up_token_is_limited_to_its_operation() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let first = key.token(&json!({}));
    let mut browser = FormBrowser::open(&up, &first, &[]);
    let (app, codes) = browser.enrol();
    let unknown = exchange(&up, &first, &[("otp", &app.code(0)), ("operation", "nothing")]);
    assert_eq!((unknown.status, unknown.body.as_str()), (400, r#"{"error":"invalid_target"}"#));
    let bound = access_token_of(&exchange(&up, &first, &[("otp", &app.code(0)), ("operation", "refund-order")]));
    assert_eq!(claims(&bound)["acr"], "urn:durward:assurance:multi-factor");
    assert_eq!(claims(&bound)["scope"].as_str().map(|scope| scope.contains("cancel")), Some(false));
    for (method, path, status) in
        [("POST", "/orders/7/refund", 200), ("DELETE", "/orders/7", 401), ("GET", "/orders/7", 200)]
    {
        assert_eq!(door(&up, method, path, &bound).status, status, "{method} {path}");
    }
    let last = up.record("the refusal", |record| record["operation"] == "cancel-order");
    assert_eq!((&last["principal"]["assurance"], &last["reason"]), (&json!("Bearer"), &json!("AssuranceTooLow")));
    assert_eq!(last["principal"]["stepUp"]["operation"], "refund-order", "{last}");

    // a second exchange does not widen it
    let again = access_token_of(&exchange(&up, &bound, &[]));
    assert_eq!(door(&up, "POST", "/orders/7/refund", &again).status, 200);
    assert_eq!(door(&up, "DELETE", "/orders/7", &again).status, 401);
    let narrow = access_token_of(&exchange(&up, &first, &[("recovery_code", &codes[0]), ("scope", "orders.refund")]));
    assert_eq!(door(&up, "POST", "/orders/7/refund", &narrow).status, 200);
    assert_eq!(door(&up, "GET", "/orders/7", &narrow).status, 403, "narrowed to the requested scope");

    for (more, error) in [
        (vec![("otp", "000000"), ("recovery_code", "x")], "invalid_request"),
        (vec![("operation", "refund-order")], "invalid_request"),
        (vec![("recovery_code", codes[0].as_str())], "invalid_grant"),
        (vec![("recovery_code", "aaaa-aaaa-aaaa-aaaa")], "invalid_grant"),
    ] {
        let reply = exchange(&up, &first, &more);
        assert_eq!((reply.status, &body(&reply)["error"]), (400, &json!(error)), "{more:?}");
    }
    let workload = exchange(&up, &up.token("billing/billing", "durward"), &[("otp", "000000")]);
    assert_eq!((workload.status, workload.body.as_str()), (400, r#"{"error":"invalid_grant"}"#));
}

#[test]
fn a_second_factor_expires() {
    let key = IssuerKey::rsa("one");
    let up = UpProcess::with(&[("all.yaml", &world(&key, "1s"))]);
    let first = key.token(&json!({}));
    let mut browser = FormBrowser::open(&up, &first, &[]);
    let (app, _) = browser.enrol();
    let token = access_token_of(&exchange(&up, &first, &[("otp", &app.code(0))]));
    eventually("another challenge", || (door(&up, "POST", "/orders/7/refund", &token).status == 401).then_some(()))
        .unwrap();
}

#[test]
fn two_processes_accept_a_code_once() {
    let key = IssuerKey::rsa("one");
    let one = start(&key);
    let mut command = durward();
    command.arg("up").arg(&one.manifests).arg("--state").arg(&one.state).args(["--json", "--audit-log", "/dev/null"]);
    for listener in ["http", "https", "grpc", "grpcs", "tokens", "tokens-tls", "admin"] {
        command.args([&format!("--{listener}"), "127.0.0.1:0"]);
    }
    let (mut child, two, _) = listening(&mut command);
    let addresses = [one.listen["tokens"], two["tokens"]];
    let first = key.token(&json!({}));
    let mut browser = FormBrowser::open(&one, &first, &[]);
    let (app, codes) = browser.enrol();
    let first = first.as_str();
    for factor_proof in [("otp", app.code(0)), ("recovery_code", codes[3].clone())] {
        let factor_proof = (factor_proof.0, factor_proof.1.as_str());
        let statuses: Vec<_> = std::thread::scope(|scope| {
            let ask = |address| scope.spawn(move || exchange_at(address, first, &[factor_proof]).status);
            let statuses_of: Vec<_> = addresses.into_iter().cycle().take(6).map(ask).collect();
            statuses_of.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{}: {statuses:?}", factor_proof.0);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn guessing_is_throttled_and_recovery_codes_still_work() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let first = key.token(&json!({}));
    let mut browser = FormBrowser::open(&up, &first, &[]);
    let (app, codes) = browser.enrol();
    // none of these is a code of the current minutes
    let wrong = ["000000", "111111", "222222", "333333"]
        .into_iter()
        .find(|guess| (-3..=3).all(|step| app.code(30 * step) != *guess));
    let wrong = wrong.unwrap();
    let statuses: Vec<_> = (0..5).map(|_| exchange(&up, &first, &[("otp", wrong)]).status).collect();
    assert_eq!(statuses, [400, 400, 400, 429, 429]);
    let right = exchange(&up, &first, &[("otp", &app.code(0))]);
    assert_eq!((right.status, right.body.as_str()), (429, r#"{"error":"slow_down"}"#), "the code is not checked");
    let wait: i64 = right.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let page = browser.submit("/step-up/token", &[]).clone();
    assert_eq!(page.status, 200, "a visit with a fresh factor continues: {page:?}");
    access_token_of(&exchange(&up, &first, &[("recovery_code", &codes[9])]));
    access_token_of(&exchange(&up, &first, &[("otp", &app.code(0))]));
    let paused = ("paused".to_owned(), "totp".to_owned());
    eventually("the pause is recorded", || outcomes(&up).contains(&paused).then_some(())).unwrap();
}

#[test]
fn guessing_is_throttled_by_address() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let statuses: Vec<_> = (0..22)
        .map(|number| {
            exchange(&up, &key.token(&json!({"sub": format!("guest-{number}")})), &[("otp", "123456")]).status
        })
        .collect();
    assert_eq!(statuses, [vec![400; 20], vec![429; 2]].concat());
    let files = std::fs::read_dir(up.state.join("second-factors")).unwrap().count();
    assert!(files <= 3, "without a factor there is no record");
}

#[test]
fn the_page_returns_the_token_and_manages_factors() {
    let key = IssuerKey::rsa("one");
    let shop = "https://shop.example.com";
    let up = UpProcess::start(&[("all.yaml", &world(&key, "5m"))], &["--step-up-return-to", shop]);
    let first = key.token(&json!({"sub": "<b>alice</b>"}));
    let back = format!("{shop}/stepped-up");
    let fields = [("operation", "refund-order"), ("return_to", back.as_str()), ("state", "s&<1>")];
    let mut browser = FormBrowser::open(&up, &first, &fields);
    assert!(browser.page.body.contains("&lt;b&gt;alice&lt;/b&gt;"), "{:?}", browser.page);
    let policy = browser.page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; ") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(policy.contains(&format!("form-action 'self' {shop};")) && !policy.contains("unsafe"), "{policy}");
    for (name, value) in
        [("cache-control", "no-store"), ("referrer-policy", "same-origin"), ("x-content-type-options", "nosniff")]
    {
        assert_eq!(browser.page.header(name), Some(value));
    }
    let cookie = browser.page.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; HttpOnly; SameSite=Strict"), "{cookie}");
    let scripts = browser.page.body.matches("<script").count();
    assert_eq!(
        browser.page.body.matches("<script src=\"/step-up/").count(),
        scripts,
        "nothing inline: {:?}",
        browser.page
    );
    assert!(!browser.page.body.contains("style="), "{:?}", browser.page);

    let (app, codes) = browser.enrol();
    assert!(!browser.page.body.contains("style=") && codes.len() == 10);
    browser.submit("/step-up/token", &[]);
    let hidden = browser.hidden();
    assert!(browser.page.body.contains(&format!("action=\"{back}\"")), "{:?}", browser.page);
    assert_eq!(hidden["state"], "s&amp;&lt;1&gt;");
    assert_eq!(door(&up, "POST", "/orders/7/refund", &hidden["access_token"]).status, 200);
    browser.submit("/step-up/manage", &[]);
    assert!(browser.page.body.contains("10 are left."), "{:?}", browser.page);
    browser.submit("/step-up/recovery-codes", &[]);
    let fresh = browser.between("<ol class=\"codes\"><li>", "</li>");
    assert!(!codes.contains(&fresh));
    let old = exchange(&up, &first, &[("recovery_code", &codes[0])]);
    assert_eq!(old.status, 400, "the old codes are invalid");

    // a visit without a factor can't change anything
    let mut without_factor = FormBrowser::open(&up, &first, &[]);
    let visit = without_factor.visit();
    for path in ["totp", "totp/remove", "recovery-codes", "manage"] {
        let reply = without_factor.send(&format!("/step-up/{path}"), &[("visit", &visit)]);
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
    }
    let mut verified = FormBrowser::open(&up, &first, &[]);
    verified.submit("/step-up/verify", &[("otp", &app.code(0))]);
    assert_eq!(verified.page.status, 200, "{:?}", verified.page);
    verified.submit("/step-up/manage", &[]);
    verified.submit("/step-up/totp/remove", &[]);
    assert_eq!(verified.page.status, 200, "{:?}", verified.page);
    let removed = exchange(&up, &first, &[("otp", &app.code(0))]);
    assert_eq!(removed.status, 400);
}

#[test]
fn cross_site_forms_are_refused() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let first = key.token(&json!({}));
    let mut browser = FormBrowser::open(&up, &first, &[]);
    let visit = browser.visit();
    let own = browser.origin.clone();
    let cookie = browser.cookie.clone();
    let mut other = FormBrowser::open(&up, &key.token(&json!({"sub": "mallory"})), &[]);
    let theirs = (other.visit(), other.cookie.clone());
    let send = |origin: &str, site: &str, cookie: &str, visit: &str| {
        let body = url::form_urlencoded::Serializer::new(String::new()).append_pair("visit", visit).finish();
        let mut headers =
            vec![("Host", "x"), ("Content-Type", "application/x-www-form-urlencoded"), ("Cookie", cookie)];
        for (name, value) in [("Origin", origin), ("Sec-Fetch-Site", site)] {
            if !value.is_empty() {
                headers.push((name, value));
            }
        }
        request(up.listen["tokens"], "POST", "/step-up/totp", &headers, &body).status
    };
    for (origin, site, cookie, visit) in [
        ("https://evil.example", "cross-site", cookie.as_str(), visit.as_str()),
        ("null", "", &cookie, &visit),
        ("", "", &cookie, &visit),
        (own.as_str(), "cross-site", &cookie, &visit),
        (own.as_str(), "same-site", &cookie, &visit),
        (own.as_str(), "same-origin", "", &visit),
        (own.as_str(), "same-origin", &theirs.1, &visit),
        (own.as_str(), "same-origin", &cookie, &theirs.0),
        (own.as_str(), "same-origin", &cookie, ""),
        (own.as_str(), "same-origin", &cookie, &visit[..visit.len() - 2]),
        (own.as_str(), "same-origin", &format!("durward-step-up={visit}"), &visit),
    ] {
        assert_eq!(send(origin, site, cookie, visit), 403, "{origin} {site}");
    }
    assert_eq!(send(&own, "same-origin", &cookie, &visit), 200);

    // first tokens are refused from other origins and for other return addresses
    other.origin = "https://evil.example".to_owned();
    assert_eq!(other.send("/step-up", &[("subject_token", &first), ("audience", "orders-api")]).status, 403);
    browser.cookie.clear();
    let away = [("subject_token", first.as_str()), ("audience", "orders-api"), ("return_to", "https://evil.example/")];
    assert_eq!(browser.send("/step-up", &away).status, 400);
    for (token, audience) in [("x", "orders-api"), (first.as_str(), "nobody"), ("", "")] {
        assert_eq!(browser.send("/step-up", &[("subject_token", token), ("audience", audience)]).status, 401);
    }
    let workload = up.token("billing/billing", "orders-api");
    assert_eq!(browser.send("/step-up", &[("subject_token", &workload), ("audience", "orders-api")]).status, 403);
}

#[test]
fn closed_enrolment_refuses_new_factors() {
    let key = IssuerKey::rsa("one");
    let up = UpProcess::start(&[("all.yaml", &world(&key, "5m"))], &["--step-up-enrolment", "closed"]);
    let mut browser = FormBrowser::open(&up, &key.token(&json!({})), &[]);
    assert_eq!(browser.submit("/step-up/totp", &[]).status, 403);
}

/// Every website can craft a link to the page, so the page explains a damaged link.
#[test]
fn a_damaged_link_is_explained() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let bearer = format!("Bearer {}", key.token(&json!({})));
    let ask = |query: &str, headers: &[(&str, &str)]| {
        let headers = [&[("Host", "durward")], headers].concat();
        request(up.listen["tokens"], "GET", &format!("/step-up?{query}"), &headers, "")
    };
    let good = ask("audience=orders-api&operation=refund-order", &[]);
    assert_eq!(good.status, 200, "{good:?}");
    for query in ["audience=a&audience=b", "operation=x&audience=a&operation=y", "state=1&state=1"] {
        for headers in [&[][..], &[("Authorization", bearer.as_str())]] {
            let reply = ask(query, headers);
            assert_eq!((reply.status, reply.header("content-type")), (400, good.header("content-type")), "{query}");
            assert_eq!(reply.header("content-security-policy"), good.header("content-security-policy"), "{query}");
            assert!(reply.body.contains("The address of this page is damaged"), "{reply:?}");
        }
    }
}

/// A gate next to `durward up` challenges like the doors, and accepts the new token.
#[test]
fn a_gate_challenges_and_accepts_the_new_token() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let fixture = GateFixture::of(&up);
    let app = RecordingApp::start();
    let page = format!("http://localhost:{}", up.listen["tokens"].port());
    let gate = fixture.gate("shop/orders", &app.upstream(), &["--step-up-url", &page]);
    let without = fixture.gate("shop/web", &app.upstream(), &[]);
    let caller = fixture.caller(None);
    let refund = |gate: &gate::GateProcess, token: &str, more: &[(&str, &str)]| {
        let bearer = format!("Bearer {token}");
        let headers = [&[("Host", HOST), ("Authorization", bearer.as_str())], more].concat();
        caller.request(gate.address(), "POST", "/orders/7/refund", &headers)
    };
    let described = |reply: &HttpReply| {
        let header = |name: &str| reply.header(name).map(ToOwned::to_owned);
        (reply.status, header("www-authenticate"), header("link"), header("content-type"), reply.body.clone())
    };
    let first = key.token(&json!({}));
    let challenge = described(&refund(&gate, &first, &[]));
    assert_eq!(
        challenge,
        described(&door(&up, "POST", "/orders/7/refund", &first)),
        "the doors send the same challenge"
    );
    let link = challenge.2.unwrap();
    assert!(link.starts_with(&format!("<{page}/step-up?audience=orders-api&operation=refund-order>")), "{link}");
    let html = refund(&gate, &first, &[("Accept", "text/html")]);
    assert!(
        html.header("content-type").unwrap().starts_with("text/html") && html.body.contains("<a href="),
        "{html:?}"
    );
    // without the URL of the page there is only the challenge
    let bare = refund(&without, &first, &[]);
    assert_eq!((bare.status, bare.header("link")), (401, None));
    assert_eq!(bare.body, r#"{"error":"insufficient_user_authentication"}"#);
    // an invalid token gets the usual response
    let bad = refund(&gate, "x", &[]);
    assert_eq!((bad.status, bad.header("link"), bad.body.as_str()), (401, None, r#"{"error":"invalid_token"}"#));
    assert!(app.requests().is_empty());

    let mut browser = FormBrowser::open(&up, &first, &[]);
    let (authenticator, _) = browser.enrol();
    let code = authenticator.code(0);
    let token = access_token_of(&exchange(&up, &first, &[("operation", "refund-order"), ("otp", &code)]));
    let reply = refund(&gate, &token, &[]);
    assert_eq!(reply.status, 200, "{reply:?}");
    let headers = &app.requests()[0]["headers"];
    assert_eq!(
        (&headers["x-durward-principal"], &headers["x-durward-assurance"]),
        (&json!([ALICE]), &json!(["MultiFactor"]))
    );
    // the token is valid for that operation only
    let bearer = format!("Bearer {token}");
    let cancel = caller.request(gate.address(), "DELETE", "/orders/7", &[("Host", HOST), ("Authorization", &bearer)]);
    assert_eq!(cancel.status, 401, "{cancel:?}");
}
