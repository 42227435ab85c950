//! Time from `apply` of a changed policy until the last of a hundred gates has it, on the shared node. Each gate is a
//! client of the snapshot stream with its own connection, half of them at each replica.

use std::time::{Duration, Instant};

use durward_api::resources::AccessPolicy;
use durward_cluster::image;
use durward_tests::installation::{Installed, policy};
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const GATES: usize = 100;
const CHANGES: usize = 50;

fn main() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let installed = Installed::new(&[]);
    let namespace = installed.cluster.namespace("gates").expect("a namespace");
    let name = namespace.name();
    let manifest = |path: &str| -> Value {
        let spec = json!({
            "service": {"hosts": [format!("orders.{name}.svc")], "podSelector": {"matchLabels": {"app": "orders"}}},
            "operations": [{"name": "open", "public": true, "http": [{"methods": ["GET"], "paths": [path]}]}],
        });
        serde_json::from_str(&policy(name, "orders", spec)).expect("JSON")
    };
    namespace.apply(&manifest("/start").to_string()).expect("applied");
    installed.in_force(name, "orders");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "orders", "labels": {"app": "orders"}},
        "spec": {"containers": [{"name": "main", "image": image::PAUSE, "imagePullPolicy": "Never"}]},
    });
    namespace.apply(&pod.to_string()).expect("applied");
    namespace.await_condition("pod/orders", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let token = namespace
        .kubectl([
            "create",
            "token",
            "default",
            "--audience=durward",
            "--bound-object-kind=Pod",
            "--bound-object-name=orders",
        ])
        .expect("a token");
    let replicas: Vec<String> =
        installed.pods().iter().map(|pod| pod["status"]["podIP"].as_str().expect("an address").to_owned()).collect();

    runtime.block_on(async {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        for number in 0..GATES {
            let url = format!("https://{}:8145/snapshot", replicas[number % replicas.len()]);
            tokio::spawn(follow(url, token.trim().to_owned(), sender.clone()));
        }
        let client = installed.cluster.client().await.expect("a client");
        let policies: Api<AccessPolicy> = Api::namespaced(client, name);
        until_all(&mut receiver, "/start").await;
        let mut taken = Vec::with_capacity(CHANGES);
        for change in 0..CHANGES {
            let path = format!("/change-{change}");
            let began = Instant::now();
            let applied = Patch::Apply(manifest(&path));
            policies.patch("orders", &PatchParams::apply("bench").force(), &applied).await.expect("applied");
            until_all(&mut receiver, &path).await;
            taken.push(began.elapsed());
        }
        taken.sort();
        let at = |percent: usize| taken[(taken.len() * percent / 100).min(taken.len() - 1)];
        println!(
            "from `apply` until the last of {GATES} gates has it, {} replicas, {CHANGES} changes:",
            replicas.len()
        );
        println!("  p50 {:?}   p99 {:?}   max {:?}", at(50), at(99), at(100));
    });
}

/// Sends each path of a stream to the channel.
async fn follow(url: String, token: String, sender: mpsc::UnboundedSender<String>) {
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().expect("a client");
    let mut stream = client.get(url).bearer_auth(token).send().await.expect("an answer");
    assert_eq!(stream.status(), 200);
    let mut line = Vec::new();
    while let Ok(Some(chunk)) = stream.chunk().await {
        line.extend_from_slice(&chunk);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let message: Value = serde_json::from_slice(&line.drain(..=end).collect::<Vec<_>>()).expect("JSON");
            let path = message["resources"]["policies"][0]["spec"]["operations"][0]["http"][0]["paths"][0].as_str();
            path.map(|path| sender.send(path.to_owned()));
        }
    }
}

/// Waits until every gate has received a path.
async fn until_all(receiver: &mut mpsc::UnboundedReceiver<String>, path: &str) {
    let mut missing = GATES;
    while missing > 0 {
        let message = tokio::time::timeout(Duration::from_secs(30), receiver.recv()).await;
        if message.expect("a message").expect("a gate") == path {
            missing -= 1;
        }
    }
}
