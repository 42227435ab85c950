//! The example `examples/shop`: three services without security code, each with a gate.

use durward_cluster::{Namespace, image};
use durward_tests::installation::people::{People, curl, decide};
use durward_tests::installation::{Installed, NAMESPACE};
use durward_tests::repository;
use durward_tests::turn::Turn;
use serde_json::{Value, json};
use std::time::Duration;

/// A file of the example, for the test's namespace.
fn example(file: &str, namespace: &str) -> String {
    let path = repository("examples/shop").join(file);
    let text = std::fs::read_to_string(path).expect("the example");
    let image = format!("image: {}\n          imagePullPolicy: Never", image::BUSYBOX);
    let text = text.replace("image: busybox", &image).replace("namespace: shop", &format!("namespace: {namespace}"));
    text.replace(".shop.svc", &format!(".{namespace}.svc"))
}

/// Fetches a URL from a pod through its gate; returns the body or wget's error.
fn fetch(namespace: &Namespace<'_>, from: &str, url: &str) -> String {
    let script = format!("http_proxy=$DURWARD_OUTBOUND timeout 10 wget -qO- {url} 2>&1 || true");
    namespace.kubectl(["exec", &format!("deploy/{from}"), "-c", from, "--", "sh", "-c", &script]).unwrap_or_default()
}

/// The decisions in a gate's audit log.
fn decisions(namespace: &Namespace<'_>, of: &str) -> Vec<Value> {
    let log = namespace.kubectl(["logs", &format!("deploy/{of}"), "-c", "durward-gate"]).unwrap_or_default();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["door"] == "gate").collect()
}

/// The audit logs of the gates contain the decisions about the requests before.
fn assert_decisions_are_audited(installed: &Installed, namespace: &Namespace<'_>) {
    let wait_for_decision = |of: &str, reason: &str, path: &str| {
        installed.until(&format!("{reason} for {path} in the log of {of}"), || {
            let all = decisions(namespace, of);
            all.into_iter().find(|line| line["reason"] == reason && line["request"]["path"] == path)
        })
    };
    let name = namespace.name();
    let granted = wait_for_decision("orders", "Granted", "/cgi-bin/list");
    assert_eq!(granted["principal"]["id"], format!("spiffe://cluster.local/ns/{name}/sa/web"));
    assert_eq!(
        wait_for_decision("billing", "Granted", "/cgi-bin/invoice")["principal"]["assurance"],
        "ProofOfPossession"
    );
    assert_eq!(wait_for_decision("orders", "InsufficientScope", "/cgi-bin/refund")["missing"][0], "orders.refund");
    wait_for_decision("orders", "Unauthenticated", "/cgi-bin/list");
    wait_for_decision("orders", "OperationUndeclared", "/nothing");
}

