//! Pod certificates: entitlement, content, and use at every door.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use durward_cluster::{Namespace, image};
use durward_tests::installation::door::ForwardAuthDoor;
use durward_tests::installation::shared::SharedInstallation;
use durward_tests::installation::{Installed, NAMESPACE, policy};
use durward_tests::repository;
use durward_tests::venv::venv;
use serde_json::{Value, json};

fn installed() -> SharedInstallation {
    SharedInstallation::of(module_path!(), || {
        Installed::new(&["trust.proxies={0.0.0.0/0}", "trust.clientCertificatesFrom={0.0.0.0/0}"])
    })
}

fn certificate(key: &str, path: &str) -> Value {
    json!({"podCertificate": {"signerName": "durward.dev/workload", "keyType": key, "credentialBundlePath": path}})
}

/// A pod with certificates and the trust bundle in `/var/run/durward`.
fn pod(name: &str, account: &str, mut sources: Vec<Value>) -> Value {
    sources.push(json!({"clusterTrustBundle": {
        "signerName": "durward.dev/workload", "labelSelector": {}, "path": "trust.pem"}}));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "serviceAccountName": account, "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never",
                "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
                "volumeMounts": [{"name": "identity", "mountPath": "/var/run/durward"}],
            }],
            "volumes": [{"name": "identity", "projected": {"sources": sources}}],
        },
    })
}

/// A policy for the pods labelled `app`.
fn selects(namespace: &str, app: &str) -> String {
    let spec = json!({
        "service": {"podSelector": {"matchLabels": {"app": app}}},
        "identity": {"dnsNames": [format!("{app}.{namespace}.svc")]},
    });
    policy(namespace, app, spec)
}

fn cat(namespace: &Namespace<'_>, pod: &str, file: &str, to: &Path) {
    let text = namespace.kubectl(["exec", pod, "--", "cat", &format!("/var/run/durward/{file}")]).expect("a file");
    std::fs::write(to, text).expect("written");
}

