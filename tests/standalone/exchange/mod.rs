//! The token service: issued tokens, their use at the doors, and attacks.

mod bound;
mod verifiers;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use durward_tests::tokens::{IssuerKey, claims, door, encode, manifests, now, segment, with};
use durward_tests::{HttpReply, TIMEOUT, UpProcess, eventually, request, run};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const BILLING: &str = "spiffe://cluster.local/ns/billing/sa/billing";

/// A second service with short-lived tokens of another algorithm, and people with a second factor.
fn more(key: &IssuerKey) -> String {
    format!(
        r#"
apiVersion: durward.dev/v1alpha1
kind: IdentityProvider
metadata: {{name: people}}
spec:
  jwt:
    issuer: "https://people.example"
    audiences: [portal]
    assurance: {{multiFactor: [mfa]}}
    claims: {{attributes: {{suspended: suspended}}}}
    jwks: {{keys: [{jwk}]}}
---
apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: invoices, namespace: shop}}
spec:
  tokens: {{algorithm: ES256, ttl: 2m}}
  service: {{hosts: [invoices.shop.svc]}}
  authentication: [{{provider: people}}, {{workload: {{}}}}]
  operations:
    - {{name: read, http: [{{methods: [GET], paths: [/invoices]}}]}}
    - {{name: pay, http: [{{methods: [POST], paths: [/invoices]}}], risk: High, stepUp: {{maxAge: 10m}}}}
  grants:
    - {{name: staff, to: [{{provider: people, group: staff}}], scopes: [read, pay]}}
    - {{name: billing, to: [{{serviceAccount: {{namespace: billing, name: billing}}}}], scopes: [read]}}
  denials:
    - {{name: suspended, to: [{{provider: people}}], when: "has(principal.attributes.suspended) && principal.attributes.suspended"}}
"#,
        jwk = key.jwk
    )
}

fn start(key: &IssuerKey) -> UpProcess {
    UpProcess::with(&[("all.yaml", &manifests(&[key])), ("more.yaml", &more(key))])
}

fn encoded(parameters: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

fn post(up: &UpProcess, path: &str, body: &str, headers: &[(&str, &str)]) -> HttpReply {
    let mut all = vec![("Host", "durward"), ("Content-Type", "application/x-www-form-urlencoded")];
    all.extend(headers);
    request(up.listen["tokens"], "POST", path, &all, body)
}

/// The parameters of an exchange with these changed; an empty value removes one.
fn exchange_request<'p>(subject: &'p str, audience: &'p str, more: &[(&'p str, &'p str)]) -> Vec<(&'p str, &'p str)> {
    let mut all =
        vec![("grant_type", EXCHANGE), ("subject_token", subject), ("subject_token_type", JWT), ("audience", audience)];
    for (name, value) in more {
        all.retain(|(other, _)| other != name);
        all.push((name, value));
    }
    all
}

fn exchange(up: &UpProcess, subject: &str, audience: &str, more: &[(&str, &str)]) -> HttpReply {
    post(up, "/token", &encoded(&exchange_request(subject, audience, more)), &[])
}

fn body(reply: &HttpReply) -> Value {
    serde_json::from_str(&reply.body).unwrap_or_else(|error| panic!("{error}: {reply:?}"))
}

/// The token of a successful response.
fn access_token_of(reply: &HttpReply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    body(reply)["access_token"].as_str().unwrap().to_owned()
}

fn get(up: &UpProcess, path: &str) -> HttpReply {
    request(up.listen["tokens"], "GET", path, &[("Host", "durward")], "")
}

/// Verifies a token as a service does, by the published keys only.
fn verify(up: &UpProcess, token: &str, audience: &str) -> Value {
    let keys: JwkSet = serde_json::from_str(&get(up, "/.well-known/jwks.json").body).unwrap();
    let header = jsonwebtoken::decode_header(token).unwrap();
    let key = keys.find(header.kid.as_deref().unwrap()).expect("the key is published");
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&[audience]);
    let issuer = format!("http://{}", up.listen["tokens"]);
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    jsonwebtoken::decode(token, &DecodingKey::from_jwk(key).unwrap(), &validation).unwrap().claims
}

