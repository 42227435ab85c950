//! An installation by the chart: policies apply on every replica, and the API server calls the webhooks for governed
//! operations.

use durward_tests::venv;
use std::process::Command;

use durward_cluster::{Namespace, image};
use durward_tests::installation::door::ask_replica;
use durward_tests::installation::shared::SharedInstallation;
use durward_tests::installation::{Installed, NAMESPACE, condition, policy};
use serde_json::{Value, json};

/// The tests act as a gateway whose forwarded-request headers are trusted.
const TRUSTED: [&str; 2] = ["trust.proxies={0.0.0.0/0}", "trust.enforcementPoints={0.0.0.0/0}"];

fn installed() -> SharedInstallation {
    SharedInstallation::of(module_path!(), || Installed::new(&TRUSTED))
}

fn grants(who: &str, scopes: &[&str]) -> Value {
    json!([{"name": "them", "to": [{"principal": who}], "scopes": scopes}])
}

#[test]
fn e2e_a_policy_is_in_force_on_every_replica_for_cluster_tokens() {
    let installed = installed();
    let namespace = installed.cluster.namespace("shop").expect("a namespace");
    let shop = namespace.name();
    let id = format!("spiffe://cluster.local/ns/{shop}/sa/reader");
    let host = format!("orders.{shop}.svc");
    let spec = json!({
        "service": {"hosts": [host]},
        "authentication": [{"workload": {}}],
        "operations": [{"name": "list", "scopes": ["read"], "http": [{"methods": ["GET"], "paths": ["/orders"]}]}],
        "grants": grants(&id, &["read"]),
    });
    namespace.apply(&policy(shop, "orders", spec)).expect("applied");
    let stored = installed.in_force(shop, "orders");
    assert_eq!(condition(&stored, "Accepted"), ("True", "Valid"));
    assert_eq!(stored["status"]["operations"], 1);
    let listed = namespace.kubectl(["get", "ap"]).expect("listed");
    assert!(listed.contains("True") && listed.contains(&format!("orders.{shop}")), "{listed}");
    let described = namespace.kubectl(["describe", "ap", "orders"]).expect("described");
    assert!(described.contains("InForce") && described.contains("in force on every ready replica"), "{described}");
    let explained = installed.kubectl(["explain", "accesspolicy.spec.operations"]);
    for answer in
        ["kubernetes\t<[]Object>", "enum: Low, Standard, High", "Operations of the service. Requests that match"]
    {
        assert!(explained.contains(answer), "{answer}: {explained}");
    }

    // the cluster's own tokens, for this audience and for another
    for name in ["reader", "stranger"] {
        namespace.kubectl(["create", "serviceaccount", name]).expect("created");
    }
    let token = |name: &str, audience: &str| {
        let token = namespace.kubectl(["create", "token", name, &format!("--audience={audience}")]).expect("a token");
        token.trim().to_owned()
    };
    let audience = format!("orders.{shop}");
    let reader = token("reader", &audience);
    let kubeconfig = token("stranger", &audience);
    let elsewhere = token("reader", "elsewhere");
    let pods = installed.pods();
    assert_eq!(pods.len(), 2);
    for pod in pods {
        let address = pod["status"]["podIP"].as_str().expect("an address");
        let ask = |token: &str, uri: &str| ask_replica(address, token, &host, uri);
        assert_eq!(ask(&reader, "/orders"), ("200".to_owned(), id.clone()), "at {address}");
        assert_eq!(ask(&kubeconfig, "/orders").0, "403");
        assert_eq!(ask(&elsewhere, "/orders").0, "401");
        assert_eq!(ask(&reader, "/admin").0, "403");
    }
}

