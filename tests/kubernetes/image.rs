//! The repository's Dockerfile.

use durward_cluster::{Cluster, dockerfile, image};
use durward_tests::turn::Turn;
use serde_json::json;

#[test]
fn e2e_the_image_is_small_and_runs_unprivileged() {
    let _turn = Turn::take(module_path!());
    let built = dockerfile::build().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(built.user, "65532:65532", "a numeric user, so that kubelet can check that it is not root");
    assert_eq!(built.entrypoint, ["/durward"]);
    assert!(built.size < 45_000_000, "{} bytes", built.size);

    let cluster = Cluster::shared().unwrap_or_else(|error| panic!("{error}"));
    cluster.load_archive(&built.archive).expect("loaded");
    let namespace = cluster.namespace("durward").expect("a namespace");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "durward"},
        "spec": {"restartPolicy": "Never", "securityContext": {"runAsNonRoot": true}, "containers": [{
            "name": "main", "image": image::DURWARD, "imagePullPolicy": "Never", "args": ["--version"],
            "securityContext": {
                "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            },
        }]},
    });
    namespace.apply(&pod.to_string()).expect("applied");
    namespace.await_jsonpath("pod/durward", "{.status.phase}", "Succeeded").unwrap_or_else(|error| panic!("{error}"));
}
