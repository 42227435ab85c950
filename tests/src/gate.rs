//! A `durward gate` of a test's own, an application behind it, and clients with certificates.

use crate::{HttpReply, TIMEOUT, UpProcess, durward, exchange, listening, record, records, run};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use base64::Engine;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Manifests and state that the gates and clients of one test share.
pub struct GateFixture {
    directory: TempDir,
    manifests: PathBuf,
    state: PathBuf,
}

impl GateFixture {
    pub fn new(policies: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir(directory.path().join("manifests")).unwrap();
        // as users do, relative to the working directory
        let ground = Self { directory, manifests: "manifests".into(), state };
        ground.write("manifests/policy.yaml", policies);
        ground
    }

    /// Has a path of manifests in a working directory that `prepare` fills.
    pub fn prepared(root: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let state = directory.path().join("state");
        Self { directory, manifests: root.into(), state }
    }

    /// Shares the manifests and the state of a `durward up`.
    pub fn of(up: &UpProcess) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), manifests: up.manifests.clone(), state: up.state.clone() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn mint(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = run(durward().arg("mint").args(arguments).arg("--state").arg(&self.state));
        assert_eq!(code, 0, "{stderr}");
        stdout.trim().to_owned()
    }

    pub fn token(&self, service_account: &str, audience: &str) -> String {
        self.mint(&["jwt", "--service-account", service_account, "--audience", audience])
    }

    /// Mints an X.509-SVID; returns the directory with certificate, key and roots.
    pub fn svid(&self, service_account: &str) -> PathBuf {
        let out = self.path(&service_account.replace('/', "-"));
        self.mint(&[
            "x509",
            "--service-account",
            service_account,
            "--dns",
            "localhost",
            "--out",
            out.to_str().unwrap(),
        ]);
        out
    }

    /// Starts a gate with the identity of `service_account` in front of `upstream`.
    pub fn gate(&self, service_account: &str, upstream: &str, arguments: &[&str]) -> GateProcess {
        let mut command = durward();
        command
            .current_dir(self.directory.path())
            .arg("gate")
            .arg("--policies")
            .arg(&self.manifests)
            .arg("--state")
            .arg(&self.state);
        if !arguments.contains(&"--certificate") {
            command.args(["--service-account", service_account]);
        }
        let audit = self.path(&format!("audit-{}.log", service_account.replace('/', "-")));
        if !arguments.contains(&"--audit-log") {
            command.arg("--audit-log").arg(&audit);
        }
        command.args(["--upstream", upstream, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--json"]);
        let (child, listen, stderr) = listening(command.args(arguments));
        GateProcess { child, listen, audit, stderr }
    }

    /// A client with the certificate of a service account, or without one.
    pub fn caller(&self, service_account: Option<&str>) -> TlsCaller {
        self.caller_by(service_account, rustls::ALL_VERSIONS, &[])
    }

    pub fn caller_by(
        &self,
        service_account: Option<&str>,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> TlsCaller {
        let roots = self.svid("any/roots");
        let mut store = RootCertStore::empty();
        store.add(CertificateDer::from_pem_file(roots.join("bundle.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let config = config.with_root_certificates(store);
        let mut config = match service_account {
            None => config.with_no_client_auth(),
            Some(account) => {
                let svid = self.svid(account);
                let chain = CertificateDer::pem_file_iter(svid.join("svid.pem")).unwrap().map(Result::unwrap).collect();
                config
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(svid.join("key.pem")).unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsCaller { config: Arc::new(config) }
    }
}

/// A running gate; killed when dropped.
pub struct GateProcess {
    child: Child,
    pub listen: BTreeMap<String, SocketAddr>,
    pub audit: PathBuf,
    stderr: Arc<Mutex<String>>,
}

impl GateProcess {
    pub fn address(&self) -> SocketAddr {
        self.listen["listen"]
    }

    pub fn records(&self, count: usize) -> Vec<Value> {
        records(&self.audit, count)
    }

    pub fn record(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        record(&self.audit, what, matches)
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM, as kubelet does.
    pub fn terminate(&self) {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for GateProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub type TlsConnection = StreamOwned<ClientConnection, TcpStream>;

/// A client that connects over TLS.
pub struct TlsCaller {
    config: Arc<ClientConfig>,
}

impl TlsCaller {
    pub fn connect(&self, address: SocketAddr) -> TlsConnection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(Arc::clone(&self.config), name).unwrap(), stream)
    }

    /// Its TLS configuration.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Sends bytes on a new connection and reads until the server closes it.
    pub fn raw(&self, address: SocketAddr, bytes: &[u8]) -> HttpReply {
        exchange(self.connect(address), bytes)
    }

    pub fn request(&self, address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> HttpReply {
        self.raw(address, head(method, path, headers).as_bytes())
    }
}

/// A request without a body.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let close = if headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("connection")) {
        ""
    } else {
        "Connection: close\r\n"
    };
    format!("{method} {path} HTTP/1.1\r\n{close}{lines}\r\n")
}

/// An application that records its requests and answers with them.
pub struct RecordingApp {
    pub address: SocketAddr,
    pub requests: Arc<Mutex<Vec<Value>>>,
    /// Dropping this stops the application.
    _running: oneshot::Sender<()>,
}

impl RecordingApp {
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::default();
        let router = Router::new()
            .route("/files/echo", any(async |request: Request| Response::new(request.into_body())))
            .route("/files/socket", get(socket))
            .route("/files/liar", get(socket))
            .route("/files/never", get(async || std::future::pending::<()>().await))
            .route("/files/names-headers", get(async || ([("connection", "x-secret, close"), ("x-secret", "1")], "x")))
            .fallback(record_request)
            .with_state(Arc::clone(&requests));
        let (running, ended) = oneshot::channel();
        // its own thread, since the test may run in a runtime already
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    served = axum::serve(listener, router) => served.unwrap(),
                    _ = ended => {}
                }
            });
        });
        Self { address, requests, _running: running }
    }

    pub fn upstream(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Value> {
        self.requests.lock().unwrap().clone()
    }
}

async fn record_request(State(requests): State<Arc<Mutex<Vec<Value>>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let mut headers = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in &parts.headers {
        headers.entry(name.to_string()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    let body = to_bytes(body, 1 << 20).await.map_or(0, |bytes| bytes.len());
    let received = json!({
        "method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers, "body": body,
        "version": format!("{:?}", parts.version),
    });
    requests.lock().unwrap().push(received.clone());
    Json(received).into_response()
}

/// Accepts any upgrade and echoes what it receives.
async fn socket(request: Request) -> Response {
    if !request.headers().contains_key("upgrade") {
        return "no upgrade".into_response();
    }
    let to = request.headers()["upgrade"].clone();
    // every other path gets a wrong `sec-websocket-accept`
    let key = if request.uri().path() == "/files/socket" { request.headers().get("sec-websocket-key") } else { None };
    let key = key.map_or(&b"another"[..], |key| key.as_bytes());
    let proof = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        &[key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat(),
    );
    let proof = base64::engine::general_purpose::STANDARD.encode(proof);
    let headers = request.headers().get_all("sec-websocket-protocol").iter().cloned().collect::<Vec<_>>();
    tokio::spawn(async move {
        let stream = hyper::upgrade::on(request).await.unwrap();
        let (mut read, mut write) = tokio::io::split(hyper_util::rt::TokioIo::new(stream));
        let _ = tokio::io::copy(&mut read, &mut write).await;
    });
    let response = Response::builder().status(101).header("connection", "upgrade").header("upgrade", to);
    let response = response.header("sec-websocket-accept", proof);
    let response =
        headers.into_iter().fold(response, |response, value| response.header("sec-websocket-protocol", value));
    response.body(Body::empty()).unwrap()
}
