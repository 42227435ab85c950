//! CA rotation under traffic.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use durward_cluster::{Namespace, image};
use durward_tests::StopOnDrop;
use durward_tests::installation::door::ForwardAuthDoor;
use durward_tests::installation::shared::SharedInstallation;
use durward_tests::installation::{Installed, NAMESPACE, policy};
use serde_json::{Value, json};

fn installed() -> SharedInstallation {
    SharedInstallation::of(module_path!(), || {
        Installed::new(&[
            "trust.proxies={0.0.0.0/0}",
            "trust.clientCertificatesFrom={0.0.0.0/0}",
            "ca.spread=5s",
            "ca.overlap=20s",
        ])
    })
}

/// The status of the CA.
fn status(installed: &Installed) -> Value {
    let status =
        installed.kubectl(["get", "configmap", "durward-ca-status", "-n", NAMESPACE, "-o", "jsonpath={.data}"]);
    serde_json::from_str(&status).expect("a status")
}

fn steady(installed: &Installed) -> Value {
    installed.until("one CA", || Some(status(installed)).filter(|status| status["step"] == "Steady"))
}

/// Starts a pod; writes its credentials and roots to two files.
fn start(namespace: &Namespace<'_>, name: &str, folder: &Path) -> [PathBuf; 2] {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never",
                "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
                "volumeMounts": [{"name": "identity", "mountPath": "/var/run/durward"}],
            }],
            "volumes": [{"name": "identity", "projected": {"sources": [
                {"podCertificate": {"signerName": "durward.dev/workload", "keyType": "ECDSAP256", "credentialBundlePath": "c.pem"}},
                {"clusterTrustBundle": {"signerName": "durward.dev/workload", "labelSelector": {}, "path": "trust.pem"}},
            ]}}],
        },
    });
    namespace.apply(&pod.to_string()).expect("applied");
    namespace.await_condition(&format!("pod/{name}"), "Ready").unwrap_or_else(|error| panic!("{error}"));
    ["c.pem", "trust.pem"].map(|file| {
        let text = namespace.kubectl(["exec", name, "--", "cat", &format!("/var/run/durward/{file}")]).expect("a file");
        let path = folder.join(format!("{name}-{file}"));
        std::fs::write(&path, text).expect("written");
        path
    })
}

/// The current roots of the namespace's ConfigMap.
fn roots(namespace: &Namespace<'_>, to: &Path) {
    let path = "jsonpath={.data.trust-bundle\\.pem}";
    let pem = namespace.kubectl(["get", "configmap", "durward-trust-bundle", "-o", path]).expect("a bundle");
    std::fs::write(to, pem).expect("written");
}

/// The bundle endpoint serves a SPIFFE bundle with both token keys.
fn assert_bundle_endpoint(installed: &Installed) {
    let bundle = installed.kubectl([
        "get",
        "--raw",
        &format!("/api/v1/namespaces/{NAMESPACE}/services/https:durward:tokens/proxy/bundle"),
    ]);
    let bundle: Value = serde_json::from_str(&bundle).expect("a SPIFFE bundle");
    assert_eq!(bundle["keys"].as_array().expect("keys").iter().filter(|key| key["use"] == "jwt-svid").count(), 2);
    assert!(bundle["spiffe_sequence"].is_i64(), "{bundle}");
}

/// Applies a policy that gives the pods of the namespace identities and lets them read from one another. Returns the host.
fn web_policy(installed: &Installed, namespace: &Namespace<'_>) -> String {
    let name = namespace.name();
    let host = format!("web.{name}.svc");
    let spec = json!({
        "service": {"hosts": [host], "podSelector": {"matchLabels": {"app": "web"}}},
        "authentication": [{"workload": {}}],
        "operations": [{"name": "read", "http": [{"methods": ["GET"], "paths": ["/"]}]}],
        "grants": [{"name": "web", "to": [{"serviceAccount": {"namespace": name, "name": "default"}}], "scopes": ["read"]}],
    });
    namespace.apply(&policy(name, "web", spec)).expect("applied");
    installed.in_force(name, "web");
    host
}

