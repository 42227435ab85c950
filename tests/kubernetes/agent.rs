//! The agent with commonly used clients.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use durward_cluster::{Cluster, Image, Namespace, binaries, image};
use durward_tests::eventually;
use durward_tests::installation::agent::{AgentPod, printed};
use durward_tests::installation::door::ForwardAuthDoor;
use durward_tests::installation::process::ChildGuard;
use durward_tests::installation::shared::SharedInstallation;
use durward_tests::installation::{Installed, NAMESPACE, policy};
use durward_tests::repository;
use durward_tests::turn::Turn;
use durward_tests::venv::venv;
use serde_json::{Value, json};

const CLIENT: &str = "durward.test/spiffe-client:1";

fn installed() -> SharedInstallation {
    SharedInstallation::of(module_path!(), || {
        let installed = Installed::new(&["trust.proxies={0.0.0.0/0}", "ca.spread=3s"]);
        let program = binaries::path(binaries::SPIFFE_CLIENT).expect("the client");
        let client = Image::new(CLIENT).program("/spiffe-client", &program).expect("a program");
        installed.cluster.load_image(&client.entrypoint(["/spiffe-client"])).expect("loaded");
        installed
    })
}

/// A policy for the pods labelled `app`, with certificates for five minutes.
fn service(installed: &Installed, namespace: &Namespace<'_>, app: &str) {
    let spec = json!({
        "service": {"podSelector": {"matchLabels": {"app": app}}},
        "identity": {"ttl": "5m", "dnsNames": [format!("{app}.{}.svc", namespace.name())]},
    });
    namespace.apply(&policy(namespace.name(), app, spec)).expect("applied");
    installed.in_force(namespace.name(), app);
}

#[test]
fn e2e_pods_with_agents_call_one_another() {
    let installed = installed();
    let namespace = installed.cluster.namespace("sidecar").expect("a namespace");
    let name = namespace.name();
    namespace.kubectl(["create", "serviceaccount", "server"]).expect("created");
    ["server", "client"].iter().for_each(|app| service(&installed, &namespace, app));
    let pod = |app: &str, account: &str, args: &[&str]| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": app, "labels": {"app": app, "durward.dev/inject": "agent"}},
            "spec": {
                "serviceAccountName": account, "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": CLIENT, "imagePullPolicy": "Never", "args": args}],
            },
        });
        namespace.apply(&pod.to_string()).expect("applied");
    };
    pod("server", "server", &["serve", ":8443", "cluster.local"]);
    namespace.await_condition("pod/server", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let address = namespace.kubectl(["get", "pod", "server", "-o", "jsonpath={.status.podIP}"]).expect("an address");
    installed.until("the server", || std::net::TcpStream::connect(format!("{address}:8443")).ok());
    let server = format!("spiffe://cluster.local/ns/{name}/sa/server");
    pod("client", "default", &["call", &format!("https://{address}:8443"), &server]);
    namespace.await_jsonpath("pod/client", "{.status.phase}", "Succeeded").unwrap_or_else(|error| panic!("{error}"));
    let answer = namespace.kubectl(["logs", "client", "-c", "main"]).expect("logs");
    assert_eq!(
        answer.trim(),
        format!("spiffe://cluster.local/ns/{name}/sa/default"),
        "the server authenticated the caller"
    );
}