fn openssl(args: &[&str]) -> String {
    let output = Command::new("openssl").args(args).output().expect("openssl runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn e2e_a_pod_starts_with_a_certificate_that_doors_accept() {
    let installed = installed();
    let namespace = installed.cluster.namespace("identity").expect("a namespace");
    let name = namespace.name();
    namespace.kubectl(["create", "serviceaccount", "web"]).expect("created");
    let host = format!("orders.{name}.svc");
    let id = format!("spiffe://cluster.local/ns/{name}/sa/web");
    let spec = json!({
        "service": {"hosts": [host]}, "authentication": [{"workload": {}}],
        "operations": [{"name": "refund", "risk": "High", "http": [{"methods": ["POST"], "paths": ["/refund"]}]}],
        "grants": [{"name": "web", "to": [{"serviceAccount": {"namespace": name, "name": "web"}}], "scopes": ["refund"]}],
    });
    namespace.apply(&policy(name, "orders", spec)).expect("applied");
    namespace.apply(&selects(name, "web")).expect("applied");
    installed.in_force(name, "web");
    let began = Instant::now();
    namespace
        .apply(&pod("web", "web", vec![certificate("ECDSAP256", "credentials.pem")]).to_string())
        .expect("applied");
    namespace.await_condition("pod/web", "Ready").unwrap_or_else(|error| panic!("{error}"));
    println!("a pod with a certificate is ready after {:?}", began.elapsed());

    let folder = tempfile::tempdir().expect("a folder");
    let credentials = folder.path().join("credentials.pem");
    let trust = folder.path().join("trust.pem");
    cat(&namespace, "web", "credentials.pem", &credentials);
    cat(&namespace, "web", "trust.pem", &trust);
    let credentials = credentials.display().to_string();
    let trust = trust.display().to_string();
    let text = openssl(&["x509", "-in", &credentials, "-noout", "-text"]);
    for stdout_text in [
        format!("URI:{id}, DNS:web.{name}.svc"),
        "X509v3 Subject Alternative Name: critical".to_owned(),
        "X509v3 Key Usage: critical".to_owned(),
        "TLS Web Server Authentication, TLS Web Client Authentication".to_owned(),
        "Subject: \n".to_owned(),
    ] {
        assert!(text.contains(&stdout_text), "{stdout_text}: {text}");
    }
    assert!(openssl(&["verify", "-CAfile", &trust, &credentials]).contains("OK"));

    // high risk: a token is not enough, the certificate is enough
    let door = ForwardAuthDoor::of(&installed);
    let token = namespace.kubectl(["create", "token", "web", &format!("--audience=orders.{name}")]).expect("a token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let ask = |how: &[&str]| door.ask(Path::new(&trust), &host, ["POST", "/refund"], how);
    assert_eq!(ask(&["--header", &bearer]), "401");
    let by_certificate = || {
        let credentials = Path::new(&credentials);
        door.ask_for(Path::new(&trust), &host, ["POST", "/refund"], credentials, credentials)
    };
    assert_eq!(by_certificate(), format!("200 {id} ProofOfPossession"));
    let (code, stdout_text) = installed.durward(&["inspect", &credentials]);
    assert!(
        code == Some(0) && stdout_text.contains(&id) && stdout_text.contains(&format!("{name}/web")),
        "{stdout_text}"
    );

    // without its pod, a certificate is refused, although it is valid for another hour
    namespace.kubectl(["delete", "pod", "web", "--grace-period=0", "--force"]).expect("deleted");
    let began = Instant::now();
    installed.until("the deleted pod's certificate to be refused", || (by_certificate() == "401").then_some(()));
    println!("a dead pod's certificate is refused {:?} after its end", began.elapsed());
    let (code, stdout_text) = installed.durward(&["inspect", &credentials]);
    assert!(
        code == Some(1) && stdout_text.contains("the pod that it was issued for does not exist any more"),
        "{stdout_text}"
    );
}

/// Whether the application of `examples/orders` accepts an access token, and the claims that it verifies with the
/// fetched keys.
fn verify_in_the_application(service: &str, trust: &Path, token: &str) -> (bool, Option<Value>) {
    let python = Command::new(venv("python"))
        .arg("-B")
        .arg(repository("tests/kubernetes/files/orders.py"))
        .args([service, token])
        .env("PYTHONPATH", repository("examples/orders"))
        .env("JWKS_URL", format!("https://durward.{NAMESPACE}.svc:8145/.well-known/jwks.json"))
        .env("SSL_CERT_FILE", trust)
        .output()
        .expect("python runs");
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    serde_json::from_slice(&python.stdout).expect("JSON")
}

/// The spec of a policy that grants three of four scopes to the service account `web`.
fn orders_with_scopes(name: &str) -> Value {
    json!({
        "service": {"audience": "orders-api"}, "authentication": [{"workload": {}}],
        "operations": [
            {"name": "read", "scopes": ["orders.read"], "http": [{"methods": ["GET"], "paths": ["/orders"]}]},
            {"name": "list", "scopes": ["orders.list"], "http": [{"methods": ["GET"], "paths": ["/list"]}]},
            {"name": "refund", "scopes": ["orders.refund"], "risk": "High", "http": [{"methods": ["POST"], "paths": ["/refund"]}]},
            {"name": "delete", "scopes": ["orders.delete"], "http": [{"methods": ["DELETE"], "paths": ["/orders"]}]},
        ],
        "grants": [{"name": "web", "to": [{"serviceAccount": {"namespace": name, "name": "web"}}],
                    "scopes": ["orders.read", "orders.list", "orders.refund"]}],
    })
}

/// The response of the token endpoint to a request by curl.
fn request_token(address: &str, trust: &Path, how: &[&str]) -> Value {
    let host = format!("durward.{NAMESPACE}.svc");
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "10", "--cacert"])
        .arg(trust)
        .args(["--resolve", &format!("{host}:8145:{address}")])
        .args(how)
        .arg(format!("https://{host}:8145/token"))
        .output()
        .expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The claims of an issued token. The application of the example verifies it with the published keys.
fn verified_claims(address: &str, trust: &Path, answer: &Value) -> Value {
    let token = answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}"));
    let (accepted, claims) = verify_in_the_application(address, trust, token);
    let claims = claims.unwrap_or_else(|| panic!("no published key signed it: {answer}"));
    assert_eq!(accepted, claims.get("cnf").is_none(), "the application can't check the certificate of a bound token");
    claims
}

