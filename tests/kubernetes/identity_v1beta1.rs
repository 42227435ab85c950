//! An API server that emulates Kubernetes 1.35 or 1.36: PodCertificateRequests and ClusterTrustBundles are
//! `v1beta1`, and served only if the admin enables them.

use durward_tests::installation;
use durward_tests::turn::Turn;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use durward_cluster::Cluster;
use durward_tests::installation::process::controller;
use durward_tests::installation::{policy, prepare};
use serde_json::{Value, json};

/// Runs openssl in a folder and returns its output.
fn openssl(folder: &Path, args: &str) -> Vec<u8> {
    let output = Command::new("openssl").current_dir(folder).args(args.split(' ')).output().expect("openssl runs");
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn pods_get_certificates_from_kubernetes_1_36() {
    let _turn = Turn::take(module_path!());
    // requests of kubelet in this version and in the one before
    pods_get_certificates("1.36", &["stub", "key"]);
}

#[test]
fn pods_get_certificates_from_kubernetes_1_35() {
    let _turn = Turn::take(module_path!());
    pods_get_certificates("1.35", &["key"]);
}

fn pods_get_certificates(version: &str, request_names: &[&str]) {
    let cluster = Cluster::isolated_with(&[
        &format!("--emulated-version={version}"),
        "--feature-gates=PodCertificateRequest=true,ClusterTrustBundle=true",
        "--runtime-config=certificates.k8s.io/v1beta1=true",
    ])
    .expect("a control plane");
    let served = installation::version(&cluster);
    assert_eq!(served["emulationMinor"], version.trim_start_matches("1."), "{served}");
    let groups = cluster.kubectl(["get", "--raw", "/apis/certificates.k8s.io/v1"]).expect("v1 of the group");
    assert!(!groups.contains("podcertificaterequests"), "{groups}");
    prepare(&cluster);
    let namespace = cluster.namespace("beta").expect("a namespace");
    namespace.kubectl(["create", "serviceaccount", "web"]).expect("created");
    cluster.apply(r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}}"#).expect("applied");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"nodeName": "node", "serviceAccountName": "web", "containers": [{"name": "main", "image": "none"}]},
    });
    namespace.apply(&pod.to_string()).expect("applied");
    // before the controller, since the API server can't reach its webhook
    let spec = json!({"service": {"podSelector": {"matchLabels": {"app": "web"}}}});
    namespace.apply(&policy(namespace.name(), "web", spec)).expect("applied");
    let uid = |object: &str| namespace.kubectl(["get", object, "-o", "jsonpath={.metadata.uid}"]).expect("a UID");
    let pod_uid = uid("pod/web");
    let folder = tempfile::tempdir().expect("a folder");
    openssl(folder.path(), "ecparam -name prime256v1 -genkey -noout -out key.pem");
    std::fs::write(folder.path().join("uid"), &pod_uid).expect("written");
    let (stub, key, proof) = (
        openssl(folder.path(), "req -new -key key.pem -subj / -outform DER"),
        openssl(folder.path(), "pkey -in key.pem -pubout -outform DER"),
        openssl(folder.path(), "dgst -sha256 -sign key.pem uid"),
    );
    for name in request_names {
        let fields = match *name {
            "stub" => json!({"stubPKCS10Request": STANDARD.encode(&stub)}),
            _ => json!({"pkixPublicKey": STANDARD.encode(&key), "proofOfPossession": STANDARD.encode(&proof)}),
        };
        let mut spec = json!({
            "signerName": "durward.dev/workload", "maxExpirationSeconds": 86400,
            "podName": "web", "podUID": pod_uid, "nodeName": "node", "nodeUID": uid("node/node"),
            "serviceAccountName": "web", "serviceAccountUID": uid("serviceaccount/web"),
        });
        let fields = fields.as_object().expect("fields").clone();
        spec.as_object_mut().expect("a spec").extend(fields);
        let request = json!({
            "apiVersion": "certificates.k8s.io/v1beta1", "kind": "PodCertificateRequest", "metadata": {"name": name}, "spec": spec,
        });
        namespace.apply(&request.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let _controller = controller(&cluster, "127.0.0.1:0");
    let until = |what: &str, condition: &dyn Fn() -> Option<Value>| {
        let waited = cluster.until(what, Duration::from_secs(60), || Ok(condition()));
        waited.unwrap_or_else(|error| panic!("{error}"))
    };
    for name in request_names {
        let status = until(&format!("an answer to {name}"), &|| {
            let request = namespace.kubectl(["get", "podcertificaterequest", name, "-o", "json"]).ok()?;
            let request: Value = serde_json::from_str(&request).ok()?;
            request["status"]["conditions"][0].is_object().then(|| request["status"].clone())
        });
        assert_eq!(status["conditions"][0]["type"], "Issued", "{status}");
        std::fs::write(folder.path().join(name), status["certificateChain"].as_str().expect("a chain"))
            .expect("written");
    }
    let bundle = until("the trust bundle", &|| {
        let path = "/apis/certificates.k8s.io/v1beta1/clustertrustbundles/durward.dev:workload:roots";
        let bundle: Value = serde_json::from_str(&cluster.kubectl(["get", "--raw", path]).ok()?).ok()?;
        Some(bundle["spec"]["trustBundle"].clone())
    });
    std::fs::write(folder.path().join("roots"), bundle.as_str().expect("roots")).expect("written");
    for name in request_names {
        openssl(folder.path(), &format!("verify -CAfile roots {name}"));
    }
    let certified = openssl(folder.path(), "x509 -in key -noout -pubkey");
    let own = openssl(folder.path(), "pkey -in key.pem -pubout");
    assert_eq!(certified, own, "the certificate is for the key of the request");
}