#[test]
fn e2e_the_common_clients_get_their_identities() {
    let installed = installed();
    let namespace = installed.cluster.namespace("clients").expect("a namespace");
    let name = namespace.name();
    let host = format!("orders.{name}.svc");
    let spec = json!({
        "service": {"audience": format!("orders.{name}"), "hosts": [host], "podSelector": {"matchLabels": {"app": "agent"}}},
        "identity": {"ttl": "5m"},
        "authentication": [{"workload": {}}],
        "operations": [{"name": "read", "http": [{"methods": ["GET"], "paths": ["/"]}]}],
        "grants": [{"name": "w", "to": [{"serviceAccount": {"namespace": name, "name": "default"}}], "scopes": ["read"]}],
    });
    namespace.apply(&policy(name, "orders", spec)).expect("applied");
    installed.in_force(name, "orders");
    let agent = AgentPod::start(&namespace, "internal", "cluster.local");

    // go-spiffe
    let fetched = agent.ask(&["fetch"]);
    let words: Vec<&str> = fetched.split(' ').collect();
    assert_eq!((words[0], words[2]), (agent.id.as_str(), "internal"));
    let left = words[1].parse::<u64>().expect("a time") - std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs();
    assert!(left <= 300, "certificates down to five minutes: {left} s are left");
    let audience = format!("orders.{name}");
    let jwt = agent.ask(&["jwt", &audience]);
    let token = jwt.split(' ').nth(1).expect("a token").to_owned();

    // a door accepts the fetched token, for its own audience only
    let door = ForwardAuthDoor::of(&installed);
    let folder = tempfile::tempdir().expect("a folder");
    let trust = folder.path().join("trust.pem");
    let path = "jsonpath={.data.trust-bundle\\.pem}";
    let pem = namespace.kubectl(["get", "configmap", "durward-trust-bundle", "-o", path]).expect("a bundle");
    std::fs::write(&trust, pem).expect("written");
    let by =
        |token: &str| door.ask(&trust, &host, ["GET", "/"], &["--header", &format!("Authorization: Bearer {token}")]);
    assert_eq!(by(&token), format!("200 {} Bearer", agent.id));
    assert_eq!(by(agent.ask(&["jwt", "another"]).split(' ').nth(1).expect("a token")), "401");

    // the gRPC library of py-spiffe sends the socket's path as a host name, so the path is one word
    let link = OneWord::to(&agent.socket());
    let script = repository("tests/kubernetes/files/client.py");
    let python = Command::new(venv("python")).arg(script).arg(format!("unix://{}", link.0.display())).output();
    let python = python.expect("python runs");
    assert!(python.status.success() && printed(&python).contains(&agent.id), "{}", printed(&python));

    // over loopback, for libraries without Unix sockets
    let (_forwarded, port) = forward(&installed, name);
    let mut client = Command::new(binaries::path(binaries::SPIFFE_CLIENT).expect("the client"));
    let client = client.env("SPIFFE_ENDPOINT_SOCKET", format!("tcp://127.0.0.1:{port}")).arg("fetch").output();
    assert!(printed(&client.expect("it runs")).starts_with(&agent.id));

    assert_spire_commands_work(&agent, &audience, &token);
    assert_invalid_tokens_are_refused(&agent, &audience, &token);
    assert_other_protocols_are_refused(&agent);
    ["GRPC", "DELTA_GRPC"].iter().for_each(|api| assert_envoy_uses_the_agent(&agent, api));
    assert_open_streams_get_another_root(&installed, &agent);
}

/// Runs SPIRE's own commands against the agent's socket.
fn assert_spire_commands_work(agent: &AgentPod, audience: &str, token: &str) {
    let spire = binaries::path(binaries::SPIRE_AGENT).expect("spire-agent");
    let socket = agent.socket().display().to_string();
    for args in [
        &["fetch", "x509"][..],
        &["fetch", "jwt", "-audience", audience],
        &["validate", "jwt", "-audience", audience, "-svid", token],
    ] {
        let output =
            Command::new(&spire).arg("api").args(args).args(["-socketPath", &socket]).output().expect("it runs");
        assert!(output.status.success() && printed(&output).contains(&agent.id), "{args:?}: {}", printed(&output));
    }
    let watch = Command::new(&spire).args(["api", "watch", "-socketPath", &socket]).stdout(Stdio::piped()).spawn();
    let mut watch = ChildGuard(watch.expect("it runs"));
    let mut lines = BufReader::new(watch.0.stdout.take().expect("its output")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(&agent.id)), "spire-agent api watch");
}

fn assert_invalid_tokens_are_refused(agent: &AgentPod, audience: &str, token: &str) {
    let tampered = format!("{}x", &token[..token.len() - 1]);
    for (audience, token) in
        [("other", token), (audience, tampered.as_str()), (audience, "x"), (audience, &unsigned(&agent.id, audience))]
    {
        let output = agent.go(&["validate", audience, token]).output().expect("it runs");
        assert!(!output.status.success() && printed(&output).contains("InvalidArgument"), "{}", printed(&output));
    }
}

