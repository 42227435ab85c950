//! Workloads of a federated trust domain: credentials that its bundle verifies, and fetches of the bundle.

mod bundle_endpoint;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use chrono::{TimeDelta, Utc};
use durward_pki::authority::{CertificateAuthority, IssuedSvid, SvidRequest};
use durward_pki::bundle::write;
use durward_pki::serial::{CertificateHolder, CertificateSerial, UidTag};
use durward_pki::token::{SigningAlgorithm, TokenKey};
use durward_tests::tokens;
use durward_tests::{UpProcess, durward, eventually, request, run};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const HOST: &str = "orders.shop.svc";
const WORKLOAD: &str = "spiffe://partner.example/ns/billing/sa/billing";

/// A foreign trust domain.
struct ForeignDomain {
    name: &'static str,
    authority: CertificateAuthority,
    key: TokenKey,
}

impl ForeignDomain {
    fn new(name: &'static str) -> Self {
        let authority = CertificateAuthority::create(name, Utc::now(), CertificateSerial::unbound([7; 15])).unwrap();
        Self { name, authority, key: TokenKey::generate(SigningAlgorithm::Es256).unwrap() }
    }

    /// Its SPIFFE bundle.
    fn bundle(&self, sequence: i64) -> String {
        write(self.authority.roots(), [self.key.jwk()], sequence, 1)
    }

    fn issue(&self, id: &str, serial: CertificateSerial, ends: TimeDelta) -> IssuedSvid {
        let now = Utc::now();
        let not_before = now - TimeDelta::hours(1);
        let not_after = now + ends;
        let dns_names = &["localhost".to_owned()];
        let addresses = &[];
        self.authority.issue(&SvidRequest { id, dns_names, addresses, not_before, not_after, serial }).unwrap()
    }

    fn svid(&self, id: &str) -> IssuedSvid {
        self.issue(id, CertificateSerial::unbound([9; 15]), TimeDelta::minutes(5))
    }

    fn token(&self, claims: &Value) -> String {
        let good = json!({"sub": WORKLOAD, "aud": ["orders.shop"], "iat": tokens::now(), "exp": tokens::now() + 60});
        self.key.sign(&tokens::with(&good, claims), "JWT").unwrap()
    }

    /// An `IdentityProvider` with these fields of `x509` and its trust domain.
    fn provider(&self, name: &str, fields: &Value) -> String {
        let x509 = tokens::with(&json!({"trustDomain": self.name}), fields);
        resource("IdentityProvider", json!({"name": name}), json!({"x509": x509}))
    }
}

