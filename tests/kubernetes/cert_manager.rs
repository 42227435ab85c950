//! The webhooks' certificate and `caBundle` from cert-manager instead of Durward's own CA.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use durward_cluster::{Cluster, Namespace, binaries};
use durward_tests::StopOnDrop;
use durward_tests::installation::{Installed, NAMESPACE, chart, helm, policy};
use durward_tests::turn::Turn;
use serde_json::{Value, json};

/// The Certificate of the chart, and the Secret that it fills.
const CERTIFICATE: &str = "durward-webhooks";

/// cert-manager as a process with an admin's rights.
struct CertManager(Child);

impl CertManager {
    fn start(cluster: &Cluster) -> Self {
        let definitions = binaries::manifests(binaries::CERT_MANAGER).expect("definitions").display().to_string();
        cluster.kubectl(["apply", "--server-side", "-f", &definitions]).expect("applied");
        for kind in ["issuers", "clusterissuers", "certificates", "certificaterequests"] {
            let crd = format!("crd/{kind}.cert-manager.io");
            cluster.kubectl(["wait", "--for=condition=Established", &crd, "--timeout=60s"]).expect("established");
        }
        let mut command = Command::new(binaries::path(binaries::CERT_MANAGER).expect("cert-manager"));
        command.env("KUBECONFIG", cluster.kubeconfig()).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().expect("it starts"))
    }
}

impl Drop for CertManager {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(installed: &Installed, args: &[&str]) -> Value {
    let text = installed.kubectl(["get"].iter().chain(args).chain(&["-o", "json"]));
    serde_json::from_str(&text).expect("JSON")
}

/// The three webhook configurations.
fn configurations(installed: &Installed) -> Vec<Value> {
    let list = get(installed, &["validatingwebhookconfigurations,mutatingwebhookconfigurations"]);
    let ours = |item: &&Value| item["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("durward-"));
    let ours: Vec<Value> = list["items"].as_array().expect("items").iter().filter(ours).cloned().collect();
    assert_eq!(ours.len(), 3, "{ours:?}");
    ours
}

/// The `caBundle` of each webhook in PEM.
fn bundles(installed: &Installed) -> Vec<String> {
    let all = configurations(installed);
    let clients =
        all.iter().flat_map(|one| one["webhooks"].as_array().expect("webhooks")).map(|one| &one["clientConfig"]);
    clients.map(|client| decoded(&client["caBundle"])).collect()
}

fn decoded(value: &Value) -> String {
    let bytes = STANDARD.decode(value.as_str().unwrap_or_default()).expect("base64");
    String::from_utf8(bytes).expect("PEM").trim().to_owned()
}

/// The root in cert-manager's Secret.
fn root(installed: &Installed) -> String {
    decoded(&get(installed, &["secret", CERTIFICATE, "-n", NAMESPACE])["data"]["ca.crt"])
}

/// The PEM certificate of a listener, verified with `root`.
fn served_certificate(address: &str, root: &str) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, root).expect("written");
    let host = format!("durward.{NAMESPACE}.svc");
    let file = file.path().display().to_string();
    let client = Command::new("openssl")
        .args(["s_client", "-connect", address, "-servername", &host, "-verify_hostname", &host])
        .args(["-verify_return_error", "-CAfile", &file])
        .stdin(Stdio::null())
        .output()
        .expect("openssl runs");
    let text = String::from_utf8_lossy(&client.stdout).into_owned();
    let begin = text.find("-----BEGIN CERTIFICATE-----");
    let end = text.find("-----END CERTIFICATE-----");
    let certificate = if client.status.success() { begin.zip(end) } else { None };
    match certificate {
        Some((begin, end)) => Ok(text[begin..end].to_owned()),
        None => Err(String::from_utf8_lossy(&client.stderr).into_owned()),
    }
}

/// The certificates of all replicas at a port.
fn served_by_all(installed: &Installed, port: u16, root: &str) -> Result<Vec<String>, String> {
    installed.addresses().iter().map(|address| served_certificate(&format!("{address}:{port}"), root)).collect()
}