/// A client of the socket without the header of the Workload API is refused.
fn assert_other_protocols_are_refused(agent: &AgentPod) {
    let grpc = |header: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "2", "--http2-prior-knowledge", "--dump-header", "-", "--unix-socket"]);
        curl.arg(agent.socket()).args(["--header", "content-type: application/grpc", "--header", "te: trailers"]);
        curl.args(header).args([
            "--data-binary",
            "@-",
            "--output",
            "/dev/null",
            "http://agent/SpiffeWorkloadAPI/FetchX509SVID",
        ]);
        let mut curl = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("curl runs");
        curl.stdin.take().expect("a pipe").write_all(&[0; 5]).expect("written");
        printed(&curl.wait_with_output().expect("it ends"))
    };
    assert!(grpc(&[]).contains("grpc-status: 3"), "INVALID_ARGUMENT");
    assert!(!grpc(&["--header", "workload.spiffe.io: true"]).contains("grpc-status"), "the stream stays open");
}

/// Forwards a local port to the agent's loopback port.
fn forward(installed: &Installed, namespace: &str) -> (ChildGuard, u16) {
    let kubectl = binaries::path(binaries::KUBECTL).expect("kubectl");
    let forward = Command::new(kubectl)
        .arg(format!("--kubeconfig={}", installed.cluster.kubeconfig().display()))
        .args(["port-forward", "-n", namespace, "pod/agent", ":8147"])
        .stdout(Stdio::piped())
        .spawn();
    let mut forward = ChildGuard(forward.expect("kubectl runs"));
    let mut lines = BufReader::new(forward.0.stdout.take().expect("its output")).lines().map_while(Result::ok);
    // Forwarding from 127.0.0.1:PORT -> 8147
    let line = lines.next().expect("a port");
    let port = line.split(':').nth(1).and_then(|rest| rest.split(' ').next()).and_then(|port| port.parse().ok());
    // drain the rest
    std::thread::spawn(move || lines.for_each(drop));
    (forward, port.unwrap_or_else(|| panic!("{line}")))
}

/// A symbolic link of one word to a socket, in the current directory.
struct OneWord(PathBuf);

impl OneWord {
    fn to(socket: &Path) -> Self {
        let path = Path::new("/").join(format!("durward-test-{}.sock", std::process::id()));
        std::os::unix::fs::symlink(socket, &path).expect("linked");
        Self(path)
    }
}

impl Drop for OneWord {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// An unsigned token.
fn unsigned(id: &str, audience: &str) -> String {
    use base64::Engine;
    let part = |value: Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"sub": id, "aud": [audience], "exp": 4_000_000_000_u64});
    format!("{}.{}.", part(json!({"alg": "none", "typ": "JWT"})), part(claims))
}

fn assert_envoy_uses_the_agent(agent: &AgentPod, api: &str) {
    let port = durward_cluster::ports::free(std::net::Ipv4Addr::LOCALHOST.into()).expect("a port").port();
    let template = include_str!("files/envoy.yaml");
    let template = template.replace("api_type: GRPC", &format!("api_type: {api}"));
    let config = template.replace("PORT", &port.to_string()).replace("SOCKET", &agent.socket().display().to_string());
    let file = agent.folder.path().join("envoy.yaml");
    std::fs::write(&file, config).expect("written");
    let log = agent.folder.path().join("envoy.log");
    let mut envoy = Command::new(venv("envoy"));
    envoy.arg("-c").arg(&file).args(["--use-dynamic-base-id", "--log-level", "warn", "--log-path"]).arg(&log);
    let _envoy = ChildGuard(envoy.spawn().expect("envoy runs"));
    let url = format!("https://127.0.0.1:{port}/");
    let answered =
        durward_cluster::wait::until("envoy with its certificate", std::time::Duration::from_secs(30), || {
            let output = agent.go(&["call", &url, &agent.id]).output().expect("it runs");
            Ok(output.status.success().then(|| printed(&output)))
        });
    let logged = || std::fs::read_to_string(&log).unwrap_or_default();
    assert_eq!(answered.unwrap_or_else(|error| panic!("{error}\n{}", logged())).trim(), "envoy is here");
    let without_certificate =
        Command::new("curl").args(["--silent", "--insecure", "--max-time", "5", &url]).output().expect("curl runs");
    assert!(!without_certificate.status.success(), "a client without a certificate is refused");
}