fn resource(kind: &str, metadata: Value, spec: Value) -> String {
    json!({"apiVersion": "durward.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}).to_string()
}

/// A policy with an operation for each kind of caller.
fn policy(authentication: &Value) -> String {
    let operation = |name: &str, risk: &str| {
        let path = format!("/{name}");
        let own = json!({"methods": [own_method(&path)], "paths": ["/forward-auth"]});
        json!({"name": name, "http": [{"methods": ["GET"], "paths": [path]}, own], "risk": risk})
    };
    let spec = json!({
        "service": {"hosts": [HOST], "audience": "orders.shop"},
        "authentication": authentication,
        "operations": [operation("own", "Standard"), operation("partner", "High"), operation("billing", "Standard"),
                       operation("anybody", "Standard"), operation("other", "Standard")],
        "grants": [
            {"name": "own", "to": [{"serviceAccount": {"namespace": "billing", "name": "billing"}}], "scopes": ["own"]},
            {"name": "partner", "to": [{"provider": "partner"}], "scopes": ["partner"]},
            {"name": "billing", "to": [{"principal": WORKLOAD}], "scopes": ["billing"]},
            {"name": "anybody", "to": [{"authenticated": true}], "scopes": ["anybody"]},
            {"name": "other", "to": [{"provider": "other"}], "scopes": ["other"]},
        ],
    });
    resource("AccessPolicy", json!({"name": "orders", "namespace": "shop"}), spec)
}

/// The method of a peer's own request, by which an operation is chosen at the one path of forward auth.
fn own_method(path: &str) -> &'static str {
    match path {
        "/own" => "GET",
        "/partner" => "POST",
        "/billing" => "PUT",
        "/anybody" => "PATCH",
        _ => "DELETE",
    }
}

fn all_methods() -> Value {
    json!([{"workload": {}}, {"provider": "partner"}, {"provider": "other"}])
}

/// A `durward up`, and requests with each kind of credential.
struct FederationSetup {
    up: UpProcess,
    folder: tempfile::TempDir,
}

impl FederationSetup {
    fn open(files: &[(&str, &str)]) -> Self {
        let up = UpProcess::start(files, &["--client-certificates-from", "127.0.0.1", "--trusted-proxy", "127.0.0.1"]);
        let folder = tempfile::tempdir().unwrap();
        up.mint(&["x509", "--service-account", "a/a", "--out", folder.path().to_str().unwrap()]);
        Self { up, folder }
    }

    /// The status of a peer's own request by mTLS; 0 if the handshake fails. The peer is no proxy.
    fn by_tls(&self, svid: &IssuedSvid, path: &str) -> u16 {
        let mut curl = self.curl(svid);
        curl.args(["-o", "/dev/null", "-w", "%{http_code}", "-H", &format!("Host: {HOST}")]);
        curl.args(["--interface", "127.0.0.2", "-X", own_method(path)]);
        run(curl.arg(format!("https://{}/forward-auth", self.up.listen["https"]))).1.parse().unwrap()
    }

    /// Exchanges a certificate, if given, or a token for an access token of the service.
    fn exchanged(&self, svid: Option<&IssuedSvid>, form: &[(&str, &str)]) -> (u16, Value) {
        let form = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .append_pair("audience", "orders.shop")
            .finish();
        let Some(svid) = svid else {
            let headers = [("Host", "durward"), ("Content-Type", "application/x-www-form-urlencoded")];
            let reply = request(self.up.listen["tokens"], "POST", "/token", &headers, &form);
            return (reply.status, serde_json::from_str(&reply.body).unwrap());
        };
        let mut curl = self.curl(svid);
        curl.args(["-w", " %{http_code}", "--data", &form]);
        let (_, stderr, _) = run(curl.arg(format!("https://{}/token", self.up.listen["tokens_tls"])));
        let (body, status) = stderr.rsplit_once(' ').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    }

    /// curl with a client certificate.
    fn curl(&self, svid: &IssuedSvid) -> Command {
        let file = |name: &str, text: &str| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (chain, key) = (file("chain.pem", &svid.chain_pem), file("chain.key", &svid.key_pem));
        let mut curl = Command::new("curl");
        curl.args(["-s", "--http1.1", "--cacert"]).arg(self.folder.path().join("bundle.pem"));
        curl.arg("--cert").arg(chain).arg("--key").arg(key);
        curl
    }

    /// The status by a certificate that a proxy forwards.
    fn forwarded(&self, svid: &IssuedSvid, path: &str) -> u16 {
        let pem = percent_encoding::utf8_percent_encode(&svid.chain_pem, percent_encoding::NON_ALPHANUMERIC);
        let header = ("x-forwarded-client-cert", &*format!("Cert=\"{pem}\""));
        self.up.forward_auth("GET", HOST, path, &[header]).status
    }

    fn by_token(&self, token: &str, path: &str) -> u16 {
        self.up.forward_auth("GET", HOST, path, &[("Authorization", &format!("Bearer {token}"))]).status
    }
}

#[test]
fn federated_workloads_authenticate_by_their_spiffe_id() {
    let partner = ForeignDomain::new("partner.example");
    let roots = partner.authority.roots_pem();
    for (bundle, tokens) in [(partner.bundle(1), true), (roots, false)] {
        let provider = partner.provider("partner", &json!({"bundle": bundle}));
        let doors = FederationSetup::open(&[("policy.yaml", &policy(&all_methods())), ("partner.yaml", &provider)]);
        let billing = partner.svid(WORKLOAD);
        let other = partner.svid("spiffe://partner.example/spire/agent/x");
        for (path, [as_billing, as_other]) in [
            ("/own", [403, 403]),
            ("/partner", [200, 200]),
            ("/billing", [200, 403]),
            ("/anybody", [200, 200]),
            ("/other", [403, 403]),
        ] {
            assert_eq!(doors.by_tls(&billing, path), as_billing, "{path}");
            assert_eq!(doors.by_tls(&other, path), as_other, "{path}");
            assert_eq!(doors.forwarded(&billing, path), as_billing, "{path}");
            assert_eq!(doors.forwarded(&other, path), as_other, "{path}");
        }
        let by_token = doors.by_token(&partner.token(&json!({})), "/billing");
        assert_eq!(by_token, if tokens { 200 } else { 401 }, "a bundle in PEM has no keys for tokens");
        let high = doors.by_token(&partner.token(&json!({})), "/partner");
        assert_eq!(high, 401, "a bearer token is no proof of possession");
        let record = doors.up.record("the workload", |record| record["principal"]["id"] == WORKLOAD);
        assert_eq!(record["principal"]["federation"], "partner");
    }
}

#[test]
fn federated_workloads_exchange_credentials_for_access_tokens() {
    let partner = ForeignDomain::new("partner.example");
    let provider = partner.provider("partner", &json!({"bundle": partner.bundle(1)}));
    let doors = FederationSetup::open(&[("policy.yaml", &policy(&all_methods())), ("partner.yaml", &provider)]);
    let by_jwt_svid = |token: &str| {
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("subject_token", token),
        ];
        doors.exchanged(None, &form)
    };
    for meant in ["durward", "orders.shop"] {
        let (status, answer) = by_jwt_svid(&partner.token(&json!({"aud": [meant]})));
        assert_eq!((status, &answer["scope"]), (200, &json!("anybody billing")), "{meant}: {answer}");
        let token = answer["access_token"].as_str().unwrap();
        for (path, status) in [("/billing", 200), ("/anybody", 200), ("/own", 403), ("/partner", 401)] {
            assert_eq!(doors.by_token(token, path), status, "{path}");
        }
    }
    // the certificate allows high risk; its token is valid with the certificate only
    let certificate = [("grant_type", "client_credentials")];
    let (status, answer) = doors.exchanged(Some(&partner.svid(WORKLOAD)), &certificate);
    assert_eq!((status, &answer["scope"]), (200, &json!("anybody billing partner")), "{answer}");
    assert_eq!(
        doors.by_token(answer["access_token"].as_str().unwrap(), "/billing"),
        401,
        "the token is bound to the certificate"
    );

    // invalid credentials get no token
    let other_domain = ForeignDomain {
        key: TokenKey::generate(SigningAlgorithm::Es256).unwrap(),
        ..ForeignDomain::new("partner.example")
    };
    for token in [
        partner.token(&json!({"aud": ["billing.shop"]})),
        partner.token(&json!({"sub": "spiffe://cluster.local/ns/billing/sa/billing"})),
        partner.token(&json!({"sub": "spiffe://other.example/x"})),
        partner.token(&json!({"exp": tokens::now() - 60})),
        other_domain.token(&json!({})),
    ] {
        let (status, answer) = by_jwt_svid(&token);
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_request")), "{answer}");
    }
    let (status, _) = doors.exchanged(Some(&other_domain.svid(WORKLOAD)), &certificate);
    assert_ne!(status, 200, "a root that the bundle does not have");

    // without the provider, exchanged tokens are invalid
    let (_, answer) = by_jwt_svid(&partner.token(&json!({})));
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(doors.by_token(token, "/billing"), 200);
    std::fs::remove_file(doors.up.manifests.join("partner.yaml")).unwrap();
    eventually("the removal of the provider", || (doors.by_token(token, "/billing") == 401).then_some(())).unwrap();
    assert_eq!(by_jwt_svid(&partner.token(&json!({}))).0, 400);
}

