//! The control plane alone.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use durward_cluster::{Cluster, Component, wait};

use crate::{beside_others, program};

#[test]
fn two_control_planes_run_side_by_side() {
    let _machine = beside_others();
    let one = Cluster::isolated().expect("one");
    let other = Cluster::isolated().expect("the other");
    let namespace = one.namespace("only-here").expect("a namespace");
    one.kubectl(["get", "namespace", namespace.name()]).expect("its own namespace");
    let answer =
        other.kubectl(["get", "namespace", namespace.name()]).expect_err("a namespace of the other control plane");
    assert!(answer.to_string().contains("NotFound"), "{answer}");
}

#[test]
fn objects_outlive_a_restart_of_the_api_server() {
    let _machine = beside_others();
    let cluster = Cluster::isolated().expect("a control plane");
    let namespace = cluster.namespace("restart").expect("a namespace");
    namespace.kubectl(["create", "configmap", "kept", "--from-literal=key=value"]).expect("created");
    cluster.stop(Component::ApiServer).expect("stopped");
    namespace.kubectl(["get", "configmap", "kept"]).expect_err("the API server is down");
    cluster.start(Component::ApiServer).expect("started");
    let value = namespace.kubectl(["get", "configmap", "kept", "--output=jsonpath={.data.key}"]).expect("an answer");
    assert_eq!(value, "value");
}

#[test]
fn process_ids_are_recorded() {
    let _machine = beside_others();
    let cluster = Cluster::isolated().expect("a control plane");
    let recorded = |name: &str| {
        let file = cluster.dir().expect("a folder").join(format!("log/{name}.pid"));
        let pid = std::fs::read_to_string(&file).expect("recorded").trim().to_owned();
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).expect("it runs");
        assert_eq!(program.file_name(), Some(name.as_ref()));
        pid
    };
    for name in ["etcd", "kube-controller-manager"] {
        recorded(name);
    }
    let before = recorded("kube-apiserver");
    cluster.restart(Component::ApiServer).expect("restarted");
    assert_ne!(recorded("kube-apiserver"), before);
}

#[test]
fn a_rust_client_connects() {
    let _machine = beside_others();
    let cluster = Cluster::isolated().expect("a control plane");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let version = runtime.block_on(async { cluster.client().await.expect("a client").apiserver_version().await });
    let version = version.expect("an answer");
    assert_eq!((version.major.as_str(), version.minor.as_str()), ("1", "37"));
}

#[test]
fn no_process_outlives_a_killed_owner() {
    let _machine = beside_others();
    let state = tempfile::tempdir().expect("a folder");
    let mut owner = Command::new(program())
        .arg("control-plane")
        .env("DURWARD_CLUSTER_DIR", state.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let line = BufReader::new(owner.stdout.take().expect("piped")).lines().next().expect("a line").expect("text");
    assert!(line.starts_with("export KUBECONFIG="), "{line}");
    let status = || {
        let output =
            Command::new(program()).arg("status").env("DURWARD_CLUSTER_DIR", state.path()).output().expect("ran");
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(status().contains("kube-apiserver"), "{}", status());
    owner.kill().expect("killed");
    owner.wait().expect("reaped");
    wait::until("the processes' end", Duration::from_secs(20), || {
        Ok((!status().contains("kube-apiserver")).then_some(()))
    })
    .expect("ended with their owner");
    // only files remain, which the next command removes
    assert!(
        Command::new(program()).arg("down").env("DURWARD_CLUSTER_DIR", state.path()).status().expect("ran").success()
    );
    assert_eq!(status(), "no cluster\n");
    assert_eq!(std::fs::read_dir(state.path()).expect("listed").count(), 0);
}

#[test]
fn a_node_without_root_is_refused_with_a_remedy() {
    let _machine = beside_others();
    // other users must be able to run the program; they can't read a target folder below /root
    let place = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .expect("a folder");
    let copy = place.path().join("durward-cluster");
    std::fs::copy(program(), &copy).expect("copied");
    let state = place.path().join("state");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&copy)
        .arg("up")
        .env("DURWARD_CLUSTER_DIR", &state)
        .env("DURWARD_CLUSTER_CACHE", place.path().join("cache"))
        .env_remove("KUBECONFIG")
        .output()
        .expect("ran");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("needs root") && stderr.contains("sudo"), "{stderr}");
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let _machine = beside_others();
    let place = tempfile::tempdir().expect("a folder");
    let output = Command::new(program())
        .arg("up")
        .env("PATH", "/nowhere")
        .env("DURWARD_CLUSTER_DIR", place.path())
        .env_remove("KUBECONFIG")
        .output()
        .expect("ran");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("`setpriv`") && stderr.contains("apt-get install -y util-linux"),
        "{stderr}"
    );
}

#[test]
fn a_kubeconfig_of_another_cluster_is_refused() {
    let _machine = beside_others();
    let place = tempfile::tempdir().expect("a folder");
    let kubeconfig = place.path().join("kubeconfig");
    std::fs::write(&kubeconfig, "apiVersion: v1\nkind: Config\ncurrent-context: production\n").expect("written");
    let output = Command::new(program())
        .arg("up")
        .env("KUBECONFIG", &kubeconfig)
        .env("DURWARD_CLUSTER_DIR", place.path())
        .output()
        .expect("ran");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("`production`") && stderr.contains("unset KUBECONFIG"),
        "{stderr}"
    );
}
