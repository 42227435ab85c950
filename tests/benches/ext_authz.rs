//! Server CPU of one `ext_authz` check with an RS256 token, side by side with OPA-Envoy in one run.
//!
//! `make bench` builds OPA-Envoy and ghz from their Go modules and passes their paths. The load is the same for
//! both: 1,000 tokens in turn, 50 requests in flight on 4 connections. CPU is `utime` and `stime` of the server, which
//! independent of the load generator.

use durward_tests::tokens::{IssuerKey, manifests, now};
use durward_tests::{UpProcess, eventually, repository, usage};
use serde_json::{Value, json};
use std::env;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TOKENS: usize = 1000;
/// Set for the process that sends a constant response.
const EMPTY_SERVER: &str = "DURWARD_BENCH_EMPTY_SERVER";

fn main() {
    if env::var_os(EMPTY_SERVER).is_some() {
        return empty::serve();
    }
    // without these under `cargo test --all-targets`, which runs benchmarks, too
    let (Some(opa), Some(ghz)) = (env::var_os("OPA_ENVOY").map(PathBuf::from), env::var_os("GHZ").map(PathBuf::from))
    else {
        println!("OPA_ENVOY and GHZ are not set; run `make bench`");
        return;
    };
    let requests: usize = env::var("REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(40_000);
    let key = IssuerKey::rsa("k1");
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("checks.json");
    fs::write(&data, checks(&key).to_string()).unwrap();

    println!("{:<22} {:>9} {:>14} {:>11} {:>9} {:>9}", "", "checks/s", "server CPU", "resident", "p50", "p99");
    let up = UpProcess::start(&[("shop.yaml", &manifests(&[&key]))], &["--audit-log", "/dev/null"]);
    println!("{:<22} {:>9} {:>14} {:>8.1} MB", "durward, idle", "", "", up.resident() as f64 / 1024.0);
    let address = up.listen["grpc"].to_string();
    let first = load(&ghz, &address, &data, TOKENS, up.id());
    print("durward, new tokens", &first);
    let durward = load(&ghz, &address, &data, requests, up.id());
    print("durward, known tokens", &durward);
    drop(up);

    let empty = empty::EmptyServer::start();
    load(&ghz, &empty.address, &data, TOKENS, empty.id());
    let stack = load(&ghz, &empty.address, &data, requests, empty.id());
    print("empty", &stack);
    println!("a known token costs {:.2} times what the empty server stack does", durward.cpu_us / stack.cpu_us);
    drop(empty);

    let opa = Opa::start(&opa, &key, directory.path());
    load(&ghz, &opa.address, &data, TOKENS, opa.child.id());
    let peer = load(&ghz, &opa.address, &data, requests, opa.child.id());
    print("OPA-Envoy", &peer);
    println!("OPA-Envoy spends {:.1} times the server CPU", peer.cpu_us / durward.cpu_us);
}

/// A check request for each token, as Envoy sends it.
fn checks(key: &IssuerKey) -> Value {
    let check = |i: usize| {
        let token = key.token(&json!({"jti": i, "sub": format!("user-{i}"), "exp": now() + 3600}));
        json!({"attributes": {"request": {"http": {
            "method": "GET", "path": "/orders/42", "host": "orders.example.com", "scheme": "https", "protocol": "HTTP/1.1",
            "headers": {
                ":authority": "orders.example.com", ":method": "GET", ":path": "/orders/42", ":scheme": "https",
                "authorization": format!("Bearer {token}"), "user-agent": "bench/1", "accept": "*/*",
                "x-request-id": format!("00000000-0000-4000-8000-{i:012}"), "x-forwarded-proto": "https",
            },
        }}}})
    };
    (0..TOKENS).map(check).collect()
}

struct CheckMeasurement {
    rate: f64,
    cpu_us: f64,
    resident_mb: f64,
    p50_ms: f64,
    p99_ms: f64,
}

fn print(name: &str, measured: &CheckMeasurement) {
    println!(
        "{name:<22} {:>9.0} {:>11.1} µs {:>8.1} MB {:>6.2} ms {:>6.2} ms",
        measured.rate, measured.cpu_us, measured.resident_mb, measured.p50_ms, measured.p99_ms
    );
}

fn load(ghz: &Path, address: &str, data: &Path, requests: usize, server: u32) -> CheckMeasurement {
    let before = usage::cpu(server).unwrap();
    let output = Command::new(ghz)
        .args([
            "--insecure",
            "--call",
            "envoy.service.auth.v3.Authorization.Check",
            "--format",
            "json",
            "--skipFirst",
            "0",
        ])
        .args(["--concurrency", "50", "--connections", "4", "--total", &requests.to_string(), "--protoset"])
        .arg(repository("crates/doors/src/ext_authz/descriptors.bin"))
        .arg("--data-file")
        .arg(data)
        .arg(address)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let spent = usage::cpu(server).unwrap() - before;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["statusCodeDistribution"]["OK"], requests, "{}", report["errorDistribution"]);
    let percentile = |expected: u64| {
        let all = report["latencyDistribution"].as_array().unwrap();
        all.iter().find(|entry| entry["percentage"] == expected).unwrap()["latency"].as_f64().unwrap() / 1e6
    };
    CheckMeasurement {
        rate: report["rps"].as_f64().unwrap(),
        cpu_us: spent.as_secs_f64() * 1e6 / requests as f64,
        resident_mb: usage::resident(server).unwrap() as f64 / 1024.0,
        p50_ms: percentile(50),
        p99_ms: percentile(99),
    }
}

