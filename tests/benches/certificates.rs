//! Server CPU of a certificate from a signed request, compared with SPIRE's `MintX509SVID` in one run.
//!
//! `make bench` builds ghz from its Go module and passes its path. Durward's part is the work of signer and mint per
//! request after they identified the pod: verify the request's signature, sign a certificate. SPIRE's part includes gRPC
//! over its own socket, with 20 requests in flight, SQLite and no rate limit.

use durward_tests::spire;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::Utc;
use durward_cluster::{binaries, ports, wait};
use durward_pki::authority::{CertificateAuthority, SvidRequest};
use durward_pki::request::SubjectKey;
use durward_pki::serial::CertificateSerial;
use durward_tests::usage::cpu;
use rcgen::{CertificateParams, KeyPair, SanType};
use serde_json::json;

fn main() {
    // without it under `cargo test --all-targets`, which runs benchmarks, too
    let Some(ghz) = std::env::var_os("GHZ").map(PathBuf::from) else {
        println!("GHZ is not set; run `make bench`");
        return;
    };
    let many = std::env::var("REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI("spiffe://bench.example/web".try_into().expect("a URI"))];
    let request = params.serialize_request(&KeyPair::generate().expect("a key")).expect("a request").der().to_vec();
    let ours = durward(&request, many);
    println!("durward: {ours:?} of CPU for each of {many} certificates");
    let theirs = SpireServer::start().mint(&ghz, &request, many);
    println!("SPIRE:   {theirs:?}, {:.1} times as much", theirs.as_secs_f64() / ours.as_secs_f64());
}

fn each(spent: Duration, many: u32) -> Duration {
    spent / many
}

fn durward(request: &[u8], many: u32) -> Duration {
    let now = Utc::now();
    let authority =
        CertificateAuthority::create("bench.example", now, CertificateSerial::unbound([1; 15])).expect("an authority");
    let expected = SvidRequest {
        id: "spiffe://bench.example/web",
        dns_names: &[],
        addresses: &[],
        not_before: now,
        not_after: now + chrono::TimeDelta::hours(1),
        serial: CertificateSerial::unbound([2; 15]),
    };
    let before = cpu("self").expect("CPU time");
    for _ in 0..many {
        let key = SubjectKey::from_signed_csr(std::hint::black_box(request)).expect("a key");
        std::hint::black_box(authority.certify(&expected, &key).expect("a certificate"));
    }
    each(cpu("self").expect("CPU time") - before, many)
}

/// A server that is killed when dropped.
struct SpireServer {
    folder: tempfile::TempDir,
    server: Child,
}

impl Drop for SpireServer {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl SpireServer {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = ports::free(Ipv4Addr::LOCALHOST.into()).expect("a port").port();
        let more = "log_level = \"ERROR\"\n  ratelimit { signing = false }";
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let server = spire::server(folder.path(), "bench.example", port, more).stdout(log).spawn();
        let spire = Self { server: server.expect("it runs"), folder };
        let program = binaries::path(binaries::SPIRE_SERVER).expect("spire-server");
        let healthy = || {
            let mut check = Command::new(&program);
            let check = check
                .args(["healthcheck", "-socketPath"])
                .arg(spire.socket())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            Ok(check.expect("it runs").success().then_some(()))
        };
        wait::until("SPIRE's server", Duration::from_secs(60), healthy).unwrap_or_else(|error| panic!("{error}"));
        spire
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join(spire::SOCKET)
    }

    fn mint(&self, ghz: &PathBuf, request: &[u8], many: u32) -> Duration {
        let module = Command::new("go")
            .current_dir(durward_tests::repository("tests/cluster/go/spire"))
            .args(["list", "-m", "-f", "{{.Dir}}", "github.com/spiffe/spire-api-sdk"])
            .output()
            .expect("go runs");
        let protos = PathBuf::from(String::from_utf8_lossy(&module.stdout).trim()).join("proto");
        let call = |count: u32| {
            let output = Command::new(ghz)
                .args([
                    "--insecure",
                    "--concurrency=20",
                    "--connections=4",
                    "--call=spire.api.server.svid.v1.SVID.MintX509SVID",
                ])
                .args(["--proto", "spire/api/server/svid/v1/svid.proto", "--import-paths"])
                .arg(&protos)
                .arg(format!("--total={count}"))
                .args(["--data", &json!({"csr": STANDARD.encode(request), "ttl": 3600}).to_string(), "--format=json"])
                .arg(format!("unix://{}", self.socket().display()))
                .output()
                .expect("ghz runs");
            let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(report["statusCodeDistribution"]["OK"], count, "{text}");
        };
        // warms connections and caches
        call(many / 20);
        let id = self.server.id().to_string();
        let before = cpu(&id).expect("CPU time");
        call(many);
        each(cpu(&id).expect("CPU time") - before, many)
    }
}
