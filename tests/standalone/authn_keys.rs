//! Keys of an issuer over the network: discovery, rotation, outages, and limits on fetches.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use durward_tests::tokens::{IssuerKey, manifests};
use durward_tests::{UpProcess, eventually};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// A response of the key server.
#[derive(Clone)]
enum KeySetAnswer {
    Keys(String),
    Text(&'static str),
    Endless,
    Redirect(String),
    Down,
}

#[derive(Clone)]
struct KeyServer {
    address: SocketAddr,
    answer: Arc<Mutex<KeySetAnswer>>,
    fetches: Arc<Mutex<Vec<String>>>,
}

impl KeyServer {
    async fn start(answer: KeySetAnswer) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = Self {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(answer)),
            fetches: Arc::default(),
        };
        let router = Router::new().fallback(respond).with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        issuer
    }

    fn set_answer(&self, answer: KeySetAnswer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// The number of fetches.
    fn fetches(&self) -> usize {
        self.fetches.lock().unwrap().iter().filter(|path| path.ends_with("/jwks")).count()
    }

    /// Manifests whose provider has this key source.
    fn manifests(&self, field: &str) -> String {
        let all = manifests(&[]);
        let start = all.find("jwks: {").unwrap();
        let end = start + all[start..].find("]}").unwrap() + 2;
        all.replace(&all[start..end], field)
    }
}

