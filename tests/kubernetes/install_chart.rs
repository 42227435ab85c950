//! The chart: its rendered objects, and a release from install to uninstall.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use durward_tests::installation::shared::SharedInstallation;
use durward_tests::installation::{Installed, NAMESPACE, chart, condition, helm, policy, rendered};
use durward_tests::repository;
use serde_json::{Value, json};

fn installed() -> SharedInstallation {
    SharedInstallation::of(module_path!(), || Installed::new(&[]))
}

#[test]
fn e2e_the_api_server_accepts_all_rendered_objects() {
    rendered::assert_accepted(&installed().cluster);
}

#[test]
fn e2e_wrong_values_are_refused_with_the_field() {
    let installed = installed();
    let chart = chart().display().to_string();
    for (value, expected) in [
        ("replicas=0", "/replicas"),
        ("webhooks.operationsFailurePolicy=Never", "/webhooks/operationsFailurePolicy"),
        ("webhooks.failurePolicy=Fail", "failurePolicy"),
        ("trustDomain=Not A Domain", "/trustDomain"),
        ("image.digest=sha256:short", "/image/digest"),
    ] {
        let (good, output) = helm(&installed.cluster, &["template", "x", &chart, "--set", value]);
        assert!(!good && output.contains(expected), "{value}: {output}");
    }
}

/// The chart's CRDs are the generated ones, and every RBAC rule has a reason.
#[test]
fn e2e_the_chart_has_the_generated_crds_and_explains_its_rights() {
    for entry in std::fs::read_dir(repository("crds")).expect("crds") {
        let path = entry.expect("an entry").path();
        let copy = chart().join("files/crds").join(path.file_name().expect("a name"));
        assert_eq!(
            std::fs::read(&path).ok(),
            std::fs::read(&copy).ok(),
            "{} is stale: run `make crds`",
            copy.display()
        );
    }
    let rights = std::fs::read_to_string(chart().join("templates/rbac.yaml")).expect("rbac.yaml");
    let lines: Vec<&str> = rights.lines().collect();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| line.trim_start().starts_with("- apiGroups:")) {
        let above = &lines[number.saturating_sub(10)..number];
        let reason = above
            .iter()
            .rev()
            .take_while(|line| !line.contains("verbs:"))
            .any(|line| line.trim_start().starts_with('#'));
        assert!(reason, "rule at line {} has no reason: {line}", number + 1);
    }
    assert!(!rights.contains("\"*\"") && !rights.contains("[*]"), "no wildcard");
}

/// Safe defaults are on; objects of other operators are opt-in.
#[test]
fn e2e_an_installation_is_highly_available_and_restricted_by_default() {
    let installed = installed();
    let get = |what: &str| -> Value {
        serde_json::from_str(&installed.kubectl(["get", what, "-n", NAMESPACE, "-o", "json"])).expect("JSON")
    };
    let deployment = get("deployment/durward");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(pod["priorityClassName"], "system-cluster-critical");
    assert_eq!(pod["topologySpreadConstraints"][0]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    let expected = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]},
    });
    assert_eq!(pod["containers"][0]["securityContext"], expected);
    let selected = &deployment["spec"]["selector"]["matchLabels"];
    let budget = get("poddisruptionbudget/durward");
    assert_eq!((&budget["spec"]["maxUnavailable"], &budget["spec"]["selector"]["matchLabels"]), (&json!(1), selected));
    let policy = get("networkpolicy/durward");
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"], *selected);
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
    let open = policy["spec"]["ingress"].as_array().expect("rules").iter().flat_map(|rule| rule["ports"].as_array());
    let mut open: Vec<&str> = open.flatten().filter_map(|port| port["port"].as_str()).collect();
    open.sort_unstable();
    assert_eq!(open, ["admin", "grpcs", "https", "tokens", "webhooks"]);

    let chart = chart().display().to_string();
    let rendered = |switches: &[&str]| {
        let switches: Vec<String> = switches.iter().map(|switch| format!("--set={switch}")).collect();
        let args = ["template", "durward", &chart].into_iter().chain(switches.iter().map(String::as_str));
        let (good, rendered) = helm(&installed.cluster, &args.collect::<Vec<_>>());
        assert!(good, "{rendered}");
        rendered
    };
    let has = |rendered: &str, kind: &str| rendered.lines().any(|line| line == format!("kind: {kind}"));
    let plain = rendered(&[]);
    for (switch, kind) in [
        ("serviceMonitor.enabled=true", "ServiceMonitor"),
        ("prometheusRule.enabled=true", "PrometheusRule"),
        ("webhooks.certManager.enabled=true", "Certificate"),
    ] {
        assert!(!has(&plain, kind) && has(&rendered(&[switch]), kind), "{switch} enables {kind}");
    }
    let dashboard = "grafana_dashboard: \"1\"";
    assert!(!plain.contains(dashboard) && rendered(&["dashboard.enabled=true"]).contains(dashboard));
    for (switch, kind) in [
        ("podDisruptionBudget.enabled=false", "PodDisruptionBudget"),
        ("replicas=1", "PodDisruptionBudget"),
        ("networkPolicy.enabled=false", "NetworkPolicy"),
        ("crds.enabled=false", "CustomResourceDefinition"),
    ] {
        assert!(has(&plain, kind) && !has(&rendered(&[switch]), kind), "{switch} disables {kind}");
    }
}

