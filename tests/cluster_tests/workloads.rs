//! Pods on the shared node, or on a kind cluster: see `make kind-e2e`.

use std::ops::Deref;
use std::sync::RwLockReadGuard;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use durward_cluster::{Cluster, Image, Namespace, image};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::beside_others;

/// A pod of busybox that runs `script`.
fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
        }]},
    })
}

const WAITS: &str = "trap exit TERM; while :; do sleep 1; done";

/// The shared cluster, while tests that would disturb it wait.
struct SharedNode {
    cluster: Cluster,
    _machine: RwLockReadGuard<'static, ()>,
}

impl Deref for SharedNode {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

fn cluster() -> SharedNode {
    let machine = beside_others();
    let cluster = Cluster::shared().unwrap_or_else(|error| panic!("{error}"));
    // our own node has the image already
    if cluster.dir().is_none() {
        cluster.load_image(&image::busybox().expect("busybox")).expect("loaded");
    }
    SharedNode { cluster, _machine: machine }
}

/// Runs `script` in the pod until it succeeds and prints something.
fn exec_until(cluster: &Cluster, namespace: &Namespace<'_>, pod: &str, script: &str) -> String {
    cluster
        .until(&format!("`{script}` in pod {pod}"), Duration::from_secs(60), || {
            Ok(namespace
                .kubectl(["exec", pod, "--", "sh", "-c", script])
                .ok()
                .filter(|output| !output.trim().is_empty()))
        })
        .unwrap_or_else(|error| panic!("{error}"))
}

/// A script that prints the response of an HTTP server. (wget's own `-T` crashes Debian's static busybox.)
fn fetch(host: &str, port: u16) -> String {
    format!("timeout 5 wget -q -O - http://{host}:{port}/")
}

#[test]
fn e2e_a_pod_reaches_two_others_by_their_service_name() {
    let cluster = cluster();
    let namespace = cluster.namespace("service").expect("a namespace");
    let serve = "mkdir -p /tmp/www && hostname > /tmp/www/index.html && exec httpd -f -p 8080 -h /tmp/www";
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c", serve],
                "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            }]},
        }},
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    for object in [deployment, service, pod("client", WAITS)] {
        namespace.apply(&object.to_string()).expect("applied");
    }
    namespace.await_condition("deployment/web", "Available").unwrap_or_else(|error| panic!("{error}"));
    namespace.await_condition("pod/client", "Ready").unwrap_or_else(|error| panic!("{error}"));

    let fetch = fetch(&format!("web.{}.svc.cluster.local", namespace.name()), 80);
    let mut answered = std::collections::BTreeSet::new();
    cluster
        .until("answers of both pods", Duration::from_secs(60), || {
            answered.insert(exec_until(&cluster, &namespace, "client", &fetch).trim().to_owned());
            Ok((answered.len() == 2).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}; answered so far: {answered:?}"));
    assert!(answered.iter().all(|name| name.starts_with("web-")), "{answered:?}");
}

#[test]
fn e2e_logs_and_exec_work() {
    let cluster = cluster();
    let namespace = cluster.namespace("logs").expect("a namespace");
    namespace.apply(&pod("talker", &format!("echo a line of log; {WAITS}")).to_string()).expect("applied");
    namespace.await_condition("pod/talker", "Ready").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(namespace.kubectl(["logs", "talker"]).expect("logs"), "a line of log\n");
    assert_eq!(namespace.kubectl(["exec", "talker", "--", "hostname"]).expect("exec"), "talker\n");
    let failed = namespace.kubectl(["exec", "talker", "--", "sh", "-c", "exit 3"]).expect_err("a failed command");
    assert!(failed.to_string().contains("exit code 3"), "{failed}");
}

#[test]
fn e2e_an_image_of_files_runs() {
    let cluster = cluster();
    let namespace = cluster.namespace("image").expect("a namespace");
    let greeter = Image::new("durward.test/greeter:test")
        .program("/bin/busybox", std::path::Path::new("/bin/busybox"))
        .expect("busybox")
        .file("/etc/greeting", 0o644, "hello from a file\n")
        .user("65532:65532")
        .entrypoint(["/bin/busybox", "sh", "-c", "busybox id -u; busybox cat /etc/greeting"])
        .env("PATH", "/bin");
    cluster.load_image(&greeter).expect("loaded");
    let mut pod = pod("greeter", "");
    pod["spec"]["containers"][0]["image"] = greeter.name().into();
    pod["spec"]["containers"][0]["command"] = Value::Null;
    pod["spec"]["securityContext"] = json!({"runAsNonRoot": true});
    namespace.apply(&pod.to_string()).expect("applied");
    namespace.await_jsonpath("pod/greeter", "{.status.phase}", "Succeeded").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(namespace.kubectl(["logs", "greeter"]).expect("logs"), "65532\nhello from a file\n");
}

#[test]
fn e2e_a_pod_waits_for_its_certificate_until_the_signer_answers() {
    let cluster = cluster();
    let namespace = cluster.namespace("certificate").expect("a namespace");
    let signer = format!("durward.test/{}", namespace.name());
    let mut waiting = pod("bearer", WAITS);
    waiting["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "identity", "mountPath": "/identity"}]);
    waiting["spec"]["volumes"] = json!([{"name": "identity", "projected": {"sources": [{"podCertificate": {
        "signerName": signer, "keyType": "ECDSAP256", "credentialBundlePath": "bundle.pem",
    }}]}}]);
    namespace.apply(&waiting.to_string()).expect("applied");

    let request = cluster
        .until("a certificate request of the pod", Duration::from_secs(60), || {
            let listed =
                namespace.kubectl(["get", "podcertificaterequests.v1.certificates.k8s.io", "--output=json"])?;
            let list: Value = serde_json::from_str(&listed).expect("JSON");
            Ok(list["items"].get(0).cloned())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(request["spec"]["signerName"], json!(signer));
    assert_eq!(request["spec"]["podName"], "bearer");
    // kubelet reports this event after it tried to mount; before the event, a pending pod proves nothing
    cluster
        .until("kubelet's event that the volume waits", Duration::from_secs(60), || {
            let events = namespace.kubectl(["get", "events", "--output=jsonpath={.items[*].reason}"])?;
            Ok(events.contains("FailedMount").then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let phase = namespace.kubectl(["get", "pod", "bearer", "--output=jsonpath={.status.phase}"]).expect("a phase");
    assert_eq!(phase, "Pending");

    let name = request["metadata"]["name"].as_str().expect("a name");
    let status = issue(request["spec"]["stubPKCS10Request"].as_str().expect("a request"));
    let patch = format!("--patch={}", json!({"status": status}));
    namespace
        .kubectl([
            "patch",
            "podcertificaterequests.v1.certificates.k8s.io",
            name,
            "--subresource=status",
            "--type=merge",
            &patch,
        ])
        .expect("issued");
    namespace.await_condition("pod/bearer", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let bundle = namespace.kubectl(["exec", "bearer", "--", "cat", "/identity/bundle.pem"]).expect("the bundle");
    assert!(bundle.contains("PRIVATE KEY"), "the private key is in the pod");
    let leaf = status["certificateChain"].as_str().expect("a chain");
    assert!(bundle.contains(leaf.trim()), "{bundle}");
}

/// The status of a request that a test authority grants.
fn issue(request: &str) -> Value {
    let der = STANDARD.decode(request).expect("base64");
    let key = CertificateSigningRequestParams::from_der(&der.into()).expect("PKCS#10").public_key;
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(ca, ca_key);

    // X.509 times are whole seconds; the status must equal them
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).expect("whole seconds");
    let mut leaf = CertificateParams::default();
    (leaf.not_before, leaf.not_after) = (now, now + time::Duration::hours(2));
    leaf.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/test/sa/default".try_into().expect("ASCII")));
    let stamp = |instant: OffsetDateTime| instant.format(&Rfc3339).expect("a year of four digits");
    json!({
        "certificateChain": leaf.signed_by(&key, &issuer).expect("signed").pem(),
        "notBefore": stamp(leaf.not_before),
        "notAfter": stamp(leaf.not_after),
        "beginRefreshAt": stamp(now + time::Duration::hours(1)),
        "conditions": [{
            "type": "Issued", "status": "True", "reason": "Issued", "message": "by the test",
            "lastTransitionTime": stamp(now),
        }],
    })
}