#[test]
fn a_federated_bundle_is_limited_to_its_trust_domain() {
    let partner = ForeignDomain::new("partner.example");
    let other = ForeignDomain::new("other.example");
    let doors = FederationSetup::open(&[
        ("policy.yaml", &policy(&all_methods())),
        ("partner.yaml", &partner.provider("partner", &json!({"bundle": partner.bundle(1)}))),
        ("other.yaml", &other.provider("other", &json!({"bundle": other.bundle(1)}))),
    ]);
    assert_eq!(doors.by_tls(&other.svid("spiffe://other.example/x"), "/other"), 200);
    for id in [
        "spiffe://cluster.local/ns/billing/sa/billing",
        "spiffe://other.example/x",
        "spiffe://nobody.example/x",
        "spiffe://partner.example",
        "spiffe://partner.example/",
        "spiffe://partner.example.evil/x",
        "spiffe://PARTNER.example/x",
        "spiffe://partner.example/ns/../x",
        "https://partner.example/x",
    ] {
        let forged = partner.svid(id);
        for path in ["/own", "/other", "/anybody", "/partner"] {
            assert_eq!(doors.forwarded(&forged, path), 401, "{id} at {path}");
            assert!(matches!(doors.by_tls(&forged, path), 0 | 401), "{id} at {path}");
        }
        let token = partner.token(&json!({"sub": id}));
        assert_eq!(doors.by_token(&token, "/anybody"), 401, "a token of {id}");
    }
    // roots of another domain verify no handshake
    assert_eq!(doors.by_tls(&partner.svid("spiffe://cluster.local/ns/billing/sa/billing"), "/own"), 0);
    assert_eq!(doors.by_tls(&partner.svid("spiffe://other.example/x"), "/other"), 0);
    // an identity of the partner needs the partner's root
    assert_eq!(doors.by_tls(&other.svid(WORKLOAD), "/billing"), 0);
    assert_eq!(doors.forwarded(&other.svid(WORKLOAD), "/billing"), 401);
    let own = durward()
        .args(["mint", "jwt", "--service-account", "billing/billing", "--audience", "orders.shop", "--state"])
        .arg(&doors.up.state)
        .output()
        .unwrap();
    let own = String::from_utf8(own.stdout).unwrap();
    assert_eq!(doors.by_token(own.trim(), "/own"), 200, "our own workloads still authenticate");
    assert_eq!(doors.by_token(own.trim(), "/partner"), 401);
}

