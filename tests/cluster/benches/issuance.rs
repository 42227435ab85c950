//! Ten thousand certificate requests at once, on the shared node: how soon all are answered, beside what the API server
//! itself takes to make and to change as many.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a benchmark says what it expects")]

#[path = "../tests/install/mod.rs"]
mod install;

use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use durward_cluster::image;
use install::{Installed, NAMESPACE, policy};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Requests.
const MANY: usize = 10_000;
/// How many this program sends at once.
const AT_ONCE: usize = 32;

fn main() {
    // cargo passes `--bench`; anything else is not ours
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let installed = Installed::new(&["resources.limits.memory=1Gi"]);
    let namespace = installed.cluster.namespace("issuance").expect("a namespace");
    let name = namespace.name();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "3600"]}]},
    });
    namespace.apply(&pod.to_string()).expect("applied");
    namespace.await_condition("pod/web", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let uid = |object: &str| namespace.kubectl(["get", object, "-o", "jsonpath={.metadata.uid}"]).expect("a UID");
    let node = namespace.kubectl(["get", "pod", "web", "-o", "jsonpath={.spec.nodeName}"]).expect("a node");
    let spec = json!({
        "signerName": "durward.dev/workload", "stubPKCS10Request": request(), "maxExpirationSeconds": 86400,
        "podName": "web", "podUID": uid("pod/web"), "nodeName": node, "nodeUID": uid(&format!("node/{node}")),
        "serviceAccountName": "default", "serviceAccountUID": uid("serviceaccount/default"),
    });
    runtime.block_on(async {
        let client = installed.cluster.client().await.expect("a client");
        let requests: Api<PodCertificateRequest> = Api::namespaced(client.clone(), name);
        let began = Instant::now();
        each(|number| {
            let (requests, spec) = (requests.clone(), spec.clone());
            async move {
                let request = json!({"metadata": {"name": format!("r{number}")}, "spec": spec});
                let request = serde_json::from_value(request).expect("a request");
                requests.create(&PostParams::default(), &request).await.expect("created");
            }
        })
        .await;
        println!("the API server makes {MANY} requests in {:?}", began.elapsed());
        let cpu = cpu();
        let began = Instant::now();
        let spec = json!({"service": {"podSelector": {"matchLabels": {"app": "web"}}}});
        namespace.apply(&policy(name, "web", spec)).expect("applied");
        let mut after = Duration::ZERO;
        while pending(&client, name).await > 0 {
            after = began.elapsed();
            assert!(after < Duration::from_secs(600), "not all are answered");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        println!("{MANY} that waited are answered {after:?} after the policy");
        println!(
            "  CPU of the replica that signs, for each: {:?}",
            (self::cpu() - cpu) / u32::try_from(MANY).expect("small")
        );
        println!("  resident memory: {}", memory().join(", "));
        let began = Instant::now();
        each(|number| {
            let requests = requests.clone();
            async move {
                let patch = Patch::Merge(json!({"metadata": {"labels": {"changed": "yes"}}}));
                requests.patch_metadata(&format!("r{number}"), &PatchParams::default(), &patch).await.expect("patched");
            }
        })
        .await;
        println!("the API server changes as many in {:?}", began.elapsed());
    });
    installed.kubectl(["delete", "namespace", NAMESPACE, "--wait=false"]);
}

async fn each<F: Future<Output = ()> + Send + 'static>(work: impl Fn(usize) -> F) {
    let mut tasks = JoinSet::new();
    for number in 0..MANY {
        tasks.spawn(work(number));
        if tasks.len() >= AT_ONCE {
            tasks.join_next().await.expect("a task").expect("done");
        }
    }
    tasks.join_all().await;
}

/// Requests without an answer; a listing of them costs the API server little beside answering them.
async fn pending(client: &Client, namespace: &str) -> usize {
    let path = format!("/apis/certificates.k8s.io/v1/namespaces/{namespace}/podcertificaterequests?resourceVersion=0");
    let list = client.request::<Value>(http::Request::get(path).body(Vec::new()).expect("a request")).await;
    let list = list.expect("a list");
    list["items"].as_array().expect("items").iter().filter(|item| item["status"]["conditions"].is_null()).count()
}

fn request() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    for step in [
        "ecparam -name prime256v1 -genkey -noout -out key.pem",
        "req -new -key key.pem -subj / -outform DER -out request.der",
    ] {
        let done = Command::new("openssl").current_dir(folder.path()).args(step.split(' ')).status();
        assert!(done.expect("openssl runs").success(), "{step}");
    }
    base64::engine::general_purpose::STANDARD
        .encode(std::fs::read(folder.path().join("request.der")).expect("a request"))
}

/// Process ids of the controllers.
fn controllers() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
    let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = names.filter(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.starts_with(b"/durward\0controller\0")
    });
    ours.collect()
}

/// CPU time of all controllers; the one that leads has nearly all of it.
fn cpu() -> Duration {
    let ticks = controllers().into_iter().filter_map(|id| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    });
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn memory() -> Vec<String> {
    let sizes = controllers().into_iter().filter_map(|id| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(format!("{} MB", kib / 1000))
    });
    sizes.collect()
}