#[test]
fn e2e_the_ca_rotates_under_traffic_without_a_failure() {
    let installed = installed();
    let before = steady(&installed);
    let namespace = installed.cluster.namespace("rotates").expect("a namespace");
    let host = web_policy(&installed, &namespace);
    let folder = tempfile::tempdir().expect("a folder");
    let [old, _] = start(&namespace, "early", folder.path());
    let door = ForwardAuthDoor::of(&installed);
    let ask = |credentials: &Path, trust: &Path| door.ask_for(trust, &host, ["GET", "/"], credentials, credentials);

    let stop = AtomicBool::new(false);

    let requests = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        // each request is a new handshake with the pod's current roots
        scope.spawn(|| {
            let trust = folder.path().join("current.pem");
            while !stop.load(Ordering::Relaxed) {
                roots(&namespace, &trust);
                for _ in 0..5 {
                    let output = ask(&old, &trust);
                    requests.fetch_add(1, Ordering::Relaxed);
                    if !output.starts_with("200") {
                        failures.lock().expect("a lock").push(output);
                    }
                }
            }
        });
        let (code, output) = installed.durward(&["ca", "rotate"]);
        assert_eq!(code, Some(0), "{output}");
        installed.until("the next root to be published", || {
            let status = status(&installed);
            ["Published", "Activated"].contains(&status["step"].as_str()?).then_some(())
        });
        // the leader is killed during the rotation
        installed.kubectl(["delete", "pod", &installed.leader(), "-n", NAMESPACE, "--grace-period=1"]);
        let (code, output) = installed.durward(&["ca", "rotate"]);
        assert!(code == Some(2) && output.contains("already in progress"), "{output}");
        let now = installed.until("the next CA to sign", || {
            Some(status(&installed)).filter(|status| status["active"] != before["active"])
        });
        assert_eq!((now["step"].as_str(), now["roots"].as_str()), (Some("Activated"), Some("2")), "{now}");
        let so_far = requests.load(Ordering::Relaxed);
        installed.until("traffic under the new CA", || (requests.load(Ordering::Relaxed) > so_far + 10).then_some(()));
    });
    let failures = failures.into_inner().expect("a lock");
    assert!(failures.is_empty(), "{} of {} failed: {failures:?}", failures.len(), requests.load(Ordering::Relaxed));
    println!("{} handshakes during the rotation, none failed", requests.load(Ordering::Relaxed));

    let [new, trust] = start(&namespace, "late", folder.path());
    assert!(ask(&new, &trust).starts_with("200"));
    assert_bundle_endpoint(&installed);

    let after = steady(&installed);
    assert_eq!(after["roots"], "1", "the old root is retired");
    roots(&namespace, &trust);
    assert!(ask(&new, &trust).starts_with("200"), "certificates of the new CA are valid");
    assert!(!ask(&old, &trust).starts_with("200"), "certificates of the old CA are invalid");
    let (code, output) = installed.durward(&["inspect", &old.display().to_string()]);
    assert!(code == Some(1) && output.contains("chain is not valid"), "{output}");
}

#[test]
fn e2e_a_compromised_ca_is_replaced_at_once() {
    let installed = installed();
    let before = steady(&installed);
    let namespace = installed.cluster.namespace("stolen").expect("a namespace");
    let host = web_policy(&installed, &namespace);
    let folder = tempfile::tempdir().expect("a folder");
    let [stolen, trust] = start(&namespace, "early", folder.path());
    let door = ForwardAuthDoor::of(&installed);
    let ask = |credentials: &Path| door.ask_for(&trust, &host, ["GET", "/"], credentials, credentials);
    assert!(ask(&stolen).starts_with("200"));
    let (code, output) = installed.durward(&["ca", "rotate", "--compromised"]);
    assert!(
        code == Some(1) && output.contains("Every door refuses the certificates of pods") && output.contains("--yes"),
        "{output}"
    );
    assert_eq!(status(&installed), before, "the rotation did not start");
    let (code, output) = installed.durward(&["ca", "rotate", "--compromised", "--yes", "--wait"]);
    assert!(code == Some(0) && output.contains("the new CA signs"), "{output}");
    installed.until("the new roots", || {
        roots(&namespace, &trust);
        let output = ask(&stolen);
        // the new root verifies the door; the door refuses the old certificate
        (!output.starts_with("200") && !output.contains("unable to get local issuer")).then_some(())
    });
    let [fresh, _] = start(&namespace, "late", folder.path());
    installed.until("a new certificate to be valid", || ask(&fresh).starts_with("200").then_some(()));
    assert_eq!(status(&installed)["roots"], "1");
}

#[test]
fn e2e_a_deleted_ca_secret_is_restored() {
    let installed = installed();
    steady(&installed);
    let read =
        || installed.kubectl(["get", "secret", "durward-ca", "-n", NAMESPACE, "-o", "jsonpath={.data.tls\\.crt}"]);
    let before = base64::engine::general_purpose::STANDARD.decode(read()).expect("base64");
    installed.kubectl(["delete", "secret", "durward-ca", "-n", NAMESPACE]);
    installed.until("the restored Secret", || {
        let args = ["get", "secret", "durward-ca", "-n", NAMESPACE, "--ignore-not-found", "-o", "name"];
        (!installed.kubectl(args).is_empty()).then_some(())
    });
    assert_eq!(base64::engine::general_purpose::STANDARD.decode(read()).expect("base64"), before);
}