/// The certificate of a workload in files.
fn certificate(up: &UpProcess, service_account: &str) -> PathBuf {
    let out = up.state.parent().unwrap().join(service_account.replace('/', "-"));
    up.mint(&["x509", "--service-account", service_account, "--out", out.to_str().unwrap()]);
    out
}

/// Sends a request over TLS with a client certificate.
fn by_certificate(up: &UpProcess, door: &str, path: &str, files: &Path, arguments: &[&str]) -> HttpReply {
    let file = |name: &str| files.join(name).display().to_string();
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--include", "--http1.1", "--cacert", &file("bundle.pem")]);
    curl.args(["--cert", &file("svid.pem"), "--key", &file("key.pem")]).args(arguments);
    let (code, text, error) = run(curl.arg(format!("https://{}{path}", up.listen[door])));
    assert_eq!(code, 0, "{error}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    HttpReply { status, headers, body: body.to_owned() }
}

#[test]
fn a_token_carries_the_granted_scopes() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    for meant in ["durward", "orders-api", &format!("http://{}", up.listen["tokens"])] {
        let reply = exchange(&up, &up.token("billing/billing", meant), "orders-api", &[]);
        let answer = body(&reply);
        assert_eq!((reply.status, &answer["token_type"]), (200, &json!("Bearer")), "{reply:?}");
        assert_eq!((&answer["issued_token_type"], &answer["scope"]), (&json!(ACCESS_TOKEN), &json!("orders.read")));
        assert_eq!((reply.header("cache-control"), reply.header("pragma")), (Some("no-store"), Some("no-cache")));
    }
    let reply = exchange(&up, &up.token("billing/billing", "durward"), "orders-api", &[]);
    let token = access_token_of(&reply);
    assert_eq!(
        segment(&token, 0).as_object().unwrap().keys().collect::<Vec<_>>(),
        ["alg", "kid", "typ"],
        "nothing else in the header"
    );
    assert_eq!((&segment(&token, 0)["typ"], &segment(&token, 0)["alg"]), (&json!("at+jwt"), &json!("RS256")));
    let claims = verify(&up, &token, "orders-api");
    assert_eq!(
        (&claims["sub"], &claims["client_id"], &claims["scope"]),
        (&json!(BILLING), &json!(BILLING), &json!("orders.read"))
    );
    assert_eq!((&claims["aud"], &claims["acr"]), (&json!("orders-api"), &json!("urn:durward:assurance:bearer")));
    assert_eq!(claims.get("cnf"), None);
    let issued = claims["iat"].as_i64().unwrap();
    let ends = claims["exp"].as_i64().unwrap();
    assert!((issued - now()).abs() <= 5 && ends - issued <= 300 && ends > issued + 240, "{claims}");
    assert_eq!(body(&reply)["expires_in"], json!(ends - issued));
    assert_eq!(claims["jti"].as_str().unwrap().len(), 32);

    let alice = access_token_of(&exchange(
        &up,
        &key.token(&json!({"team": "red"})),
        "orders-api",
        &[("subject_token_type", ACCESS_TOKEN)],
    ));
    let alice = verify(&up, &alice, "orders-api");
    assert_eq!((&alice["sub"], &alice["scope"]), (&json!("user:corporate/alice"), &json!("orders.read orders.write")));
    assert_eq!((&alice["groups"], &alice["durward.dev"]["attributes"]), (&json!(["support"]), &json!({"team": "red"})));

    let invoices = access_token_of(&exchange(&up, &up.token("billing/billing", "durward"), "invoices.shop", &[]));
    let claims = verify(&up, &invoices, "invoices.shop");
    assert_eq!((&segment(&invoices, 0)["alg"], &claims["scope"]), (&json!("ES256"), &json!("read")));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 120);

    // the log has every detail except the token
    let issued = up.records(6);
    assert!(issued.iter().all(|record| !record.to_string().contains("eyJ")), "{issued:#?}");
    let last = issued.last().unwrap();
    assert_eq!(
        (&last["event"], &last["by"], &last["outcome"]),
        (&json!("issuance"), &json!("exchange"), &json!("issued"))
    );
    assert_eq!((&last["principal"], &last["audiences"]), (&json!(BILLING), &json!(["invoices.shop"])));
    assert_eq!((&last["scopes"], &last["token"], &last["lifetime"]), (&json!(["read"]), &claims["jti"], &json!(120)));
    let metrics = request(up.listen["admin"], "GET", "/metrics", &[("Host", "durward")], "").body;
    let count_line = r#"durward_issuance_duration_seconds_count{by="exchange",outcome="issued"} 6"#;
    assert!(metrics.contains(count_line), "{metrics}");
}