/// Each of the three commands in the notes works.
#[test]
fn e2e_the_notes_print_the_next_commands() {
    let installed = installed();
    let (good, notes) = helm(&installed.cluster, &["get", "notes", "durward", "--namespace", NAMESPACE]);
    assert!(good, "{notes}");
    let commands: Vec<&str> = notes.lines().filter_map(|line| Some(line.split_once("kubectl ")?.1)).collect();
    assert_eq!(commands.len(), 3, "{notes}");
    for command in commands {
        installed.kubectl(command.split(' '));
    }
}

#[test]
fn e2e_a_release_survives_upgrade_uninstall_and_reinstall() {
    let installed = installed();
    let namespace = installed.cluster.namespace("release").expect("a namespace");
    let name = namespace.name();
    let chart = chart();

    // upgrade from the chart before its last change, if the clone has that commit
    if let Some(previous) = previous_chart() {
        installed.uninstall();
        installed.prepare();
        // its image is not available here: only its objects matter
        installed.release(&previous.path().join("charts/durward"), &["replicas=1"], false);
        installed.upgrade(&chart, &[]);
    }
    let spec = json!({
        "operations": [{"name": "configure", "kubernetes": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["CREATE"]}]}],
    });
    namespace.apply(&policy(name, "guard", spec)).expect("applied");
    installed.in_force(name, "guard");
    let create = || installed.cluster.kubectl(["create", "configmap", "c", "-n", name, "--dry-run=server"]);
    installed.until("the API server to call the webhook", || create().is_err().then_some(()));
    let authority = || installed.kubectl(["get", "secret", "durward-ca", "-n", NAMESPACE, "-o", "jsonpath={.data}"]);
    let first = authority();

    installed.upgrade(&chart, &["replicas=1"]);
    installed.in_force(name, "guard");
    assert_eq!(authority(), first, "an upgrade keeps the CA");
    assert!(create().is_err(), "still governed");
    let (good, output) = helm(&installed.cluster, &["test", "durward", "--namespace", NAMESPACE, "--timeout=60s"]);
    assert!(good && output.contains("Succeeded"), "{output}");

    let (good, output) =
        helm(&installed.cluster, &["uninstall", "durward", "--namespace", NAMESPACE, "--wait", "--timeout=120s"]);
    assert!(good, "{output}");
    let left =
        installed.kubectl(["get", "validatingwebhookconfigurations,mutatingwebhookconfigurations", "-o", "name"]);
    assert!(!left.contains("durward"), "{left}");
    create().expect("no webhook remains after the uninstallation");
    assert_eq!(authority(), first, "the CA stays");
    assert_eq!(installed.policy(name, "guard")["metadata"]["name"], "guard", "policies stay");

    installed.upgrade(&chart, &[]);
    assert_eq!(authority(), first, "a new release takes the CA over");
    installed.until("the policy to be enforced again", || create().is_err().then_some(()));

    // without `crds.keep` the CRDs and the policies are deleted
    installed.upgrade(&chart, &["crds.keep=false"]);
    let (good, output) =
        helm(&installed.cluster, &["uninstall", "durward", "--namespace", NAMESPACE, "--wait", "--timeout=120s"]);
    assert!(good, "{output}");
    installed.until("the removal of the definitions", || {
        let crds = installed.kubectl(["get", "crds", "-o", "name"]);
        (!crds.contains("durward.dev")).then_some(())
    });
    installed.upgrade(&chart, &[]);
}

