//! An OpenFGA server, built from the Go module that `tests/openfga/go.mod` pins.

mod program;

pub use program::program;

use crate::{eventually, free, repository};
use serde_json::{Value, json};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The preshared key of the server.
pub const KEY: &str = "a-secret-preshared-key";

/// The folder of the Go module.
pub fn module() -> PathBuf {
    repository("tests/openfga")
}

/// OpenFGA's published model tests as JSON, printed by `tests/openfga/main.go`.
pub fn published_tests() -> String {
    program::go(&["run", "."])
}

/// A running server with an empty store; killed when dropped.
pub struct OpenFgaServer {
    child: Child,
    pub url: String,
    pub store: String,
    client: OpenFgaClient,
    _directory: TempDir,
    /// File with the roots of its certificate, if it serves TLS.
    pub roots: Option<PathBuf>,
    /// File with the preshared key.
    pub key_file: PathBuf,
}

impl OpenFgaServer {
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// Starts a server with TLS.
    pub fn with_tls() -> Self {
        Self::start_with(true)
    }

    fn start_with(tls: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key_file = directory.path().join("key");
        std::fs::write(&key_file, format!("{KEY}\n")).unwrap();
        let http = free();
        let grpc = free();
        let mut command = Command::new(program());
        command.arg("run").args(["--datastore-engine", "memory", "--log-level", "error"]);
        command.args(["--playground-enabled=false", "--metrics-enabled=false"]);
        command.args(["--http-addr", &http.to_string(), "--grpc-addr", &grpc.to_string()]);
        command.args(["--authn-method", "preshared", "--authn-preshared-keys", KEY]);
        let roots = tls.then(|| {
            let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
            let certificate = directory.path().join("cert.pem");
            let key = directory.path().join("key.pem");
            std::fs::write(&certificate, issued.cert.pem()).unwrap();
            std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
            for side in ["http", "grpc"] {
                command.arg(format!("--{side}-tls-enabled"));
                command.arg(format!("--{side}-tls-cert")).arg(&certificate);
                command.arg(format!("--{side}-tls-key")).arg(&key);
            }
            certificate
        });
        let log = tempfile::NamedTempFile::new().unwrap();
        command.stdout(log.reopen().unwrap()).stderr(log.reopen().unwrap()).stdin(Stdio::null());
        let child = command.spawn().unwrap();
        let scheme = if tls { "https" } else { "http" };
        let mut server = Self {
            child,
            url: format!("{scheme}://{http}"),
            store: String::new(),
            client: OpenFgaClient::with_roots(roots.as_deref()),
            _directory: directory,
            roots,
            key_file,
        };
        eventually("OpenFGA listens", || TcpStream::connect(http).ok())
            .unwrap_or_else(|what| panic!("{what}:\n{}", std::fs::read_to_string(log.path()).unwrap_or_default()));
        let store = eventually("a store in OpenFGA", || server.post("/stores", &json!({"name": "test"})).ok());
        server.store = store.unwrap()["id"].as_str().unwrap().to_owned();
        server
    }

    /// Arguments that make Durward use it.
    pub fn arguments(&self) -> Vec<String> {
        let key = self.key_file.display().to_string();
        let mut arguments = vec!["--openfga-url".to_owned(), self.url.clone(), "--openfga-token-file".to_owned(), key];
        let roots = self.roots.iter().flat_map(|roots| ["--openfga-ca-file".to_owned(), roots.display().to_string()]);
        arguments.extend(roots);
        arguments
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.client.post(&format!("{}{path}", self.url), body)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes an authorization model and returns its id.
    pub fn model(&self, model: &Value) -> Result<String, String> {
        let written = self.post(&format!("/stores/{}/authorization-models", self.store), model)?;
        Ok(written["authorization_model_id"].as_str().unwrap().to_owned())
    }

    /// Writes tuples.
    pub fn write(&self, model: &str, tuples: &[Value]) {
        for batch in tuples.chunks(100) {
            let body = json!({"writes": {"tuple_keys": batch}, "authorization_model_id": model});
            self.post(&format!("/stores/{}/write", self.store), &body).unwrap();
        }
    }

    /// Deletes tuples.
    pub fn delete(&self, tuples: &[Value]) {
        for batch in tuples.chunks(100) {
            let body = json!({"deletes": {"tuple_keys": batch}});
            self.post(&format!("/stores/{}/write", self.store), &body).unwrap();
        }
    }

    /// Kills the server.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for OpenFgaServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// A client with the preshared key that keeps its connection.
pub struct OpenFgaClient {
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl OpenFgaClient {
    pub fn without_tls() -> Self {
        Self::with_roots(None)
    }

    fn with_roots(roots: Option<&Path>) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let roots = roots.map(|roots| reqwest::Certificate::from_pem(&std::fs::read(roots).unwrap()).unwrap());
        let http = reqwest::Client::builder().tls_certs_only(roots).no_proxy().build().unwrap();
        Self { http, runtime: tokio::runtime::Runtime::new().unwrap() }
    }

    pub fn post(&self, url: &str, body: &Value) -> Result<Value, String> {
        self.runtime.block_on(async {
            let request = self.http.post(url).bearer_auth(KEY).json(body);
            let answer = request.send().await.map_err(|error| error.to_string())?;
            let status = answer.status();
            let text = answer.text().await.unwrap_or_default();
            if status.is_success() { Ok(serde_json::from_str(&text).unwrap()) } else { Err(text) }
        })
    }
}