#[test]
fn e2e_invalid_policies_are_refused_at_admission() {
    let installed = installed();
    let namespace = installed.cluster.namespace("mistakes").expect("a namespace");
    let name = namespace.name();
    let operations = json!([{"name": "list", "scopes": ["read"], "http": [{"methods": ["GET"], "paths": ["/"]}]}]);
    let granted =
        |when: &str| json!([{"name": "all", "to": [{"authenticated": true}], "scopes": ["read"], "when": when}]);
    let spec = json!({"authentication": [{"workload": {}}], "operations": operations, "grants": granted("true")});
    namespace.apply(&policy(name, "good", spec.clone())).expect("accepted");
    let with = |field: &str, value: Value| {
        let mut spec = spec.clone();
        spec[field] = value;
        policy(name, "bad", spec)
    };
    for (manifest, expected) in [
        (with("service", json!({"hosts": ["bank.example.com"]})), "does not own host `bank.example.com`"),
        (with("service", json!({"audience": format!("good.{name}")})), "does not own audience"),
        (with("grants", granted("principal.id ==")), "spec.grants[0].when"),
        (
            with("grants", json!([{"name": "r", "to": [{"authenticated": true}], "roles": ["clerk"]}])),
            "no role `clerk`",
        ),
        (with("authentication", json!([{"provider": "nobody"}])), "no IdentityProvider is called `nobody`"),
        (
            with("operations", json!([operations[0], {"name": "again", "http": operations[0]["http"]}])),
            "both match `GET /`",
        ),
        (
            with("relations", json!([{"object": "order", "relations": {"owner": {"relation": "boss"}}}])),
            "`order` has no relation `boss`",
        ),
    ] {
        let error = namespace.apply(&manifest).expect_err("refused").to_string();
        assert!(error.contains("resources.durward.dev") && error.contains(expected), "{expected}: {error}");
    }
    let provider = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": "kubernetes"},
        "spec": {"apiKey": {"selector": {}}},
    });
    let error = installed.cluster.apply(&provider.to_string()).expect_err("refused").to_string();
    assert!(error.contains("metadata.name") && error.contains("use another name"), "{error}");
    // a warning does not refuse
    let warned = json!({"authentication": [{"workload": {}}], "operations": [
        {"name": "drop", "http": [{"methods": ["DELETE"], "paths": ["/all"]}]}]});
    let manifest = policy(name, "warned", warned);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, manifest).expect("written");
    let output = installed.kubectl_output(["apply", "-n", name, "-f", &file.path().display().to_string()]);
    assert!(output.contains("deletes and states no risk") && output.contains("no caller can `drop`"), "{output}");
}

#[test]
fn e2e_governed_operations_need_a_grant() {
    let installed = installed();
    let namespace = installed.cluster.namespace("guarded").expect("a namespace");
    let name = namespace.name();
    let rules = || {
        installed.kubectl([
            "get",
            "validatingwebhookconfiguration",
            "durward-operations",
            "-o",
            "jsonpath={.webhooks[*].rules}",
        ])
    };
    // RBAC allows alice and bob everything
    for who in ["alice", "bob"] {
        namespace
            .kubectl(["create", "rolebinding", who, "--clusterrole=cluster-admin", &format!("--user={who}")])
            .expect("bound");
    }
    let pod = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
                "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never",
                "command": ["sh", "-c", "trap exit TERM; while :; do sleep 1; done"],
            }]},
        })
    };
    namespace.apply(&pod("web").to_string()).expect("applied");
    namespace.await_condition("pod/web", "Ready").expect("running");
    namespace.apply(&policy(name, "guard", guard_policy())).expect("applied");
    installed.in_force(name, "guard");
    installed.until("the webhook's rules", || rules().contains("pods/exec").then_some(()));
    installed.until("the API server to call the webhook", || {
        namespace.kubectl(["--as=bob", "exec", "web", "--", "true"]).is_err().then_some(())
    });

    bob_is_denied_by_command(&namespace);
    bob_is_denied_by_path(&namespace);
    // undeclared operations are not governed
    namespace.kubectl(["--as=bob", "create", "secret", "generic", "other"]).expect("not governed");
    namespace.kubectl(["--as=bob", "label", "pod", "web", "seen=yes"]).expect("not governed");

    alice_is_allowed(&namespace);
    audit_mode_warns(&installed, &namespace, guard_policy());
    denials_are_recorded_and_counted(&installed);
    // without a policy there is no webhook rule
    namespace.kubectl(["delete", "accesspolicy", "guard"]).expect("deleted");
    installed.until("the removal of the rules", || rules().is_empty().then_some(()));
    namespace.kubectl(["--as=bob", "delete", "pod", "web", "--wait=false"]).expect("no longer governed");
}

