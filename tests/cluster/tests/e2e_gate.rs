//! Three services that know nothing of security, each with a gate beside it: the example `examples/shop`.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test says what it expects")]

mod install;

use durward_cluster::{Namespace, image};
use install::{Installed, NAMESPACE};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A file of the example, for a namespace of the test's own.
fn example(file: &str, namespace: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop").join(file);
    let text = std::fs::read_to_string(path).expect("the example");
    let image = format!("image: {}\n          imagePullPolicy: Never", image::BUSYBOX);
    let text = text.replace("image: busybox", &image).replace("namespace: shop", &format!("namespace: {namespace}"));
    text.replace(".shop.svc", &format!(".{namespace}.svc"))
}

/// What the application of a pod gets for a URL, by the gate beside it; the error that wget tells otherwise.
fn fetch(namespace: &Namespace<'_>, from: &str, url: &str) -> String {
    let script = format!("http_proxy=$DURWARD_OUTBOUND timeout 10 wget -qO- {url} 2>&1 || true");
    namespace.kubectl(["exec", &format!("deploy/{from}"), "-c", from, "--", "sh", "-c", &script]).unwrap_or_default()
}

/// Decisions that a gate recorded.
fn decisions(namespace: &Namespace<'_>, of: &str) -> Vec<Value> {
    let log = namespace.kubectl(["logs", &format!("deploy/{of}"), "-c", "durward-gate"]).unwrap_or_default();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["door"] == "gate").collect()
}

#[test]
fn e2e_three_services_with_gates_and_no_other_security() {
    let installed = Installed::new(&[]);
    let namespace = installed.cluster.namespace("shop").expect("a namespace");
    let name = namespace.name();
    namespace.apply(&example("policies.yaml", name)).expect("applied");
    ["web", "orders", "billing"].iter().for_each(|policy| drop(installed.in_force(name, policy)));
    namespace.apply(&example("workloads.yaml", name)).expect("applied");
    for app in ["web", "orders", "billing"] {
        namespace.await_condition(&format!("deployment/{app}"), "Available").unwrap_or_else(|error| panic!("{error}"));
    }
    let list = format!("http://orders.{name}.svc/cgi-bin/list");

    // allowed, through four gates, each service named to the next
    let expected = [
        format!("orders for spiffe://cluster.local/ns/{name}/sa/web"),
        format!("an invoice for spiffe://cluster.local/ns/{name}/sa/orders"),
    ];
    let answer = installed.until("an answer of all three", || {
        Some(fetch(&namespace, "web", &list)).filter(|answer| answer.contains(&expected[1]))
    });
    assert_eq!(answer.lines().collect::<Vec<_>>(), expected);
    // a scope that nobody granted; an operation of somebody else; and the other way round
    let refused = fetch(&namespace, "web", &format!("http://orders.{name}.svc/cgi-bin/refund"));
    assert!(refused.contains("403"), "{refused}");
    let skipped = fetch(&namespace, "web", &format!("http://billing.{name}.svc/cgi-bin/invoice"));
    assert!(skipped.contains("403"), "{skipped}");
    let backwards = fetch(&namespace, "billing", &list);
    assert!(backwards.contains("403"), "{backwards}");
    // nobody: from this machine, without a certificate
    let address =
        namespace.kubectl(["get", "service", "orders", "-o", "jsonpath={.spec.clusterIP}"]).expect("an address");
    let host = format!("orders.{name}.svc");
    let stranger = |path: &str| {
        let output = Command::new("curl")
            .args(["-sk", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}"])
            .args(["--connect-to", &format!("{host}:80:{address}:80"), &format!("https://{host}:80{path}")])
            .output()
            .expect("curl");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    installed.until("401", || (stranger("/cgi-bin/list") == "401").then_some(()));
    assert_eq!(stranger("/nothing"), "403");
    // around the gate there is no way
    let pod = namespace
        .kubectl(["get", "pods", "-l", "app=orders", "-o", "jsonpath={.items[0].status.podIP}"])
        .expect("an address");
    assert!(std::net::TcpStream::connect(format!("{pod}:8080")).is_err(), "the application listens on loopback alone");

    // all of it is in the audit logs of the gates
    let seen = |of: &str, reason: &str, path: &str| {
        installed.until(&format!("{reason} for {path} in the log of {of}"), || {
            let all = decisions(&namespace, of);
            all.into_iter().find(|line| line["reason"] == reason && line["request"]["path"] == path)
        })
    };
    let granted = seen("orders", "Granted", "/cgi-bin/list");
    assert_eq!(granted["principal"]["id"], format!("spiffe://cluster.local/ns/{name}/sa/web"));
    assert_eq!(seen("billing", "Granted", "/cgi-bin/invoice")["principal"]["assurance"], "ProofOfPossession");
    assert_eq!(seen("orders", "InsufficientScope", "/cgi-bin/refund")["missing"][0], "orders.refund");
    seen("orders", "Unauthenticated", "/cgi-bin/list");
    seen("orders", "OperationUndeclared", "/nothing");

    // a changed policy is in force at the gate, without anything being restarted
    let refund = format!("http://orders.{name}.svc/cgi-bin/refund");
    let policies = example("policies.yaml", name);
    namespace
        .apply(&policies.replace("scopes: [orders.read]\n---", "scopes: [orders.read, orders.refund]\n---"))
        .expect("applied");
    installed.until("the new grant", || fetch(&namespace, "web", &refund).contains("an invoice").then_some(()));

    // the controller is away: what was told stays in force
    installed.kubectl(["scale", "deployment", "durward", "--replicas=0", "-n", NAMESPACE]);
    installed.until("no replica", || installed.pods().is_empty().then_some(()));
    assert!(fetch(&namespace, "web", &list).contains(&expected[1]));
    assert!(fetch(&namespace, "billing", &list).contains("403"));
    installed.kubectl(["scale", "deployment", "durward", "--replicas=2", "-n", NAMESPACE]);
    installed.kubectl(["rollout", "status", "deployment/durward", "-n", NAMESPACE, "--timeout=120s"]);
    // and is heard of again
    namespace.apply(&policies).expect("applied");
    installed.until("the grant is gone", || fetch(&namespace, "web", &refund).contains("403").then_some(()));
}
