//! Pods that request an identity by a label, and use it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use durward_cluster::{Image, Namespace, image};
use durward_tests::installation::shared::SharedInstallation;
use durward_tests::installation::{Installed, NAMESPACE, policy};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};

fn installed() -> SharedInstallation {
    SharedInstallation::of(module_path!(), || {
        let installed = Installed::new(&[]);
        installed.cluster.load_image(&openssl()).expect("loaded");
        installed
    })
}

const OPENSSL: &str = "durward.test/openssl:1";

/// An image with this machine's openssl and its libraries.
fn openssl() -> Image {
    let which = Command::new("sh").args(["-c", "command -v openssl"]).output().expect("sh runs").stdout;
    let program = PathBuf::from(String::from_utf8_lossy(&which).trim());
    let libraries = Command::new("ldd").arg(&program).output().expect("ldd runs").stdout;
    let libraries = String::from_utf8_lossy(&libraries).into_owned();
    let mut image = Image::new(OPENSSL).file("/bin/openssl", 0o755, std::fs::read(&program).expect("openssl"));
    for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        image = image.file(path, 0o755, std::fs::read(path).expect("a library"));
    }
    image.file("/tmp/.keep", 0o644, "").entrypoint(["/bin/openssl"])
}

/// A policy for the pods labelled `app`.
fn service(namespace: &Namespace<'_>, app: &str) {
    let spec = json!({
        "service": {"podSelector": {"matchLabels": {"app": app}}},
        "identity": {"dnsNames": [format!("{app}.{}.svc", namespace.name())]},
    });
    namespace.apply(&policy(namespace.name(), app, spec)).expect("applied");
}

fn sleeps() -> Value {
    json!({"name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never",
           "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"]})
}

fn pod(metadata: Value, spec: Value) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string()
}

fn stored(namespace: &Namespace<'_>, kind: &str) -> Value {
    serde_json::from_str(&namespace.kubectl(["get", kind, "-o", "json"]).expect("objects")).expect("JSON")
}

#[test]
fn e2e_a_label_injects_an_identity() {
    let installed = installed();
    let namespace = installed.cluster.namespace("label").expect("a namespace");
    service(&namespace, "web");
    installed.in_force(namespace.name(), "web");
    // pods of a Deployment have generated names; the init container has the certificate, too
    let checks = json!({"name": "checks", "image": image::BUSYBOX, "imagePullPolicy": "Never", "command": ["sh", "-c",
        "for file in \"$DURWARD_CREDENTIAL_BUNDLE\" \"$DURWARD_TRUST_BUNDLE\"; do \
         case \"$(cat \"$file\")\" in *'BEGIN CERT'*) ;; *) exit 1 ;; esac; done"]});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web", "durward.dev/inject": "identity"}},
                "spec": {"initContainers": [checks], "containers": [sleeps()], "terminationGracePeriodSeconds": 0},
            },
        },
    });
    namespace.apply(&deployment.to_string()).expect("applied");
    namespace.await_condition("deployment/web", "Available").unwrap_or_else(|error| panic!("{error}"));
    let pods = stored(&namespace, "pods");
    let spec = &pods["items"][0]["spec"];
    let own = spec["volumes"].as_array().expect("volumes").iter().filter(|volume| volume["name"] == "durward").count();
    assert_eq!(own, 1, "{spec}");
    let [mounted, scheduled] = ["Ready", "PodScheduled"].map(|kind| {
        let conditions = pods["items"][0]["status"]["conditions"].as_array().expect("conditions").clone();
        let at = conditions.into_iter().find(|condition| condition["type"] == kind).expect("a condition");
        at["lastTransitionTime"].as_str().expect("a time").to_owned()
    });
    println!("scheduled at {scheduled}, ready at {mounted}");
    // a pod that is exported and created again has the volume once
    let again = stored(&namespace, "pods")["items"][0].clone();
    let again = pod(json!({"name": "again", "labels": {"durward.dev/inject": "identity"}}), again["spec"].clone());
    let mut again: Value = serde_json::from_str(&again).expect("JSON");
    again["spec"].as_object_mut().expect("a spec").remove("nodeName");
    namespace.apply(&again.to_string()).expect("applied");
    let spec = &stored(&namespace, "pod/again")["spec"];
    let mounts = spec["containers"][0]["volumeMounts"].as_array().expect("mounts");
    assert_eq!(mounts.iter().filter(|mount| mount["mountPath"] == "/var/run/durward").count(), 1, "{spec}");
}