fn assert_open_streams_get_another_root(installed: &Installed, agent: &AgentPod) {
    let mut watch = ChildGuard(agent.go(&["watch"]).stdout(Stdio::piped()).spawn().expect("it runs"));
    let lines = Mutex::new(Vec::new());
    let stdout = BufReader::new(watch.0.stdout.take().expect("its output"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for line in stdout.lines().map_while(Result::ok) {
                lines.lock().expect("a lock").push(line);
            }
        });
        let count = || lines.lock().expect("a lock").len();
        installed.until("the first certificate", || (count() > 0).then_some(()));
        let before = count();
        let (code, text) = installed.durward(&["ca", "rotate"]);
        assert_eq!(code, Some(0), "{text}");
        installed.until("the next root on the open stream", || (count() > before).then_some(()));
        drop(watch);
    });
}

/// Overlaps with the other tests: certificates live five minutes at least, and are renewed after half of that.
#[test]
fn e2e_certificates_are_renewed_on_open_streams() {
    let _turn = Turn::take(module_path!());
    let cluster = Cluster::shared().expect("a cluster");
    let namespace = cluster.namespace("renewal").expect("a namespace");
    service(&installed(), &namespace, "agent");
    let agent = AgentPod::start(&namespace, "internal", "cluster.local");
    let ends = || agent.ask(&["fetch"]).split(' ').nth(1).and_then(|end| end.parse::<u64>().ok()).expect("a time");
    let first_end = ends();
    let mut watch = ChildGuard(agent.go(&["watch"]).stdout(Stdio::piped()).spawn().expect("it runs"));
    let lines = BufReader::new(watch.0.stdout.take().expect("its output")).lines().map_while(Result::ok);
    let (sender, serials) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.for_each(|serial| drop(sender.send(serial))));
    let life = std::time::Duration::from_secs(300);
    let first = serials.recv_timeout(life).expect("the first certificate");
    // a changed bundle causes another message with the same certificate
    while serials.recv_timeout(life).expect("another certificate") == first {}
    let left = first_end.saturating_sub(std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs());
    println!("renewed when {left} s were left");
    assert!(left > 0 && ends() > first_end, "renewed in time, with a later expiry");
}

/// A certificate request for a new key.
fn certificate_request(folder: &Path) -> Vec<u8> {
    let [key, csr] = ["key.pem", "csr.der"].map(|file| folder.join(file).display().to_string());
    for args in [
        &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key][..],
        &["req", "-new", "-key", &key, "-subj", "/", "-outform", "DER", "-out", &csr],
    ] {
        assert!(Command::new("openssl").args(args).output().expect("openssl runs").status.success(), "{args:?}");
    }
    std::fs::read(&csr).expect("a request")
}

/// An authenticated caller gets an explanation of an invalid body.
fn assert_invalid_bodies_are_explained(post: &dyn Fn(&str, &str) -> String, forged: &[u8]) {
    for (path, body, expected) in [
        ("/mint/x509", json!({"csr": STANDARD.encode(forged)}).to_string(), "not signed by its own key"),
        ("/mint/x509", json!({"csr": "!"}).to_string(), "`csr` is not base64"),
        ("/mint/x509", json!({"csr": "", "admin": true}).to_string(), "unknown field"),
        ("/mint/jwt", json!({"audience": []}).to_string(), "1 to 8 audiences"),
        ("/mint/jwt", json!({"audience": ["x".repeat(300)]}).to_string(), "1 to 8 audiences"),
    ] {
        let response = post(path, &body);
        assert!(response.contains(expected) && response.ends_with(" 400"), "{body}: {response}");
    }
    let large = json!({"csr": "A".repeat(20_000)}).to_string();
    // the refusal comes before the body is read, and curl can lose the response while it still sends
    eventually("413", || post("/mint/x509", &large).ends_with(" 413").then_some(())).expect("a refusal");
}

/// The mint serves no credentials while the namespace denies the identity.
fn assert_denials_stop_the_mint(
    installed: &Installed,
    namespace: &Namespace<'_>,
    post: &dyn Fn(&str, &str) -> String,
    body: &str,
) {
    let to = json!([{"serviceAccount": {"namespace": namespace.name(), "name": "default"}}]);
    let stop = policy(namespace.name(), "stop", json!({"denials": [{"name": "stolen", "to": to}]}));
    namespace.apply(&stop).expect("applied");
    let refused_by = format!("{}/stop/denials/stolen denies its service account", namespace.name());
    installed.until("the mint to refuse a certificate", || {
        let response = post("/mint/x509", body);
        (response.contains(&refused_by) && response.ends_with(" 403")).then_some(())
    });
    let token_body = r#"{"audience": ["x"]}"#;
    assert!(post("/mint/jwt", token_body).ends_with(" 403"), "and a token");
    namespace.kubectl(["delete", "accesspolicy", "stop"]).expect("deleted");
    installed.until("the mint to issue again", || post("/mint/jwt", token_body).ends_with(" 200").then_some(()));
}