/// Operations on pods, deployments, ConfigMaps and Secrets, with a grant for alice.
fn guard_policy() -> Value {
    let api =
        |resources: &[&str], verbs: &[&str]| json!([{"apiGroups": ["*"], "resources": resources, "verbs": verbs}]);
    json!({
        "operations": [
            {"name": "shell", "scopes": ["ops"], "kubernetes": api(&["pods/exec", "pods/attach", "pods/portforward"], &["CONNECT"])},
            {"name": "debug", "scopes": ["ops"], "kubernetes": api(&["pods/ephemeralcontainers"], &["UPDATE"])},
            {"name": "remove", "scopes": ["ops"], "risk": "Standard", "kubernetes": api(&["pods"], &["DELETE"])},
            {"name": "evict", "scopes": ["ops"], "kubernetes": api(&["pods/eviction"], &["CREATE"])},
            {"name": "scale", "scopes": ["ops"], "kubernetes": api(&["deployments/scale"], &["UPDATE"])},
            {"name": "pretend", "scopes": ["ops"], "kubernetes": api(&["deployments/status"], &["UPDATE"])},
            {"name": "configure", "scopes": ["ops"], "kubernetes": api(&["configmaps"], &["CREATE", "UPDATE"])},
            {"name": "certify", "scopes": ["ops"], "risk": "High", "kubernetes": api(&["secrets"], &["DELETE"])},
        ],
        "grants": grants("kube:alice", &["ops"]),
    })
}

fn bob_is_denied_by_command(namespace: &Namespace<'_>) {
    let name = namespace.name();
    let denied = |args: &[&str], operation: &str| {
        let args: Vec<&str> = ["--as=bob"].iter().chain(args).copied().collect();
        let error = namespace.kubectl(&args).expect_err("refused").to_string();
        assert!(error.contains("operations.durward.dev"), "{args:?}: {error}");
        assert!(
            error.contains(&format!(
                "operation `{operation}` of policy {name}/guard is refused for kube:bob: missing scope `ops`"
            )),
            "{error}"
        );
    };
    namespace.kubectl(["create", "deployment", "idle", "--image=none", "--replicas=0"]).expect("created");
    namespace.kubectl(["create", "secret", "generic", "precious"]).expect("created");
    denied(&["exec", "web", "--", "true"], "shell");
    denied(&["attach", "web"], "shell");
    denied(&["port-forward", "web", ":80"], "shell");
    denied(&["debug", "web", "--image=none", "--profile=general"], "debug");
    denied(&["delete", "pod", "web", "--wait=false"], "remove");
    denied(&["delete", "pod", "web", "--wait=false", "--dry-run=server"], "remove");
    denied(&["delete", "pods", "--all", "--wait=false"], "remove");
    denied(&["scale", "deployment", "idle", "--replicas=2"], "scale");
    denied(&["patch", "deployment", "idle", "--subresource=status", "-p", r#"{"status":{"replicas":9}}"#], "pretend");
    denied(&["create", "configmap", "settings"], "configure");
    denied(&["create", "configmap", "settings", "--dry-run=server"], "configure");
}

/// An eviction, a collection and a generated name: paths without a kubectl command.
fn bob_is_denied_by_path(namespace: &Namespace<'_>) {
    let name = namespace.name();
    let raw = |verb: &str, path: &str, body: &str| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, body).expect("written");
        namespace.kubectl([
            "--as=bob",
            verb,
            "--raw",
            &format!("/api/v1/namespaces/{name}/{path}"),
            "-f",
            &file.path().display().to_string(),
        ])
    };
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web", "namespace": name}});
    let error = raw("create", "pods/web/eviction", &eviction.to_string()).expect_err("refused").to_string();
    assert!(error.contains("operation `evict`"), "{error}");
    let unnamed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "settings-"}});
    let error = raw("create", "configmaps", &unnamed.to_string()).expect_err("refused").to_string();
    assert!(error.contains("operation `configure`"), "{error}");
    let error = raw("delete", "pods?labelSelector=app%3Dweb", "{}").expect_err("refused").to_string();
    assert!(error.contains("operation `remove`"), "a collection: {error}");
}

