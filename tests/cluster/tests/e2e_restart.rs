//! Restarts of the shared node's parts. A file of its own: cargo runs it while no other test uses the node.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expects")]

use durward_cluster::{Cluster, Component, Namespace, image};
use serde_json::json;

fn run_pod(namespace: &Namespace<'_>, name: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{
            "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "3600"],
        }]},
    });
    namespace.apply(&pod.to_string()).expect("applied");
    namespace.await_condition(&format!("pod/{name}"), "Ready").unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn e2e_pods_survive_restarts_of_the_node_and_new_ones_start() {
    let cluster = Cluster::shared().unwrap_or_else(|error| panic!("{error}"));
    if cluster.dir().is_none() {
        println!("NOT RUN: a kind cluster's processes are not ours to restart");
        return;
    }
    let namespace = cluster.namespace("restart").expect("a namespace");
    run_pod(&namespace, "before");
    let containers =
        "--output=jsonpath={.status.containerStatuses[*].containerID}{.status.containerStatuses[*].restartCount}";
    let identity = || namespace.kubectl(["get", "pod", "before", containers]).expect("the pod");
    let first = identity();

    for component in
        [Component::Kubelet, Component::ApiServer, Component::Containerd, Component::KubeProxy, Component::CoreDns]
    {
        cluster.restart(component).unwrap_or_else(|error| panic!("{error}"));
        run_pod(&namespace, &format!("after-{}", component.name()));
        assert_eq!(identity(), first, "the same container runs after a restart of {}", component.name());
        namespace.kubectl(["exec", "before", "--", "true"]).expect("exec works");
    }
}