#[test]
fn a_requested_scope_narrows_the_token() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let subject = key.token(&json!({}));
    let ask = |scope: &str| exchange(&up, &subject, "orders-api", &[("scope", scope)]);
    let wide = access_token_of(&exchange(&up, &subject, "orders-api", &[]));
    let narrow = access_token_of(&ask("orders.read"));
    assert_eq!(claims(&narrow)["scope"], "orders.read");
    assert_eq!(
        claims(&access_token_of(&ask("orders.read orders.refund admin")))["scope"],
        "orders.read",
        "only granted scopes"
    );

    for (token, method, path, status) in [
        (&subject, "POST", "/orders", 200),
        (&wide, "GET", "/orders", 200),
        (&wide, "POST", "/orders", 200),
        (&narrow, "GET", "/orders/7", 200),
        (&narrow, "POST", "/orders", 403),
        (&wide, "POST", "/orders/7/refund", 401),
    ] {
        let reply = door(&up, method, path, token);
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
    }
    let reply = door(&up, "GET", "/orders", &wide);
    assert_eq!(reply.header("x-durward-principal"), Some("user:corporate/alice"));
    assert_eq!(reply.header("x-durward-assurance"), Some("Bearer"));

    // a token is valid while the policy accepts the authentication method of its subject token
    up.write(
        "all.yaml",
        &manifests(&[&key]).replace("{provider: corporate}, {provider: partners}", "{provider: partners}"),
    );
    eventually("the policy without the provider", || (door(&up, "GET", "/orders", &wide).status == 401).then_some(()))
        .unwrap();
    let billing = access_token_of(&exchange(&up, &up.token("billing/billing", "durward"), "orders-api", &[]));
    assert_eq!(door(&up, "GET", "/orders", &billing).status, 200);
}

/// Other media types and methods, repeated headers, and parameters in the URL are refused.
fn assert_other_request_forms_are_refused(up: &UpProcess, good: &str) {
    let send = |method: &str, path: &str, types: &[&str], body: &str| {
        let mut headers = vec![("Host", "durward")];
        headers.extend(types.iter().map(|one| ("Content-Type", *one)));
        request(up.listen["tokens"], method, path, &headers, body)
    };
    const FORM: &str = "application/x-www-form-urlencoded";
    for (types, path) in [
        (&[][..], "/token"),
        (&["application/json"], "/token"),
        (&["text/plain; application/x-www-form-urlencoded"], "/token"),
        (&["multipart/form-data"], "/token"),
        (&[FORM, "application/json"], "/token"),
        (&[FORM], "/token?x=1"),
        (&[FORM], &format!("/token?{good}")),
    ] {
        let reply = send("POST", path, types, good);
        assert_eq!((reply.status, &body(&reply)["error"]), (400, &json!("invalid_request")), "{types:?} {path}");
    }
    for method in ["GET", "PUT", "DELETE", "HEAD", "PATCH"] {
        let reply = send(method, "/token", &[FORM], good);
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{method}");
    }
}

