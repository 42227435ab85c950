//! A controller that a test writes the answers of: certificates, tokens and bundles for one pod, over TLS.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, TimeDelta, Utc};
use durward_pki::authority::{CertificateAuthority, SvidRequest};
use durward_pki::bundle::write;
use durward_pki::serial::CertificateSerial;
use rcgen::{CertificateSigningRequestParams, PublicKeyData};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// SPIFFE ID of the pod.
pub const POD: &str = "spiffe://cluster.local/ns/shop/sa/orders";

/// What the controller answers.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Seconds that the clock of the pod is ahead of this one.
    pub ahead: i64,
    /// Lifetime of certificates and tokens.
    pub lifetime: TimeDelta,
    /// Whether requests fail.
    pub fails: bool,
    /// Whether requests get no answer.
    pub silent: bool,
    /// Names of the trust domains that are trusted besides the own one.
    pub partners: Vec<&'static str>,
    /// Number of certificates and of tokens so far.
    pub issued: (usize, usize),
}

type SharedAnswers = Arc<(CertificateAuthority, Mutex<Answers>)>;

/// A running controller.
pub struct FakeController {
    directory: TempDir,
    pub address: SocketAddr,
    shared: SharedAnswers,
    /// Dropping this stops it.
    _running: oneshot::Sender<()>,
}

fn authority(trust_domain: &str) -> CertificateAuthority {
    CertificateAuthority::create(trust_domain, Utc::now(), CertificateSerial::unbound([7; 15])).unwrap()
}

impl FakeController {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority("cluster.local");
        let server = authority.issue(&SvidRequest {
            id: "spiffe://cluster.local/ns/durward/sa/durward",
            dns_names: &[],
            addresses: &["127.0.0.1".parse().unwrap()],
            not_before: Utc::now() - TimeDelta::minutes(1),
            not_after: Utc::now() + TimeDelta::days(30),
            serial: CertificateSerial::unbound([8; 15]),
        });
        let server = server.unwrap();
        std::fs::write(directory.path().join("roots.pem"), authority.roots_pem()).unwrap();
        std::fs::write(directory.path().join("token"), "token").unwrap();
        let chain = CertificateDer::pem_slice_iter(server.chain_pem.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(chain, key).unwrap();

        let answers = Answers {
            ahead: 0,
            lifetime: TimeDelta::hours(1),
            fails: false,
            silent: false,
            partners: Vec::new(),
            issued: (0, 0),
        };
        let shared: SharedAnswers = Arc::new((authority, Mutex::new(answers)));
        let router = Router::new()
            .route("/mint/x509", post(certificate))
            .route("/mint/jwt", post(token))
            .route("/bundles", get(bundles))
            .with_state(Arc::clone(&shared));
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (running, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(socket).unwrap();
                let listener = TlsListener { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
                tokio::select! {
                    served = axum::serve(listener, router) => served.unwrap(),
                    _ = ended => {}
                }
            });
        });
        Self { directory, address, shared, _running: running }
    }

    /// The file `token` of the pod, or `roots.pem` of this controller.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Changes the answers; returns them.
    pub fn change(&self, change: impl FnOnce(&mut Answers)) -> Answers {
        let mut answers = self.shared.1.lock().unwrap();
        change(&mut answers);
        answers.clone()
    }

    /// The answers, with the numbers so far.
    pub fn answers(&self) -> Answers {
        self.change(|_| {})
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Waits if the controller is silent. Returns the time of the pod, and the lifetime of what is issued.
async fn begin(
    shared: &SharedAnswers,
    count: impl FnOnce(&mut Answers),
) -> Result<(DateTime<Utc>, TimeDelta), Response> {
    if shared.1.lock().unwrap().silent {
        std::future::pending::<()>().await;
    }
    let mut answers = shared.1.lock().unwrap();
    if answers.fails {
        return Err(StatusCode::INTERNAL_SERVER_ERROR.into_response());
    }
    count(&mut answers);
    Ok((Utc::now() + TimeDelta::seconds(answers.ahead), answers.lifetime))
}

async fn certificate(State(shared): State<SharedAnswers>, Json(request): Json<Value>) -> Response {
    let (now, lifetime) = match begin(&shared, |answers| answers.issued.0 += 1).await {
        Ok(begun) => begun,
        Err(response) => return response,
    };
    let csr = STANDARD.decode(request["csr"].as_str().unwrap()).unwrap();
    let csr = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr)).unwrap();
    let request = SvidRequest {
        id: POD,
        dns_names: &[],
        addresses: &[],
        not_before: now - TimeDelta::minutes(1),
        not_after: now + lifetime,
        serial: CertificateSerial::unbound([9; 15]),
    };
    assert!(!csr.public_key.der_bytes().is_empty());
    let leaf = shared.0.certify(&request, &csr.public_key).unwrap();
    let (until, refresh) = (now + lifetime, now + lifetime / 2);
    Json(json!({"spiffeId": POD, "chain": [STANDARD.encode(leaf)], "notAfter": until, "refreshAt": refresh}))
        .into_response()
}

async fn token(State(shared): State<SharedAnswers>) -> Response {
    let mut number = 0;
    let count = |answers: &mut Answers| {
        answers.issued.1 += 1;
        number = answers.issued.1;
    };
    match begin(&shared, count).await {
        Ok((now, lifetime)) => {
            let token = format!("token-{number}");
            Json(json!({"spiffeId": POD, "token": token, "expiresAt": now + lifetime})).into_response()
        }
        Err(response) => response,
    }
}

async fn bundles(State(shared): State<SharedAnswers>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    loop {
        let partners = shared.1.lock().unwrap().partners.clone();
        let digest = format!("trusts {partners:?}");
        if query["known"] != digest {
            let bundle = |authority: &CertificateAuthority| -> Value {
                serde_json::from_str(&write(authority.roots(), [], 1, 60)).unwrap()
            };
            let partners = partners.iter().map(|name| (format!("spiffe://{name}"), bundle(&authority(name))));
            let all: BTreeMap<_, _> =
                partners.chain([("spiffe://cluster.local".to_owned(), bundle(&shared.0))]).collect();
            return Json(json!({"digest": digest, "bundles": all}));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
