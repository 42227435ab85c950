//! Ten thousand pods request certificates at once on the shared node: time until all have them, compared with the API
//! server's own time for as many writes, and the controller's memory. Then one pod gets as many from the mint by HTTP,
//! each by a token and a signed request. `REQUESTS` sets the number.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use durward_cluster::Namespace;
use durward_pki::authority::{CertificateAuthority, SvidRequest, pem};
use durward_pki::request::SubjectKey;
use durward_pki::serial::CertificateSerial;
use durward_tests::installation::{Installed, policy};
use durward_tests::processes::{ClusterCpu, memory};
use futures::{AsyncBufReadExt, StreamExt};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams, WatchParams};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The number of concurrent requests.
const AT_ONCE: usize = 32;
/// A signer whose requests this benchmark issues itself.
const OTHER: &str = "bench.example/other";

fn main() {
    // cargo passes `--bench`
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let many = std::env::var("REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let installed = Installed::new(&["resources.limits.memory=1Gi"]);
    let namespace = installed.cluster.namespace("issuance").expect("a namespace");
    let before = memory();
    runtime.block_on(async {
        let client = installed.cluster.client().await.expect("a client");
        let pods = BenchPods::create(&client, &namespace, many).await;
        pods.ask("durward.dev/workload", "own").await;
        pods.issued_by_durward(&client, &namespace, before).await;
        pods.ask(OTHER, "other").await;
        pods.issued_by_the_api_server_alone().await;
        pods.minted(&installed, &namespace).await;
    });
    // deleting every object takes longer than a new cluster
    std::mem::forget(namespace);
    durward_cluster::down().expect("down");
}

/// Pods of one service account, and their certificate requests.
struct BenchPods {
    uids: Arc<[String]>,
    requests: Api<PodCertificateRequest>,
    /// The common part of all requests.
    spec: Value,
    request: Vec<u8>,
}

impl BenchPods {
    async fn create(client: &Client, namespace: &Namespace<'_>, many: usize) -> Self {
        // a node without kubelet: its pods exist and cost nothing else
        let name = namespace.name();
        let nodes: Api<Node> = Api::all(client.clone());
        let node = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a node");
        let node = nodes.create(&PostParams::default(), &node).await.expect("created");
        let pods: Api<Pod> = Api::namespaced(client.clone(), name);
        let began = Instant::now();
        let uids = each(many, |number| {
            let pods = pods.clone();
            let node = name.to_owned();
            async move {
                let pod = json!({
                    "metadata": {"name": format!("p{number}"), "labels": {"app": "web"}},
                    "spec": {
                        "nodeName": node, "tolerations": [{"operator": "Exists"}],
                        "containers": [{"name": "main", "image": "none"}],
                    },
                });
                let pod = serde_json::from_value(pod).expect("a pod");
                pods.create(&PostParams::default(), &pod).await.expect("created").metadata.uid.expect("a UID")
            }
        })
        .await;
        println!("the API server makes {many} pods in {:?}", began.elapsed());
        let account = namespace.kubectl(["get", "serviceaccount", "default", "-o", "jsonpath={.metadata.uid}"]);
        let key = KeyPair::generate().expect("a key");
        let request = CertificateParams::default().serialize_request(&key).expect("a request").der().to_vec();
        let spec = json!({
            "stubPKCS10Request": STANDARD.encode(&request), "maxExpirationSeconds": 86400, "nodeName": name,
            "nodeUID": node.metadata.uid, "serviceAccountName": "default", "serviceAccountUID": account.expect("a UID"),
        });
        Self { uids: uids.into(), requests: Api::namespaced(client.clone(), name), spec, request }
    }

    /// Creates a request for each pod.
    async fn ask(&self, signer: &'static str, prefix: &'static str) {
        let began = Instant::now();
        each(self.uids.len(), |number| {
            let requests = self.requests.clone();
            let uids = Arc::clone(&self.uids);
            let mut spec = self.spec.clone();
            async move {
                spec["signerName"] = json!(signer);
                spec["podName"] = json!(format!("p{number}"));
                spec["podUID"] = json!(uids[number]);
                let request = json!({"metadata": {"name": format!("{prefix}-{number}")}, "spec": spec});
                let request = serde_json::from_value(request).expect("a request");
                requests.create(&PostParams::default(), &request).await.expect("created");
            }
        })
        .await;
        println!("the API server makes {} requests in {:?}", self.uids.len(), began.elapsed());
    }

    /// Applies the policy that the requests need.
    async fn issued_by_durward(&self, client: &Client, namespace: &Namespace<'_>, idle: Vec<u64>) {
        let many = self.uids.len();
        let cpu = ClusterCpu::now();
        let began = Instant::now();
        let spec = json!({"service": {"podSelector": {"matchLabels": {"app": "web"}}}});
        namespace.apply(&policy(namespace.name(), "web", spec)).expect("applied");
        self.until_issued(client, many).await;
        let after = began.elapsed();
        println!("{many} pending requests have their certificates {after:?} after the policy");
        println!("  CPU for each: {}", ClusterCpu::now().since(cpu, many));
        println!("  resident memory of the controllers: {:?} MB, {idle:?} MB before there were pods", memory());
    }

    /// Waits until this number is issued. It costs little: the API server encodes an event once for all watchers, and this
    /// only checks for a certificate.
    async fn until_issued(&self, client: &Client, many: usize) {
        let watch = WatchParams::default().fields("spec.signerName=durward.dev/workload");
        let url = self.requests.resource_url().to_owned();
        let request = || kube::core::Request::new(&url).watch(&watch, "0").expect("a watch");
        loop {
            // a watch begins with the existing objects
            let mut lines = pin!(client.request_stream(request()).await.expect("a watch").lines());
            let mut answered = 0;
            while let Some(line) = lines.next().await {
                answered += usize::from(line.expect("an event").contains("\"certificateChain\""));
                if answered == many {
                    return;
                }
            }
        }
    }

    /// Writes one certificate into all requests of the other signer, as the lower bound of any signer.
    async fn issued_by_the_api_server_alone(&self) {
        let now = Utc::now().trunc_subsecs(0);
        let end = now + TimeDelta::hours(2);
        let authority = CertificateAuthority::create("bench.example", now, CertificateSerial::unbound([1; 15]))
            .expect("an authority");
        let expected = SvidRequest {
            id: "spiffe://bench.example/p",
            dns_names: &[],
            addresses: &[],
            not_before: now,
            not_after: end,
            serial: CertificateSerial::unbound([2; 15]),
        };
        let key = SubjectKey::from_csr(&self.request).expect("a key");
        let chain = pem(&authority.certify(&expected, &key).expect("a certificate"));
        let stamp = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let status = json!({"status": {
            "certificateChain": chain, "notBefore": stamp(now), "notAfter": stamp(end),
            "beginRefreshAt": stamp(now + TimeDelta::hours(1)),
            "conditions": [{"type": "Issued", "status": "True", "reason": "Issued", "message": "", "lastTransitionTime": stamp(now)}],
        }});
        let cpu = ClusterCpu::now();
        let began = Instant::now();
        each(self.uids.len(), |number| {
            let requests = self.requests.clone();
            let patch = Patch::Merge(status.clone());
            async move {
                let name = format!("other-{number}");
                requests.patch_status(&name, &PatchParams::default(), &patch).await.expect("patched");
            }
        })
        .await;
        println!("the API server stores as many certificates of this program in {:?}", began.elapsed());
        println!("  CPU for each: {}", ClusterCpu::now().since(cpu, self.uids.len()));
    }

    /// For each request the mint verifies token and pod at the API server.
    async fn minted(&self, installed: &Installed, namespace: &Namespace<'_>) {
        let bound = ["--audience=durward", "--bound-object-kind=Pod", "--bound-object-name=p0"];
        let token = namespace.kubectl(["create", "token", "default"].into_iter().chain(bound)).expect("a token");
        let replicas = installed.pods();
        let url = format!("https://{}:8145/mint/x509", replicas[0]["status"]["podIP"].as_str().expect("an address"));
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().expect("a client");
        let body = json!({"csr": STANDARD.encode(&self.request)}).to_string();
        let mint = |_| {
            let request = client.post(&url).bearer_auth(token.trim()).header("Content-Type", "application/json");
            let answer = request.body(body.clone()).send();
            async move { assert_eq!(answer.await.expect("an answer").status(), 200) }
        };
        each(AT_ONCE, mint).await;
        let cpu = ClusterCpu::now();
        let began = Instant::now();
        each(self.uids.len(), mint).await;
        println!("the mint gives {} certificates to a pod in {:?}", self.uids.len(), began.elapsed());
        println!("  CPU for each: {}", ClusterCpu::now().since(cpu, self.uids.len()));
    }
}

/// Runs work for each number with limited concurrency; returns the results in order.
async fn each<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    many: usize,
    work: impl Fn(usize) -> F,
) -> Vec<T> {
    let mut tasks = JoinSet::new();
    let mut done = Vec::with_capacity(many);
    for number in 0..many {
        let one = work(number);
        tasks.spawn(async move { (number, one.await) });
        if tasks.len() >= AT_ONCE {
            done.push(tasks.join_next().await.expect("a task").expect("done"));
        }
    }
    done.extend(tasks.join_all().await);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