#[test]
fn invalid_exchange_requests_are_explained() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let token = up.token("billing/billing", "durward");
    let form = |parameters: &[(&str, &str)]| encoded(&exchange_request(&token, "orders-api", parameters));
    let good = form(&[]);
    let saml = "urn:ietf:params:oauth:token-type:saml2";
    for (body, error) in [
        (String::new(), "invalid_request"),
        (form(&[("grant_type", "")]), "invalid_request"),
        (form(&[("grant_type", "authorization_code")]), "unsupported_grant_type"),
        (form(&[("grant_type", "password")]), "unsupported_grant_type"),
        (form(&[("subject_token", "")]), "invalid_request"),
        (form(&[("subject_token_type", "")]), "invalid_request"),
        (form(&[("subject_token_type", saml)]), "invalid_request"),
        (form(&[("subject_token_type", "urn:ietf:params:oauth:token-type:id_token")]), "invalid_request"),
        (form(&[("requested_token_type", saml)]), "invalid_request"),
        (form(&[("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")]), "invalid_request"),
        (form(&[("actor_token", &token)]), "invalid_request"),
        (form(&[("actor_token_type", JWT)]), "invalid_request"),
        (form(&[("audience", "")]), "invalid_request"),
        (form(&[("audience", "unknown-api")]), "invalid_target"),
        (form(&[("audience", "durward")]), "invalid_target"),
        (form(&[("audience", &"a".repeat(300))]), "invalid_target"),
        (form(&[("resource", "https://orders.example.com/")]), "invalid_target"),
        (form(&[("scope", "admin")]), "invalid_scope"),
        (form(&[("scope", "orders.refund")]), "invalid_scope"),
        (form(&[("scope", "orders.read  orders.write")]), "invalid_scope"),
        (form(&[("scope", "orders.read\n")]), "invalid_scope"),
        (form(&[("scope", &"a ".repeat(100))]), "invalid_scope"),
        (format!("{good}&audience=billing-api"), "invalid_request"),
        (format!("{good}&aud%69ence=orders-api"), "invalid_request"),
        (format!("{good}&x=1&x=2"), "invalid_request"),
        (format!("{good}&x=%ff"), "invalid_request"),
        (form(&[("client_id", "spiffe://cluster.local/ns/shop/sa/cart")]), "invalid_client"),
        (form(&[("client_secret", "x")]), "invalid_client"),
        (encoded(&[("grant_type", "client_credentials"), ("audience", "orders-api")]), "invalid_client"),
    ] {
        let reply = post(&up, "/token", &body, &[]);
        let status = if error == "invalid_client" { 401 } else { 400 };
        assert_eq!((reply.status, &self::body(&reply)["error"]), (status, &json!(error)), "{body}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(!reply.body.contains("policy") && !reply.body.contains("grant_type_"), "{reply:?}");
    }
    assert_eq!(post(&up, "/token", &form(&[("client_id", BILLING), ("unknown", "x"), ("scope", "")]), &[]).status, 200);
    let nothing = exchange(&up, &up.token("other/other", "durward"), "orders-api", &[]);
    assert_eq!(
        (nothing.status, nothing.body.as_str()),
        (400, r#"{"error":"invalid_target"}"#),
        "as an unknown audience"
    );

    assert_other_request_forms_are_refused(&up, &good);
    let reply = post(&up, "/token", &form(&[("padding", &"x".repeat(40_000))]), &[]);
    assert_eq!((reply.status, &body(&reply)["error"]), (400, &json!("invalid_request")));
    // every request to the endpoint, and the issued token
    let outcomes = up.records(39);
    assert_eq!(outcomes.iter().filter(|record| record["outcome"] == "refused").count(), 38, "{outcomes:#?}");
}

#[test]
fn every_invalid_subject_token_gets_one_answer() {
    let key = IssuerKey::rsa("one");
    let other_key = IssuerKey::rsa("two");
    let up = start(&key);
    let good = up.token("billing/billing", "durward");
    let access = access_token_of(&exchange(&up, &good, "orders-api", &[]));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let own_header = segment(&good, 0);
    let unsigned = |header: &Value| format!("{}.{}.", encode(header), message.split('.').nth(1).unwrap());
    let expired = up.mint(&["jwt", "--service-account", "billing/billing", "--audience", "durward", "--ttl", "1s"]);
    // no clock leeway for our own tokens
    let ended = claims(&expired)["exp"].as_i64().unwrap();
    eventually("the expiry of the token", || (now() > ended).then_some(())).unwrap();
    let api_key = format!("dwk_acme_{}", URL_SAFE_NO_PAD.encode([7; 32]));
    let bad = [
        (expired, JWT, "the token expired"),
        (up.token("billing/billing", "billing-api"), JWT, "the token is for another audience"),
        (up.token("billing/billing", "invoices.shop"), JWT, "the token is for another audience"),
        (up.token("billing/billing", "https://kubernetes.default.svc"), JWT, "the token is for another audience"),
        (access_token_of(&exchange(&up, &good, "invoices.shop", &[])), JWT, "the token is for another audience"),
        (
            access_token_of(&exchange(&up, &good, "invoices.shop", &[])),
            ACCESS_TOKEN,
            "the token is for another audience",
        ),
        (good.clone(), ACCESS_TOKEN, "the token is not of the type"),
        (unsigned(&with(&own_header, &json!({"alg": "none"}))), JWT, "the token's algorithm is not accepted"),
        (unsigned(&own_header), JWT, "the token's signature is wrong"),
        (unsigned(&with(&own_header, &json!({"typ": "at+jwt"}))), JWT, "the token's signature is wrong"),
        (format!("{message}.{}", signature.chars().rev().collect::<String>()), JWT, "the token's signature is wrong"),
        (
            other_key.token_with_header(&json!({"kid": own_header["kid"], "typ": "at+jwt"})),
            ACCESS_TOKEN,
            "the token's signature is wrong",
        ),
        (format!("{access}x"), ACCESS_TOKEN, "the token's signature is wrong"),
        (format!("{access}.x"), ACCESS_TOKEN, "the token is no JWT"),
        (key.token(&json!({"exp": now() - 10})), JWT, "the token expired"),
        (key.token(&json!({"exp": null})), JWT, "the token has no `exp`"),
        (key.token(&json!({"aud": null})), JWT, "the token has no `aud`"),
        (key.token(&json!({"aud": "billing-api"})), JWT, "the token is for another audience"),
        (key.token(&json!({"iss": "https://evil.example"})), JWT, "the token is of an issuer"),
        (key.token(&json!({"iss": "https://people.example", "aud": "portal"})), JWT, "the token is of an issuer"),
        (key.token(&json!({"sub": ""})), JWT, "the token's subject is no principal"),
        (key.token(&json!({"cnf": {"x5t#S256": "AAAA"}})), JWT, "the token is bound to a certificate"),
        (other_key.token(&json!({})), JWT, "the issuer has no key"),
        (api_key, JWT, "the token is no JWT"),
        ("nonsense".to_owned(), JWT, "the token is no JWT"),
        ("x".repeat(20_000), JWT, "the credential is too long"),
    ];
    let mut answers = BTreeSet::new();
    for (token, kind, _) in &bad {
        let reply = exchange(&up, token, "orders-api", &[("subject_token_type", kind)]);
        answers.insert(format!("{reply:?}"));
    }
    assert_eq!(answers.len(), 1, "{answers:#?}");
    let records = up.records(bad.len() + 3);
    let refused: Vec<&Value> = records.iter().filter(|record| record["outcome"] == "refused").collect();
    assert_eq!(refused.len(), bad.len());
    for ((_, _, cause), record) in bad.iter().zip(refused) {
        assert_eq!(record["by"], "exchange");
        assert!(record["reason"].as_str().unwrap().starts_with(cause), "{cause}: {record}");
    }
    let only = answers.first().unwrap();
    assert!(
        only.contains(r#"{\"error\":\"invalid_request\",\"error_description\":\"the subject is not accepted\"}"#),
        "{only}"
    );
}

#[test]
fn a_second_exchange_never_widens_or_extends_a_token() {
    let key = IssuerKey::rsa("one");
    let up = start(&key);
    let subject = key.token(&json!({"exp": now() + 100, "cnf": null}));
    let first = access_token_of(&exchange(&up, &subject, "orders-api", &[("scope", "orders.read")]));
    assert_eq!(claims(&first)["exp"], claims(&subject)["exp"], "the token expires with its subject token");
    let mut token = first.clone();
    for kind in [ACCESS_TOKEN, JWT, ACCESS_TOKEN] {
        let reply = exchange(&up, &token, "orders-api", &[("subject_token_type", kind)]);
        token = access_token_of(&reply);
        assert_eq!((&claims(&token)["exp"], &claims(&token)["scope"]), (&claims(&first)["exp"], &json!("orders.read")));
        assert_eq!(claims(&token)["sub"], "user:corporate/alice");
    }
    let wider = exchange(&up, &token, "orders-api", &[("subject_token_type", ACCESS_TOKEN), ("scope", "orders.write")]);
    assert_eq!((wider.status, &body(&wider)["error"]), (400, &json!("invalid_scope")));
    let other = exchange(&up, &token, "invoices.shop", &[("subject_token_type", ACCESS_TOKEN)]);
    assert_eq!((other.status, &body(&other)["error"]), (400, &json!("invalid_request")));
}
