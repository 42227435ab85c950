//! Tokens and the users of the API server that they identify.

use super::*;
use axum::body::{Body, to_bytes};
use durward_api::resources::IdentityProvider;
use durward_authn::TrustDomain;
use durward_pki::token::{SigningAlgorithm, TokenKey, jwks};
use serde_json::{Value, json};
use tower::ServiceExt;

const API: &str = "https://kubernetes.default.svc.cluster.local";

struct ReviewedApiServer {
    key: TokenKey,
    router: Router,
}

impl ReviewedApiServer {
    /// An API server with the provider `corporate` and these accepted methods.
    fn new(methods: Vec<AuthenticationMethod>) -> Self {
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
        Self {
            key,
            router: router(TokenReviewWebhook {
                authenticator: Arc::new(authenticator),
                metrics: Arc::default(),
                methods: methods.into(),
            }),
        }
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
        assert!(!answer.to_string().contains(token) || token.is_empty(), "the response must not repeat the token");
        answer["status"].clone()
    }
}

fn corporate() -> Vec<AuthenticationMethod> {
    vec![AuthenticationMethod::Provider("corporate".into())]
}

#[tokio::test]
async fn a_token_for_the_api_server_becomes_a_prefixed_user() {
    let server = ReviewedApiServer::new(vec![
        AuthenticationMethod::Workload,
        AuthenticationMethod::Provider("corporate".into()),
    ]);
    let now = Utc::now().timestamp();
    let alice = server.token("JWT", json!({"groups": ["ops", "system:masters"], "amr": ["mfa"], "auth_time": now}));
    let status = server.review(&alice, &["other", API]).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!([API])));
    assert_eq!(
        status["user"],
        json!({
            "username": "durward:user:corporate/alice",
            "groups": ["durward:corporate:ops", "durward:corporate:system:masters"],
            "extra": {FACTOR: ["MultiFactor"], FACTOR_TIME: [now.to_string()]},
        })
    );
    let workload = server.token("JWT", json!({"sub": "spiffe://cluster.local/ns/kube-system/sa/admin"}));
    let status = server.review(&workload, &[API]).await;
    assert_eq!(status["user"]["username"], "durward:spiffe://cluster.local/ns/kube-system/sa/admin");
    assert_eq!(status["user"].get("extra"), None);
    let groups = status["user"]["groups"].as_array().map(Vec::len);
    assert!(groups.is_none_or(|groups| groups == 0), "a workload must have no group of Kubernetes");
}

#[tokio::test]
async fn all_rejected_tokens_get_the_same_answer() {
    let server = ReviewedApiServer::new(corporate());
    let now = Utc::now().timestamp();
    let other_issuer = ReviewedApiServer::new(corporate());
    let good = server.token("JWT", json!({}));
    assert_eq!(server.review(&good, &[API]).await["authenticated"], true);
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
        (server.token("JWT", json!({"aud": "orders-api"})), &[API]),
        (server.token("JWT", json!({"exp": now - 60})), &[API]),
        (server.token("JWT", json!({"iss": "https://evil.example"})), &[API]),
        (server.token("JWT", json!({"cnf": {"x5t#S256": "AAAA"}})), &[API]),
        (
            server
                .token("JWT", json!({"sub": "spiffe://cluster.local/ns/shop/sa/cart", "iss": "https://cluster.local"})),
            &[API],
        ),
        (
            server
                .token("at+jwt", json!({"scope": "x", "acr": Assurance::Bearer.acr(), "sub": "user:corporate/alice"})),
            &[API],
        ),
        (other_issuer.token("JWT", json!({})), &[API]),
    ] {
        assert_eq!(server.review(&token, audiences).await, json!({"authenticated": false}), "{audiences:?}");
    }
    let closed = ReviewedApiServer::new(Vec::new());
    assert_eq!(closed.review(&closed.token("JWT", json!({})), &[API]).await, json!({"authenticated": false}));
}

#[tokio::test]
async fn bodies_that_are_not_reviews_are_refused() {
    let server = ReviewedApiServer::new(corporate());
    for body in ["", "null", "{", r#"{"apiVersion": "v1", "kind": "Pod"}"#] {
        assert_eq!(server.post(body.to_owned()).await.0, StatusCode::BAD_REQUEST, "{body}");
    }
    assert_eq!(server.post(" ".repeat(MAX_REVIEW + 1)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}
