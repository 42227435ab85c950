//! Disruptions: expired certificates, restarted replicas, an API server that is down.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use durward_cluster::{Component, Namespace};
use durward_tests::installation::door::ask_replica;
use durward_tests::installation::shared::SharedInstallation;
use durward_tests::installation::{Installed, NAMESPACE, condition, policy};
use serde_json::{Value, json};

fn installed() -> SharedInstallation {
    SharedInstallation::of(module_path!(), || {
        Installed::new(&["webhooks.certificateLifetime=20s", "trust.proxies={0.0.0.0/0}"])
    })
}

/// A policy with one operation that `reader` may do and one that it may not; returns the host and a token of `reader`.
fn service(installed: &Installed, namespace: &Namespace<'_>) -> (String, String) {
    let name = namespace.name();
    namespace.kubectl(["create", "serviceaccount", "reader"]).expect("created");
    let host = format!("orders.{name}.svc");
    let http = |path: &str| json!([{"methods": ["GET"], "paths": [path]}]);
    let spec = json!({
        "service": {"hosts": [host]}, "authentication": [{"workload": {}}],
        "operations": [
            {"name": "list", "scopes": ["read"], "http": http("/orders")},
            {"name": "drop", "scopes": ["drop"], "http": http("/drop")},
        ],
        "grants": [{"name": "r", "to": [{"serviceAccount": {"namespace": name, "name": "reader"}}], "scopes": ["read"]}],
    });
    namespace.apply(&policy(name, "orders", spec)).expect("applied");
    installed.in_force(name, "orders");
    let token =
        namespace.kubectl(["create", "token", "reader", &format!("--audience=orders.{name}")]).expect("a token");
    (host, token.trim().to_owned())
}

/// Results of a steady stream of requests.
#[derive(Debug, Default)]
struct Tally {
    right: usize,
    wrong: Vec<String>,
    /// Requests that were retried because their replica was gone.
    retried: usize,
    lost: usize,
    slowest: Duration,
}

/// Sends requests through the Service until `stop`, each on a new connection that trusts only Durward's own
/// CA.
fn stream(
    installed: &Installed,
    host: String,
    token: String,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
) -> std::thread::JoinHandle<Tally> {
    let address = installed.kubectl(["get", "service", "durward", "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}"]);
    let ca = installed.kubectl(["get", "secret", "durward-ca", "-n", NAMESPACE, "-o", r"jsonpath={.data.tls\.crt}"]);
    let ca = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, ca).expect("base64");
    let door = format!("durward.{NAMESPACE}.svc");
    let address = SocketAddr::new(address.parse().expect("an address"), 443);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&ca).expect("a certificate")])
            .resolve(&door, address)
            .pool_max_idle_per_host(0)
            .timeout(Duration::from_secs(2))
            .build()
            .expect("a client");
        runtime.block_on(async {
            let mut tally = Tally::default();
            while !stop.load(Ordering::Relaxed) {
                for (uri, expected) in [("/orders", 200), ("/drop", 403), ("/other", 403)] {
                    let began = Instant::now();
                    let answer = loop {
                        let request = client
                            .get(format!("https://{door}/forward-auth"))
                            .bearer_auth(&token)
                            .header("x-original-method", "GET")
                            .header("x-original-uri", uri)
                            .header("host", &host);
                        match request.send().await {
                            Ok(answer) => break Some(answer.status().as_u16()),
                            Err(_) if began.elapsed() < Duration::from_secs(10) => {
                                tally.retried += 1;
                                tokio::time::sleep(Duration::from_millis(50)).await;
                            }
                            Err(_) => break None,
                        }
                    };
                    tally.slowest = tally.slowest.max(began.elapsed());
                    match answer {
                        Some(status) if status == expected => {
                            tally.right += 1;
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Some(status) => tally.wrong.push(format!("{uri}: {status}")),
                        None => tally.lost += 1,
                    }
                }
            }
            tally
        })
    })
}

/// Runs `disturb` under a stream of decisions.
fn under_load(installed: &Installed, host: &str, token: &str, disturb: impl FnOnce()) -> Tally {
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let stream = stream(installed, host.to_owned(), token.to_owned(), Arc::clone(&stop), Arc::clone(&answered));
    let some_more = || {
        let before = answered.load(Ordering::Relaxed);
        installed.until("some decisions", || (answered.load(Ordering::Relaxed) > before + 30).then_some(()));
    };
    some_more();
    disturb();
    some_more();
    stop.store(true, Ordering::Relaxed);
    let tally = stream.join().expect("the stream ends");
    println!("{tally:?}");
    assert!(tally.wrong.is_empty() && tally.lost == 0, "{tally:?}");
    tally
}