/// Renews a certificate as `cmctl renew` does.
fn renew(installed: &Installed) {
    let issuing = json!({
        "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let patch = json!([{"op": "add", "path": "/status/conditions/-", "value": issuing}]).to_string();
    let certificate = ["patch", "certificate", CERTIFICATE, "-n", NAMESPACE];
    installed.kubectl(certificate.iter().chain(&["--subresource=status", "--type=json", "-p", &patch]));
}

/// A policy that allows Ada to create ConfigMaps, but not Eve.
fn apply_guard(installed: &Installed, namespace: &Namespace<'_>) {
    let spec = json!({
        "operations": [{"name": "configure", "kubernetes": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["CREATE"]}]}],
        "grants": [{"name": "ada", "to": [{"principal": "kube:ada"}], "scopes": ["configure"]}],
    });
    namespace.apply(&policy(namespace.name(), "guard", spec)).expect("applied");
    installed.in_force(namespace.name(), "guard");
    installed.until("the API server to call the webhook", || (check_decisions(namespace) == Ok(())).then_some(()));
}

/// Checks that Ada is allowed and Eve denied.
fn check_decisions(namespace: &Namespace<'_>) -> Result<(), String> {
    let create =
        |who: &str| namespace.kubectl([&format!("--as={who}"), "create", "configmap", "c", "--dry-run=server"]);
    create("ada").map_err(|error| error.to_string())?;
    match create("eve") {
        Err(error) if error.to_string().contains("missing scope `configure`") => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Asserts that neither Durward nor cert-manager writes while nothing changes.
fn assert_no_writes_at_rest(installed: &Installed) {
    let versions = || -> Vec<Value> {
        configurations(installed).iter().map(|one| one["metadata"]["resourceVersion"].clone()).collect()
    };
    let now = || (installed.writes(), versions());
    installed.until("the last writes", || {
        let before = now();
        std::thread::sleep(Duration::from_secs(2));
        (before == now()).then_some(())
    });
    let before = now();
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(before, now(), "writes at rest");
}

/// Asserts that the rendered objects match cert-manager's CRDs.
fn assert_rendered_objects_are_accepted(installed: &Installed, values: &Path) {
    let chart = chart().display().to_string();
    let values = format!("--values={}", values.display());
    let args = ["template", "durward-checked", &chart, "--namespace", NAMESPACE, &values];
    let (good, rendered) = helm(&installed.cluster, &args);
    assert!(good, "{rendered}");
    let of_cert_manager = |document: &&str| document.contains("apiVersion: cert-manager.io/");
    let documents: Vec<&str> = rendered.split("\n---\n").filter(of_cert_manager).collect();
    assert!(!documents.is_empty(), "{rendered}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, documents.join("\n---\n")).expect("written");
    let file = file.path().display().to_string();
    installed.kubectl(["apply", "--dry-run=server", "--server-side", "--validate=strict", "-f", &file]);
}

#[test]
fn e2e_cert_manager_renews_the_webhook_certificate_under_load() {
    let _turn = Turn::take(module_path!());
    let cluster = Cluster::shared().unwrap_or_else(|error| panic!("{error}"));
    let _cert_manager = CertManager::start(&cluster);
    let installed = Installed::new(&["webhooks.certManager.enabled=true", "ca.spread=1s"]);
    for values in ["ci/cert-manager.yaml", "ci/everything.yaml"] {
        assert_rendered_objects_are_accepted(&installed, &chart().join(values));
    }

    let root = root(&installed);
    installed.until("the CA in every webhook", || bundles(&installed).iter().all(|one| *one == root).then_some(()));
    let own = get(&installed, &["secret", "durward-ca", "-n", NAMESPACE]);
    let own = decoded(&own["data"]["tls.crt"]);
    let first = served_by_all(&installed, 8443, &root).expect("cert-manager's CA verifies the webhooks");
    assert_eq!(first[0], first[1], "every replica presents the certificate in the Secret");
    served_by_all(&installed, 8143, &own).expect("Durward's own CA verifies the doors");

    let namespace = installed.cluster.namespace("certified").expect("a namespace");
    for who in ["ada", "eve"] {
        let user = format!("--user={who}");
        namespace.kubectl(["create", "rolebinding", who, "--clusterrole=cluster-admin", &user]).expect("bound");
    }
    apply_guard(&installed, &namespace);
    renew_under_load(&installed, &namespace, &first);
    assert_ca_bundle_is_kept(&installed, &namespace, &root);
    assert_own_ca_without_cert_manager(&installed, &namespace);
    installed.uninstall();
}

/// Renews the certificate twice with new keys, while the API server calls the webhooks and other clients connect.
fn renew_under_load(installed: &Installed, namespace: &Namespace<'_>, first: &[String]) {
    let stop = AtomicBool::new(false);
    let calls = AtomicUsize::new(0);
    let handshakes = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    let failed = |error: String| failures.lock().expect("a lock").push(error);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                check_decisions(namespace).unwrap_or_else(failed);
                calls.fetch_add(2, Ordering::Relaxed);
            }
        });
        // the API server reuses connections; these handshakes are new ones
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match served_by_all(installed, 8443, &bundles(installed)[0]) {
                    Ok(served_certificate) => drop(handshakes.fetch_add(served_certificate.len(), Ordering::Relaxed)),
                    Err(error) => failed(error),
                }
            }
        });
        let mut before = first.to_vec();
        for _ in 0..2 {
            renew(installed);
            before = installed.until("the next certificate at every replica", || {
                let now = served_by_all(installed, 8443, &bundles(installed)[0]).ok()?;
                (now[0] == now[1] && !before.contains(&now[0])).then_some(now)
            });
            let calls_before = calls.load(Ordering::Relaxed);
            let handshakes_before = handshakes.load(Ordering::Relaxed);
            installed.until("calls and handshakes after the renewal", || {
                let more = calls.load(Ordering::Relaxed) > calls_before + 4
                    && handshakes.load(Ordering::Relaxed) > handshakes_before + 4;
                more.then_some(())
            });
        }
    });
    let failures = failures.into_inner().expect("a lock");
    assert!(failures.is_empty(), "{failures:?}");
    println!("{calls:?} webhook calls and {handshakes:?} handshakes during two renewals, none failed");
}