fn alice_is_allowed(namespace: &Namespace<'_>) {
    namespace.kubectl(["--as=alice", "exec", "web", "--", "true"]).expect("granted");
    namespace.kubectl(["--as=alice", "create", "configmap", "settings"]).expect("granted");
    namespace
        .kubectl(["--as=alice", "patch", "configmap", "settings", "-p", r#"{"data":{"a":"b"}}"#])
        .expect("granted");
    let error = namespace.kubectl(["--as=bob", "patch", "configmap", "settings", "-p", r#"{"data":{"a":"c"}}"#]);
    assert!(error.expect_err("refused").to_string().contains("operation `configure`"), "a patch is an update");
    // high risk: the scope alone is not enough
    let error = namespace.kubectl(["--as=alice", "delete", "secret", "precious"]).expect_err("refused").to_string();
    assert!(error.contains("its risk requires MultiFactor"), "{error}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs();
    let stepped_up = [
        "--as=alice".to_owned(),
        "--as-user-extra=durward.dev/assurance=MultiFactor".to_owned(),
        format!("--as-user-extra=durward.dev/auth-time={now}"),
    ];
    let delete = ["delete", "secret", "precious"].map(ToOwned::to_owned);
    namespace.kubectl(stepped_up.iter().chain(&delete)).expect("a fresh second factor");
}

/// Audit mode allows with a warning.
fn audit_mode_warns(installed: &Installed, namespace: &Namespace<'_>, spec: Value) {
    let name = namespace.name();
    let mut audited = spec;
    audited["mode"] = json!("Audit");
    namespace.apply(&policy(name, "guard", audited)).expect("applied");
    installed.in_force(name, "guard");
    let output = installed.kubectl_output(["--as=bob", "-n", name, "create", "configmap", "audited"]);
    assert!(output.contains("only audits") && output.contains("created"), "{output}");
    let audited = || namespace.kubectl(["get", "accesspolicy", "guard", "-o", "jsonpath={.status.auditedDenials}"]);
    installed.until("the audited denial in the status", || audited().ok().filter(|count| count == "1"));
}

fn denials_are_recorded_and_counted(installed: &Installed) {
    let logs = installed.kubectl(["logs", "-n", NAMESPACE, "deployment/durward", "--all-pods", "--tail=-1"]);
    let refusal = logs.lines().find(|line| line.contains("\"operation\":\"evict\"")).expect("a record");
    assert!(refusal.contains("\"door\":\"admission\"") && refusal.contains("kube:bob"), "{refusal}");
    let metric_value: u64 = installed
        .pods()
        .iter()
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().expect("a name");
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/https:{name}:8181/proxy/metrics");
            let metrics = installed.kubectl(["get", "--raw", &path]);
            let line = "durward_decisions_total{door=\"admission\",reason=\"InsufficientScope\",passed=\"false\"}";
            metrics.lines().find_map(|metric| metric.strip_prefix(line)?.trim().parse::<u64>().ok()).unwrap_or(0)
        })
        .sum();
    assert!(metric_value >= 10, "the metric has {metric_value} denials");
}

#[test]
fn e2e_the_kubectl_plugin_uses_the_rights_of_its_user() {
    let installed = installed();
    let namespace = installed.cluster.namespace("plugin").expect("a namespace");
    let name = namespace.name();
    let spec = json!({
        "service": {"hosts": [format!("orders.{name}.svc")]}, "authentication": [{"workload": {}}],
        "operations": [{"name": "list", "scopes": ["read"], "http": [{"methods": ["GET"], "paths": ["/orders"]}]}],
        "grants": [{"name": "reader", "to": [{"serviceAccount": {"namespace": name, "name": "reader"}}], "scopes": ["read"]}],
    });
    namespace.apply(&policy(name, "orders", spec)).expect("applied");
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(durward_tests::program(), folder.path().join("kubectl-durward")).expect("linked");
    let kubectl = |kubeconfig: &std::path::Path, args: &[&str]| {
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
        let kubectl = durward_cluster::binaries::path(durward_cluster::binaries::KUBECTL).expect("kubectl");
        let output =
            Command::new(kubectl).arg("durward").args(args).env("KUBECONFIG", kubeconfig).env("PATH", path).output();
        let output = output.expect("kubectl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let admin = installed.cluster.kubeconfig();
    let url = format!("http://orders.{name}.svc/orders");
    let id = format!("spiffe://cluster.local/ns/{name}/sa/reader");
    let (code, text) = kubectl(admin, &["check", "--as", &id, "GET", &url]);
    assert!(code == Some(0) && text.contains("ALLOW"), "{text}");
    let (code, text) = kubectl(admin, &["check", "--as", &format!("{id}x"), "GET", &url]);
    assert!(code == Some(1) && text.contains("InsufficientScope"), "{text}");
    let (code, text) = kubectl(admin, &["who-can", "list", "--service", &format!("orders.{name}"), "-o", "json"]);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    assert_eq!(
        (code, &report[0]["who"][0]["subject"], &report[0]["who"][0]["can"]),
        (Some(0), &json!(id), &json!(true))
    );
    // a user without read access gets an error
    let token = namespace.kubectl(["create", "token", "default"]).expect("a token");
    let config = installed.kubectl(["config", "view", "--raw", "--minify", "-o", "json"]);
    let mut config: Value = serde_json::from_str(&config).expect("JSON");
    config["users"][0]["user"] = json!({"token": token.trim()});
    let kubeconfig = folder.path().join("stranger");
    std::fs::write(&kubeconfig, config.to_string()).expect("written");
    let (code, text) = kubectl(&kubeconfig, &["check", "--as", &id, "GET", &url]);
    assert!(code == Some(2) && text.contains("403") && text.contains("can't list"), "{text}");
}

/// An Envoy on this machine that trusts Durward's own CA only.
const ENVOY: &str = r#"
static_resources:
  listeners:
    - name: ingress
      address: {socket_address: {address: 127.0.0.1, port_value: PORT}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: ingress
                route_config:
                  virtual_hosts:
                    - {name: any, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: app}}}]}
                http_filters:
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      transport_api_version: V3
                      failure_mode_allow: false
                      grpc_service: {envoy_grpc: {cluster_name: durward}, timeout: 2s}
                  - name: envoy.filters.http.router
                    typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
    - name: durward
      type: STATIC
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
          sni: DOOR
          common_tls_context:
            validation_context: {trusted_ca: {filename: CA}, match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: DOOR}}]}
      load_assignment:
        cluster_name: durward
        endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: SERVICE, port_value: 9143}}}}]}]
