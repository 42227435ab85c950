//! Server CPU of a check five folders deep over HTTP: Durward's AuthZEN door with its own tuples, and OpenFGA's `Check`
//! with tuples in memory.

use durward_tests::openfga;
use durward_tests::openfga::OpenFgaServer;
use durward_tests::{UpProcess, usage};
use serde_json::{Value, json};
use std::fs;
use std::time::Instant;

const TREES: usize = 1_000;
const CHECKS: usize = 5_000;
const POLICY: &str = r#"apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {name: docs, namespace: office}
spec:
  authentication: [{provider: corporate}]
  operations: [{name: read, http: [{methods: [GET], paths: ["/docs/{id}"]}]}]
  relations:
    - object: folder
      relations: {parent: {}, viewer: {union: [{this: {}}, {from: parent, relation: viewer}]}}
    - object: doc
      relations: {parent: {}, viewer: {union: [{this: {}}, {from: parent, relation: viewer}]}}
  grants:
    - {name: viewers, to: [{authenticated: true}], scopes: [read], relation: {object: "doc:{id}", relation: viewer}}
"#;

fn main() {
    // `cargo test --all-targets` runs benchmarks, too
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let load = || fs::read_to_string("/proc/loadavg").unwrap().trim().to_owned();
    println!("{CHECKS} checks five deep among {} tuples, one at a time; load before: {}", TREES * 5, load());
    println!("\n| | server CPU per check | mean time |\n|---|---|---|");
    let (up, openfga, model) = servers();
    let client = openfga::OpenFgaClient::without_tls();
    let question = |tree: usize| {
        json!({
            "subject": {"type": "user", "id": format!("person-{tree}"), "properties": {"provider": "corporate"}},
            "action": {"name": "read"},
            "resource": {"type": "docs.office", "id": tree.to_string()},
        })
    };
    let durward = format!("http://{}/access/v1/evaluation", up.listen["http"]);
    measured("Durward, AuthZEN", up.id(), |tree| client.post(&durward, &question(tree)).unwrap()["decision"] == true);
    let check = format!("{}/stores/{}/check", openfga.url, openfga.store);
    let question = |tree: usize| {
        let user = format!("user:corporate/person-{tree}");
        let object = format!("doc:{tree}");
        json!({"tuple_key": {"user": user, "relation": "viewer", "object": object}, "authorization_model_id": model})
    };
    measured("OpenFGA, Check", openfga.id(), |tree| client.post(&check, &question(tree)).unwrap()["allowed"] == true);
    println!("\nload after: {}", load());
}

/// Both servers with the same relations and tuples.
fn servers() -> (UpProcess, OpenFgaServer, String) {
    let tuples: Vec<Value> = (0..TREES)
        .flat_map(|tree| {
            let folder = move |depth: usize| format!("folder:{tree}-{depth}");
            let parents = (1..4)
                .map(move |depth| json!({"object": folder(depth), "relation": "parent", "subject": folder(depth + 1)}));
            let first = json!({"object": format!("doc:{tree}"), "relation": "parent", "subject": folder(1)});
            let person = format!("user:corporate/person-{tree}");
            let last = json!({"object": folder(4), "relation": "viewer", "subject": person});
            [first, last].into_iter().chain(parents)
        })
        .collect();
    let relationship = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "Relationship", "metadata": {"name": "docs", "namespace": "office"},
        "spec": {"service": "docs.office", "tuples": tuples},
    });
    let files = [("policy.yaml", POLICY), ("tuples.yaml", &relationship.to_string())];
    let up = UpProcess::start(&files, &["--audit-log", "/dev/null"]);
    let printed = |what: &str| -> Value {
        let mut durward = durward_tests::durward();
        let (_, stdout, _) =
            durward_tests::run(durward.args(["relations", what, "docs.office", "-p"]).arg(&up.manifests));
        serde_json::from_str(&stdout).unwrap()
    };
    let openfga = OpenFgaServer::start();
    let model = openfga.model(&printed("model")).unwrap();
    openfga.write(&model, printed("tuples").as_array().unwrap());
    (up, openfga, model)
}

fn measured(name: &str, process: u32, check: impl Fn(usize) -> bool) {
    // warm connections and caches
    (0..TREES).for_each(|tree| assert!(check(tree)));
    let before = usage::cpu(process).unwrap();
    let began = Instant::now();
    (0..CHECKS).for_each(|number| assert!(check(number % TREES)));
    let spent = usage::cpu(process).unwrap() - before;
    let took = began.elapsed();
    let cpu = spent.as_secs_f64() * 1e6 / CHECKS as f64;
    println!("| {name} | {cpu:.0} µs | {:.0} µs |", took.as_micros() as f64 / CHECKS as f64);
}
