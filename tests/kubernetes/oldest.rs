//! Durward and its agent with the API server of Kubernetes 1.29, the oldest that agents support. It has no pod
//! certificates.

use durward_tests::installation;
use durward_tests::turn::Turn;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use durward_cluster::{Cluster, binaries, ports};
use durward_tests::installation::agent::{client_with_timeout, printed};
use durward_tests::installation::process::{ChildGuard, controller};
use durward_tests::installation::{NAMESPACE, policy, prepare, rendered};
use serde_json::json;

/// Starts the agent with the cluster's names in `hosts`.
fn agent(folder: &Path, tokens: u16) -> ChildGuard {
    let script = "mount --bind \"$0/hosts\" /etc/hosts && exec \"$@\"";
    let at = |file: &str| folder.join(file).display().to_string();
    let health = ports::free(Ipv4Addr::LOCALHOST.into()).expect("a port").to_string();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", script]).arg(folder).arg(durward_tests::program());
    command.args(["agent", "--controller", &format!("https://durward.{NAMESPACE}.svc:{tokens}"), "--health", &health]);
    for (option, file) in [("socket", "agent.sock"), ("token-file", "token"), ("ca-file", "roots.pem")] {
        command.args([format!("--{option}"), at(file)]);
    }
    ChildGuard(command.stdout(Stdio::null()).spawn().expect("it runs"))
}

#[test]
fn e2e_pods_of_kubernetes_1_29_get_an_identity() {
    let _turn = Turn::take(module_path!());
    let cluster = Cluster::isolated_by(binaries::OLDEST_APISERVER, &[]).expect("a control plane");
    let served = installation::version(&cluster);
    assert!(served["gitVersion"].as_str().is_some_and(|version| version.starts_with("v1.29.")), "{served}");
    prepare(&cluster);
    rendered::assert_accepted(&cluster);
    let namespace = cluster.namespace("oldest").expect("a namespace");
    let name = namespace.name();
    namespace.kubectl(["create", "serviceaccount", "web"]).expect("created");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"serviceAccountName": "web", "containers": [{"name": "main", "image": "none"}]},
    });
    namespace.apply(&pod.to_string()).expect("applied");
    // before the controller, since the API server can't reach its webhook
    let spec = json!({"service": {"podSelector": {"matchLabels": {"app": "web"}}}, "identity": {"ttl": "5m"}});
    namespace.apply(&policy(name, "web", spec)).expect("applied");

    let tokens = ports::free(Ipv4Addr::LOCALHOST.into()).expect("a port");
    let _controller = controller(&cluster, &tokens.to_string());
    let until = |what: &str, condition: &dyn Fn() -> Option<String>| {
        let waited = cluster.until(what, Duration::from_secs(60), || Ok(condition()));
        waited.unwrap_or_else(|error| panic!("{error}"))
    };
    let roots = until("the trust bundle", &|| {
        let bundle = ["get", "configmap", "durward-trust-bundle", "-o", r"jsonpath={.data.trust-bundle\.pem}"];
        namespace.kubectl(bundle).ok().filter(|roots| !roots.is_empty())
    });
    let folder = tempfile::tempdir().expect("a folder");
    let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).expect("written");
    write("roots.pem", &roots);
    write("hosts", &format!("127.0.0.1 durward.{NAMESPACE}.svc\n"));
    // the token as that version of kubelet mounts it into the pod
    let bound = ["create", "token", "web", "--audience=durward", "--bound-object-kind=Pod", "--bound-object-name=web"];
    write("token", namespace.kubectl(bound).expect("a token").trim());

    let _agent = agent(folder.path(), tokens.port());
    let id = format!("spiffe://cluster.local/ns/{name}/sa/web");
    let socket = folder.path().join("agent.sock").display().to_string();
    let ask = |args: &[&str]| {
        let output = client_with_timeout(&socket, args).output().expect("it runs");
        let text = printed(&output);
        (output.status.success() && text.starts_with(&format!("{id} "))).then_some(text)
    };
    until("a certificate", &|| ask(&["fetch"]));
    until("a token", &|| ask(&["jwt", "orders"]));
}