#[test]
fn e2e_the_mint_serves_authenticated_running_pods_only() {
    let installed = installed();
    let namespace = installed.cluster.namespace("mint").expect("a namespace");
    service(&installed, &namespace, "web");
    let folder = tempfile::tempdir().expect("a folder");
    let trust = folder.path().join("trust.pem");
    installed.until("the trust bundle", || {
        let path = "jsonpath={.data.trust-bundle\\.pem}";
        let pem = namespace.kubectl(["get", "configmap", "durward-trust-bundle", "-o", path]).ok()?;
        std::fs::write(&trust, pem).ok()
    });
    let sleeps = |name: &str, app: &str| {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never",
                "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
            }]},
        });
        namespace.apply(&pod.to_string()).expect("applied");
        namespace.await_condition(&format!("pod/{name}"), "Ready").unwrap_or_else(|error| panic!("{error}"));
    };
    sleeps("web", "web");
    sleeps("other", "other");
    let token = |audience: &str, bound: Option<&str>| {
        let mut args = vec!["create".to_owned(), "token".into(), "default".into(), format!("--audience={audience}")];
        if let Some(pod) = bound {
            args.extend(["--bound-object-kind=Pod".into(), format!("--bound-object-name={pod}")]);
        }
        namespace.kubectl(args).expect("a token").trim().to_owned()
    };
    let csr = certificate_request(folder.path());
    let mut forged = csr.clone();
    *forged.last_mut().expect("a signature") ^= 1;
    let service = installed.kubectl(["get", "service", "durward", "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}"]);
    let host = format!("durward.{NAMESPACE}.svc");
    let post = |path: &str, token: &str, body: &str| {
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "10", "--write-out", " %{http_code}", "--cacert"])
            .arg(&trust)
            .args([
                "--resolve",
                &format!("{host}:8145:{service}"),
                "--header",
                &format!("Authorization: Bearer {token}"),
            ])
            .args(["--data-binary", body, &format!("https://{host}:8145{path}")])
            .output()
            .expect("curl runs");
        printed(&output)
    };
    let good = token("durward", Some("web"));
    let body = json!({"csr": STANDARD.encode(&csr), "ttlSeconds": 60}).to_string();
    let minted = post("/mint/x509", &good, &body);
    assert!(minted.ends_with(" 200") && minted.contains(&format!("ns/{}/sa/default", namespace.name())), "{minted}");

    // one response to every unproven caller
    let refused = r#"{"error":"invalid_token"} 401"#;
    assert_eq!(post("/mint/x509", "nonsense", &body), refused);
    assert_eq!(
        post("/mint/x509", "nonsense", &json!({"csr": STANDARD.encode(&forged)}).to_string()),
        refused,
        "authentication precedes validation"
    );
    assert_eq!(post("/mint/x509", &token("orders-api", Some("web")), &body), refused, "a token for another audience");
    assert_eq!(post("/mint/x509", &token("durward", None), &body), refused, "a token that is bound to no pod");
    assert_eq!(post("/mint/jwt", &token("durward", None), r#"{"audience": ["x"]}"#), refused);
    // a proven caller gets an explanation
    let unknown = post("/mint/x509", &token("durward", Some("other")), &body);
    assert!(unknown.ends_with(" 403") && unknown.contains("spec.service.podSelector"), "{unknown}");
    assert_invalid_bodies_are_explained(&|path, body| post(path, &good, body), &forged);

    assert_denials_stop_the_mint(&installed, &namespace, &|path, body| post(path, &good, body), &body);
    namespace.kubectl(["delete", "pod", "web", "--grace-period=0", "--force"]).expect("deleted");
    installed.until("the token of a deleted pod to be refused", || {
        (post("/mint/x509", &good, &body) == refused).then_some(())
    });
}