#[test]
fn e2e_no_decision_is_wrong_or_lost_under_disruption() {
    let installed = installed();
    let namespace = installed.cluster.namespace("stream").expect("a namespace");
    let (host, token) = service(&installed, &namespace);

    let rolled = under_load(&installed, &host, &token, || {
        installed.kubectl(["rollout", "restart", "deployment/durward", "-n", NAMESPACE]);
        installed.kubectl(["rollout", "status", "deployment/durward", "-n", NAMESPACE, "--timeout=120s"]);
    });
    assert_eq!(rolled.retried, 0, "a rolling restart causes no retry");

    under_load(&installed, &host, &token, || {
        let killed = installed.leader();
        installed.kubectl(["delete", "pod", &killed, "-n", NAMESPACE, "--grace-period=0", "--force"]);
        installed.until("another leader", || (installed.leader() != killed).then_some(()));
    });
    // the new leader writes
    let spec = json!({"authentication": [], "operations": []});
    namespace.apply(&policy(namespace.name(), "later", spec)).expect("applied");
    installed.in_force(namespace.name(), "later");

    if installed.cluster.dir().is_some() {
        under_load(&installed, &host, &token, || {
            installed.cluster.stop(Component::ApiServer).expect("stopped");
            std::thread::sleep(Duration::from_secs(4));
            installed.cluster.start(Component::ApiServer).expect("started");
            installed.until("the API server", || installed.cluster.kubectl(["get", "--raw", "/readyz"]).ok());
        });
        let spec = json!({"authentication": [], "operations": [{"name": "open", "public": true, "http": [{"methods": ["GET"], "paths": ["/"]}]}]});
        namespace.apply(&policy(namespace.name(), "later", spec)).expect("applied");
        installed.in_force(namespace.name(), "later");
    }
    // wait for the replacement: other tests need both replicas
    installed.kubectl(["rollout", "status", "deployment/durward", "-n", NAMESPACE, "--timeout=120s"]);
}

#[test]
fn e2e_webhook_certificates_rotate_under_load() {
    let installed = installed();
    let namespace = installed.cluster.namespace("rotation").expect("a namespace");
    let name = namespace.name();
    for who in ["ada", "eve"] {
        namespace
            .kubectl(["create", "rolebinding", who, "--clusterrole=cluster-admin", &format!("--user={who}")])
            .expect("bound");
    }
    let spec = json!({
        "operations": [{"name": "configure", "kubernetes": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["CREATE"]}]}],
        "grants": [{"name": "ada", "to": [{"principal": "kube:ada"}], "scopes": ["configure"]}],
    });
    namespace.apply(&policy(name, "guard", spec)).expect("applied");
    let create =
        |who: &str| namespace.kubectl([&format!("--as={who}"), "create", "configmap", "c", "--dry-run=server"]);
    installed.until("the API server to call the webhook", || create("eve").is_err().then_some(()));
    // a new replica may not listen yet
    let ends = || {
        installed.until("a certificate at each replica", || -> Option<BTreeMap<String, String>> {
            let pods = installed.pods();
            let addresses = pods.iter().map(|pod| pod["status"]["podIP"].as_str());
            addresses
                .map(|address| Some((address?.to_owned(), certificate_end(&format!("{}:8443", address?))?)))
                .collect()
        })
    };
    let first = ends();
    let began = Instant::now();
    let mut calls = 0;
    while began.elapsed() < Duration::from_secs(25) {
        create("ada").unwrap_or_else(|error| panic!("call {calls}, after {:?}: {error}", began.elapsed()));
        let refused = create("eve").expect_err("refused").to_string();
        assert!(refused.contains("missing scope `configure`"), "call {calls}: {refused}");
        calls += 2;
    }
    let last = ends();
    println!("{calls} calls; certificates ended {first:?}, then {last:?}");
    for (address, end) in first {
        assert_ne!(last.get(&address), Some(&end), "{address} has renewed its certificate");
    }
}