"#;

struct KilledOnDrop(std::process::Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn e2e_envoy_and_authzen_clients_use_the_service() {
    let installed = installed();
    let namespace = installed.cluster.namespace("doors").expect("a namespace");
    let name = namespace.name();
    let host = format!("orders.{name}.svc");
    let audience = format!("orders.{name}");
    let spec = json!({
        "service": {"hosts": [host]}, "authentication": [{"workload": {}}],
        "operations": [{"name": "list", "scopes": ["read"], "http": [{"methods": ["GET"], "paths": ["/orders"]}]}],
        "grants": [{"name": "r", "to": [{"serviceAccount": {"namespace": name, "name": "reader"}}], "scopes": ["read"]}],
    });
    namespace.apply(&policy(name, "orders", spec)).expect("applied");
    namespace.kubectl(["create", "serviceaccount", "reader"]).expect("created");
    installed.in_force(name, "orders");
    let token = namespace.kubectl(["create", "token", "reader", &format!("--audience={audience}")]).expect("a token");
    let service = installed.kubectl(["get", "service", "durward", "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}"]);
    let ca = installed.kubectl([
        "get",
        "secret",
        "durward-ca",
        "-n",
        NAMESPACE,
        "-o",
        "go-template={{index .data \"tls.crt\" | base64decode}}",
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let ca_file = folder.path().join("ca.pem");
    let door = format!("durward.{NAMESPACE}.svc");
    std::fs::write(&ca_file, ca).expect("written");

    let port = durward_cluster::ports::free(std::net::Ipv4Addr::LOCALHOST.into()).expect("a port").port();
    let config = ENVOY
        .replace("PORT", &port.to_string())
        .replace("DOOR", &door)
        .replace("SERVICE", &service)
        .replace("filename: CA", &format!("filename: {}", ca_file.display()));
    let file = folder.path().join("envoy.yaml");
    std::fs::write(&file, config).expect("written");
    let mut command = Command::new(venv::venv("envoy"));
    command.arg("--config-path").arg(&file).args(["--log-level", "error", "--use-dynamic-base-id"]);
    let _envoy = KilledOnDrop(command.spawn().expect("envoy starts"));
    let ask = |token: Option<&str>, path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "5", "--output", "/dev/null", "--write-out", "%{http_code}"]);
        curl.args(["--header", &format!("Host: {host}")]);
        if let Some(token) = token {
            curl.args(["--header", &format!("Authorization: Bearer {token}")]);
        }
        let output = curl.arg(format!("http://127.0.0.1:{port}{path}")).output().expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    installed.until("Envoy", || (ask(None, "/orders") == "401").then_some(()));
    assert_eq!(ask(Some(token.trim()), "/orders"), "200");
    assert_eq!(ask(Some(token.trim()), "/other"), "403");

    let evaluate = |account: &str| {
        let body = json!({
            "subject": {"type": "workload", "id": format!("spiffe://cluster.local/ns/{name}/sa/{account}")},
            "action": {"name": "list"}, "resource": {"type": audience, "id": "all"},
        });
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "5", "--cacert", &ca_file.display().to_string()])
            .args(["--resolve", &format!("{door}:443:{service}"), "--header", "Content-Type: application/json"])
            .args(["--data", &body.to_string(), &format!("https://{door}/access/v1/evaluation")])
            .output()
            .expect("curl runs");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        answer["decision"].as_bool()
    };
    assert_eq!((evaluate("reader"), evaluate("stranger")), (Some(true), Some(false)));
}
