//! Conditions on objects in admission requests, and relations from an OpenFGA
//! server.

use durward_tests::openfga;
use std::process::Command;

use durward_cluster::{Image, Namespace};
use durward_tests::installation::door::ask_replica;
use durward_tests::installation::shared::SharedInstallation;
use durward_tests::installation::{Installed, NAMESPACE, chart, policy};
use serde_json::{Value, json};

/// The tests act as a gateway whose forwarded-request headers are trusted.
const TRUSTED: [&str; 1] = ["trust.proxies={0.0.0.0/0}"];

fn installed() -> SharedInstallation {
    SharedInstallation::of(module_path!(), || Installed::new(&TRUSTED))
}

/// A paused Deployment.
fn deployment(image: &str, replicas: u32) -> String {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"shop.example.com/keep": "yes"}},
        "spec": {"replicas": replicas, "paused": true, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": image}]},
        }},
    })
    .to_string()
}

#[test]
fn e2e_conditions_read_the_new_and_the_old_object() {
    let installed = installed();
    let namespace = installed.cluster.namespace("rules").expect("a namespace");
    namespace.kubectl(["create", "rolebinding", "bob", "--clusterrole=admin", "--user=bob"]).expect("bound");
    let spec = json!({
        "operations": [{"name": "deploy", "risk": "Low", "kubernetes": [
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["CREATE", "UPDATE", "DELETE"]},
        ]}],
        "grants": [{
            "name": "own-images", "to": [{"provider": "kubernetes", "group": "shop"}], "scopes": ["deploy"],
            "when": "!has(kubernetes.object) || kubernetes.object.spec.template.spec.containers.all(c, c.image.startsWith('registry.example.com/shop/'))",
        }],
        "denials": [
            {
                "name": "what-is-kept", "to": [{"authenticated": true}],
                "when": "!has(kubernetes.object) && has(kubernetes.oldObject) && has(kubernetes.oldObject.metadata.labels) && 'shop.example.com/keep' in kubernetes.oldObject.metadata.labels",
            },
            {
                "name": "only-more", "to": [{"authenticated": true}],
                "when": "has(kubernetes.object) && has(kubernetes.oldObject) && kubernetes.object.spec.replicas < kubernetes.oldObject.spec.replicas",
            },
        ],
    });
    namespace.apply(&policy(namespace.name(), "deployments", spec)).expect("applied");
    installed.in_force(namespace.name(), "deployments");
    let bob = |args: &[&str]| namespace.kubectl(["--as=bob", "--as-group=shop"].iter().chain(args));
    let apply = |image: &str, replicas: u32| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, deployment(image, replicas)).expect("written");
        bob(&["apply", "--server-side", "-f", &file.path().display().to_string()])
    };
    let refused = |result: durward_cluster::ClusterResult<String>, because: &str| {
        let error = result.expect_err("refused").to_string();
        assert!(error.contains("operation `deploy`") && error.contains(because), "{error}");
    };
    installed.until("the API server to call the webhook", || {
        bob(&["create", "deployment", "other", "--image=elsewhere.example/web"]).is_err().then_some(())
    });

    refused(apply("elsewhere.example/web:1", 1), "missing scope `deploy`");
    apply("registry.example.com/shop/web:1", 1).expect("an own image");
    refused(bob(&["set", "image", "deployment/web", "main=elsewhere.example/web:1"]), "missing scope `deploy`");
    refused(bob(&["delete", "deployment", "web"]), "/denials/what-is-kept` applies");
    apply("registry.example.com/shop/web:2", 3).expect("more replicas, and an own image");
    refused(apply("registry.example.com/shop/web:2", 2), "/denials/only-more` applies");
    bob(&["label", "deployment", "web", "shop.example.com/keep-"]).expect("updates of the kept deployment are allowed");
    bob(&["delete", "deployment", "web"]).expect("the deployment has no `keep` label");

    let logs = installed.kubectl(["logs", "-n", NAMESPACE, "deployment/durward", "--all-pods", "--tail=-1"]);
    assert!(logs.contains("\"operation\":\"deploy\""), "the log has records");
    assert!(!logs.contains("elsewhere.example/web"), "records contain no object");
}

/// The preshared key of OpenFGA.
const KEY: &str = "a-secret-preshared-key";

/// OpenFGA in a pod behind a Service, over TLS, with Durward configured to use it.
struct OpenFgaPod<'c> {
    namespace: Namespace<'c>,
    address: String,
}