/// The expiry of a listener's certificate; `None` if nothing listens.
fn certificate_end(address: &str) -> Option<String> {
    let script =
        format!("openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -enddate -serial");
    let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("openssl runs");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[test]
fn e2e_a_thousand_policies_apply_and_writes_stop() {
    let installed = installed();
    let namespace = installed.cluster.namespace("thousand").expect("a namespace");
    let name = namespace.name();
    let items: Vec<Value> = (0..1000)
        .map(|number| {
            let spec = json!({"operations": [{"name": "open", "public": true, "http": [{"methods": ["GET"], "paths": ["/"]}]}]});
            serde_json::from_str(&policy(name, &format!("p{number}"), spec)).expect("JSON")
        })
        .collect();
    let began = Instant::now();
    installed.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()).expect("applied");
    let applied = began.elapsed();
    installed.until("a thousand policies to be in force", || {
        let list = namespace.kubectl(["get", "accesspolicies", "-o", "json"]).ok()?;
        let list: Value = serde_json::from_str(&list).ok()?;
        let in_force =
            list["items"].as_array()?.iter().filter(|policy| condition(policy, "Programmed").0 == "True").count();
        (in_force == 1000).then_some(())
    });
    println!("applied in {applied:?}, all in force according to their status after {:?}", began.elapsed());
    // while nothing changes, Durward writes the Lease only
    installed.until("the last Events", || {
        let before = installed.writes();
        std::thread::sleep(Duration::from_secs(3));
        (before == installed.writes()).then_some(())
    });
    let before = installed.writes();
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(before, installed.writes(), "writes of Durward at rest");
}

#[test]
fn e2e_without_durward_the_cluster_and_durward_recover() {
    let installed = installed();
    let namespace = installed.cluster.namespace("broken").expect("a namespace");
    let name = namespace.name();
    namespace.kubectl(["create", "deployment", "idle", "--image=none", "--replicas=0"]).expect("created");
    let every = json!([{"apiGroups": ["*"], "resources": ["configmaps", "pods", "pods/*"], "verbs": ["*"]}]);
    let spec = json!({"operations": [{"name": "everything", "kubernetes": every}]});
    namespace.apply(&policy(name, "guard", spec)).expect("applied");
    let create = || namespace.kubectl(["create", "configmap", "c", "--dry-run=server"]);
    installed.until("the API server to call the webhook", || create().is_err().then_some(()));
    installed.kubectl(["scale", "deployment", "durward", "-n", NAMESPACE, "--replicas=0"]);
    installed.until("the removal of the replicas", || installed.pods().is_empty().then_some(()));
    // governed operations fail closed …
    let error = create().expect_err("refused").to_string();
    assert!(error.contains("failed calling webhook \"operations.durward.dev\""), "{error}");
    namespace.kubectl(["scale", "deployment", "idle", "--replicas=1"]).expect("not governed");
    // … and the operations of a recovery work
    installed.kubectl(["create", "configmap", "c", "-n", "kube-system", "--dry-run=server"]);
    installed.kubectl(["create", "configmap", "c", "-n", "default", "--dry-run=server"]);
    installed.kubectl(["create", "configmap", "c", "-n", NAMESPACE, "--dry-run=server"]);
    let manifest = policy("default", "new", json!({"operations": []}));
    installed.cluster.apply(&manifest).expect("a policy is stored now and reviewed later");
    installed.kubectl(["delete", "accesspolicy", "new", "-n", "default"]);
    // the control plane works in the governed namespace: it removes a deleted pod and updates the Service's endpoints
    installed.until("the Deployment's pod to be replaced", || {
        let now = namespace.kubectl(["get", "replicaset", "-o", "jsonpath={.items[0].status.replicas}"]).ok()?;
        (now == "1").then_some(())
    });
    installed.kubectl(["scale", "deployment", "durward", "-n", NAMESPACE, "--replicas=2"]);
    installed.kubectl(["rollout", "status", "deployment/durward", "-n", NAMESPACE, "--timeout=120s"]);
    installed.until("Durward to respond", || {
        create().expect_err("governed").to_string().contains("missing scope").then_some(())
    });
    // without Durward an admin can remove the webhooks by hand
    installed.kubectl(["scale", "deployment", "durward", "-n", NAMESPACE, "--replicas=0"]);
    installed.until("the removal of the replicas", || installed.pods().is_empty().then_some(()));
    installed.kubectl(["delete", "validatingwebhookconfiguration", "durward-operations"]);
    installed.until("the API server to stop calling the webhook", || create().ok());
    installed.kubectl(["scale", "deployment", "durward", "-n", NAMESPACE, "--replicas=2"]);
    installed.kubectl(["rollout", "status", "deployment/durward", "-n", NAMESPACE, "--timeout=120s"]);
    installed.until("the rules to be restored", || create().is_err().then_some(()));
}

