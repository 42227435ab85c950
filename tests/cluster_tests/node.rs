//! Features of our own node only, not of a kind cluster.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use durward_cluster::{Cluster, Component, Namespace, image};
use serde_json::json;

use crate::alone;

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
fn e2e_pods_survive_component_restarts_and_new_ones_start() {
    let _machine = alone();
    let cluster = Cluster::shared().unwrap_or_else(|error| panic!("{error}"));
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

#[test]
fn e2e_a_pod_reaches_a_server_of_the_test() {
    let _machine = alone();
    let cluster = Cluster::shared().unwrap_or_else(|error| panic!("{error}"));
    let namespace = cluster.namespace("host").expect("a namespace");
    let address = cluster.host_address().expect("an address");
    let listener = TcpListener::bind((address, 0)).expect("bound");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello from the test\n");
        }
    });
    run_pod(&namespace, "client");
    let url = format!("http://{address}:{port}/");
    let answer = cluster
        .until("an answer to the pod", Duration::from_secs(60), || {
            Ok(namespace.kubectl(["exec", "client", "--", "timeout", "5", "wget", "-q", "-O", "-", &url]).ok())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answer, "hello from the test\n");
}
