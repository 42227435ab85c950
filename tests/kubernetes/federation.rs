//! Federation with SPIRE in both directions: each side accepts the other's workloads.

use durward_tests::spire;
use durward_tests::turn::Turn;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use durward_cluster::{Image, Namespace, binaries};
use durward_tests::installation::agent::{self, client_with_timeout};
use durward_tests::installation::door::ForwardAuthDoor;
use durward_tests::installation::process::ChildGuard;
use durward_tests::installation::{Installed, NAMESPACE, policy};
use serde_json::{Value, json};

const CLIENT: &str = "durward.test/spiffe-client:1";
/// A workload of SPIRE's trust domain.
const PARTNER: &str = "spiffe://partner.example/client";

/// A SPIRE server on this machine that federates with Durward, and an agent.
struct SpireDomain {
    folder: tempfile::TempDir,
    /// The URL of its bundle endpoint.
    endpoint: String,
    running: Vec<ChildGuard>,
}

fn free_port(address: IpAddr) -> u16 {
    durward_cluster::ports::free(address).expect("a port").port()
}

impl SpireDomain {
    /// Starts the server; Durward's bundle endpoint is at `durward`.
    fn start(host: IpAddr, durward: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let port = free_port(host);
        let bundles = free_port(host);
        let federation = format!(
            r#"
  federation {{
    bundle_endpoint {{
      address = "{host}"
      port = {bundles}
      refresh_hint = "1s"
      profile "https_spiffe" {{}}
    }}
    federates_with "cluster.local" {{
      bundle_endpoint_url = "{durward}"
      bundle_endpoint_profile "https_spiffe" {{
        endpoint_spiffe_id = "spiffe://cluster.local/ns/{NAMESPACE}/sa/durward"
      }}
    }}
  }}"#
        );
        let server = spire::server(folder.path(), "partner.example", port, &federation);
        let agent = format!(
            r#"
agent {{
  server_address = "127.0.0.1"
  server_port = {port}
  socket_path = "{socket}"
  trust_domain = "partner.example"
  trust_bundle_path = "{bundle}"
  data_dir = "{data}"
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"#,
            socket = at("agent.sock"),
            bundle = at("bundle.pem"),
            data = at("agent"),
        );
        fs::write(at("agent.conf"), agent).expect("written");
        let endpoint = format!("https://{host}:{bundles}");
        let mut this = Self { folder, endpoint, running: Vec::new() };
        this.run(server);
        this
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn run(&mut self, mut program: Command) {
        let log = fs::File::options().create(true).append(true).open(self.at("log")).expect("a log");
        let error = log.try_clone().expect("a log");
        self.running.push(ChildGuard(program.stdout(log).stderr(error).spawn().expect("it runs")));
    }

    /// Runs a command of the server.
    fn command(&self, args: &[&str]) -> Output {
        let server = binaries::path(binaries::SPIRE_SERVER).expect("spire-server");
        Command::new(server).args(args).args(["-socketPath", &self.at(spire::SOCKET)]).output().expect("it runs")
    }

    /// Runs a command of the server, which must succeed.
    fn ask(&self, args: &[&str]) -> String {
        let output = self.command(args);
        let log = || fs::read_to_string(self.at("log")).unwrap_or_default();
        assert!(output.status.success(), "{args:?}: {}\n{}", printed(&output), log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A JWT-SVID of [`PARTNER`].
    fn token(&self, audience: &str) -> String {
        self.ask(&["jwt", "mint", "-spiffeID", PARTNER, "-audience", audience]).trim().to_owned()
    }

    /// Starts the agent; every workload is [`PARTNER`].
    fn agent(&mut self) {
        fs::write(self.at("bundle.pem"), self.ask(&["bundle", "show", "-format", "pem"])).expect("written");
        let node = "spiffe://partner.example/node";
        let token = self.ask(&["token", "generate", "-spiffeID", node]);
        let token = token.trim().trim_start_matches("Token: ").to_owned();
        let federated = ["-selector", "unix:uid:0", "-federatesWith", "spiffe://cluster.local"];
        self.ask(&[&["entry", "create", "-parentID", node, "-spiffeID", PARTNER], &federated[..]].concat());
        let mut agent = Command::new(binaries::path(binaries::SPIRE_AGENT).expect("spire-agent"));
        agent.args(["run", "-config", &self.at("agent.conf"), "-joinToken", &token]);
        self.run(agent);
    }

    /// A go-spiffe client as a workload of the agent.
    fn workload(&self, args: &[&str]) -> Command {
        client_with_timeout(&self.at("agent.sock"), args)
    }
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A pod with Durward's agent and a go-spiffe client.
fn pod(namespace: &Namespace<'_>, name: &str, args: &[&str]) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "orders", "durward.dev/inject": "agent"}},
        "spec": {
            "restartPolicy": "OnFailure", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": CLIENT, "imagePullPolicy": "Never", "args": args}],
        },
    });
    namespace.apply(&pod.to_string()).expect("applied");
}

/// The provider of SPIRE's trust domain. Its bundle has only the roots, so Durward must fetch the token keys.
fn provider_of(spire: &SpireDomain) -> Value {
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": "spire"},
        "spec": {"x509": {
            "trustDomain": "partner.example", "bundle": spire.ask(&["bundle", "show", "-format", "pem"]),
            "endpoint": {"url": spire.endpoint, "profile": "https_spiffe", "spiffeId": "spiffe://partner.example/spire/server"},
        }},
    })
}

/// The spec of a policy: SPIRE's workload may read, Durward's own workload may write.
fn orders_policy(name: &str) -> Value {
    let operation = |name: &str, path: &str| json!({"name": name, "http": [{"methods": ["GET"], "paths": [path]}]});
    json!({
        "service": {"audience": format!("orders.{name}"), "hosts": [format!("orders.{name}.svc")], "podSelector": {"matchLabels": {"app": "orders"}}},
        "identity": {"ttl": "5m"},
        "authentication": [{"workload": {}}, {"provider": "spire"}],
        "operations": [operation("read", "/"), operation("write", "/write")],
        "grants": [{"name": "client", "to": [{"principal": PARTNER}], "scopes": ["read"]},
                   {"name": "own", "to": [{"serviceAccount": {"namespace": name, "name": "default"}}], "scopes": ["write"]}],
    })
}

/// Workloads of both sides verify each other with the bundles of their agents.
fn assert_workloads_authenticate_each_other(
    installed: &Installed,
    namespace: &Namespace<'_>,
    spire: &SpireDomain,
    host: IpAddr,
) {
    pod(namespace, "server", &["serve", ":8443", "partner.example"]);
    namespace.await_condition("pod/server", "Ready").unwrap_or_else(|error| panic!("{error}"));
    let address = namespace.kubectl(["get", "pod", "server", "-o", "jsonpath={.status.podIP}"]).expect("an address");
    let name = namespace.name();
    let own = format!("spiffe://cluster.local/ns/{name}/sa/default");
    let answer = installed.until("Durward's workload to answer SPIRE's", || {
        let output = spire.workload(&["call", &format!("https://{address}:8443"), &own]).output().expect("it runs");
        output.status.success().then(|| printed(&output))
    });
    assert_eq!(answer.trim(), PARTNER, "Durward's workload authenticated the caller");
    let port = free_port(host);
    let server = agent::client(&spire.at("agent.sock"), &["serve", &format!("{host}:{port}"), "cluster.local"])
        .stdout(Stdio::null())
        .spawn();
    let _server = ChildGuard(server.expect("it runs"));
    pod(namespace, "caller", &["call", &format!("https://{host}:{port}"), PARTNER]);
    namespace.await_jsonpath("pod/caller", "{.status.phase}", "Succeeded").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        namespace.kubectl(["logs", "caller", "-c", "main"]).expect("logs").trim(),
        own,
        "SPIRE's workload authenticated the caller"
    );
    pod(namespace, "validator", &["validate", "another", &spire.token("another")]);
    namespace.await_jsonpath("pod/validator", "{.status.phase}", "Succeeded").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(namespace.kubectl(["logs", "validator", "-c", "main"]).expect("logs").trim(), PARTNER);
}

#[test]
fn e2e_spire_and_durward_accept_each_others_workloads() {
    let _turn = Turn::take(module_path!());
    let installed = Installed::new(&["trust.proxies={0.0.0.0/0}", "trust.clientCertificatesFrom={0.0.0.0/0}"]);
    let program = binaries::path(binaries::SPIFFE_CLIENT).expect("the client");
    let client = Image::new(CLIENT).program("/spiffe-client", &program).expect("a program");
    installed.cluster.load_image(&client.entrypoint(["/spiffe-client"])).expect("loaded");
    let service = installed.kubectl(["get", "service", "durward", "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}"]);
    let host = installed.cluster.host_address().expect("an address");
    let mut spire = SpireDomain::start(host, &format!("https://{service}:8145/bundle"));
    let started = || spire.command(&["bundle", "show"]).status.success();
    installed.until("SPIRE's server", || started().then_some(()));

    let namespace = installed.cluster.namespace("federation").expect("a namespace");
    let name = namespace.name();
    namespace.apply(&provider_of(&spire).to_string()).expect("applied");
    let orders = format!("orders.{name}.svc");
    namespace.apply(&policy(name, "orders", orders_policy(name))).expect("applied");
    installed.in_force(name, "orders");

    // Durward's doors accept SPIRE's credentials
    let door = ForwardAuthDoor::of(&installed);
    let trust = spire.folder.path().join("durward.pem");
    installed.until("the trust bundle", || {
        let path = "jsonpath={.data.trust-bundle\\.pem}";
        let pem = namespace.kubectl(["get", "configmap", "durward-trust-bundle", "-o", path]).ok()?;
        fs::write(&trust, pem).ok()
    });
    spire.ask(&["x509", "mint", "-spiffeID", PARTNER, "-write", &spire.at("")]);
    let svid = spire.at("svid.pem");
    let key = spire.at("key.pem");
    let by_certificate = |uri: &str| door.ask_for(&trust, &orders, ["GET", uri], Path::new(&svid), Path::new(&key));
    assert_eq!(by_certificate("/"), format!("200 {PARTNER} ProofOfPossession"));
    assert_eq!(by_certificate("/write"), "403");
    let jwt = |audience: &str| {
        let header = format!("Authorization: Bearer {}", spire.token(audience));
        door.ask(&trust, &orders, ["GET", "/"], &["--header", &header])
    };
    let good = format!("200 {PARTNER} Bearer");
    installed.until("the token keys from SPIRE's endpoint", || (jwt(&format!("orders.{name}")) == good).then_some(()));
    assert_eq!(jwt("another"), "401");

    // SPIRE's bundle has only the roots too: SPIRE fetches the token keys from Durward's endpoint
    let set = ["bundle", "set", "-id", "spiffe://cluster.local", "-format", "pem", "-path"];
    spire.ask(&[&set[..], &[&trust.display().to_string()]].concat());
    spire.ask(&["federation", "refresh", "-id", "spiffe://cluster.local"]);
    installed.until("SPIRE to have Durward's bundle", || {
        spire
            .ask(&["bundle", "list", "-id", "spiffe://cluster.local", "-format", "spiffe"])
            .contains("jwt-svid")
            .then_some(())
    });

    spire.agent();
    assert_workloads_authenticate_each_other(&installed, &namespace, &spire, host);
    namespace.kubectl(["delete", "identityprovider", "spire"]).expect("deleted");
    installed.until("the end of the federation", || (by_certificate("/").starts_with("curl:")).then_some(()));
}