#[test]
fn e2e_replicas_that_start_with_a_broken_policy_deny_its_service() {
    let installed = installed();
    let namespace = installed.cluster.namespace("forgotten").expect("a namespace");
    let name = namespace.name();
    let audience = format!("orders.{name}");
    let annotation = format!("durward.dev/allowed-audiences={audience}");
    installed.kubectl(["annotate", "namespace", name, &annotation]);
    for who in ["ada", "eve"] {
        namespace
            .kubectl(["create", "rolebinding", who, "--clusterrole=cluster-admin", &format!("--user={who}")])
            .expect("bound");
    }
    // every caller may read the service …
    let (host, token) = service(&installed, &namespace);
    // … unless its second policy denies it; that policy also governs ConfigMaps
    let denial = json!([{"name": "stop", "to": [{"serviceAccount": {"namespace": name, "name": "reader"}}]}]);
    let guard = |grants: Value| {
        let every = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["CREATE"]}]);
        json!({
            "service": {"audience": audience}, "operations": [{"name": "configure", "kubernetes": every}],
            "denials": denial, "grants": grants,
        })
    };
    let ada = json!([{"name": "ada", "to": [{"principal": "kube:ada"}], "scopes": ["configure"]}]);
    namespace.apply(&policy(name, "guard", guard(ada.clone()))).expect("applied");
    let stored = installed.in_force(name, "guard");
    assert_eq!(stored["status"]["lastGood"]["generation"], stored["metadata"]["generation"], "{stored}");
    // a new replica may not listen yet, or lack the cluster's keys: it allows no caller
    let ask = || -> Vec<String> {
        installed.until("two replicas with the caller's keys", || {
            let statuses = installed.addresses().into_iter().map(|it| ask_replica(&it, &token, &host, "/orders").0);
            let answers: Vec<_> = statuses.collect();
            (answers.len() == 2 && answers.iter().all(|status| !["000", "401"].contains(&status.as_str())))
                .then_some(answers)
        })
    };
    let configure =
        |who: &str| namespace.kubectl([&format!("--as={who}"), "create", "configmap", "c", "--dry-run=server"]);
    installed.until("the API server to call the webhook", || configure("eve").is_err().then_some(()));
    configure("ada").expect("granted");
    assert_eq!(ask(), ["403", "403"], "denied by the other policy");

    // an invalid grant is stored while no webhook runs, and every replica restarts
    let broken = json!([{"name": "ada", "to": [{"principal": "kube:ada"}], "roles": ["missing"]}]);
    installed.kubectl(["scale", "deployment", "durward", "-n", NAMESPACE, "--replicas=0"]);
    installed.until("the removal of the replicas", || installed.pods().is_empty().then_some(()));
    namespace.apply(&policy(name, "guard", guard(broken))).expect("stored");
    installed.kubectl(["scale", "deployment", "durward", "-n", NAMESPACE, "--replicas=2"]);
    installed.kubectl(["rollout", "status", "deployment/durward", "-n", NAMESPACE, "--timeout=120s"]);
    let closed = |policy: &str| {
        installed.until("a status with the closed service", || {
            let policy = installed.policy(name, policy);
            (condition(&policy, "Programmed") == ("False", "ServiceClosed")).then_some(policy)
        })
    };
    let stored = closed("guard");
    assert_eq!(condition(&stored, "Accepted"), ("False", "Invalid"));
    assert_eq!(condition(&closed("orders"), "Accepted"), ("True", "Valid"), "a valid policy of the closed service");
    assert_eq!(ask(), ["403", "403"], "denials of the lost version stay in force");
    let refused = configure("ada").expect_err("governed").to_string();
    assert!(refused.contains("is closed") && refused.contains(&format!("policy {name}/guard is fixed")), "{refused}");
    installed.until("an Event", || {
        let events = namespace.kubectl(["get", "events", "--field-selector=reason=ServiceClosed"]).ok()?;
        events.contains("accesspolicy/guard").then_some(())
    });
    let id = format!("spiffe://cluster.local/ns/{name}/sa/another");
    let (code, output) = installed.durward(&["check", "--as", &id, "GET", &format!("http://{host}/orders")]);
    assert!(code == Some(1) && output.contains(&format!("fix or remove AccessPolicy {name}/guard")), "{output}");

    // after an admin fixed the policy, the earlier decisions apply again
    let fixed = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&fixed, policy(name, "guard", guard(ada))).expect("written");
    namespace.kubectl(["--as=eve", "apply", "-f", &fixed.path().display().to_string()]).expect("fixed");
    installed.in_force(name, "guard");
    installed.in_force(name, "orders");
    configure("ada").expect("granted");
    assert_eq!(ask(), ["403", "403"]);
    namespace.kubectl(["delete", "accesspolicy", "guard"]).expect("removed");
    installed.until("the removal of the denial", || (ask() == ["200", "200"]).then_some(()));
}