/// The chart of the commit before the last one that changed it, if this clone has it.
fn previous_chart() -> Option<tempfile::TempDir> {
    let git = |args: &[&str]| {
        Command::new("git")
            .arg("-C")
            .arg(repository(""))
            .args(args)
            .output()
            .ok()
            .filter(|output| output.status.success())
    };
    let log = git(&["log", "--format=%H", "-2", "--", "charts/durward"])?;
    let commit = String::from_utf8_lossy(&log.stdout).lines().nth(1)?.to_owned();
    let folder = tempfile::tempdir().ok()?;
    let archive = git(&["archive", &commit, "charts/durward"])?;
    let tar = folder.path().join("chart.tar");
    std::fs::write(&tar, archive.stdout).ok()?;
    let unpacked = Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(folder.path()).status().ok()?.success();
    unpacked.then_some(folder)
}

#[test]
fn e2e_a_policy_that_cannot_be_decoded_stalls_no_other() {
    let installed = installed();
    let namespace = installed.cluster.namespace("undecodable").expect("a namespace");
    let name = namespace.name();
    // a CRD of another version admitted an object, without a webhook
    let crd = "accesspolicies.durward.dev";
    let before = installed.kubectl(["get", "crd", crd, "-o", "json"]);
    let mut loose: Value = serde_json::from_str(&before).expect("JSON");
    let stored = loose["spec"].clone();
    loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let patch = |spec: &Value| {
        let patch = json!([{"op": "replace", "path": "/spec", "value": spec}]).to_string();
        installed.kubectl(["patch", "crd", crd, "--type=json", "-p", &patch]);
    };
    patch(&loose["spec"]);
    installed.kubectl(["delete", "validatingwebhookconfiguration", "durward-resources"]);
    let undecodable = policy(name, "odd", json!({"operations": [{"name": "x", "http": "nonsense"}]}));
    installed.until("the CRD without a schema", || namespace.apply(&undecodable).ok());
    let good = policy(
        name,
        "good",
        json!({"operations": [{"name": "x", "public": true, "http": [{"methods": ["GET"], "paths": ["/"]}]}]}),
    );
    namespace.apply(&good).expect("applied");
    installed.in_force(name, "good");
    let undecodable = installed.until("the status of the undecodable policy", || {
        let undecodable = installed.policy(name, "odd");
        (condition(&undecodable, "Accepted").0 == "False").then_some(undecodable)
    });
    assert_eq!(condition(&undecodable, "Accepted"), ("False", "Invalid"));
    assert_eq!(condition(&undecodable, "Programmed"), ("False", "NotAccepted"));
    let explained = undecodable["status"]["conditions"][0]["message"].as_str().unwrap_or_default();
    assert!(explained.starts_with("spec.operations[0].http"), "{explained}");
    let events = namespace.kubectl(["get", "events", "-o", "json"]).expect("events");
    assert!(events.contains("spec.operations[0].http") && events.contains("\"Warning\""), "{events}");
    namespace.kubectl(["delete", "accesspolicy", "odd"]).expect("deleted");
    patch(&stored);
}

#[test]
fn e2e_a_provided_ca_is_awaited_and_used() {
    let installed = installed();
    let namespace = installed.cluster.namespace("provided").expect("a namespace");
    installed.uninstall();
    installed.prepare();
    let folder = tempfile::tempdir().expect("a folder");
    intermediate(folder.path());
    // created a while after the pods
    std::thread::scope(|scope| {
        scope.spawn(|| {
            installed.until("the replicas", || (installed.pods().len() == 2).then_some(()));
            put(&installed, folder.path(), "create");
        });
        installed.upgrade(&chart(), &["ca.provided=true", "ca.spread=2s"]);
    });
    let spec = json!({
        "operations": [{"name": "configure", "kubernetes": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["CREATE"]}]}],
    });
    namespace.apply(&policy(namespace.name(), "guard", spec)).expect("applied");
    installed.in_force(namespace.name(), "guard");
    let create = || namespace.kubectl(["create", "configmap", "c", "--dry-run=server"]);
    let refused = installed.until("the API server to call the webhook", || create().err());
    assert!(refused.to_string().contains("missing scope"), "the API server trusts the CA: {refused}");
    let bundle = ["get", "clustertrustbundle", "durward.dev:workload:roots", "-o", "jsonpath={.spec.trustBundle}"];
    let root = std::fs::read_to_string(folder.path().join("ca.crt")).expect("a root");
    assert_eq!(installed.kubectl(bundle).trim(), root.trim(), "the root alone is trusted");

    // another provided CA is rotated in by the same steps, while the API server calls the webhooks
    let active = || {
        let args = ["get", "configmap", "durward-ca-status", "-n", NAMESPACE, "-o", "jsonpath={.data.active}"];
        installed.kubectl(args)
    };
    let before = active();
    intermediate(folder.path());
    put(&installed, folder.path(), "replace");
    installed.until("the other CA to sign", || {
        let refused = create().expect_err("a governed operation").to_string();
        assert!(refused.contains("missing scope"), "the API server trusts the CA during the rotation: {refused}");
        (active() != before).then_some(())
    });
    installed.uninstall();
    installed.prepare();
    installed.upgrade(&chart(), &[]);
}