#[test]
fn invalid_federated_credentials_are_refused() {
    let partner = ForeignDomain::new("partner.example");
    let provider = partner.provider("partner", &json!({"bundle": partner.bundle(1)}));
    let doors = FederationSetup::open(&[("policy.yaml", &policy(&all_methods())), ("partner.yaml", &provider)]);
    assert_eq!(doors.by_token(&partner.token(&json!({})), "/billing"), 200);
    for claims in [
        json!({"aud": null}),
        json!({"aud": ["another"]}),
        json!({"exp": null}),
        json!({"exp": tokens::now() - 60}),
        json!({"sub": null}),
        json!({"sub": "billing"}),
        json!({"sub": "spiffe://partner.example/x y"}),
        json!({"sub": "spiffe://partner.example//x"}),
        json!({"sub": format!("spiffe://partner.example/{}", "x".repeat(3000))}),
        json!({"nbf": tokens::now() + 600}),
    ] {
        assert_eq!(doors.by_token(&partner.token(&claims), "/billing"), 401, "{claims}");
    }
    let other_domain = ForeignDomain {
        key: TokenKey::generate(SigningAlgorithm::Es256).unwrap(),
        ..ForeignDomain::new("partner.example")
    };
    assert_eq!(doors.by_token(&other_domain.token(&json!({})), "/billing"), 401, "a key that the bundle does not have");
    let claims = json!({"sub": WORKLOAD, "aud": "orders.shop", "iat": tokens::now(), "exp": tokens::now() + 60});
    for (typ, status) in [("JWT", 200), ("JOSE", 200), ("at+jwt", 401), ("application/at+jwt", 401)] {
        assert_eq!(doors.by_token(&partner.key.sign(&claims, typ).unwrap(), "/billing"), status, "{typ}");
    }
    assert_eq!(doors.forwarded(&other_domain.svid(WORKLOAD), "/billing"), 401, "a root that the bundle does not have");
    let ended = partner.issue(WORKLOAD, CertificateSerial::unbound([9; 15]), -TimeDelta::minutes(5));
    assert_eq!((doors.forwarded(&ended, "/billing"), doors.by_tls(&ended, "/billing")), (401, 0));
    // a serial number like those of our own certificates has no effect
    let holder = CertificateHolder { pod: UidTag::from_uid("pod"), service_account: UidTag::from_uid("account") };
    let alike = partner.issue(WORKLOAD, CertificateSerial::for_pod(holder, [1; 9]), TimeDelta::minutes(5));
    assert_eq!(doors.forwarded(&alike, "/billing"), 200);
    // a policy for our own workloads accepts no federated ones
    doors.up.write("policy.yaml", &policy(&json!([{"workload": {}}])));
    eventually("the narrower policy", || (doors.by_tls(&partner.svid(WORKLOAD), "/anybody") == 401).then_some(()))
        .unwrap();
    assert_eq!(doors.by_token(&partner.token(&json!({})), "/anybody"), 401);
}