#[test]
fn e2e_a_pod_exchanges_its_credentials_for_granted_scopes() {
    let installed = installed();
    let namespace = installed.cluster.namespace("tokens").expect("a namespace");
    let name = namespace.name();
    namespace.kubectl(["create", "serviceaccount", "web"]).expect("created");
    namespace.kubectl(["annotate", "namespace", name, "durward.dev/allowed-audiences=orders-api"]).expect("annotated");
    namespace.apply(&policy(name, "orders", orders_with_scopes(name))).expect("applied");
    namespace.apply(&selects(name, "web")).expect("applied");
    installed.in_force(name, "orders");
    let token = |audience: &str| json!({"serviceAccountToken": {"audience": audience, "path": audience}});
    let sources = vec![certificate("ECDSAP256", "credentials.pem"), token("durward"), token("another")];
    namespace.apply(&pod("web", "web", sources).to_string()).expect("applied");
    namespace.await_condition("pod/web", "Ready").unwrap_or_else(|error| panic!("{error}"));

    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    for file in ["credentials.pem", "trust.pem", "durward", "another"] {
        cat(&namespace, "web", file, &path(file));
    }
    let address = installed.kubectl(["get", "service", "durward", "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}"]);
    let ask = |how: &[&str]| request_token(&address, &path("trust.pem"), how);
    let exchange = |file: &str, more: &[&str]| {
        let subject = format!("subject_token@{}", path(file).display());
        let mut form = vec![
            "--data",
            "audience=orders-api&grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:ietf:params:oauth:token-type:jwt",
            "--data-urlencode",
            &subject,
        ];
        form.extend(more);
        ask(&form)
    };
    let claims = |answer: &Value| verified_claims(&address, &path("trust.pem"), answer);

    // with the mounted token: the scopes of a bearer token
    let id = format!("spiffe://cluster.local/ns/{name}/sa/web");
    let stated = claims(&exchange("durward", &[]));
    assert_eq!((&stated["sub"], &stated["scope"]), (&json!(id), &json!("orders.list orders.read")), "{stated}");
    assert_eq!(stated["iss"], format!("https://durward.{NAMESPACE}.svc:8145"));
    assert_eq!(stated.get("cnf"), None);
    let narrowed = claims(&exchange("durward", &["--data", "scope=orders.read orders.delete"]));
    assert_eq!(narrowed["scope"], "orders.read", "only scopes that are both granted and requested");
    assert_eq!(exchange("durward", &["--data", "scope=orders.delete"])["error"], "invalid_scope");
    // with the certificate: more scopes, bound to the certificate
    let credentials = path("credentials.pem").display().to_string();
    let client_certificate = ["--cert", credentials.as_str(), "--key", &credentials];
    let mut form = vec!["--data", "grant_type=client_credentials&audience=orders-api"];
    assert_eq!(ask(&form)["error"], "invalid_client", "a client without a certificate is refused");
    form.extend(client_certificate);
    let stated = claims(&ask(&form));
    assert_eq!((&stated["sub"], &stated["scope"]), (&json!(id), &json!("orders.list orders.read orders.refund")));
    assert!(stated["cnf"]["x5t#S256"].is_string(), "{stated}");
    // with both: the scopes of a bearer token, bound to the certificate
    let stated = claims(&exchange("durward", &client_certificate));
    assert!(stated["scope"] == "orders.list orders.read" && stated["cnf"].is_object(), "{stated}");

    // a token for another audience, and a modified one
    assert_eq!(exchange("another", &[])["error"], "invalid_request");
    let whole = std::fs::read_to_string(path("durward")).expect("the token");
    let (rest, signature) = whole.trim().rsplit_once('.').expect("a JWT");
    let forged = format!("{rest}.{}", signature.chars().rev().collect::<String>());
    std::fs::write(path("forged"), forged).expect("written");
    assert_eq!(exchange("forged", &[])["error"], "invalid_request");
    // the application does not accept the original token
    assert_eq!(verify_in_the_application(&address, &path("trust.pem"), whole.trim()), (false, None));

    // without the pod, exchanges are refused
    namespace.kubectl(["delete", "pod", "web", "--grace-period=0", "--force"]).expect("deleted");
    installed.until("the deleted pod's token to be refused", || {
        (exchange("durward", &[])["error"] == "invalid_request").then_some(())
    });
    assert_eq!(ask(&form)["error"], "invalid_client", "the certificate is invalid too");
}

