//! The operator under load on the shared node: time until a change is in force on both replicas, memory with ten
//! thousand policies, and writes while nothing changes.

use std::time::{Duration, Instant};

use durward_api::resources::AccessPolicy;
use durward_tests::installation::{Installed, condition, policy};
use durward_tests::processes::memory;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

/// The number of policies during the measured changes.
const PRESENT: usize = 1000;
/// The number of measured changes.
const CHANGES: usize = 100;
/// The number of policies during the measurement of memory.
const MANY: usize = 10_000;
/// The time without changes.
const REST: Duration = Duration::from_secs(300);

fn main() {
    // cargo passes `--bench`
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let installed = Installed::new(&["trust.proxies={0.0.0.0/0}", "resources.limits.memory=1Gi"]);
    let namespace = installed.cluster.namespace("bench").expect("a namespace");
    let name = namespace.name();
    runtime.block_on(async {
        let client = installed.cluster.client().await.expect("a client");
        let policies: Api<AccessPolicy> = Api::namespaced(client, name);
        create(&policies, name, 0..PRESENT).await;
        let mut taken = Vec::with_capacity(CHANGES);
        let doors = doors(&installed);
        apply(&policies, &policy_of(name, "p0", "/start")).await;
        for change in 0..CHANGES {
            let path = format!("/change-{change}");
            let manifest = policy_of(name, "p0", &path);
            let began = Instant::now();
            apply(&policies, &manifest).await;
            for (client, url) in &doors {
                until_open(client, url, &format!("p0.{name}.svc"), &path).await;
            }
            taken.push(began.elapsed());
        }
        taken.sort();
        let at = |percent: usize| taken[(taken.len() * percent / 100).min(taken.len() - 1)];
        println!(
            "from `apply` to enforced on {} replicas, {CHANGES} changes with {PRESENT} policies present:",
            doors.len()
        );
        println!("  p50 {:?}   p99 {:?}   max {:?}", at(50), at(99), taken[taken.len() - 1]);
        create(&policies, name, PRESENT..MANY).await;
        installed
            .cluster
            .until("all policies to be in force", Duration::from_secs(900), || {
                let list: Value =
                    serde_json::from_str(&installed.kubectl(["get", "accesspolicies", "-n", name, "-o", "json"]))
                        .expect("a list");
                let all = list["items"].as_array().expect("items");
                Ok((all.iter().filter(|policy| condition(policy, "Programmed").0 == "True").count() == MANY)
                    .then_some(()))
            })
            .unwrap_or_else(|error| panic!("{error}"));
    });
    println!("resident memory with {MANY} policies: {:?} MB", memory());
    let before = writes(&installed);
    std::thread::sleep(REST);
    println!("writes in {REST:?} of rest, Leases left out: {}", writes(&installed) - before);
}

fn policy_of(namespace: &str, name: &str, path: &str) -> Value {
    let spec = json!({
        "service": {"hosts": [format!("{name}.{namespace}.svc")]}, "authentication": [{"workload": {}}],
        "operations": [
            {"name": "open", "public": true, "http": [{"methods": ["GET"], "paths": [path]}]},
            {"name": "read", "scopes": ["read"], "http": [{"methods": ["GET"], "paths": ["/items", "/items/{id}"]}]},
            {"name": "write", "scopes": ["write"], "http": [{"methods": ["POST", "PUT"], "paths": ["/items/{id}"]}]},
        ],
        "grants": [
            {"name": "reader", "to": [{"serviceAccount": {"namespace": namespace, "name": "reader"}}], "scopes": ["read"]},
            {"name": "writer", "to": [{"serviceAccount": {"namespace": namespace, "name": "writer"}}], "scopes": ["read", "write"]},
        ],
    });
    serde_json::from_str(&policy(namespace, name, spec)).expect("JSON")
}

async fn create(policies: &Api<AccessPolicy>, namespace: &str, numbers: std::ops::Range<usize>) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in numbers {
        let policies = policies.clone();
        let namespace = namespace.to_owned();
        tasks.spawn(async move {
            let policy = serde_json::from_value(policy_of(&namespace, &format!("p{number}"), "/")).expect("a policy");
            policies.create(&PostParams::default(), &policy).await.expect("created");
        });
        while tasks.len() >= 16 {
            tasks.join_next().await.expect("a task").expect("created");
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("created");
    }
}

async fn apply(policies: &Api<AccessPolicy>, manifest: &Value) {
    policies.patch("p0", &PatchParams::apply("bench").force(), &Patch::Apply(manifest)).await.expect("applied");
}

/// The forward-auth door of each replica.
fn doors(installed: &Installed) -> Vec<(reqwest::Client, String)> {
    let addresses =
        installed.pods().into_iter().map(|pod| pod["status"]["podIP"].as_str().expect("an address").to_owned());
    let client = || reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().expect("a client");
    addresses.map(|address| (client(), format!("https://{address}:8143/forward-auth"))).collect()
}

async fn until_open(client: &reqwest::Client, url: &str, host: &str, path: &str) {
    loop {
        let request =
            client.get(url).header("host", host).header("x-original-method", "GET").header("x-original-uri", path);
        if request.send().await.expect("an answer").status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The sum of the counters of requests that match.
fn writes(installed: &Installed) -> u64 {
    installed
        .writes()
        .iter()
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .map(|count| count as u64)
        .sum()
}