#[test]
fn e2e_gates_protect_three_services_without_security_code() {
    let _turn = Turn::take(module_path!());
    let installed = Installed::new(&["stepUp.url=https://auth.example.com"]);
    let namespace = installed.cluster.namespace("shop").expect("a namespace");
    let name = namespace.name();
    namespace.apply(&example("policies.yaml", name)).expect("applied");
    ["web", "orders", "billing"].iter().for_each(|policy| drop(installed.in_force(name, policy)));
    namespace.apply(&example("workloads.yaml", name)).expect("applied");
    for app in ["web", "orders", "billing"] {
        namespace.await_condition(&format!("deployment/{app}"), "Available").unwrap_or_else(|error| panic!("{error}"));
    }
    let list = format!("http://orders.{name}.svc/cgi-bin/list");

    // allowed, through four gates, with each caller named to the next service
    let expected = [
        format!("orders for spiffe://cluster.local/ns/{name}/sa/web"),
        format!("an invoice for spiffe://cluster.local/ns/{name}/sa/orders"),
    ];
    let answer = installed.until("an answer of all three", || {
        Some(fetch(&namespace, "web", &list)).filter(|answer| answer.contains(&expected[1]))
    });
    assert_eq!(answer.lines().collect::<Vec<_>>(), expected);
    // a scope without a grant, an operation of another caller, and the reverse direction
    let refused = fetch(&namespace, "web", &format!("http://orders.{name}.svc/cgi-bin/refund"));
    assert!(refused.contains("403"), "{refused}");
    let skipped = fetch(&namespace, "web", &format!("http://billing.{name}.svc/cgi-bin/invoice"));
    assert!(skipped.contains("403"), "{skipped}");
    let backwards = fetch(&namespace, "billing", &list);
    assert!(backwards.contains("403"), "{backwards}");
    // a caller on this machine without a certificate
    let address =
        namespace.kubectl(["get", "service", "orders", "-o", "jsonpath={.spec.clusterIP}"]).expect("an address");
    let host = format!("orders.{name}.svc");
    let anonymous = |path: &str, header: &str| {
        let to = format!("{host}:80:{address}:80");
        let url = format!("https://{host}:80{path}");
        curl(&["--include", "--header", header, "--connect-to", &to, &url])
    };
    installed.until("401", || (anonymous("/cgi-bin/list", "Accept: */*").0 == "401").then_some(()));
    assert_eq!(anonymous("/nothing", "Accept: */*").0, "403");
    // the gate can't be bypassed
    let pod = namespace
        .kubectl(["get", "pods", "-l", "app=orders", "-o", "jsonpath={.items[0].status.podIP}"])
        .expect("an address");
    assert!(std::net::TcpStream::connect(format!("{pod}:8080")).is_err(), "the application listens on loopback only");

    assert_decisions_are_audited(&installed, &namespace);

    // a changed policy applies without a restart
    let refund = format!("http://orders.{name}.svc/cgi-bin/refund");
    let policies = example("policies.yaml", name);
    namespace
        .apply(&policies.replace("scopes: [orders.read]\n---", "scopes: [orders.read, orders.refund]\n---"))
        .expect("applied");
    installed.until("the new grant", || fetch(&namespace, "web", &refund).contains("an invoice").then_some(()));

    assert_step_up_and_approval(&installed, &namespace, &policies, &refund, &anonymous);
    assert_key_use_is_reported(&installed, &namespace, &policies, &anonymous);

    // without the controller the last policies stay in force
    installed.kubectl(["scale", "deployment", "durward", "--replicas=0", "-n", NAMESPACE]);
    installed.until("no replica", || installed.pods().is_empty().then_some(()));
    assert!(fetch(&namespace, "web", &list).contains(&expected[1]));
    assert!(fetch(&namespace, "billing", &list).contains("403"));
    installed.kubectl(["scale", "deployment", "durward", "--replicas=2", "-n", NAMESPACE]);
    installed.kubectl(["rollout", "status", "deployment/durward", "-n", NAMESPACE, "--timeout=120s"]);
    // the controller is back
    namespace.apply(&policies).expect("applied");
    installed.until("the removal of the grant", || fetch(&namespace, "web", &refund).contains("403").then_some(()));
}

/// Asserts that the gate reports the use of an API key.
fn assert_key_use_is_reported(
    installed: &Installed,
    namespace: &Namespace<'_>,
    policies: &str,
    anonymous: &dyn Fn(&str, &str) -> (String, String),
) {
    let provider = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": "partners"},
        "spec": {"apiKey": {"selector": {"matchLabels": {"durward.dev/api-keys": "partners"}}}},
    });
    installed.cluster.apply(&provider.to_string()).expect("accepted");
    let (code, text) = installed.durward(&["mint", "api-key", "--provider", "partners", "--name", "acme"]);
    assert_eq!(code, Some(0), "{text}");
    let key = text.lines().find(|line| line.starts_with("dwk_acme_")).expect("a key");
    let accepting = policies
        .replace("[{workload: {}}]", "[{workload: {}}, {provider: partners}]")
        .replace(
            "scopes: [orders.read]\n    - name: refund",
            "scopes: [orders.read]\n      risk: Low\n    - name: refund",
        )
        .replace(
            "    - name: web-reads",
            "    - {name: partners, to: [{provider: partners}], scopes: [orders.read]}\n    - name: web-reads",
        );
    namespace.apply(&accepting).expect("applied");
    let header = format!("X-Api-Key: {key}");
    installed.until("the key to be valid", || (anonymous("/cgi-bin/list", &header).0 == "200").then_some(()));
    // the gate reports it within 20 seconds, and a replica writes it within another minute
    let listed = installed.cluster.until("the last use", Duration::from_secs(150), || {
        let (_, text) = installed.durward(&["api-key", "list", "-o", "json"]);
        let listed: Option<Value> = serde_json::from_str(&text).ok();
        Ok(listed.filter(|listed| listed[0]["lastUsed"].is_string()))
    });
    let listed = listed.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((&listed[0]["provider"], &listed[0]["name"]), (&json!("partners"), &json!("acme")));
}