impl<'c> OpenFgaPod<'c> {
    fn start(installed: &'c Installed) -> Self {
        let image = Image::new("durward.test/openfga:test")
            .program("/openfga", &openfga::program())
            .expect("a program")
            .entrypoint(["/openfga", "run"]);
        installed.cluster.load_image(&image).expect("loaded");
        let namespace = installed.cluster.namespace("openfga").expect("a namespace");
        let host = format!("openfga.{}.svc", namespace.name());
        let issued = rcgen::generate_simple_self_signed([host.clone(), "127.0.0.1".to_owned()]).expect("a certificate");
        let tls = json!({"tls.crt": issued.cert.pem(), "tls.key": issued.signing_key.serialize_pem()});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "openfga", "labels": {"app": "openfga"}},
            "spec": {
                "containers": [{
                    "name": "openfga", "image": image.name(), "imagePullPolicy": "Never",
                    "args": [
                        "--datastore-engine=memory", "--playground-enabled=false", "--metrics-enabled=false", "--log-level=error",
                        "--http-addr=0.0.0.0:8080", "--http-tls-enabled", "--http-tls-cert=/tls/tls.crt", "--http-tls-key=/tls/tls.key",
                        "--grpc-addr=127.0.0.1:8081", "--grpc-tls-enabled", "--grpc-tls-cert=/tls/tls.crt", "--grpc-tls-key=/tls/tls.key",
                        "--authn-method=preshared", format!("--authn-preshared-keys={KEY}"),
                    ],
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTPS"}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": true}],
                }],
                "volumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
                "terminationGracePeriodSeconds": 0,
            },
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "openfga"},
            "spec": {"selector": {"app": "openfga"}, "ports": [{"port": 8080}]},
        });
        let secret = |name: &str, data: &Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
        for manifest in [secret("tls", &tls), pod, service] {
            namespace.apply(&manifest.to_string()).expect("applied");
        }
        namespace.await_condition("pod/openfga", "Ready").expect("running");
        let own = json!({"token": KEY, "ca.crt": issued.cert.pem()});
        let mut own = secret("openfga", &own);
        own["metadata"]["namespace"] = json!(NAMESPACE);
        installed.cluster.apply(&own.to_string()).expect("applied");
        let values = [
            TRUSTED[0],
            &format!("openfga.url=https://{host}:8080"),
            "openfga.secret.name=openfga",
            "openfga.secret.ca=true",
            "openfga.cache=1s",
        ];
        installed.upgrade(&chart(), &values);
        let address = namespace.kubectl(["get", "pod", "openfga", "-o", "jsonpath={.status.podIP}"]);
        Self { namespace, address: address.expect("an address") }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let output = Command::new("curl")
            .args(["--silent", "--insecure", "--fail-with-body", "--max-time", "10", "--json", &body.to_string()])
            .args([
                "--header",
                &format!("Authorization: Bearer {KEY}"),
                &format!("https://{}:8080{path}", self.address),
            ])
            .output()
            .expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }
}

#[test]
fn e2e_relations_come_from_openfga_in_the_cluster() {
    let installed = installed();
    let openfga = OpenFgaPod::start(&installed);
    let store = openfga.post("/stores", &json!({"name": "office"}))["id"].as_str().expect("an id").to_owned();
    let namespace = installed.cluster.namespace("office").expect("a namespace");
    let office = namespace.name();
    let host = format!("documents.{office}.svc");
    let audience = format!("documents.{office}");
    let mut spec = json!({
        "service": {"hosts": [host]}, "authentication": [{"workload": {}}],
        "operations": [{"name": "read", "http": [{"methods": ["GET"], "paths": ["/documents/{id}"]}]}],
        "relations": [
            {"object": "folder", "relations": {"viewer": {}}},
            {"object": "document", "relations": {"parent": {}, "viewer": {"from": "parent", "relation": "viewer"}}},
        ],
        "grants": [{
            "name": "viewers", "to": [{"authenticated": true}], "scopes": ["read"],
            "relation": {"object": "document:{id}", "relation": "viewer"},
        }],
    });
    let relationship = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "Relationship", "metadata": {"name": "documents", "namespace": office},
        "spec": {"service": audience, "tuples": [
            {"object": "document:budget", "relation": "parent", "subject": "folder:finance"},
            {"object": "folder:finance", "relation": "viewer", "subject": format!("spiffe://cluster.local/ns/{office}/sa/reader")},
        ]},
    });
    let files = tempfile::tempdir().expect("a folder");
    std::fs::write(files.path().join("policy.yaml"), policy(office, "documents", spec.clone())).expect("written");
    std::fs::write(files.path().join("relationship.yaml"), relationship.to_string()).expect("written");
    let printed = |what: &str| -> Value {
        let (code, text) =
            installed.durward(&["relations", what, &audience, "-p", &files.path().display().to_string()]);
        assert_eq!(code, Some(0), "{text}");
        serde_json::from_str(&text).expect("JSON")
    };
    let model = openfga.post(&format!("/stores/{store}/authorization-models"), &printed("model"));
    let model = model["authorization_model_id"].as_str().expect("an id");
    let tuples = json!({"writes": {"tuple_keys": printed("tuples")}, "authorization_model_id": model});
    openfga.post(&format!("/stores/{store}/write"), &tuples);

    let allowed = format!("durward.dev/allowed-openfga-stores={store}");
    installed.kubectl(["annotate", "namespace", office, &allowed]);
    spec["relationEngine"] = json!({"openfga": {"store": store, "model": model}});
    namespace.apply(&policy(office, "documents", spec)).expect("applied");
    installed.in_force(office, "documents");
    let [reader, stranger] = ["reader", "stranger"].map(|name| {
        namespace.kubectl(["create", "serviceaccount", name]).expect("created");
        let token = namespace.kubectl(["create", "token", name, &format!("--audience={audience}")]).expect("a token");
        token.trim().to_owned()
    });
    let two = || Some(installed.addresses()).filter(|addresses| addresses.len() == 2);
    let addresses = installed.until("the replicas before the upgrade to be gone", two);
    for address in &addresses {
        let ask = |token: &str, uri: &str| ask_replica(address, token, &host, uri).0;
        assert_eq!(ask(&reader, "/documents/budget"), "200", "at {address}");
        assert_eq!(ask(&reader, "/documents/other"), "403", "at {address}");
        assert_eq!(ask(&stranger, "/documents/budget"), "403", "at {address}");
    }

    // an unreachable server grants nothing
    openfga.namespace.kubectl(["delete", "pod", "openfga"]).expect("deleted");
    for address in &addresses {
        installed.until("the cached answers to expire", || {
            (ask_replica(address, &reader, &host, "/documents/budget").0 == "403").then_some(())
        });
    }
    let logs = installed.kubectl(["logs", "-n", NAMESPACE, "deployment/durward", "--all-pods", "--tail=-1"]);
    assert!(!logs.contains(KEY), "the key is in a log");
}
