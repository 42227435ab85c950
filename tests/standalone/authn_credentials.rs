//! Every invalid credential gets the same response, byte for byte, at every door; the audit log has the cause.

use base64::Engine;
use durward_tests::gate::{GateFixture, RecordingApp};
use durward_tests::tokens::{IssuerKey, encode, good, manifests, now, with};
use durward_tests::{UpProcess, durward, run};
use envoy_types::ext_authz::v3::pb::{CheckRequest, HttpResponse};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckResponse};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const HOST: &str = "orders.example.com";

/// The credential of a request, and the beginning of the cause in the audit log.
struct Bad {
    headers: Vec<(&'static str, String)>,
    cause: &'static str,
}

fn bearer(token: String, cause: &'static str) -> Bad {
    Bad { headers: vec![("Authorization", format!("Bearer {token}"))], cause }
}

fn header(name: &'static str, value: &str, cause: &'static str) -> Bad {
    Bad { headers: vec![(name, value.to_owned())], cause }
}

/// More than thirty invalid credentials, each with its cause.
fn bad(key: &IssuerKey, ec: &IssuerKey, other_key: &IssuerKey, api_key: &str) -> Vec<Bad> {
    let token = key.token(&json!({}));
    let (message, signature) = token.rsplit_once('.').unwrap();
    let hs = jsonwebtoken::EncodingKey::from_secret(key.pem.as_bytes());
    let confused = format!("{}.{}", encode(&json!({"alg": "HS256", "kid": key.kid})), encode(&good()));
    let confused_signature =
        jsonwebtoken::crypto::sign(confused.as_bytes(), &hs, jsonwebtoken::Algorithm::HS256).unwrap();
    let flipped = format!("{message}.{}", signature.chars().rev().collect::<String>());
    let mut jwk = other_key.header();
    jwk["jwk"] = other_key.jwk.clone();
    jwk["kid"] = key.kid.clone().into();
    let other_secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode([7; 32]);
    vec![
        bearer(key.token(&json!({"exp": now() - 3600})), "the token expired 36"),
        bearer(key.token(&json!({"exp": null})), "the token has no `exp`"),
        bearer(key.token(&json!({"exp": (now() + 300).to_string()})), "the token's `exp` is of the wrong type"),
        bearer(key.token(&json!({"exp": 1e300})), "the token's `exp` is of the wrong type"),
        bearer(key.token(&json!({"nbf": now() + 3600})), "the token is not valid before"),
        bearer(key.token(&json!({"nbf": "soon"})), "the token's `nbf` is of the wrong type"),
        bearer(key.token(&json!({"iat": now() + 3600})), "the token was issued"),
        bearer(key.token(&json!({"aud": null})), "the token has no `aud`"),
        bearer(key.token(&json!({"aud": "billing-api"})), "the token is for another audience"),
        bearer(key.token(&json!({"aud": []})), "the token is for another audience"),
        bearer(key.token(&json!({"aud": {"orders-api": true}})), "the token's `aud` is of the wrong type"),
        bearer(key.token(&json!({"iss": "https://evil.example"})), "the token is of an issuer"),
        bearer(key.token(&json!({"iss": null})), "the token is of an issuer"),
        bearer(key.token(&json!({"iss": "https://id.example/"})), "the token is of an issuer"),
        bearer(key.token(&json!({"sub": null})), "the token has no `sub`"),
        bearer(key.token(&json!({"sub": ""})), "the token's subject is no principal"),
        bearer(key.token(&json!({"sub": 7})), "the token's `sub` is of the wrong type"),
        bearer(key.token(&json!({"cnf": {"x5t#S256": "AAAA"}})), "the token is bound to a certificate"),
        bearer(flipped, "the token's signature is wrong"),
        bearer(format!("{message}."), "the token's signature is wrong"),
        bearer(other_key.token_with_header(&json!({"kid": key.kid})), "the token's signature is wrong"),
        bearer(other_key.sign(&jwk, &good()), "the token's signature is wrong"),
        bearer(other_key.token(&json!({})), "the issuer has no key of the token's name"),
        bearer(other_key.token_with_header(&json!({"kid": null})), "the token's signature is wrong"),
        bearer(key.token_with_header(&json!({"kid": 7})), "the token is no JWT: its key name is no text"),
        bearer(
            format!("{}.{}.", encode(&json!({"alg": "none", "kid": key.kid})), encode(&good())),
            "the token's algorithm is not accepted",
        ),
        bearer(format!("{confused}.{confused_signature}"), "the token's algorithm is not accepted"),
        bearer(key.sign(&json!({"alg": "ES256", "kid": ec.kid}), &good()), "the token's signature is wrong"),
        bearer(
            key.sign(&json!({"alg": "ES256", "kid": key.kid}), &good()),
            "the token's algorithm does not belong to its key",
        ),
        bearer(key.token_with_header(&json!({"crit": ["exp"]})), "the token's header has `crit`"),
        bearer(key.token_with_header(&json!({"b64": false})), "the token's header has `b64`"),
        bearer(key.token_with_header(&json!({"typ": "logout+jwt"})), "the token is of another type"),
        bearer("onlyone".to_owned(), "the token is no JWT: it has no segments"),
        bearer("two.segments".to_owned(), "the token is no JWT: it has two segments"),
        bearer(format!("{token}.x"), "the token is no JWT: it has more than three segments"),
        bearer(format!("!!.{}.x", encode(&good())), "the Authorization header is not `Bearer`"),
        bearer(format!("e30.{}.x", "A".repeat(20_000)), "the credential is too long"),
        bearer(format!("{token},{token}"), "the Authorization header is not `Bearer`"),
        bearer(format!(" {token}"), "the Authorization header is not `Bearer`"),
        header("Authorization", "Basic YWxpY2U6eA==", "the Authorization header is not `Bearer`"),
        header("Authorization", "Bearer", "the Authorization header is not `Bearer`"),
        header("Authorization", &format!("Bearer\t{token}"), "the Authorization header is not `Bearer`"),
        header("x-api-key", "dwk_acme_short", "the API key is malformed"),
        header("x-api-key", &format!("dwk_acme_{other_secret}"), "the API key is unknown or wrong"),
        header("x-api-key", &format!("dwk_nobody_{other_secret}"), "the API key is unknown or wrong"),
        header("x-api-key", &api_key.to_uppercase(), "the API key is malformed"),
        header("x-api-key", &"k".repeat(500), "the credential is too long"),
        // no proxy may forward certificates: the header is ignored, a token still works
        Bad {
            headers: vec![
                ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/billing/sa/billing".to_owned()),
                ("x-api-key", "x".to_owned()),
            ],
            cause: "the API key is malformed",
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_credentials_get_one_answer_and_an_audited_cause() {
    let key = IssuerKey::rsa("k1");
    let ec = IssuerKey::ec("k2");
    let other_key = IssuerKey::rsa("k9");
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("acme.yaml");
    let (code, api_key, stderr) =
        run(durward().args(["mint", "api-key", "--provider", "partners", "--name", "acme", "--out"]).arg(&secret));
    assert_eq!(code, 0, "{stderr}");
    let secret = std::fs::read_to_string(secret).unwrap();
    assert!(!secret.contains(api_key.trim()), "the Secret contains the key itself");
    let up = UpProcess::with(&[("shop.yaml", &manifests(&[&key, &ec])), ("acme.yaml", &secret)]);

    let valid = assert_valid_credentials_pass(&up, &key, &ec, api_key.trim());
    let before = up.records(valid).len();
    let app = RecordingApp::start();
    let fixture = GateFixture::of(&up);
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let caller = fixture.caller(None);
    let good = format!("Bearer {}", key.token(&json!({})));
    let through = caller.request(gate.address(), "GET", "/orders", &[("Host", HOST), ("Authorization", &good)]);
    assert_eq!((through.status, app.requests().len()), (200, 1), "{through:?}");

    let all = bad(&key, &ec, &other_key, api_key.trim());
    assert!(all.len() >= 25);
    let mut client = AuthorizationClient::connect(format!("http://{}", up.listen["grpc"])).await.unwrap();
    let mut replies = Vec::new();
    let mut checks = Vec::new();
    let mut at_gate = Vec::new();
    for bad in &all {
        let headers: Vec<(&str, &str)> = bad.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        replies.push(up.forward_auth("GET", HOST, "/orders", &headers));
        checks.push(client.check(check("GET", HOST, "/orders", &headers)).await.unwrap().into_inner());
        at_gate.push(caller.request(gate.address(), "GET", "/orders", &[&[("Host", HOST)], &headers[..]].concat()));
    }
    for (bad, reply) in all.iter().zip(&replies) {
        assert_eq!(reply, &replies[0], "for {:?}", bad.cause);
    }
    for (bad, answer) in all.iter().zip(&checks) {
        assert_eq!(answer, &checks[0], "for {:?}", bad.cause);
    }
    for (bad, reply) in all.iter().zip(&at_gate) {
        assert_eq!(reply, &at_gate[0], "at the gate for {:?}", bad.cause);
    }
    let challenge_and_body = |reply: &durward_tests::HttpReply| {
        (reply.status, reply.body.clone(), reply.header("www-authenticate").map(str::to_owned))
    };
    assert_eq!(challenge_and_body(&at_gate[0]), challenge_and_body(&replies[0]));
    assert_eq!(app.requests().len(), 1, "refused requests never reach the application");
    assert_eq!(replies[0].status, 401);
    assert_eq!(replies[0].body, r#"{"error":"invalid_token"}"#);
    assert_eq!(replies[0].header("www-authenticate"), Some(r#"Bearer realm="orders-api", error="invalid_token""#));
    let Some(HttpResponse::DeniedResponse(denied)) = &checks[0].http_response else { panic!("{:?}", checks[0]) };
    assert_eq!((denied.status.as_ref().unwrap().code, denied.body.as_str()), (401, replies[0].body.as_str()));

    // without a credential the challenge has no `error`
    let anonymous = up.forward_auth("GET", HOST, "/orders", &[]);
    assert_eq!(anonymous.header("www-authenticate"), Some(r#"Bearer realm="orders-api""#));
    assert_eq!((anonymous.status, &anonymous.body), (401, &replies[0].body));

    assert_causes_are_audited(
        &all,
        &gate.records(1 + all.len())[1..],
        &up.records(before + 2 * all.len() + 1)[before..],
    );
    assert_no_credential_is_logged(&all, &std::fs::read_to_string(&up.audit).unwrap());
}

/// Valid credentials pass, so the invalid ones do not fail for one trivial reason.
/// Returns their number.
fn assert_valid_credentials_pass(up: &UpProcess, key: &IssuerKey, ec: &IssuerKey, api_key: &str) -> usize {
    let all = [
        ("Authorization", format!("Bearer {}", key.token(&json!({})))),
        ("Authorization", format!("bearer {}", ec.token(&json!({})))),
        ("Authorization", format!("Bearer {}", key.token_with_header(&json!({"typ": "at+jwt"})))),
        ("Authorization", format!("Bearer {}", key.token_with_header(&json!({"kid": null})))),
        ("Authorization", format!("Bearer {}", key.token(&json!({"team": "x".repeat(9000)})))),
        // within the leeway for clocks
        ("Authorization", format!("Bearer {}", key.token(&json!({"exp": now() - 5, "jti": "late"})))),
        ("Authorization", format!("Bearer {}", key.token(&json!({"iat": now() + 5, "nbf": now() + 5})))),
        ("Authorization", format!("Bearer {}", up.token("billing/billing", "orders-api"))),
        ("X-API-Key", api_key.to_owned()),
    ];
    for (name, value) in &all {
        let reply = up.forward_auth("GET", HOST, "/orders", &[(name, value)]);
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    all.len()
}

/// The records of the gate and of the other doors contain the cause of each refusal.
fn assert_causes_are_audited(all: &[Bad], of_gate: &[serde_json::Value], records: &[serde_json::Value]) {
    for (bad, record) in all.iter().zip(of_gate) {
        let cause = record["cause"].as_str().unwrap();
        assert!(cause.starts_with(bad.cause), "at the gate {cause:?} instead of {:?}", bad.cause);
    }
    let mut causes = BTreeSet::new();
    for (bad, pair) in all.iter().zip(records.chunks(2)) {
        for record in pair {
            assert_eq!(record["reason"], "Unauthenticated");
            let cause = record["cause"].as_str().unwrap();
            assert!(cause.starts_with(bad.cause), "{cause:?} instead of {:?}", bad.cause);
            causes.insert(cause.to_owned());
        }
    }
    assert!(causes.len() >= 25, "{causes:?}");
    assert_eq!(records.last().unwrap()["cause"], "no credential");
}

fn assert_no_credential_is_logged(all: &[Bad], log: &str) {
    for bad in all {
        for (_, value) in &bad.headers {
            let secret = value.trim_start_matches("Bearer ");
            assert!(secret.len() < 20 || !log.contains(secret), "the log contains a credential");
        }
    }
}

/// A check request as Envoy sends it.
fn check(method: &str, host: &str, path: &str, headers: &[(&str, &str)]) -> CheckRequest {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        // Envoy joins repeated headers
        all.entry(name.to_ascii_lowercase())
            .and_modify(|old| *old = format!("{old},{value}"))
            .or_insert_with(|| (*value).to_owned());
    }
    let http = HttpRequest {
        method: method.to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
        headers: all.into_iter().collect(),
        ..HttpRequest::default()
    };
    let request = Some(Request { http: Some(http), ..Request::default() });
    CheckRequest { attributes: Some(AttributeContext { request, ..AttributeContext::default() }) }
}

fn status(answer: &CheckResponse) -> i32 {
    match answer.http_response.as_ref().unwrap() {
        HttpResponse::OkResponse(_) => 200,
        HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied) => {
            denied.status.as_ref().unwrap().code
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_credential_header_is_refused() {
    let key = IssuerKey::rsa("k1");
    let up = UpProcess::with(&[("shop.yaml", &manifests(&[&key]))]);
    let token = format!("Bearer {}", key.token(&json!({})));
    let twice = up.forward_auth("GET", HOST, "/orders", &[("Authorization", &token), ("Authorization", &token)]);
    assert_eq!(twice.status, 401);
    let mut client = AuthorizationClient::connect(format!("http://{}", up.listen["grpc"])).await.unwrap();
    let both = [("Authorization", token.as_str()), ("Authorization", token.as_str())];
    assert_eq!(status(&client.check(check("GET", HOST, "/orders", &both)).await.unwrap().into_inner()), 401);
    let causes: Vec<Value> = up.records(2).iter().map(|record| record["cause"].clone()).collect();
    assert_eq!(causes[0], "the header `authorization` is there more than once");
}

#[test]
fn a_missing_provider_denies_without_details() {
    let key = IssuerKey::rsa("k1");
    let text = manifests(&[&key]).replace("{provider: partners}]", "{provider: nowhere}]");
    let up = UpProcess::with(&[("shop.yaml", &text)]);
    let anonymous = up.forward_auth("GET", HOST, "/orders", &[]);
    assert_eq!(anonymous.header("www-authenticate"), Some(r#"Bearer realm="orders-api""#));
    assert_eq!(
        up.forward_auth("GET", HOST, "/orders", &[("Authorization", &format!("Bearer {}", key.token(&json!({}))))])
            .status,
        200
    );
}

#[test]
fn tokens_are_limited_to_their_scopes_and_groups() {
    let key = IssuerKey::rsa("k1");
    let up = UpProcess::with(&[("shop.yaml", &manifests(&[&key]))]);
    let ask = |method: &str, uri: &str, claims: Value| {
        let token = format!("Bearer {}", key.token(&claims));
        up.forward_auth(method, HOST, uri, &[("Authorization", &token)])
    };
    // a scope from the token, a scope from a group, and a missing scope
    assert_eq!(ask("GET", "/orders", json!({})).status, 200);
    assert_eq!(ask("GET", "/orders", json!({"scope": ["x", "orders.read"]})).status, 200);
    let missing = ask("GET", "/orders", json!({"scope": "orders.write"}));
    assert_eq!(
        (missing.status, missing.body.as_str()),
        (403, r#"{"error":"insufficient_scope","scope":"orders.read"}"#)
    );
    assert_eq!(
        missing.header("www-authenticate"),
        Some(r#"Bearer realm="orders-api", error="insufficient_scope", scope="orders.read""#)
    );
    assert_eq!(ask("GET", "/orders", json!({"scope": null})).status, 403);
    assert_eq!(ask("POST", "/orders", json!({})).status, 200);
    assert_eq!(ask("POST", "/orders", json!({"groups": ["sales"]})).status, 403);
    assert_eq!(ask("POST", "/orders", json!({"groups": null})).status, 403);
    assert_eq!(ask("GET", "/orders", json!({"aud": ["other", "orders-api"]})).status, 200);
    // high risk: a token alone is not enough
    let step_up = ask("POST", "/orders/4/refund", json!({}));
    let page =
        format!("http://localhost:{}/step-up?audience=orders-api&operation=refund-order", up.listen["tokens"].port());
    let body: Value = serde_json::from_str(&step_up.body).unwrap();
    assert_eq!(step_up.status, 401);
    assert_eq!(body, json!({"error": "insufficient_user_authentication", "step_up_uri": page}));
    assert_eq!(
        step_up.header("www-authenticate"),
        Some(
            r#"Bearer realm="orders-api", error="insufficient_user_authentication", acr_values="urn:durward:assurance:multi-factor", max_age="300""#
        )
    );
    let with_time = with(&good(), &json!({"auth_time": now()}));
    assert_eq!(ask("POST", "/orders/4/refund", with_time).status, 401);
}

#[test]
fn api_keys_allow_low_risk_operations_only() {
    let key = IssuerKey::rsa("k1");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("acme.yaml");
    let (_, api_key, _) =
        run(durward().args(["mint", "api-key", "--provider", "partners", "--name", "acme", "--out"]).arg(&file));
    let up =
        UpProcess::with(&[("shop.yaml", &manifests(&[&key])), ("acme.yaml", &std::fs::read_to_string(&file).unwrap())]);
    let ask = |method, uri| up.forward_auth(method, HOST, uri, &[("x-api-key", api_key.trim())]);
    assert_eq!(ask("GET", "/orders").header("x-durward-principal"), Some("key:partners/acme"));
    let refused = ask("POST", "/orders");
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.header("www-authenticate"),
        Some(
            r#"Bearer realm="orders-api", error="insufficient_user_authentication", acr_values="urn:durward:assurance:bearer""#
        )
    );
    // an existing key file is never overwritten
    let (code, _, stderr) =
        run(durward().args(["mint", "api-key", "--provider", "partners", "--name", "acme", "--out"]).arg(&file));
    assert_eq!(code, 2);
    assert!(stderr.contains("never overwritten"), "{stderr}");
}

/// Service account tokens as a cluster's issuer signs them.
#[test]
fn cluster_keys_authenticate_service_accounts() {
    let key = IssuerKey::rsa("k1");
    let cluster = IssuerKey::rsa("cluster");
    let directory = tempfile::tempdir().unwrap();
    let jwks = directory.path().join("jwks.json");
    std::fs::write(&jwks, json!({"keys": [cluster.jwk]}).to_string()).unwrap();
    let issuer = "https://kubernetes.default.svc";
    let arguments = ["--service-account-issuer", issuer, "--service-account-jwks", jwks.to_str().unwrap()];
    let up = UpProcess::start(&[("shop.yaml", &manifests(&[&key]))], &arguments);
    let claims = json!({
        "iss": issuer, "sub": "system:serviceaccount:billing:billing", "aud": ["orders-api"], "iat": now(), "nbf": now(), "exp": now() + 300,
        "kubernetes.io": {"namespace": "billing", "serviceaccount": {"name": "billing", "uid": "u-1"}},
    });
    let ask = |signed_by: &IssuerKey, changes: Value| {
        let token = signed_by.sign(&signed_by.header(), &with(&claims, &changes));
        up.forward_auth("GET", HOST, "/orders", &[("Authorization", &format!("Bearer {token}"))])
    };
    let known = ask(&cluster, json!({}));
    let principal = known.header("x-durward-principal");
    assert_eq!((known.status, principal), (200, Some("spiffe://cluster.local/ns/billing/sa/billing")), "{known:?}");
    for changes in [
        json!({"aud": [issuer]}),
        json!({"aud": null}),
        json!({"exp": now() - 3600}),
        json!({"sub": "system:serviceaccount:shop:orders"}),
        json!({"sub": "spiffe://cluster.local/ns/billing/sa/billing"}),
        json!({"kubernetes.io": {"namespace": "other", "serviceaccount": {"name": "billing", "uid": "u-1"}}}),
    ] {
        assert_eq!(ask(&cluster, changes.clone()).status, 401, "{changes}");
    }
    assert_eq!(ask(&key, json!({})).status, 401, "another issuer's key");
}

/// RFC 8176, OpenID Connect Core section 2: the second factor that a token asserts, and its time.
#[test]
fn mapped_token_claims_prove_a_second_factor() {
    let key = IssuerKey::rsa("k1");
    let plain = manifests(&[&key]);
    let mapped = plain.replace(
        "claims: {attributes",
        "assurance: {multiFactor: [mfa, otp], phishingResistant: [phr]}, claims: {attributes",
    );
    assert_ne!(mapped, plain);
    let plain = UpProcess::with(&[("shop.yaml", &plain)]);
    let mapped = UpProcess::with(&[("shop.yaml", &mapped)]);
    let cases = [
        (&plain, json!({"amr": ["mfa"], "acr": "phr", "auth_time": now()}), "Bearer", "AssuranceTooLow"),
        (&mapped, json!({"auth_time": now()}), "Bearer", "AssuranceTooLow"),
        (&mapped, json!({"amr": ["pwd"], "acr": "1", "auth_time": now()}), "Bearer", "AssuranceTooLow"),
        (&mapped, json!({"amr": ["pwd", "otp"], "auth_time": now()}), "MultiFactor", "InsufficientScope"),
        (&mapped, json!({"acr": "mfa", "auth_time": now()}), "MultiFactor", "InsufficientScope"),
        (&mapped, json!({"amr": ["mfa"], "acr": "phr", "auth_time": now()}), "PhishingResistant", "InsufficientScope"),
        (&mapped, json!({"acr": "not mfa", "auth_time": now()}), "Bearer", "AssuranceTooLow"),
        (&mapped, json!({"acr": ["mfa"], "auth_time": now()}), "Bearer", "AssuranceTooLow"),
        (&mapped, json!({"amr": "mfa", "auth_time": now()}), "Bearer", "AssuranceTooLow"),
        (&mapped, json!({"acr": "mfa", "auth_time": now() - 301}), "MultiFactor", "AssuranceTooLow"),
        (&mapped, json!({"acr": "mfa", "auth_time": now() + 3600}), "MultiFactor", "AssuranceTooLow"),
        (&mapped, json!({"acr": "mfa"}), "MultiFactor", "AssuranceTooLow"),
    ];
    for (up, claims, ..) in &cases {
        let bearer = format!("Bearer {}", key.token(claims));
        up.forward_auth("POST", HOST, "/orders/4/refund", &[("Authorization", &bearer)]);
    }
    let mut plain = plain.records(1).into_iter();
    let mut mapped_records = mapped.records(cases.len() - 1).into_iter();
    for (number, (_, claims, assurance, reason)) in cases.iter().enumerate() {
        let record = if number == 0 { plain.next() } else { mapped_records.next() }.unwrap();
        assert_eq!(
            (&record["principal"]["assurance"], &record["reason"]),
            (&json!(assurance), &json!(reason)),
            "{claims}"
        );
    }
}

/// A token that does not show its groups or attributes: grants by them give nothing, denials by them apply, and all other
/// rules decide as usual.
#[test]
fn unknown_groups_and_attributes_are_not_none() {
    let key = IssuerKey::rsa("k1");
    let text = manifests(&[&key]);
    let denials = "  denials:
    - {name: suspended, to: [{provider: corporate, group: Suspended}]}
    - {name: interns, to: [{provider: corporate, claims: {team: interns}}]}
";
    let denying = format!("{}{denials}", text.trim_end_matches('\n').to_owned() + "\n");
    let (plain, denying) = (UpProcess::with(&[("shop.yaml", &text)]), UpProcess::with(&[("shop.yaml", &denying)]));
    let ask = |up: &UpProcess, method: &str, changes: &Value| {
        // other than in `token`, a null stays
        let mut claims = good();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let token = key.sign(&key.header(), &claims);
        up.forward_auth(method, HOST, "/orders", &[("Authorization", &format!("Bearer {token}"))]).status
    };
    let many: Vec<String> = (0..300).map(|number| format!("g{number}")).collect();
    let with_support = |mut groups: Vec<String>| {
        groups.push("support".to_owned());
        json!({"groups": groups})
    };
    let long = "g".repeat(8200);
    // the claims, whether the group grants, and whether the denials leave other grants alone
    let cases = [
        (json!({}), true, true, None),
        (json!({"groups": "support"}), true, true, None),
        (json!({"groups": "not support"}), false, true, None),
        (json!({"groups": "Suspended support"}), false, true, None),
        (json!({"groups": ["Suspended"]}), false, false, None),
        (with_support(many), true, true, None),
        (json!({"groups": ["support", long]}), false, false, Some(json!({"groups": "TooLarge"}))),
        (json!({"groups": null}), false, false, Some(json!({"groups": "WrongType"}))),
        (json!({"groups": 7}), false, false, Some(json!({"groups": "WrongType"}))),
        (json!({"groups": [{"name": "Suspended"}]}), false, false, Some(json!({"groups": "WrongType"}))),
        (json!({"groups": {"support": true}}), false, false, Some(json!({"groups": "WrongType"}))),
        (json!({"_claim_names": {"groups": "src1"}}), false, false, Some(json!({"groups": "LeftOut"}))),
        (json!({"hasgroups": true}), false, false, Some(json!({"groups": "LeftOut"}))),
        (json!({"team": "dev"}), true, true, None),
        (json!({"team": "interns"}), true, false, None),
        (json!({"team": ["interns"]}), true, false, None),
        (json!({"team": {"name": "interns"}}), true, false, None),
        (json!({"_claim_names": {"team": "src1"}}), true, false, Some(json!({"attributes": {"team": "LeftOut"}}))),
        (json!({"team": "x".repeat(9000)}), true, false, Some(json!({"attributes": {"team": "TooLarge"}}))),
    ];
    for (claims, grants, passes, _) in &cases {
        let short: String = claims.to_string().chars().take(80).collect();
        assert_eq!(ask(&plain, "GET", claims), 200, "{short}");
        assert_eq!(ask(&plain, "POST", claims), if *grants { 200 } else { 403 }, "{short}");
        assert_eq!(ask(&denying, "GET", claims), if *passes { 200 } else { 403 }, "{short}");
    }
    let records = denying.records(cases.len());
    for ((claims, _, passes, unknown), record) in cases.iter().zip(&records) {
        let short: String = claims.to_string().chars().take(80).collect();
        assert_eq!(record["principal"].get("unknown"), unknown.as_ref(), "{short}");
        assert_eq!(record["reason"], if *passes { "Granted" } else { "Denied" }, "{short}");
        let says_unknown = record["detail"].as_str().is_some_and(|detail| detail.contains("is unknown"));
        assert!(unknown.is_none() || says_unknown, "{record}");
    }
    // an exchanged token knows as little
    let subject = key.token(&json!({"hasgroups": true, "aud": "orders-api"}));
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
        .append_pair("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")
        .append_pair("subject_token", &subject)
        .append_pair("audience", "orders-api")
        .finish();
    let headers = [("Host", "durward"), ("Content-Type", "application/x-www-form-urlencoded")];
    let reply = durward_tests::request(plain.listen["tokens"], "POST", "/token", &headers, &form);
    let answer: Value = serde_json::from_str(&reply.body).unwrap();
    let token = durward_tests::tokens::claims(answer["access_token"].as_str().unwrap());
    assert_eq!(token["durward.dev"]["unknown"], json!({"groups": "LeftOut"}), "{token}");
    let metrics = durward_tests::request(denying.listen["admin"], "GET", "/metrics", &[("Host", "durward")], "").body;
    for line in ["{fact=\"groups\",cause=\"WrongType\"} 4", "{fact=\"attribute\",cause=\"TooLarge\"} 1"] {
        assert!(metrics.contains(&format!("durward_unknown_facts_total{line}")), "{metrics}");
    }
}
