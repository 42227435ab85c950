//! Which tokens reach the API server, and which slots they take.

use super::*;
use crate::ca::authorities::TrustState;
use crate::tokens::key_ring::TokenKeyRing;
use durward_authn::{KeySource, ServiceAccountIssuer, TrustDomain};
use durward_engine::audit::AuditWriter;
use durward_engine::metrics::Metrics;
use durward_pki::authority::CertificateAuthority;
use durward_pki::serial::CertificateSerial;
use durward_pki::token::{TokenKey, jwks};
use futures::FutureExt;
use futures::future::join_all;
use http::{Request, Response};
use kube::client::Body;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

const ISSUER: &str = "https://kubernetes.default.svc";
const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A mint whose API server never answers, and the number of its requests.
fn mint(cluster_key: &TokenKey) -> (CertificateMint, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let received = Arc::clone(&requests);
    let api_server = tower::service_fn(move |_: Request<Body>| {
        received.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<Result<Response<Body>, Infallible>>()
    });
    let keys = KeySource::Inline(jwks([cluster_key.jwk()]));
    let domain = TrustDomain {
        name: "cluster.local".to_owned(),
        service_accounts: Some(ServiceAccountIssuer { issuer: ISSUER.to_owned(), keys }),
        ..TrustDomain::default()
    };
    let authenticator = Arc::new(Authenticator::new(domain, Arc::default()));
    let metrics = Arc::new(Metrics::default());
    let engine = Arc::new(Engine::new(Arc::clone(&authenticator), AuditWriter::nowhere(), metrics, 1));
    let authority = CertificateAuthority::create("cluster.local", Utc::now(), CertificateSerial::unbound([1; 15]));
    let authorities = Authorities::new(TrustState::steady(Arc::new(authority.expect("an authority"))));
    let client = Client::new(api_server, "default");
    let keys = TokenKeys::new(TokenKeyRing::default());
    let mint =
        CertificateMint::new(client, engine, authenticator, authorities, keys, "cluster.local", "https://issuer");
    (mint, requests)
}

/// A pod's token with these claims changed.
fn token(key: &TokenKey, changes: &Value) -> String {
    let now = Utc::now().timestamp();
    let mut claims = json!({
        "iss": ISSUER, "sub": "system:serviceaccount:shop:web", "aud": [DURWARD_AUDIENCE], "iat": now, "exp": now + 600,
        "kubernetes.io": {
            "namespace": "shop", "serviceaccount": {"name": "web", "uid": "account"}, "pod": {"name": "web", "uid": "one"},
        },
    });
    let changes = changes.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone()));
    claims.as_object_mut().expect("an object").extend(changes);
    key.sign(&claims, "JWT").expect("a token")
}

#[tokio::test]
async fn invalid_tokens_take_no_slot_and_never_reach_the_api_server() {
    let cluster_key = TokenKey::generate(SigningAlgorithm::Es256).expect("a key");
    let (mint, requests) = mint(&cluster_key);
    let good = token(&cluster_key, &json!({}));
    let forged = format!("{}AAAA", good.get(..good.len() - 4).expect("a token"));
    let unbound = json!({"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "account"}}});
    for (name, invalid) in [
        ("garbage", "garbage".to_owned()),
        ("another signature", forged),
        ("another audience", token(&cluster_key, &json!({"aud": ["orders-api"]}))),
        ("expired", token(&cluster_key, &json!({"exp": 1_700_000_000}))),
        ("another account", token(&cluster_key, &json!({"sub": "system:serviceaccount:shop:admin"}))),
        ("no pod", token(&cluster_key, &unbound)),
    ] {
        let attempts = (0..150).map(|_| mint.pod_labels(PodCredential { token: &invalid, source: SOURCE }));
        for refused in join_all(attempts).await {
            assert!(matches!(refused, Err(MintError::Unauthenticated(_))), "{name}: {refused:?}");
        }
        assert_eq!(requests.load(Ordering::Relaxed), 0, "{name}");
    }
}

#[tokio::test]
async fn tokens_of_unknown_keys_take_slots_of_their_own() {
    let cluster_key = TokenKey::generate(SigningAlgorithm::Es256).expect("a key");
    let (mint, _) = mint(&cluster_key);
    let foreign = token(&cluster_key, &json!({"iss": "https://elsewhere"}));
    let good = token(&cluster_key, &json!({}));
    let [first, second, third] = [1, 2, 3].map(|host| IpAddr::from([10, 0, 0, host]));
    let mut open = Vec::new();
    // how many of 150 concurrent requests wait for the API server
    let mut waiting = |token, source| {
        let attempts = (0..150).map(|_| Box::pin(mint.pod_labels(PodCredential { token, source })));
        let pending = attempts.filter_map(|mut attempt| attempt.as_mut().now_or_never().is_none().then_some(attempt));
        let before = open.len();
        open.extend(pending);
        open.len() - before
    };
    assert_eq!(waiting(&foreign, first), UNVERIFIED_CONCURRENCY / 2, "the share of one source");
    assert_eq!(waiting(&foreign, second), UNVERIFIED_CONCURRENCY / 2);
    assert_eq!(waiting(&foreign, third), 0, "no slot is left");
    assert_eq!(waiting(&good, first), CONCURRENCY / 2, "verified tokens have slots of their own");
    assert_eq!(waiting(&good, third), CONCURRENCY / 2);
}
