//! Server CPU and latency that two gates add to a request, side by side with two Envoys and OPA-Envoy in one run.
//!
//! The caller's sidecar begins mTLS, the service's ends it and decides by the certificate. The load is the same for
//! both: plain HTTP on 16 connections, one request at a time on each. `make bench` passes the path of OPA-Envoy.

use axum::Router;
use axum::routing::get;
use durward_tests::gate::GateFixture;
use durward_tests::venv;
use durward_tests::{eventually, free, repository, usage};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use std::env;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const CONNECTIONS: usize = 16;
const POLICY: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, annotations: {durward.dev/allowed-hosts: localhost}}
---
apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {name: orders, namespace: shop}
spec:
  service: {hosts: [localhost]}
  authentication: [{workload: {}}]
  operations: [{name: read, http: [{methods: [GET], paths: ['/orders/{id}']}]}]
  grants: [{name: web, to: [{serviceAccount: {namespace: shop, name: web}}], scopes: [read]}]
";

fn main() {
    // without it under `cargo test --all-targets`, which runs benchmarks, too
    let Some(opa) = env::var_os("OPA_ENVOY") else {
        println!("OPA_ENVOY is not set; run `make bench`");
        return;
    };
    let requests: usize = env::var("REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(40_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let app = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = app.local_addr().unwrap();
    let router = Router::new().route("/orders/{id}", get(async || "an order"));
    runtime.spawn(async move { axum::serve(app, router).await });

    println!("{:<26} {:>11} {:>22} {:>9} {:>9}", "", "requests/s", "server CPU a request", "p50", "p99");
    let direct = load(&runtime, address, "localhost", requests, &[]);
    print("the application alone", &direct);
    let fixture = GateFixture::new(POLICY);
    let upstream = format!("http://{address}");
    let orders = fixture.gate("shop/orders", &upstream, &["--audit-log", "/dev/null"]);
    let web = fixture.gate("shop/web", &upstream, &["--outbound", "127.0.0.1:0", "--audit-log", "/dev/null"]);
    let host = format!("localhost:{}", orders.address().port());
    let gates = [web.id(), orders.id()];
    load(&runtime, web.listen["outbound"], &host, requests / 10, &gates);
    let durward = load(&runtime, web.listen["outbound"], &host, requests, &gates);
    print("two gates", &durward);
    drop((orders, web));

    let peers = EnvoyPair::start(&fixture, Path::new(&opa), address);
    load(&runtime, peers.address, "localhost", requests / 10, &peers.ids());
    let envoy = load(&runtime, peers.address, "localhost", requests, &peers.ids());
    print("two Envoys and OPA-Envoy", &envoy);
    println!("the gates take {:.2} of their server CPU", durward.cpu_us / envoy.cpu_us);
}

struct GateMeasurement {
    rate: f64,
    cpu_us: f64,
    p50: Duration,
    p99: Duration,
}

fn print(name: &str, measured: &GateMeasurement) {
    println!(
        "{name:<26} {:>11.0} {:>19.1} µs {:>9.2?} {:>9.2?}",
        measured.rate, measured.cpu_us, measured.p50, measured.p99
    );
}

/// Sends requests on several connections, one at a time on each.
fn load(runtime: &Runtime, to: SocketAddr, host: &str, requests: usize, servers: &[u32]) -> GateMeasurement {
    let cpu = || servers.iter().map(|server| usage::cpu(server).unwrap()).sum::<Duration>();
    let before = cpu();
    let began = Instant::now();
    let mut taken: Vec<Duration> = runtime.block_on(async {
        let tasks = (0..CONNECTIONS).map(|_| tokio::spawn(ask(to, host.to_owned(), requests / CONNECTIONS)));
        let mut all = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            all.extend(task.await.unwrap());
        }
        all
    });
    let elapsed = began.elapsed().as_secs_f64();
    let spent = cpu() - before;
    taken.sort();
    let (count, at) = (taken.len() as f64, |percent: usize| taken[taken.len() * percent / 100]);
    GateMeasurement { rate: count / elapsed, cpu_us: spent.as_secs_f64() * 1e6 / count, p50: at(50), p99: at(99) }
}

async fn ask(to: SocketAddr, host: String, requests: usize) -> Vec<Duration> {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut taken = Vec::with_capacity(requests);
    for number in 0..requests {
        let request = http::Request::get(format!("/orders/{number}")).header("host", &host);
        let began = Instant::now();
        sender.ready().await.unwrap();
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
        taken.push(began.elapsed());
    }
    taken
}

/// An Envoy on each side, and OPA-Envoy on the service's side.
struct EnvoyPair {
    children: Vec<Child>,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for EnvoyPair {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl EnvoyPair {
    fn start(fixture: &GateFixture, opa: &Path, app: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [outbound, inbound, of_opa, unused] = [free(), free(), free(), free()];
        let start = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let envoy = |account: &str, outbound: SocketAddr, own_inbound: SocketAddr| {
            let svid = fixture.svid(account);
            let mut text = fs::read_to_string(repository("benches/envoy.yaml")).unwrap();
            // the caller's Envoy only calls the service's
            let (listener, clusters) = text.split_once("  clusters:").unwrap();
            text = format!(
                "{}  clusters:{}",
                listener.replace("INBOUND", &own_inbound.port().to_string()),
                clusters.replace("INBOUND", &inbound.port().to_string())
            );
            for (name, value) in [("OUTBOUND", outbound.port()), ("APP", app.port()), ("OPA", of_opa.port())] {
                text = text.replace(&format!("port_value: {name}}}"), &format!("port_value: {value}}}"));
            }
            let file = directory.path().join(format!("{}.yaml", account.replace('/', "-")));
            fs::write(&file, text.replace("DIR", svid.to_str().unwrap())).unwrap();
            let mut command = Command::new(venv::venv("envoy"));
            start(command.arg("-c").arg(file).args([
                "--concurrency",
                "2",
                "--use-dynamic-base-id",
                "--log-level",
                "error",
            ]))
        };
        let mut of_policy = Command::new(opa);
        of_policy
            .args(["run", "--server", "--addr", "127.0.0.1:0", "--log-level", "error"])
            .args(["--set", &format!("plugins.envoy_ext_authz_grpc.addr={of_opa}")])
            .args(["--set", "plugins.envoy_ext_authz_grpc.path=durward/bench/allow"])
            .arg(repository("benches/gate.rego"));
        let children =
            vec![start(&mut of_policy), envoy("shop/orders", unused, inbound), envoy("shop/web", outbound, free())];
        for address in [of_opa, inbound, outbound] {
            eventually("a peer listens", || TcpStream::connect(address).ok()).unwrap();
        }
        Self { children, address: outbound, _directory: directory }
    }

    fn ids(&self) -> Vec<u32> {
        self.children.iter().map(Child::id).collect()
    }
}
