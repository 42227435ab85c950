//! Conditions on request headers: equal results at every door, no values in records, and replays.

use durward_tests::gate::{GateFixture, RecordingApp};
use durward_tests::proxies;
use durward_tests::{UpProcess, durward, raw, run};
use envoy_types::ext_authz::v3::pb::CheckRequest;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;

const POLICY: &str = r"apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders, namespace: shop}
spec:
  service: {hosts: [orders.shop.svc]}
  authentication: [{workload: {}}]
  headers: [x-tenant, x-trial]
  operations:
    - {name: list, http: [{methods: [GET], paths: [/orders]}]}
    - {name: drop, http: [{methods: [DELETE], paths: [/orders]}]}
  grants:
    - name: of-the-tenant
      to: [{serviceAccount: {namespace: billing, name: billing}}]
      scopes: [list]
      when: request.headers['x-tenant'] == 'acme-secret'
    - {name: always, to: [{serviceAccount: {namespace: billing, name: billing}}], scopes: [drop]}
  denials:
    - {name: on-trial, to: [{authenticated: true}], when: '''x-trial'' in request.headers && request.headers[''x-trial''] != ''no'''}
";
const HOST: &str = "orders.shop.svc";
const BILLING: &str = "spiffe://cluster.local/ns/billing/sa/billing";
const GRANTED: &str = "Granted";
const MISSING: &str = "InsufficientScope";
const DENIED: &str = "Denied";

/// Headers of a request by billing, and the expected decision.
const CASES: &[(&[(&str, &str)], &str)] = &[
    (&[("x-tenant", "acme-secret")], GRANTED),
    (&[("X-Tenant", "acme-secret"), ("X-Trial", "no")], GRANTED),
    (&[], MISSING),
    (&[("x-tenant", "")], MISSING),
    (&[("x-tenant", "other")], MISSING),
    (&[("x-tenant", "acme-secret"), ("x-trial", "yes")], DENIED),
    // headers that an application could read in another way
    (&[("x-tenant", "acme-secret"), ("x-tenant", "acme-secret")], MISSING),
    (&[("x-tenant", "acme-secret"), ("x-tenant", "other")], MISSING),
    (&[("x-tenant", "acme-secret"), ("x_tenant", "other")], MISSING),
    (&[("x_tenant", "acme-secret")], MISSING),
    (&[("x-tenant", "acme-secret,other")], MISSING),
    (&[("x-tenant", "acme-secret"), ("x-trial", "no"), ("x-trial", "no")], DENIED),
    (&[("x-tenant", "acme-secret"), ("x_trial", "yes")], DENIED),
    (&[("x-tenant", "acme-secret"), ("x.trial", "no")], DENIED),
    (&[("x-tenant", "acme-secret"), ("x-trial", "n\u{f6}")], DENIED),
];

/// Joins repeated headers as a proxy does.
fn joined(headers: &[(&str, &str)]) -> BTreeMap<String, String> {
    let mut joined = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let entry = joined.entry(name.to_ascii_lowercase());
        entry.and_modify(|all| *all = format!("{all},{value}")).or_insert_with(|| (*value).to_owned());
    }
    joined
}

fn check_request(http: HttpRequest) -> CheckRequest {
    let http = HttpRequest { method: "GET".to_owned(), host: HOST.to_owned(), path: "/orders".to_owned(), ..http };
    let request = Some(Request { http: Some(http), ..Request::default() });
    CheckRequest { attributes: Some(AttributeContext { request, ..AttributeContext::default() }) }
}

