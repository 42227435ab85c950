//! Bundles of an endpoint.

use super::*;

/// A response of the bundle endpoint.
#[derive(Clone)]
enum BundleAnswer {
    Text(String),
    Redirect(String),
    Down,
}

#[derive(Clone)]
struct BundleServer {
    address: SocketAddr,
    answer: Arc<Mutex<BundleAnswer>>,
    fetches: Arc<Mutex<u32>>,
}

impl BundleServer {
    async fn start(certificate: &IssuedSvid, answer: BundleAnswer) -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let this = Self { address, answer: Arc::new(Mutex::new(answer)), fetches: Arc::default() };
        let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = Arc::new(tls.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let router = Router::new().fallback(respond).with_state(this.clone());
        tokio::spawn(serve(socket, TlsAcceptor::from(tls), router));
        this
    }

    fn set_answer(&self, answer: BundleAnswer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/", self.address.port())
    }
}

/// Serves each connection until the test ends.
async fn serve(socket: TcpListener, tls: TlsAcceptor, router: Router) {
    loop {
        let (stream, _) = socket.accept().await.unwrap();
        let tls = tls.clone();
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            // a client that does not trust the certificate aborts
            let Ok(stream) = tls.accept(stream).await else { return };
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.await;
        });
    }
}

async fn respond(State(endpoint): State<BundleServer>) -> (StatusCode, HeaderMap, String) {
    *endpoint.fetches.lock().unwrap() += 1;
    let answer = endpoint.answer.lock().unwrap().clone();
    let mut headers = HeaderMap::new();
    match answer {
        BundleAnswer::Text(text) => (StatusCode::OK, headers, text),
        BundleAnswer::Redirect(to) => {
            headers.insert(header::LOCATION, to.parse().unwrap());
            (StatusCode::FOUND, headers, String::new())
        }
        BundleAnswer::Down => (StatusCode::SERVICE_UNAVAILABLE, headers, String::new()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_bundle_is_refreshed_and_never_rolled_back() {
    let (partner, next) = (ForeignDomain::new("partner.example"), ForeignDomain::new("partner.example"));
    let id = "spiffe://partner.example/spire/server";
    let endpoint = BundleServer::start(&partner.svid(id), BundleAnswer::Text(partner.bundle(5))).await;
    let fields = json!({
        "bundle": partner.authority.roots_pem(),
        "endpoint": {"url": endpoint.url(), "profile": "https_spiffe", "spiffeId": id},
    });
    let provider = partner.provider("partner", &fields);
    let doors = FederationSetup::open(&[("policy.yaml", &policy(&all_methods())), ("partner.yaml", &provider)]);
    let by_token = |domain: &ForeignDomain| doors.by_token(&domain.token(&json!({})), "/billing");
    eventually("the keys of the fetched bundle", || (by_token(&partner) == 200).then_some(())).unwrap();

    // after a failure the valid bundle stays in use
    let redirect = format!("https://localhost:{}/", endpoint.address.port());
    for (bad, stdout_text) in [
        (BundleAnswer::Text(next.bundle(4)), "its sequence went back from 5 to 4"),
        (BundleAnswer::Down, "answered 503"),
        (BundleAnswer::Redirect(redirect), "answered 302"),
    ] {
        endpoint.set_answer(bad);
        doors.up.wait_for_stderr(stdout_text);
        assert_eq!((by_token(&partner), by_token(&next)), (200, 401));
        assert_eq!(doors.by_tls(&partner.svid(WORKLOAD), "/billing"), 200);
    }

    // two roots, then one: certificates of the old root are refused at once, also on open connections
    let roots: Vec<_> = partner.authority.roots().iter().chain(next.authority.roots()).cloned().collect();
    endpoint.set_answer(BundleAnswer::Text(write(&roots, [partner.key.jwk(), next.key.jwk()], 6, 1)));
    eventually("the next root", || (doors.by_tls(&next.svid(WORKLOAD), "/billing") == 200).then_some(())).unwrap();
    assert_eq!((by_token(&partner), by_token(&next)), (200, 200));
    endpoint.set_answer(BundleAnswer::Text(next.bundle(7)));
    eventually("certificates of the old root to be refused", || {
        (doors.by_tls(&partner.svid(WORKLOAD), "/billing") == 0).then_some(())
    })
    .unwrap();
    assert_eq!((by_token(&partner), by_token(&next)), (401, 200));
    // the endpoint still presents a certificate of the removed root
    endpoint.set_answer(BundleAnswer::Text(partner.bundle(8)));
    doors.up.wait_for_stderr("the endpoint's certificate is not valid");
    assert_eq!((by_token(&partner), by_token(&next)), (401, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_endpoint_authenticates_by_its_profile() {
    let partner = ForeignDomain::new("partner.example");
    let web = ForeignDomain::new("web.example");
    let id = "spiffe://partner.example/spire/server";
    for (certificate, profile, good) in [
        (partner.svid(id), "https_spiffe", true),
        (partner.svid(WORKLOAD), "https_spiffe", false),
        (web.svid(id), "https_spiffe", false),
        (web.svid("spiffe://web.example/x"), "https_web", true),
        (partner.svid(id), "https_web", false),
    ] {
        let endpoint = BundleServer::start(&certificate, BundleAnswer::Text(partner.bundle(5))).await;
        let mut fields = json!({"endpoint": {"url": endpoint.url(), "profile": profile}});
        if profile == "https_spiffe" {
            fields["bundle"] = partner.authority.roots_pem().into();
            fields["endpoint"]["spiffeId"] = id.into();
        }
        let folder = tempfile::tempdir().unwrap();
        let roots = folder.path().join("web.pem");
        std::fs::write(&roots, web.authority.roots_pem()).unwrap();
        let files = [("policy.yaml", policy(&all_methods())), ("partner.yaml", partner.provider("partner", &fields))];
        let up = trusting(&roots, &files);
        let token = format!("Bearer {}", partner.token(&json!({})));
        let ask = || up.forward_auth("GET", HOST, "/billing", &[("Authorization", &token)]).status;
        if good {
            eventually("the fetched keys", || (ask() == 200).then_some(())).unwrap();
        } else {
            up.wait_for_stderr("fetching the trust bundle failed");
            assert_eq!(ask(), 401, "{profile}");
            assert_eq!(*endpoint.fetches.lock().unwrap(), 0, "an unverified endpoint receives no request");
        }
    }
}

/// A `durward up` that trusts these web roots.
fn trusting(roots: &Path, files: &[(&str, String); 2]) -> UpProcess {
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    UpProcess::start_with(&files, &[], |command| {
        command.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
    })
}