#[test]
fn e2e_namespaces_and_pods_choose_injection() {
    let installed = installed();
    let namespace = installed.cluster.namespace("whole").expect("a namespace");
    service(&namespace, "web");
    installed.in_force(namespace.name(), "web");
    installed.kubectl(["label", "namespace", namespace.name(), "durward.dev/inject=identity"]);
    for (name, labels, expected) in
        [("gets", json!({"app": "web"}), true), ("spared", json!({"app": "web", "durward.dev/inject": "none"}), false)]
    {
        namespace
            .apply(&pod(json!({"name": name, "labels": labels}), json!({"containers": [sleeps()]})))
            .expect("applied");
        let stored = stored(&namespace, &format!("pod/{name}"));
        let has =
            stored["spec"]["volumes"].as_array().expect("volumes").iter().any(|volume| volume["name"] == "durward");
        assert_eq!(has, expected, "{name}");
    }
    namespace.await_condition("pod/gets", "Ready").unwrap_or_else(|error| panic!("{error}"));
    // a pod without a policy is created, with a warning about the missing policy
    let unknown = pod(json!({"name": "unknown", "labels": {"app": "other"}}), json!({"containers": [sleeps()]}));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pod.json");
    std::fs::write(&file, unknown).expect("written");
    let output = installed.kubectl_output(["apply", "-n", namespace.name(), "-f", &file.display().to_string()]);
    assert!(output.contains("Warning: durward: no AccessPolicy is about this pod"), "{output}");
}