/// The webhooks keep cert-manager's CA when policies change, Durward's own CA rotates, or an admin edits them.
fn assert_ca_bundle_is_kept(installed: &Installed, namespace: &Namespace<'_>, root: &str) {
    for configuration in configurations(installed) {
        let annotation = &configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
        assert_eq!(*annotation, format!("{NAMESPACE}/{CERTIFICATE}"));
    }
    let managed = get(installed, &["validatingwebhookconfiguration", "durward-operations", "--show-managed-fields"]);
    for of in managed["metadata"]["managedFields"].as_array().expect("managers") {
        let writes = of["fieldsV1"].to_string().contains("f:caBundle");
        assert!(!writes || of["manager"] != "durward", "Durward owns a caBundle: {of}");
    }
    assert_no_writes_at_rest(installed);

    namespace.kubectl(["delete", "accesspolicy", "guard"]).expect("deleted");
    let rules =
        || get(installed, &["validatingwebhookconfiguration", "durward-operations"])["webhooks"][0]["rules"].clone();
    installed.until("the removal of the rules", || rules().is_null().then_some(()));
    apply_guard(installed, namespace);

    let active = || get(installed, &["configmap", "durward-ca-status", "-n", NAMESPACE])["data"]["active"].clone();
    let before = active();
    installed.kubectl(["annotate", "secret", "durward-ca", "-n", NAMESPACE, "durward.dev/rotate=planned"]);
    installed.until("Durward's own next CA to sign", || (active() != before).then_some(()));
    assert!(bundles(installed).iter().all(|one| one == root), "another CA than cert-manager's");

    let gone = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]).to_string();
    installed.kubectl(["patch", "validatingwebhookconfiguration", "durward-resources", "--type=json", "-p", &gone]);
    installed.until("the injector to restore it", || bundles(installed).iter().all(|one| one == root).then_some(()));
    assert_no_writes_at_rest(installed);
    check_decisions(namespace).expect("the same decisions as before");
}

/// Asserts that Durward's own CA is used again without the option.
fn assert_own_ca_without_cert_manager(installed: &Installed, namespace: &Namespace<'_>) {
    installed.upgrade(&chart(), &[]);
    let roots = || {
        let bundle = ["clustertrustbundle", "durward.dev:workload:roots"];
        get(installed, &bundle)["spec"]["trustBundle"].as_str().unwrap_or_default().trim().to_owned()
    };
    installed.until("Durward's roots in every webhook", || {
        let roots = roots();
        bundles(installed).iter().all(|one| *one == roots).then_some(())
    });
    for configuration in configurations(installed) {
        assert!(configuration["metadata"]["annotations"].is_null(), "{configuration}");
    }
    installed.until("the API server to call the webhook", || (check_decisions(namespace) == Ok(())).then_some(()));
    namespace.kubectl(["delete", "accesspolicy", "guard"]).expect("deleted");
    installed.until("the removal of the rules", || {
        let rules = get(installed, &["validatingwebhookconfiguration", "durward-operations"]);
        rules["webhooks"][0]["rules"].is_null().then_some(())
    });
}