#[test]
fn e2e_credentials_end_with_their_service_account() {
    let installed = installed();
    let namespace = installed.cluster.namespace("ends").expect("a namespace");
    let name = namespace.name();
    namespace.kubectl(["create", "serviceaccount", "web"]).expect("created");
    let host = format!("orders.{name}.svc");
    let spec = json!({
        "service": {"hosts": [host], "podSelector": {"matchLabels": {"app": "web"}}},
        "authentication": [{"workload": {}}],
        "operations": [{"name": "read", "http": [{"methods": ["GET"], "paths": ["/"]}]}],
        "grants": [{"name": "web", "to": [{"serviceAccount": {"namespace": name, "name": "web"}}], "scopes": ["read"]}],
    });
    namespace.apply(&policy(name, "orders", spec)).expect("applied");
    namespace
        .apply(&pod("web", "web", vec![certificate("ECDSAP256", "credentials.pem")]).to_string())
        .expect("applied");
    namespace.await_condition("pod/web", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().expect("a folder");
    let credentials = folder.path().join("credentials.pem");
    let trust = folder.path().join("trust.pem");
    cat(&namespace, "web", "credentials.pem", &credentials);
    let bundle =
        namespace.kubectl(["get", "configmap", "durward-trust-bundle", "-o", "jsonpath={.data.trust-bundle\\.pem}"]);
    std::fs::write(&trust, bundle.expect("the trust bundle in the ConfigMap")).expect("written");
    let credentials = credentials.display().to_string();
    let door = ForwardAuthDoor::of(&installed);
    let by_certificate = || {
        let credentials = Path::new(&credentials);
        door.ask_for(&trust, &host, ["GET", "/"], credentials, credentials)
    };
    let token = namespace.kubectl(["create", "token", "web", &format!("--audience=orders.{name}")]).expect("a token");
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let by_token = || door.ask(&trust, &host, ["GET", "/"], &["--header", &bearer]);
    let credentials_by_kind: [&dyn Fn() -> String; 2] = [&by_certificate, &by_token];
    for ask in credentials_by_kind {
        installed.until("both credentials to be valid", || ask().starts_with("200").then_some(()));
    }
    // a new service account of the same name is another identity
    namespace.kubectl(["delete", "serviceaccount", "web"]).expect("deleted");
    namespace.kubectl(["create", "serviceaccount", "web"]).expect("created");
    for ask in credentials_by_kind {
        installed.until("both credentials to be invalid", || (ask() == "401").then_some(()));
    }
    let (code, stdout_text) = installed.durward(&["inspect", &credentials]);
    assert!(
        code == Some(1) && stdout_text.contains("the service account that it was issued for does not exist any more"),
        "{stdout_text}"
    );
}

#[test]
fn e2e_every_key_type_of_kubelet_gets_a_certificate() {
    let installed = installed();
    let namespace = installed.cluster.namespace("keys").expect("a namespace");
    namespace.apply(&selects(namespace.name(), "keys")).expect("applied");
    let kinds = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
    let sources = kinds.iter().map(|kind| certificate(kind, &format!("{kind}.pem"))).collect();
    namespace.apply(&pod("keys", "default", sources).to_string()).expect("applied");
    namespace.await_condition("pod/keys", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let folder = tempfile::tempdir().expect("a folder");
    let trust = folder.path().join("trust.pem");
    cat(&namespace, "keys", "trust.pem", &trust);
    for kind in kinds {
        let file = folder.path().join(kind);
        cat(&namespace, "keys", &format!("{kind}.pem"), &file);
        let verified = openssl(&["verify", "-CAfile", &trust.display().to_string(), &file.display().to_string()]);
        assert!(verified.contains("OK"), "{kind}: {verified}");
    }
}

#[test]
fn e2e_a_pod_without_a_policy_waits_with_an_explanation() {
    let installed = installed();
    let namespace = installed.cluster.namespace("waits").expect("a namespace");
    let name = namespace.name();
    namespace.apply(&pod("waits", "default", vec![certificate("ECDSAP256", "c.pem")]).to_string()).expect("applied");
    let event = |reason: &str| {
        installed.until("an Event with the missing policy", || {
            let events = namespace.kubectl(["get", "events", "-o", "json"]).ok()?;
            let events: Value = serde_json::from_str(&events).ok()?;
            events["items"].as_array()?.iter().find(|event| event["reason"] == reason).cloned()
        })
    };
    let explained = event("NoPolicy");
    assert_eq!(explained["involvedObject"]["name"], "waits");
    assert!(explained["message"].as_str().expect("a message").contains("spec.service.podSelector"), "{explained}");
    let conditions = || {
        let requests = namespace.kubectl(["get", "podcertificaterequests", "-o", "json"]).expect("requests");
        let requests: Value = serde_json::from_str(&requests).expect("JSON");
        requests["items"][0]["status"]["conditions"][0]["type"].as_str().map(ToOwned::to_owned)
    };
    assert_eq!(conditions(), None, "the request stays pending: a policy may still follow");
    // no certificate while the namespace denies the service account
    let to = json!([{"serviceAccount": {"namespace": name, "name": "default"}}]);
    let spec = json!({"service": {"podSelector": {}}, "denials": [{"name": "stolen", "to": to}]});
    namespace.apply(&policy(name, "stop", spec)).expect("applied");
    let explained = event("Denied");
    let rule = format!("{name}/stop/denials/stolen");
    assert!(explained["message"].as_str().expect("a message").starts_with(&rule), "{explained}");
    let log = installed.kubectl(["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=durward", "--tail=-1"]);
    let refused = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["event"] == "issuance" && line["outcome"] == "refused" && line["namespace"] == name);
    assert!(refused.is_some_and(|line| line["reason"].as_str().is_some_and(|reason| reason.starts_with(&rule))));
    assert_eq!(conditions(), None);
    namespace.kubectl(["delete", "accesspolicy", "stop"]).expect("deleted");
    // a grant for the service account in a policy of another service
    let spec = json!({
        "authentication": [{"workload": {}}],
        "operations": [{"name": "read", "http": [{"methods": ["GET"], "paths": ["/"]}]}],
        "grants": [{"name": "w", "to": [{"serviceAccount": {"namespace": name, "name": "default"}}], "scopes": ["read"]}],
    });
    let began = Instant::now();
    namespace.apply(&policy(name, "other", spec)).expect("applied");
    installed.until("the certificate", || conditions().filter(|kind| kind == "Issued"));
    println!("issued {:?} after the policy", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[test]
fn e2e_impossible_requests_are_denied_with_a_remedy() {
    let installed = installed();
    let namespace = installed.cluster.namespace("denied").expect("a namespace");
    namespace.apply(&selects(namespace.name(), "odd")).expect("applied");
    let mut projection = certificate("ECDSAP256", "c.pem");
    projection["podCertificate"]["userAnnotations"] = json!({"example.com/admin": "please"});
    namespace.apply(&pod("odd", "default", vec![projection]).to_string()).expect("applied");
    let condition = installed.until("a denial", || {
        let requests = namespace.kubectl(["get", "podcertificaterequests", "-o", "json"]).ok()?;
        let requests: Value = serde_json::from_str(&requests).ok()?;
        let condition = requests["items"][0]["status"]["conditions"][0].clone();
        condition.is_object().then_some(condition)
    });
    assert_eq!(
        (&condition["type"], &condition["reason"]),
        (&json!("Denied"), &json!("InvalidUnverifiedUserAnnotations"))
    );
    assert!(condition["message"].as_str().expect("a message").contains("example.com/admin"), "{condition}");
    // a policy can't give names that its namespace does not own
    let spec = json!({"service": {"podSelector": {}}, "identity": {"dnsNames": ["bank.example.com"]}});
    let error = namespace.apply(&policy(namespace.name(), "greedy", spec)).expect_err("refused").to_string();
    assert!(error.contains("spec.identity.dnsNames[0]") && error.contains("does not own"), "{error}");
}

/// The right to create requests does not allow certificates for another pod.
#[test]
fn e2e_a_forged_certificate_request_is_denied() {
    let installed = installed();
    let namespace = installed.cluster.namespace("forged").expect("a namespace");
    namespace.apply(&selects(namespace.name(), "real")).expect("applied");
    namespace.kubectl(["create", "serviceaccount", "other"]).expect("created");
    namespace.apply(&pod("real", "default", vec![]).to_string()).expect("applied");
    namespace.await_condition("pod/real", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let uid = |object: &str| namespace.kubectl(["get", object, "-o", "jsonpath={.metadata.uid}"]).expect("a UID");
    let node = namespace.kubectl(["get", "pod", "real", "-o", "jsonpath={.spec.nodeName}"]).expect("a node");
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key.pem");
    let der = folder.path().join("request.der");
    let key = key.display().to_string();
    let der_path = der.display().to_string();
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
    openssl(&["req", "-new", "-key", &key, "-subj", "/", "-outform", "DER", "-out", &der_path]);
    let request =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, std::fs::read(&der).expect("a request"));
    let truth = json!({
        "signerName": "durward.dev/workload", "stubPKCS10Request": request, "maxExpirationSeconds": 86400,
        "podName": "real", "podUID": uid("pod/real"), "nodeName": node, "nodeUID": uid(&format!("node/{node}")),
        "serviceAccountName": "default", "serviceAccountUID": uid("serviceaccount/default"),
    });
    let other_uid = "00000000-0000-4000-8000-000000000000";
    let other = uid("serviceaccount/other");
    let forgeries = [
        ("truth", vec![]),
        ("pod-uid", vec![("podUID", other_uid)]),
        ("pod-name", vec![("podName", "missing")]),
        ("account", vec![("serviceAccountName", "other"), ("serviceAccountUID", other.as_str())]),
        ("account-uid", vec![("serviceAccountUID", other_uid)]),
        ("node", vec![("nodeName", "elsewhere")]),
        ("node-uid", vec![("nodeUID", other_uid)]),
    ];
    for (name, changes) in forgeries {
        let mut spec = truth.clone();
        changes.iter().for_each(|(field, value)| spec[*field] = json!(value));
        let forged = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
            "metadata": {"name": name}, "spec": spec});
        namespace.apply(&forged.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let status = installed.until(&format!("an answer to {name}"), || {
            let request = namespace.kubectl(["get", "podcertificaterequest", name, "-o", "json"]).ok()?;
            let request: Value = serde_json::from_str(&request).ok()?;
            request["status"]["conditions"][0].is_object().then(|| request["status"].clone())
        });
        let condition = &status["conditions"][0];
        let expected = if name == "truth" { ("Issued", "Issued") } else { ("Denied", "NotAsStated") };
        assert_eq!(
            (condition["type"].as_str(), condition["reason"].as_str()),
            (Some(expected.0), Some(expected.1)),
            "{name}"
        );
        assert_eq!(status["certificateChain"].is_string(), name == "truth", "{name}");
    }
}