async fn respond(State(issuer): State<KeyServer>, uri: Uri) -> Response {
    issuer.fetches.lock().unwrap().push(uri.path().to_owned());
    if uri.path() == "/.well-known/openid-configuration" {
        let base = format!("http://{}", issuer.address);
        return axum::Json(json!({"issuer": base, "jwks_uri": format!("{base}/jwks")})).into_response();
    }
    let answer = issuer.answer.lock().unwrap().clone();
    match answer {
        KeySetAnswer::Keys(keys) => keys.into_response(),
        KeySetAnswer::Text(text) => text.into_response(),
        KeySetAnswer::Endless => {
            Body::from_stream(tokio_stream::iter(std::iter::repeat_with(|| Ok::<_, std::io::Error>("x".repeat(8192)))))
                .into_response()
        }
        KeySetAnswer::Redirect(to) => (StatusCode::FOUND, [(header::LOCATION, to)]).into_response(),
        KeySetAnswer::Down => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn jwks(keys: &[&IssuerKey]) -> KeySetAnswer {
    KeySetAnswer::Keys(json!({"keys": keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()}).to_string())
}

fn ask(up: &UpProcess, token: &str) -> u16 {
    up.forward_auth("GET", "orders.example.com", "/orders", &[("Authorization", &format!("Bearer {token}"))]).status
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_and_survive_an_outage() {
    let old = IssuerKey::ec("old");
    let new = IssuerKey::ec("new");
    let issuer = KeyServer::start(jwks(&[&old])).await;
    let up =
        UpProcess::with(&[("shop.yaml", &issuer.manifests(&format!("jwksUri: 'http://{}/jwks'", issuer.address)))]);
    assert_eq!(ask(&up, &old.token(&json!({}))), 200);
    let remembered = old.token(&json!({"jti": "remembered"}));
    assert_eq!(ask(&up, &remembered), 200);
    // the issuer is down: known keys stay valid
    issuer.set_answer(KeySetAnswer::Down);
    assert_eq!(ask(&up, &old.token(&json!({"jti": "other"}))), 200);
    assert_eq!(ask(&up, &new.token(&json!({}))), 401);
    // the issuer is up again with another key: a token that names it causes a fetch after the minimum interval
    issuer.set_answer(jwks(&[&new]));
    let token = new.token(&json!({}));
    eventually("the new key", || (ask(&up, &token) == 200).then_some(())).unwrap();
    // tokens of the old key are invalid, cached or not
    assert_eq!((ask(&up, &remembered), ask(&up, &old.token(&json!({})))), (401, 401));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_key_ids_do_not_flood_the_issuer() {
    let known = IssuerKey::ec("known");
    let unknown = IssuerKey::ec("unknown");
    let issuer = KeyServer::start(jwks(&[&known])).await;
    let up =
        UpProcess::with(&[("shop.yaml", &issuer.manifests(&format!("jwksUri: 'http://{}/jwks'", issuer.address)))]);
    assert_eq!(ask(&up, &known.token(&json!({}))), 200);
    let started = std::time::Instant::now();
    for i in 0..60 {
        assert_eq!(ask(&up, &unknown.token(&json!({"jti": i}))), 401);
    }
    let windows = usize::try_from(started.elapsed().as_secs()).unwrap() / 10 + 2;
    assert!(issuer.fetches() <= windows, "{} fetches", issuer.fetches());
    let causes: Vec<_> = up.records(61).iter().skip(1).map(|record| record["cause"].clone()).collect();
    assert!(causes.iter().all(|cause| cause == "the issuer has no key of the token's name"), "{causes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_found_by_discovery() {
    let key = IssuerKey::ec("k1");
    let issuer = KeyServer::start(jwks(&[&key])).await;
    let base = format!("http://{}", issuer.address);
    let found = issuer.manifests("").replace("https://id.example", &base);
    let up = UpProcess::with(&[("shop.yaml", &found)]);
    assert_eq!(ask(&up, &key.token(&json!({"iss": base}))), 200);
    assert_eq!(ask(&up, &key.token(&json!({}))), 401);
    // a discovery document of another issuer is refused
    let other = UpProcess::with(&[(
        "shop.yaml",
        &issuer.manifests("").replace("https://id.example", &format!("{base}/tenant")),
    )]);
    assert_eq!(ask(&other, &key.token(&json!({"iss": format!("{base}/tenant")}))), 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_key_sets_yield_no_key() {
    let key = IssuerKey::ec("k1");
    let elsewhere = KeyServer::start(jwks(&[&key])).await;
    let many: Vec<_> = (0..101)
        .map(|i| {
            let mut jwk = key.jwk.clone();
            jwk["kid"] = format!("k{i}").into();
            jwk
        })
        .collect();
    for (answer, cause) in [
        (KeySetAnswer::Text("<html>"), "it is no JWKS"),
        (KeySetAnswer::Text("{\"keys\": []}"), "it has no key that can verify a token"),
        (KeySetAnswer::Keys(json!({"keys": many}).to_string()), "it has 101 keys"),
        (KeySetAnswer::Endless, "more than 262144 bytes"),
        (KeySetAnswer::Redirect(format!("http://{}/jwks", elsewhere.address)), "answered 302"),
        (KeySetAnswer::Down, "answered 503"),
    ] {
        let issuer = KeyServer::start(answer).await;
        let up =
            UpProcess::with(&[("shop.yaml", &issuer.manifests(&format!("jwksUri: 'http://{}/jwks'", issuer.address)))]);
        assert_eq!(ask(&up, &key.token(&json!({}))), 401, "{cause}");
        let records = up.records(1);
        assert!(records[0]["cause"].as_str().unwrap().contains(cause), "{cause}: {}", records[0]["cause"]);
    }
    assert_eq!(elsewhere.fetches(), 0, "a redirect was followed");
}

#[test]
fn unsafe_key_sources_are_refused() {
    let issuer = manifests(&[]);
    let start = issuer.find("jwks: {").unwrap();
    let end = start + issuer[start..].find("]}").unwrap() + 2;
    for (field, expected) in [
        ("jwksUri: 'http://169.254.169.254/keys'", "spec.jwt.jwksUri: keys are fetched by https only"),
        ("jwksUri: 'file:///etc/passwd'", "spec.jwt.jwksUri: keys are fetched by https only"),
        ("jwksUri: nonsense", "spec.jwt.jwksUri: `nonsense` is no URL"),
        ("jwks: {keys: []}", "spec.jwt.jwks: it has no key that can verify a token"),
    ] {
        let up = UpProcess::with(&[("shop.yaml", &issuer.replace(&issuer[start..end], field))]);
        assert!(up.stderr().contains(expected), "{expected}: {}", up.stderr());
        assert_eq!(ask(&up, &IssuerKey::ec("k1").token(&json!({}))), 401);
    }
}
