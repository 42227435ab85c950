//! Clients that the webhooks accept and refuse, at every webhook.

use super::*;
use axum::body::Body;
use axum::routing::post;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls_pki_types::CertificateDer;
use tower::ServiceExt;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const NEXT_TOKEN: &str = "fedcba9876543210fedcba9876543210";

fn ca() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
}

fn client(
    ca: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    usage: ExtendedKeyUsagePurpose,
) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    let key = KeyPair::generate().expect("a key");
    params.signed_by(&key, ca).expect("a certificate").der().clone()
}

fn peer(certificate: Option<CertificateDer<'static>>) -> Peer {
    let certificate = certificate.map(|certificate| Arc::from([certificate]));
    Peer { address: "10.0.0.7:4711".parse().expect("an address"), secure: true, certificate, id: None }
}

/// The status for a client, and how it is authenticated.
async fn ask(clients: &ApiServerClients, peer: Peer, headers: &[&str]) -> (StatusCode, Option<Arc<str>>) {
    let echo = async |Extension(peer): Extension<ReviewPeer>| serde_json::to_string(&peer).expect("JSON");
    let router = clients.clone().protect(Router::new().route("/", post(echo))).layer(Extension(peer));
    let mut request = axum::http::Request::post("/").body(Body::empty()).expect("a request");
    for value in headers {
        request.headers_mut().append(header::AUTHORIZATION, value.parse().expect("a header"));
    }
    let answer = router.oneshot(request).await.expect("an answer");
    let status = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), 1024).await.expect("a body");
    let peer = serde_json::from_slice::<ReviewPeer>(&body).ok();
    if let Some(peer) = &peer {
        assert_eq!(peer.address.to_string(), "10.0.0.7");
    }
    (status, peer.and_then(|peer| peer.authenticated))
}

#[tokio::test]
async fn only_the_configured_api_server_reaches_the_webhooks() {
    let directory = tempfile::tempdir().expect("a directory");
    let (token_file, ca_file) = (directory.path().join("tokens"), directory.path().join("ca.pem"));
    let (own, other) = (ca(), ca());
    std::fs::write(&token_file, format!("{TOKEN}\n{NEXT_TOKEN}\n")).expect("written");
    std::fs::write(&ca_file, own.pem()).expect("written");
    let open = |token: bool, certificate: bool| {
        let settings = ApiServerSettings {
            webhook_token_file: token.then(|| token_file.clone()),
            webhook_client_ca_file: certificate.then(|| ca_file.clone()),
            webhook_client_name: vec!["kube-apiserver".to_owned()],
        };
        ApiServerClients::open(&settings, Arc::default()).expect("opened")
    };
    let usage = ExtendedKeyUsagePurpose::ClientAuth;
    let good = client(&own, "kube-apiserver", usage.clone());
    let cases = [
        (None, vec![], None),
        (None, vec![format!("Bearer {TOKEN}")], Some("token")),
        (None, vec![format!("Bearer {NEXT_TOKEN}")], Some("token")),
        (None, vec![format!("Bearer {TOKEN}x")], None),
        (None, vec![format!("Bearer  {TOKEN}")], None),
        (None, vec![TOKEN.to_owned()], None),
        (None, vec!["Bearer ".to_owned()], None),
        (None, vec![format!("Bearer {TOKEN}"), format!("Bearer {TOKEN}")], None),
        (Some(good.clone()), vec![], Some("certificate kube-apiserver")),
        (Some(client(&own, "eve", usage.clone())), vec![], None),
        (Some(client(&other, "kube-apiserver", usage)), vec![], None),
        (Some(client(&own, "kube-apiserver", ExtendedKeyUsagePurpose::ServerAuth)), vec![], None),
    ];
    for (token, certificate) in [(true, true), (true, false), (false, true)] {
        let clients = open(token, certificate);
        for (presented, headers, expected) in &cases {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let possible = if expected.is_some_and(|by| by == "token") { token } else { certificate };
            let expected = expected.filter(|_| possible);
            let (status, by) = ask(&clients, peer(presented.clone()), &headers).await;
            let wanted = if expected.is_some() { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            assert_eq!((status, by.as_deref()), (wanted, expected), "{headers:?} {token} {certificate}");
        }
    }
    // without settings every client is accepted, and none is authenticated
    assert_eq!(ask(&open(false, false), peer(Some(good)), &[]).await, (StatusCode::OK, None));
}

#[tokio::test]
async fn tokens_change_without_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tokens");
    std::fs::write(&file, TOKEN).expect("written");
    let settings = ApiServerSettings { webhook_token_file: Some(file.clone()), ..ApiServerSettings::default() };
    let clients = ApiServerClients::open(&settings, Arc::default()).expect("opened");
    let status = async |token: &str| ask(&clients, peer(None), &[&format!("Bearer {token}")]).await.0;
    let tokens = clients.tokens.as_ref().expect("tokens");
    std::fs::write(&file, NEXT_TOKEN).expect("written");
    tokens.read_again();
    assert_eq!((status(TOKEN).await, status(NEXT_TOKEN).await), (StatusCode::UNAUTHORIZED, StatusCode::OK));
    // an empty or unreadable file keeps the last tokens
    std::fs::write(&file, "").expect("written");
    tokens.read_again();
    assert_eq!(status(NEXT_TOKEN).await, StatusCode::OK);
    for (content, expected) in [("", "one token a line"), ("short\n", "one token a line")] {
        std::fs::write(&file, content).expect("written");
        let error = ApiServerClients::open(&settings, Arc::default()).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    std::fs::remove_file(&file).expect("removed");
    assert!(ApiServerClients::open(&settings, Arc::default()).expect_err("refused").to_string().contains("can't read"));
}