fn evaluation(context: &Value) -> Value {
    json!({
        "subject": {"type": "workload", "id": BILLING},
        "action": {"name": "GET"},
        "resource": {"type": "http", "id": format!("http://{HOST}/orders")},
        "context": context,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_reads_headers_alike_and_audits_none() {
    let up = UpProcess::with(&[("orders.yaml", POLICY)]);
    let bearer = format!("Bearer {}", up.token("billing/billing", "orders.shop"));
    let mut client = AuthorizationClient::connect(format!("http://{}", up.listen["grpc"])).await.unwrap();
    let mut expected = Vec::new();
    for (headers, reason) in CASES {
        let all = [&[("authorization", bearer.as_str())], *headers].concat();
        up.forward_auth("GET", HOST, "/orders", &all);
        expected.push(("forward_auth", headers, reason));

        let http = HttpRequest { headers: joined(&all).into_iter().collect(), ..HttpRequest::default() };
        client.check(check_request(http)).await.unwrap();
        expected.push(("ext_authz", headers, reason));

        let each = all.iter().map(|(name, value)| HeaderValue {
            key: name.to_ascii_lowercase(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        });
        let http = HttpRequest { header_map: Some(HeaderMap { headers: each.collect() }), ..HttpRequest::default() };
        client.check(check_request(http)).await.unwrap();
        expected.push(("ext_authz", headers, reason));

        let mut lists = BTreeMap::<&str, Vec<&str>>::new();
        headers.iter().for_each(|(name, value)| lists.entry(name).or_default().push(value));
        let (status, _) = up.authzen("/access/v1/evaluation", &evaluation(&json!({"headers": lists})));
        assert_eq!(status, 200);
        expected.push(("authzen", headers, reason));
    }
    let records = up.records(expected.len());
    for ((door, headers, reason), record) in expected.iter().zip(&records) {
        assert_eq!((&record["door"], &record["reason"]), (&json!(door), &json!(reason)), "{headers:?}: {record}");
    }
    let log = fs::read_to_string(&up.audit).unwrap();
    assert!(!log.contains("secret") && !log.contains("other"), "{log}");
    let conditions = &records[0]["conditions"];
    for (rule, outcome) in [("shop/orders/grants/of-the-tenant", "true "), ("shop/orders/denials/on-trial", "false ")] {
        assert!(conditions[rule].as_str().unwrap().starts_with(outcome), "{conditions}");
    }
}

/// Envoy replaces bytes that are not UTF-8 by `!` in headers that it sends as texts.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_envoy_can_have_altered_fails_the_condition() {
    let up = UpProcess::with(&[("orders.yaml", &POLICY.replace("acme-secret", "acme!"))]);
    let bearer = format!("Bearer {}", up.token("billing/billing", "orders.shop"));
    let mut client = AuthorizationClient::connect(format!("http://{}", up.listen["grpc"])).await.unwrap();
    let all = [("authorization", bearer.as_str()), ("x-tenant", "acme!"), ("x-trial", "no")];
    let text = HttpRequest { headers: joined(&all).into_iter().collect(), ..HttpRequest::default() };
    let each = |as_text: bool| {
        let header = move |(name, value): &(&str, &str)| {
            let (text, raw) =
                if as_text { ((*value).to_owned(), Vec::new()) } else { (String::new(), value.as_bytes().to_vec()) };
            HeaderValue { key: (*name).to_owned(), value: text, raw_value: raw }
        };
        let headers = all.iter().map(header).collect();
        HttpRequest { header_map: Some(HeaderMap { headers }), ..HttpRequest::default() }
    };
    let mut checks: Vec<_> =
        [text, each(true), each(false)].map(check_request).into_iter().zip([MISSING, MISSING, GRANTED]).collect();
    // a path that can have been altered
    for (target, expected) in [("/orders", MISSING), ("/orders!", "AmbiguousPath")] {
        let headers = joined(&all[..1]).into_iter().collect();
        let mut check = check_request(HttpRequest { headers, ..HttpRequest::default() });
        check.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap().path = target.to_owned();
        checks.push((check, expected));
    }
    let (checks, expected): (Vec<_>, Vec<_>) = checks.into_iter().unzip();
    for check in checks {
        client.check(check).await.unwrap();
    }
    let records = up.records(expected.len());
    assert_eq!(records.iter().map(|record| record["reason"].as_str().unwrap()).collect::<Vec<_>>(), expected);
}

/// With `encode_raw_headers`, the bytes that the application gets are the ones that conditions read.
#[test]
fn a_real_envoy_shows_conditions_the_bytes_that_it_forwards() {
    let up = UpProcess::with(&[("orders.yaml", &POLICY.replace("acme-secret", "acme!"))]);
    let bearer = up.token("billing/billing", "orders.shop");
    let app = RecordingApp::start();
    let raw_headers = "encode_raw_headers: true";
    for (proxy, of_exact_value) in [
        (proxies::envoy(&up, app.address), 200),
        (proxies::envoy_with(&up, app.address, &[(raw_headers, "encode_raw_headers: false")]), 403),
    ] {
        for (value, expected) in [(&b"acme!"[..], of_exact_value), (b"acme\xff", 403), (b"acme\xc3", 403)] {
            let head = format!("GET /orders HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {bearer}\r\n");
            let bytes = [head.as_bytes(), b"Connection: close\r\nx-tenant: ", value, b"\r\n\r\n"].concat();
            let reply = raw(proxy.address, &bytes);
            assert_eq!(reply.status, expected, "{value:?}: {reply:?}");
        }
    }
}

#[test]
fn the_gate_evaluates_the_headers_it_forwards() {
    let fixture = GateFixture::new(POLICY);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let billing = fixture.caller(Some("billing/billing"));
    for (headers, reason) in CASES {
        let all = [&[("Host", HOST)], *headers].concat();
        let reply = billing.request(gate.address(), "GET", "/orders", &all);
        assert_eq!(reply.status, if *reason == GRANTED { 200 } else { 403 }, "{headers:?}: {reply:?}");
    }
    let records = gate.records(CASES.len());
    let reasons: Vec<&str> = records.iter().map(|record| record["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, CASES.iter().map(|(_, reason)| *reason).collect::<Vec<_>>());
}

#[test]
fn conditions_on_unknown_headers_fail() {
    let up = UpProcess::with(&[("orders.yaml", POLICY)]);
    for context in [json!({}), json!({"explain": true})] {
        let (_, verdict) = up.authzen("/access/v1/evaluation", &evaluation(&context));
        assert_eq!(verdict["decision"], false, "{verdict}");
    }
    let detail = "its condition could not be evaluated: it reads headers, and those of the request are unknown";
    for record in up.records(2) {
        assert_eq!((&record["reason"], &record["detail"]), (&json!(DENIED), &json!(detail)));
        assert!(record["conditions"]["shop/orders/denials/on-trial"].as_str().unwrap().starts_with("failed "));
    }
    for headers in [json!("x-tenant"), json!([]), json!({"x-tenant": 1}), json!({"x-tenant": [["a"]]})] {
        let (status, output) = up.authzen("/access/v1/evaluation", &evaluation(&json!({"headers": headers})));
        assert_eq!(status, 400, "{headers}: {output}");
    }
}

#[test]
fn resources_come_from_the_enforcement_point() {
    let policy =
        POLICY.replace("request.headers['x-tenant'] == 'acme-secret'", "resource.properties.owner == 'acme-secret'");
    let policy = policy.replace(
        "''x-trial'' in request.headers && request.headers[''x-trial''] != ''no''",
        "resource.id == ''sealed''",
    );
    let up = UpProcess::with(&[("orders.yaml", &policy)]);
    let ask = |resource: Value| {
        let subject = json!({"type": "workload", "id": BILLING});
        let body = json!({"subject": subject, "action": {"name": "list"}, "resource": resource});
        up.authzen("/access/v1/evaluation", &body).1["decision"] == true
    };
    let owned = |owner: &str, id: &str| json!({"type": "orders.shop", "id": id, "properties": {"owner": owner}});
    assert!(ask(owned("acme-secret", "1")));
    assert!(
        !ask(owned("other", "1"))
            && !ask(owned("acme-secret", "sealed"))
            && !ask(json!({"type": "orders.shop", "id": "1"}))
    );
    // HTTP requests have no resource: the denial applies
    let bearer = format!("Bearer {}", up.token("billing/billing", "orders.shop"));
    assert_eq!(up.forward_auth("GET", HOST, "/orders", &[("authorization", &bearer)]).status, 403);
    let records = up.records(5);
    assert_eq!(
        records.iter().map(|record| record["reason"].as_str().unwrap()).collect::<Vec<_>>(),
        [GRANTED, MISSING, DENIED, MISSING, DENIED]
    );
    let (code, report) = replayed(&up, &policy);
    assert_eq!((code, &report["byOutcome"]), (0, &json!(5)), "{report}");
}

/// Exit code and output of a replay.
fn replayed(up: &UpProcess, policy: &str) -> (i32, Value) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("policy.yaml"), policy).unwrap();
    let mut replay = durward();
    replay.args(["audit", "replay", "-o", "json"]).arg(&up.audit).arg("--policies").arg(directory.path());
    let (code, stdout, _) = run(&mut replay);
    (code, serde_json::from_str(&stdout).unwrap())
}

#[test]
fn a_replay_uses_recorded_condition_results() {
    let up = UpProcess::with(&[("orders.yaml", POLICY)]);
    let bearer = format!("Bearer {}", up.token("billing/billing", "orders.shop"));
    for (headers, _) in &CASES[..6] {
        up.forward_auth("GET", HOST, "/orders", &[&[("authorization", bearer.as_str())], *headers].concat());
    }
    up.forward_auth("GET", HOST, "/orders", &[]);
    up.records(7);
    let (code, report) = replayed(&up, POLICY);
    assert_eq!((code, &report["replayed"], &report["byOutcome"]), (0, &json!(7), &json!(6)), "{report}");
    let (code, stdout, _) =
        run(durward().args(["audit", "replay"]).arg(&up.audit).arg("--policies").arg(&up.manifests));
    assert!(
        code == 0
            && stdout.contains(
                "6 of the records depend on conditions that read unrecorded data: the replay used the recorded results"
            ),
        "{stdout}"
    );

    // another condition: its result is unknown
    let (code, report) = replayed(&up, &POLICY.replace("== 'acme-secret'", "!= 'acme-secret'"));
    assert_eq!((code, report["untold"].as_array().map(Vec::len)), (2, Some(5)), "{report}");
    assert_eq!(report["differences"], json!([]));
    // the same condition of another rule: its result is unknown
    let (_, report) = replayed(&up, &POLICY.replace("name: of-the-tenant", "name: of-a-tenant"));
    assert_eq!(report["untold"].as_array().map(Vec::len), Some(5), "{report}");
    // no condition: the result is known
    let (code, report) =
        replayed(&up, &POLICY.replace("      when: request.headers['x-tenant'] == 'acme-secret'\n", ""));
    assert_eq!((code, report["differences"].as_array().map(Vec::len)), (1, Some(3)), "{report}");
    // a recorded result applies to its rule only
    let altered = fs::read_to_string(&up.audit).unwrap().replace("\"true ", "\"perhaps ");
    fs::write(&up.audit, altered).unwrap();
    let (code, report) = replayed(&up, POLICY);
    assert_eq!((code, report["untold"].as_array().map(Vec::len)), (2, Some(3)), "{report}");
}

#[test]
fn a_comparison_by_log_reports_what_it_cannot_evaluate() {
    let up = UpProcess::with(&[("orders.yaml", POLICY)]);
    let bearer = format!("Bearer {}", up.token("billing/billing", "orders.shop"));
    up.forward_auth("GET", HOST, "/orders", &[("authorization", &bearer), ("x-tenant", "acme-secret")]);
    up.records(1);
    let new = tempfile::tempdir().unwrap();
    fs::write(new.path().join("policy.yaml"), POLICY.replace("acme-secret", "acme")).unwrap();
    let (code, stdout, stderr) =
        run(durward().arg("diff").arg(&up.manifests).arg(new.path()).arg("--audit").arg(&up.audit));
    assert!(stdout.contains("1 can't be compared: their conditions read unrecorded data"), "{stdout}");
    assert!(code == 2 && stderr.contains("can't be decided again"), "{stderr}");
}

#[test]
fn conditions_cannot_read_api_key_headers() {
    let provider = "apiVersion: durward.dev/v1alpha1\nkind: IdentityProvider\nmetadata: {name: partners}\nspec: {apiKey: \
                    {header: X-Tenant, selector: {matchLabels: {a: b}}}}\n";
    let up = UpProcess::with(&[("orders.yaml", POLICY), ("partners.yaml", provider)]);
    up.wait_for_stderr(
        "`x-tenant` carries the API keys of IdentityProvider/partners; conditions can't read credentials",
    );
    assert_eq!(up.forward_auth("GET", HOST, "/orders", &[]).status, 403, "no good version: everything is denied");
}

#[test]
fn commands_accept_headers() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("policy.yaml"), POLICY).unwrap();
    let check = |more: &[&str]| {
        let mut check = durward();
        check.arg("check").arg("-p").arg(directory.path()).args(["--as", BILLING]).args(more);
        run(&mut check)
    };
    let get = ["GET", "http://orders.shop.svc/orders"];
    assert_eq!(check(&[&["--header", "X-Tenant: acme-secret"], &get[..]].concat()).0, 0);
    let (code, stdout, _) = check(&get);
    assert!(code == 1 && stdout.contains("a field that it reads does not exist"), "{stdout}");
    let twice = ["--header", "x-tenant:acme-secret", "--header", "x-tenant:acme-secret"];
    let (code, stdout, _) = check(&[&twice, &get[..]].concat());
    assert!(code == 1 && stdout.contains("header `x-tenant` was sent more than once"), "{stdout}");
    let named = ["--operation", "list", "orders.shop"];
    let (code, stdout, _) = check(&named);
    assert!(code == 1 && stdout.contains("those of the request are unknown"), "{stdout}");
    assert_eq!(check(&[&["--header", "x-tenant:acme-secret"], &named[..]].concat()).0, 0);
    assert_eq!(check(&[&["--header", "x-tenant"], &get[..]].concat()).0, 2);

    let case = |name: &str, request: &str, expect: &str| {
        format!("  - {{name: {name}, as: '{BILLING}', request: {{{request}}}, expect: {expect}}}\n")
    };
    let http = "method: GET, host: orders.shop.svc, path: /orders";
    let cases = [
        case("tenant", &format!("{http}, headers: {{x-tenant: acme-secret}}"), "{verdict: allow, rule: of-the-tenant}"),
        case("none", http, "{verdict: deny, reason: InsufficientScope}"),
        case(
            "trial",
            &format!("{http}, headers: {{x-tenant: acme-secret, x-trial: 'yes'}}"),
            "{verdict: deny, rule: on-trial}",
        ),
        case("unknown", "audience: orders.shop, operation: list", "{verdict: deny, reason: Denied}"),
        case("stated", "audience: orders.shop, operation: list, headers: {x-tenant: acme-secret}", "{verdict: allow}"),
    ];
    let head = "apiVersion: test.durward.dev/v1alpha1\nkind: AccessPolicyTest\ncases:\n";
    fs::write(directory.path().join("policy.test.yaml"), head.to_owned() + &cases.concat()).unwrap();
    let (code, stdout, stderr) = run(durward().arg("test").arg(directory.path()));
    assert_eq!(code, 0, "{stdout}{stderr}");
}