/// The server stack of the doors alone: it reads each check and sends the same allow.
mod empty {
    use super::EMPTY_SERVER;
    use axum::body::Body;
    use durward_runtime::connection::{HttpRequest, HttpResponse, HttpService};
    use durward_runtime::limits::ServerLimits;
    use durward_runtime::supervisor::Supervisor;
    use http::header::CONTENT_TYPE;
    use http::{HeaderMap, HeaderName, HeaderValue};
    use http_body_util::{BodyExt, Full};
    use std::env;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use tokio::net::TcpListener;

    /// A gRPC message of a `CheckResponse` whose status is OK: the flags, the length, and field 1 of no bytes.
    const ALLOW: &[u8] = &[0, 0, 0, 0, 2, 10, 0];

    #[derive(Clone)]
    struct Constant;

    impl HttpService for Constant {
        async fn handle(self, request: HttpRequest) -> HttpResponse {
            let _ = request.into_body().collect().await;
            let status = [(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))];
            let trailers = std::future::ready(Some(Ok(HeaderMap::from_iter(status))));
            let mut response = HttpResponse::new(Body::new(Full::from(ALLOW).with_trailers(trailers)));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
    }

    /// Serves until the process is killed; prints the address first.
    pub(super) fn serve() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            println!("{}", socket.local_addr().expect("an address"));
            let mut supervisor = Supervisor::new(ServerLimits::default()).expect("threads");
            supervisor.serve(socket, None, Constant);
            supervisor.run_until_shutdown(std::future::ready(())).await.expect("a signal");
        });
    }

    pub(super) struct EmptyServer {
        child: Child,
        pub(super) address: String,
    }

    impl EmptyServer {
        pub(super) fn start() -> Self {
            let mut command = Command::new(env::current_exe().expect("this program"));
            command.env(EMPTY_SERVER, "1").stdout(Stdio::piped());
            let mut child = command.spawn().expect("a process");
            let mut address = String::new();
            BufReader::new(child.stdout.take().expect("piped")).read_line(&mut address).expect("a line");
            Self { child, address: address.trim().to_owned() }
        }

        pub(super) fn id(&self) -> u32 {
            self.child.id()
        }
    }

    impl Drop for EmptyServer {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// OPA-Envoy with an equivalent policy: signature, issuer, audience, times, scope, method and path.
struct Opa {
    child: std::process::Child,
    address: String,
}

impl Drop for Opa {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Opa {
    fn start(binary: &Path, key: &IssuerKey, directory: &Path) -> Self {
        let port = durward_tests::free().port();
        let jwks = json!({"keys": [key.jwk]}).to_string();
        let policy = directory.join("policy.rego");
        let text = fs::read_to_string(repository("benches/policy.rego")).unwrap();
        fs::write(&policy, text.replace("JWKS", &jwks)).unwrap();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(binary)
            .args(["run", "--server", "--addr", "127.0.0.1:0", "--log-level", "error"])
            .args(["--set", &format!("plugins.envoy_ext_authz_grpc.addr={address}")])
            .args(["--set", "plugins.envoy_ext_authz_grpc.path=durward/bench/allow"])
            .arg(&policy)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        eventually("OPA-Envoy listens", || TcpStream::connect(&address).ok()).unwrap();
        Self { child, address }
    }
}