#[test]
fn e2e_webhook_changes_by_others_are_reverted() {
    let installed = installed();
    let namespace = installed.cluster.namespace("changed").expect("a namespace");
    let name = namespace.name();
    let every = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["CREATE"]}]);
    let spec = json!({"operations": [{"name": "configure", "kubernetes": every}]});
    namespace.apply(&policy(name, "guard", spec)).expect("applied");
    let webhooks = |kind: &str, which: &str| -> Value {
        let stored = installed.kubectl(["get", kind, &format!("durward-{which}"), "-o", "json"]);
        serde_json::from_str::<Value>(&stored).expect("JSON")["webhooks"].take()
    };
    let validating = "validatingwebhookconfiguration";
    let mutating = "mutatingwebhookconfiguration";
    // a policy in force is enforced
    let programmed = || condition(&installed.policy(name, "guard"), "Programmed") == ("True", "InForce");
    installed.in_force(name, "guard");
    // the rules change until the namespaces of other tests are deleted
    let good = installed.until("only this policy to govern", || {
        let stored = webhooks(validating, "operations");
        (stored[0]["namespaceSelector"]["matchExpressions"][0]["values"] == json!([name])).then_some(stored)
    });
    assert!(
        good[0]["rules"]
            .as_array()
            .is_some_and(|all| all.iter().any(|rule| rule["resources"] == json!(["configmaps"])))
    );
    let ca = installed.kubectl(["get", "secret", "durward-ca", "-n", NAMESPACE, "-o", r"jsonpath={.data.tls\.crt}"]);
    assert_eq!(good[0]["clientConfig"]["caBundle"], json!(ca));

    let excuse = json!({"name": "excused", "expression": "false"});
    let selector = json!({"matchLabels": {"governed": "yes"}});
    for (kind, which, change) in [
        (validating, "operations", json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}])),
        (validating, "operations", json!([{"op": "replace", "path": "/webhooks/0/rules", "value": []}])),
        (validating, "operations", json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}])),
        (validating, "operations", json!([{"op": "add", "path": "/webhooks/0/matchConditions/-", "value": excuse}])),
        (validating, "operations", json!([{"op": "replace", "path": "/webhooks/0/objectSelector", "value": selector}])),
        (
            validating,
            "resources",
            json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["DELETE"]}]),
        ),
        (mutating, "injection", json!([{"op": "remove", "path": "/webhooks/0"}])),
    ] {
        let before = webhooks(kind, which);
        let object = format!("durward-{which}");
        let change = change.to_string();
        installed.kubectl(["patch", kind, &object, "--type=json", "-p", &change]);
        installed.until(&format!("{change} to be reverted"), || (webhooks(kind, which) == before).then_some(()));
    }
    installed.until("the policy to be in force", || programmed().then_some(()));

    // removed rules are restored; meanwhile the policy's status reports that it is not enforced
    installed.kubectl(["delete", validating, "durward-operations"]);
    installed.until("a status that reports the missing enforcement", || {
        (condition(&installed.policy(name, "guard"), "Programmed") == ("False", "NotAsked")).then_some(())
    });
    installed.until("the policy to be in force again", || programmed().then_some(()));
    assert_eq!(webhooks(validating, "operations"), good);
    installed.until("the API server to call the webhook", || {
        let create = namespace.kubectl(["create", "configmap", "c", "--dry-run=server"]);
        create.is_err_and(|error| error.to_string().contains("operations.durward.dev")).then_some(())
    });
    // afterwards there are no further changes
    installed.until("the last Events", || {
        let before = installed.writes();
        std::thread::sleep(Duration::from_secs(3));
        (before == installed.writes()).then_some(())
    });
}
