//! Which tokens are users of the API server, and as whom.

use super::*;
use axum::body::{Body, to_bytes};
use durward_api::resources::IdentityProvider;
use durward_authn::TrustDomain;
use durward_pki::token::{SigningAlgorithm, TokenKey, jwks};
use serde_json::{Value, json};
use tower::ServiceExt;

const API: &str = "https://kubernetes.default.svc.cluster.local";

struct World {
    key: TokenKey,
    router: Router,
}

impl World {
    /// An API server that knows people of provider `corporate`, and workloads if these count.
    fn new(ways: Vec<AuthenticationMethod>) -> Self {
        let key = TokenKey::generate(SigningAlgorithm::Es256).expect("a key");
        let set: Value = serde_json::from_str(&jwks([key.jwk()])).expect("JSON");
        let domain =
            TrustDomain { name: "cluster.local".to_owned(), own_keys: Some(set.to_string()), ..TrustDomain::default() };
        let authenticator = Authenticator::new(domain, Arc::default());
        let provider: IdentityProvider = serde_json::from_value(json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": "corporate"},
            "spec": {"jwt": {"issuer": "https://id.example", "jwks": set, "assurance": {"multiFactor": ["mfa"]}}},
        }))
        .expect("a provider");
        assert!(authenticator.replace_providers(&[provider], &[]).is_empty());
        Self { key, router: router(TokenReviews { authenticator: Arc::new(authenticator), metrics: Arc::default(), ways: ways.into() }) }
    }

    fn token(&self, typ: &str, change: Value) -> String {
        let now = Utc::now().timestamp();
        let mut claims = json!({"iss": "https://id.example", "sub": "alice", "aud": API, "iat": now, "exp": now + 60});
        for (name, value) in change.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        self.key.sign(&claims, typ).expect("signed")
    }

    async fn post(&self, body: String) -> (StatusCode, Value) {
        let request = axum::http::Request::post(TOKEN_PATH).body(Body::from(body)).expect("a request");
        let answer = self.router.clone().oneshot(request).await.expect("an answer");
        let status = answer.status();
        let body = to_bytes(answer.into_body(), MAX_REVIEW).await.expect("a body");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn review(&self, token: &str, audiences: &[&str]) -> Value {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": audiences}});
        let (status, answer) = self.post(review.to_string()).await;
        assert_eq!((status, &answer["kind"]), (StatusCode::OK, &json!("TokenReview")));
        assert!(!answer.to_string().contains(token) || token.is_empty(), "the token is not sent back");
        answer["status"].clone()
    }
}

fn corporate() -> Vec<AuthenticationMethod> {
    vec![AuthenticationMethod::Provider("corporate".into())]
}

#[tokio::test]
async fn a_token_for_the_api_server_is_a_user_under_our_own_prefix() {
    let world = World::new(vec![AuthenticationMethod::Workload, AuthenticationMethod::Provider("corporate".into())]);
    let now = Utc::now().timestamp();
    let alice = world.token("JWT", json!({"groups": ["ops", "system:masters"], "amr": ["mfa"], "auth_time": now}));
    let status = world.review(&alice, &["other", API]).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!([API])));
    assert_eq!(
        status["user"],
        json!({
            "username": "durward:user:corporate/alice",
            "groups": ["durward:corporate:ops", "durward:corporate:system:masters"],
            "extra": {FACTOR: ["MultiFactor"], FACTOR_TIME: [now.to_string()]},
        })
    );
    let workload = world.token("JWT", json!({"sub": "spiffe://cluster.local/ns/kube-system/sa/admin"}));
    let status = world.review(&workload, &[API]).await;
    assert_eq!(status["user"]["username"], "durward:spiffe://cluster.local/ns/kube-system/sa/admin");
    assert_eq!(status["user"].get("extra"), None);
    let groups = status["user"]["groups"].as_array().map(Vec::len);
    assert!(groups.is_none_or(|groups| groups == 0), "no group of Kubernetes");
}

#[tokio::test]
async fn whatever_is_wrong_the_answer_is_the_same() {
    let world = World::new(corporate());
    let now = Utc::now().timestamp();
    let stranger = World::new(corporate());
    let good = world.token("JWT", json!({}));
    assert_eq!(world.review(&good, &[API]).await["authenticated"], true);
    let many: Vec<String> = (0..MAX_AUDIENCES).map(|i| format!("a{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain([API]).collect();
    for (token, audiences) in [
        (String::new(), &[API][..]),
        ("nonsense".to_owned(), &[API]),
        (good.clone(), &[]),
        (good.clone(), &["orders-api"]),
        (good.clone(), &many),
        (format!("{good} "), &[API]),
        (format!("{good}\n"), &[API]),
        (world.token("JWT", json!({"aud": "orders-api"})), &[API]),
        (world.token("JWT", json!({"exp": now - 60})), &[API]),
        (world.token("JWT", json!({"iss": "https://evil.example"})), &[API]),
        (world.token("JWT", json!({"cnf": {"x5t#S256": "AAAA"}})), &[API]),
        (
            world
                .token("JWT", json!({"sub": "spiffe://cluster.local/ns/shop/sa/cart", "iss": "https://cluster.local"})),
            &[API],
        ),
        (
            world.token("at+jwt", json!({"scope": "x", "acr": Assurance::Bearer.acr(), "sub": "user:corporate/alice"})),
            &[API],
        ),
        (stranger.token("JWT", json!({})), &[API]),
    ] {
        assert_eq!(world.review(&token, audiences).await, json!({"authenticated": false}), "{audiences:?}");
    }
    let nobody = World::new(Vec::new());
    assert_eq!(nobody.review(&nobody.token("JWT", json!({})), &[API]).await, json!({"authenticated": false}));
}

#[tokio::test]
async fn what_is_no_review_is_refused() {
    let world = World::new(corporate());
    for body in ["", "null", "{", r#"{"apiVersion": "v1", "kind": "Pod"}"#] {
        assert_eq!(world.post(body.to_owned()).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    assert_eq!(world.post(" ".repeat(MAX_REVIEW + 1)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}