#[test]
fn e2e_impossible_injections_are_refused_with_the_field() {
    let installed = installed();
    let namespace = installed.cluster.namespace("refused").expect("a namespace");
    let labelled = |value: &str| json!({"name": "p", "labels": {"durward.dev/inject": value}});
    let mounted = {
        let mut container = sleeps();
        container["volumeMounts"] = json!([{"name": "data", "mountPath": "/var/run/durward"}]);
        json!({"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]})
    };
    let taken = json!({"containers": [sleeps()], "volumes": [{"name": "durward", "emptyDir": {}}]});
    for (pod, expected) in [
        (pod(labelled("identity"), taken), "spec.volumes[0]: durward brings the pod's identity"),
        (pod(labelled("identity"), mounted), "spec.containers[0].volumeMounts[0]: durward mounts"),
        (
            pod(labelled("yes"), json!({"containers": [sleeps()]})),
            "`yes` is not known; use `identity`, `agent`, `gate` or `none`",
        ),
    ] {
        let error = namespace.apply(&pod).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn e2e_two_pods_authenticate_each_other() {
    let installed = installed();
    let namespace = installed.cluster.namespace("mtls").expect("a namespace");
    let name = namespace.name();
    service(&namespace, "server");
    service(&namespace, "client");
    installed.in_force(name, "client");
    let [credentials, trust] =
        ["credential-bundle.pem", "trust-bundle.pem"].map(|file| format!("/var/run/durward/{file}"));
    let tls = |pod: &str, args: &[&str]| {
        let container = json!({"name": "tls", "image": OPENSSL, "imagePullPolicy": "Never", "args": args});
        let metadata = json!({"name": pod, "labels": {"app": pod, "durward.dev/inject": "identity"}});
        let spec = json!({"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0});
        namespace.apply(&self::pod(metadata, spec)).expect("applied");
    };
    let both = ["-cert", &credentials, "-key", &credentials, "-CAfile", &trust, "-verify_return_error"];
    tls("server", &[&["s_server", "-accept", "8443", "-www", "-Verify", "2"], &both[..]].concat());
    namespace.await_condition("pod/server", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let address = namespace.kubectl(["get", "pod", "server", "-o", "jsonpath={.status.podIP}"]).expect("an address");
    let to = format!("{address}:8443");
    let host = format!("server.{name}.svc");
    installed.until("the server", || std::net::TcpStream::connect(&to).ok());
    // OpenSSL to OpenSSL, from pod to pod
    tls("client", &[&["s_client", "-connect", &to, "-verify_hostname", &host, "-brief"], &both[..]].concat());
    namespace.await_jsonpath("pod/client", "{.status.phase}", "Succeeded").unwrap_or_else(|error| panic!("{error}"));
    let output = namespace.kubectl(["logs", "client"]).expect("logs");
    assert!(output.contains("Verification: OK"), "{output}");

    // rustls to OpenSSL, with the credentials of a third pod
    let third = pod(
        json!({"name": "third", "labels": {"app": "client", "durward.dev/inject": "identity"}}),
        json!({"containers": [sleeps()], "terminationGracePeriodSeconds": 0}),
    );
    namespace.apply(&third).expect("applied");
    namespace.await_condition("pod/third", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let [given, roots] =
        [&credentials, &trust].map(|file| namespace.kubectl(["exec", "third", "--", "cat", file]).expect("a file"));
    let config = rustls_client(&roots, Some(&given));
    assert!(handshake(config, &host, &to).contains("Client certificate"), "the server received a certificate");
    let without_certificate = rustls_client(&roots, None);
    assert!(!handshake(without_certificate, &host, &to).contains("200"), "a client without a certificate is refused");
}

/// A client that trusts `roots`, with the credentials of a pod, if given.
fn rustls_client(roots: &str, given: Option<&str>) -> rustls::ClientConfig {
    let mut store = rustls::RootCertStore::empty();
    store.add_parsable_certificates(CertificateDer::pem_slice_iter(roots.as_bytes()).filter_map(Result::ok));
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("protocols").with_root_certificates(store);
    match given {
        Some(pem) => {
            let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>().expect("a chain");
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("an identity")
        }
        None => builder.with_no_client_auth(),
    }
}

/// Requests the page of `openssl s_server -www`; returns the response or the error.
fn handshake(config: rustls::ClientConfig, host: &str, to: &str) -> String {
    use std::io::{Read, Write};
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
    let mut stream = std::net::TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    let mut tls = rustls::Stream::new(&mut client, &mut stream);
    let mut page = Vec::new();
    let exchanged = tls.write_all(b"GET / HTTP/1.0\r\n\r\n").and_then(|()| tls.read_to_end(&mut page).map(drop));
    match exchanged {
        Err(error) if page.is_empty() => error.to_string(),
        _ => String::from_utf8_lossy(&page).into_owned(),
    }
}

#[test]
fn e2e_without_durward_only_labelled_pods_wait() {
    let installed = installed();
    let namespace = installed.cluster.namespace("alone").expect("a namespace");
    service(&namespace, "web");
    installed.kubectl(["scale", "deployment", "durward", "-n", NAMESPACE, "--replicas=0"]);
    installed.until("the end of all replicas", || installed.pods().is_empty().then_some(()));
    let labelled = pod(
        json!({"name": "labelled", "labels": {"app": "web", "durward.dev/inject": "identity"}}),
        json!({"containers": [sleeps()]}),
    );
    let refused = namespace.apply(&labelled).expect_err("no webhook adds the volume").to_string();
    assert!(refused.contains("injection.durward.dev"), "{refused}");
    let plain = pod(json!({"name": "plain"}), json!({"containers": [sleeps()]}));
    namespace.apply(&plain).expect("a pod without the label is not affected");
    let system = pod(
        json!({"name": "system", "namespace": "kube-system", "labels": {"durward.dev/inject": "identity"}}),
        json!({"containers": [sleeps()], "terminationGracePeriodSeconds": 0}),
    );
    installed.cluster.apply(&system).expect("pods of the cluster itself are not affected");
    installed.kubectl(["delete", "pod", "system", "-n", "kube-system"]);
    installed.kubectl(["scale", "deployment", "durward", "-n", NAMESPACE, "--replicas=2"]);
    installed.kubectl(["rollout", "status", "deployment/durward", "-n", NAMESPACE, "--timeout=120s"]);
    installed.until("the pod to be created", || namespace.apply(&labelled).ok());
    namespace.await_condition("pod/labelled", "Ready").unwrap_or_else(|error| panic!("{error}"));
}