/// A person gets a link to the step-up page; a workload waits for an approval.
fn assert_step_up_and_approval(
    installed: &Installed,
    namespace: &Namespace<'_>,
    policies: &str,
    refund: &str,
    anonymous: &dyn Fn(&str, &str) -> (String, String),
) {
    let name = namespace.name();
    let people = People::generate();
    installed.cluster.apply(&people.provider()).expect("accepted");
    let requiring = policies
        .replace("scopes: [orders.read]\n---", "scopes: [orders.read, orders.refund]\n    - {name: people, to: [{provider: people}], scopes: [orders.refund]}\n---")
        .replace("[{workload: {}}]", "[{workload: {}}, {provider: people}]")
        .replace("risk: High\n  grants", "risk: High\n      approval: {by: [{provider: people, group: oncall}]}\n  grants");
    namespace.apply(&requiring).expect("applied");
    installed.in_force(name, "orders");

    // the challenge has the controller's URL
    let audience = format!("orders.{name}");
    let bearer = format!("Authorization: Bearer {}", people.token("alice", &audience));
    let link = format!("link: <https://auth.example.com/step-up?audience={audience}&operation=refund-order>");
    installed.until("the challenge", || {
        let (status, response) = anonymous("/cgi-bin/refund", &bearer);
        (status == "401" && response.contains(&link)).then_some(())
    });

    // the gate requests the missing approval
    let web = format!("spiffe://cluster.local/ns/{name}/sa/web");
    installed.until("the refusal", || fetch(namespace, "web", refund).contains("403").then_some(()));
    let pending = installed.until("the approval", || {
        let list: Value = serde_json::from_str(&namespace.kubectl(["get", "apr", "-o", "json"]).ok()?).ok()?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().find(|item| item["spec"]["principal"] == json!(web))
    });
    assert_eq!((&pending["spec"]["policy"], &pending["spec"]["operation"]), (&json!("orders"), &json!("refund-order")));
    let object = pending["metadata"]["name"].as_str().expect("a name");
    // write access to the object approves nothing
    let status = json!({"status": {"state": "Approved", "by": "user:people/oscar", "decidedAt": "2026-01-01T00:00:00Z", "expiresAt": "2999-01-01T00:00:00Z", "signature": "x"}});
    let patch = format!("--patch={status}");
    namespace.kubectl(["patch", "apr", object, "--type=merge", &patch, "--subresource=status"]).expect("written");
    assert!(fetch(namespace, "web", refund).contains("403"));
    let replica = installed.addresses().into_iter().next().expect("a replica");
    let approval = format!("{name}/{object}");
    installed.until("the decision", || {
        let (status, _) = decide(&replica, &approval, &people.oncall("oscar", &audience), "approve");
        (status == "200").then_some(())
    });
    installed
        .until("the gate to have the policy", || fetch(namespace, "web", refund).contains("an invoice").then_some(()));
    let carried = decisions(namespace, "orders").into_iter().find(|line| line["approval"]["by"].is_string());
    assert_eq!(carried.expect("recorded")["approval"]["by"], "user:people/oscar");
    // the gate follows the revocation too
    namespace.kubectl(["delete", "apr", object]).expect("deleted");
    installed.until("the gate to drop the grant", || fetch(namespace, "web", refund).contains("403").then_some(()));
    let response = installed.kubectl(["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=durward", "--tail=-1"]);
    assert!(response.contains(&format!("\"outcome\":\"requested\",\"namespace\":\"{name}\"")));
}