/// Creates a foreign root and intermediate CA as files of a TLS Secret.
fn intermediate(folder: &Path) {
    let extensions = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n";
    std::fs::write(folder.join("extensions"), extensions).expect("written");
    for step in [
        "req -x509 -days 30 -subj /CN=root -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -out ca.crt",
        "req -new -subj /CN=intermediate -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -out tls.csr",
        "x509 -req -days 30 -in tls.csr -CA ca.crt -CAkey root.key -CAcreateserial -extfile extensions -out tls.crt",
    ] {
        let made = Command::new("openssl").current_dir(folder).args(step.split(' ')).output().expect("openssl runs");
        assert!(made.status.success(), "{step}: {}", String::from_utf8_lossy(&made.stderr));
    }
}

/// Writes the CA to the Secret that Durward reads.
fn put(installed: &Installed, folder: &Path, verb: &str) {
    let data = ["tls.crt", "tls.key", "ca.crt"].map(|file| {
        let bytes = std::fs::read(folder.join(file)).expect("a file");
        (file.to_owned(), Value::from(base64::engine::general_purpose::STANDARD.encode(bytes)))
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "durward-ca", "namespace": NAMESPACE}, "data": serde_json::Map::from_iter(data),
    });
    let file = folder.join("secret.json");
    std::fs::write(&file, secret.to_string()).expect("written");
    installed.kubectl([verb, "-f", &file.display().to_string()]);
}

/// Alerts and dashboard use existing metrics, and each alert has a runbook.
#[test]
fn e2e_alerts_and_dashboard_use_existing_metrics() {
    let installed = installed();
    let namespace = installed.cluster.namespace("metrics").expect("a namespace");
    let host = format!("orders.{}.svc", namespace.name());
    let spec = json!({
        "service": {"hosts": [host]}, "authentication": [{"workload": {}}],
        "operations": [{"name": "ask", "http": [{"methods": ["GET"], "paths": ["/forward-auth"]}]}],
    });
    namespace.apply(&policy(namespace.name(), "orders", spec)).expect("applied");
    installed.in_force(namespace.name(), "orders");
    let pod = &installed.pods()[0];
    // metrics with labels exist after the first count: a request without a credential
    let url = format!("https://{}:8143/forward-auth", pod["status"]["podIP"].as_str().expect("an address"));
    let unauthenticated =
        Command::new("curl").args(["-sk", "-H", &format!("Host: {host}"), &url]).output().expect("curl runs");
    assert!(String::from_utf8_lossy(&unauthenticated.stdout).contains("invalid_token"), "{unauthenticated:?}");
    let name = pod["metadata"]["name"].as_str().expect("a name");
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/https:{name}:8181/proxy/metrics");
    let metrics = installed.kubectl(["get", "--raw", &path]);
    let served: Vec<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let rules = std::fs::read_to_string(chart().join("templates/monitoring.yaml")).expect("rules");
    let dashboard = std::fs::read_to_string(chart().join("files/dashboard.json")).expect("a dashboard");
    serde_json::from_str::<Value>(&dashboard).expect("JSON");
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named = rules
        .lines()
        .filter(|line| line.contains("expr:"))
        .chain(dashboard.lines().filter(|line| line.contains("\"expr\":")));
    let named: Vec<&str> =
        named.flat_map(|line| line.split(|c| !word(c)).filter(|name| name.starts_with("durward_"))).collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        let base = ["_total", "_bucket"].iter().fold(name, |name, suffix| name.strip_suffix(suffix).unwrap_or(name));
        assert!(served.contains(&base), "{name} is not served: {served:?}");
    }
    let runbooks = repository("docs/runbooks");
    let alerts = rules.lines().filter(|line| line.contains("runbook_url:"));
    let files: Vec<&str> = alerts.filter_map(|line| line.rsplit('/').next()).collect();
    assert_eq!(files.len(), rules.matches("- alert:").count());
    for file in files {
        assert!(runbooks.join(file.trim()).is_file(), "{file} is missing");
    }
}