#[test]
fn trust_domains_are_unique_and_the_own_one_is_reserved() {
    let (partner, thief) = (ForeignDomain::new("partner.example"), ForeignDomain::new("partner.example"));
    let own = ForeignDomain::new("cluster.local");
    let doors = FederationSetup::open(&[
        ("policy.yaml", &policy(&all_methods())),
        ("partner.yaml", &thief.provider("partner", &json!({"bundle": thief.bundle(1)}))),
        ("other.yaml", &partner.provider("other", &json!({"bundle": partner.bundle(1)}))),
        ("own.yaml", &own.provider("ours", &json!({"bundle": own.bundle(1)}))),
    ]);
    let stderr = doors.up.stderr();
    assert!(
        stderr
            .contains("provider ours: spec.x509.trustDomain: `cluster.local` is the trust domain of this installation"),
        "{stderr}"
    );
    let taken = "provider partner: spec.x509.trustDomain: the older IdentityProvider `other` already has trust domain";
    assert!(stderr.contains(taken), "{stderr}");
    assert_eq!(doors.forwarded(&partner.svid(WORKLOAD), "/other"), 200);
    for path in ["/partner", "/other", "/anybody", "/billing"] {
        assert_eq!(doors.forwarded(&thief.svid(WORKLOAD), path), 401, "{path}");
    }
    let forged = own.svid("spiffe://cluster.local/ns/billing/sa/billing");
    assert_eq!((doors.forwarded(&forged, "/own"), doors.by_tls(&forged, "/own")), (401, 0));
}

#[test]
fn an_invalid_bundle_is_reported_with_its_field() {
    let partner = ForeignDomain::new("partner.example");
    let endpoint =
        |more: &Value| json!({"endpoint": tokens::with(&json!({"url": "https://x", "profile": "https_web"}), more)});
    for (fields, stderr) in [
        (json!({}), "spec.x509.bundle: set the source of the trust bundle"),
        (json!({"bundle": "nonsense"}), "spec.x509.bundle: neither SPIFFE's JSON nor certificates in PEM"),
        (json!({"bundle": "{}"}), "spec.x509.bundle: not a SPIFFE bundle: it has no `keys`"),
        (endpoint(&json!({"url": "http://localhost"})), "spec.x509.endpoint.url: write an https URL"),
        (
            endpoint(&json!({"spiffeId": WORKLOAD})),
            "spec.x509.endpoint.spiffeId: allowed only with profile `https_spiffe`",
        ),
        (
            endpoint(&json!({"profile": "https_spiffe"})),
            "spec.x509.endpoint.spiffeId: required with profile `https_spiffe`",
        ),
        (
            endpoint(&json!({"profile": "https_spiffe", "spiffeId": WORKLOAD})),
            "spec.x509.bundle: profile `https_spiffe` needs an initial `bundle`, which verifies the endpoint",
        ),
        (
            endpoint(&json!({"profile": "https_spiffe", "spiffeId": "spiffe://other.example/x"})),
            "spec.x509.endpoint.spiffeId: the SPIFFE ID of the endpoint must be in trust domain",
        ),
    ] {
        let up = UpProcess::with(&[("partner.yaml", &partner.provider("partner", &fields))]);
        assert!(up.stderr().contains(&format!("provider partner: {stderr}")), "{stderr:?} is not in {}", up.stderr());
    }
}

#[test]
fn enforcement_points_name_only_workloads_of_known_trust_domains() {
    let partner = ForeignDomain::new("partner.example");
    let provider = partner.provider("partner", &json!({"bundle": partner.bundle(1)}));
    let up = UpProcess::with(&[("policy.yaml", &policy(&all_methods())), ("partner.yaml", &provider)]);
    for (id, action, decision) in [
        (WORKLOAD, "billing", true),
        (WORKLOAD, "own", false),
        ("spiffe://cluster.local/ns/billing/sa/billing", "own", true),
        ("spiffe://cluster.local/ns/billing/sa/billing", "billing", false),
        ("spiffe://nobody.example/ns/billing/sa/billing", "anybody", false),
    ] {
        let body = json!({
            "subject": {"type": "workload", "id": id}, "action": {"name": action}, "resource": {"type": "orders.shop", "id": "1"},
        });
        assert_eq!(up.authzen("/access/v1/evaluation", &body), (200, json!({"decision": decision})), "{id} {action}");
    }
    // the `check` command decides the same without a server
    let check = |more: &[&str]| {
        let mut command = durward();
        command.args(["check", "--policies"]).arg(&up.manifests).args(["--as", WORKLOAD]).args(more);
        run(command.args(["--operation", "billing", "orders.shop"]))
    };
    assert_eq!(check(&["--provider", "partner"]).0, 0);
    let (code, _, stderr) = check(&[]);
    assert!(
        code == 2 && stderr.contains("name the IdentityProvider that vouches for it with --provider"),
        "{code} {stderr}"
    );
}
