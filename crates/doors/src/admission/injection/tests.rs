//! The parts that each mode adds to a pod.

use super::identity::volume;
use super::*;
use durward_api::compile::ClusterDomains;
use proptest::prelude::*;
use serde_json::json;

fn inject_identity(pod: &Value) -> Result<Value, InjectionRefusal> {
    inject_mode(pod, InjectionMode::Identity)
}

fn inject_mode(pod: &Value, mode: InjectionMode) -> Result<Value, InjectionRefusal> {
    let domains =
        ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
    let controller = "https://durward.durward-system.svc:8145".to_owned();
    let settings = SidecarSettings { image: "durward:1".to_owned(), controller, domains };
    let mut pod = pod.clone();
    inject(&mut pod, mode, &settings).map(|()| pod)
}

fn mount() -> Value {
    json!({"name": "durward", "mountPath": "/var/run/durward", "readOnly": true})
}

fn environment() -> Value {
    json!([
        {"name": "DURWARD_CREDENTIAL_BUNDLE", "value": "/var/run/durward/credential-bundle.pem"},
        {"name": "DURWARD_TRUST_BUNDLE", "value": "/var/run/durward/trust-bundle.pem"},
    ])
}

#[test]
fn a_pod_gets_exactly_one_volume_a_mount_and_two_variables() {
    let pod = json!({"metadata": {"generateName": "web-"}, "spec": {
        "initContainers": [{"name": "first"}],
        "containers": [{"name": "main", "image": "web", "env": [{"name": "A", "value": "b"}]}, {"name": "side"}],
    }});
    let mut with_env = environment();
    if let Some(all) = with_env.as_array_mut() {
        all.insert(0, json!({"name": "A", "value": "b"}));
    }
    let expected = json!({"metadata": {"generateName": "web-"}, "spec": {
        "initContainers": [{"name": "first", "volumeMounts": [mount()], "env": environment()}],
        "containers": [
            {"name": "main", "image": "web", "env": with_env, "volumeMounts": [mount()]},
            {"name": "side", "volumeMounts": [mount()], "env": environment()},
        ],
        "volumes": [{"name": "durward", "projected": {"sources": [
            {"podCertificate": {"signerName": "durward.dev/workload", "keyType": "ECDSAP256", "credentialBundlePath": "credential-bundle.pem"}},
            {"clusterTrustBundle": {"signerName": "durward.dev/workload", "labelSelector": {}, "path": "trust-bundle.pem"}},
        ]}}],
    }});
    assert_eq!(inject_identity(&pod), Ok(expected));
}

#[test]
fn the_agent_starts_first_and_only_it_has_the_token() {
    let pod = json!({"spec": {"initContainers": [{"name": "first"}], "containers": [{"name": "main"}]}});
    let pod = inject_mode(&pod, InjectionMode::Agent).expect("injected");
    let spec = &pod["spec"];
    let agent = &spec["initContainers"][0];
    assert_eq!((&agent["name"], &agent["restartPolicy"]), (&json!("durward-agent"), &json!("Always")));
    assert!(
        agent["args"]
            .as_array()
            .expect("arguments")
            .contains(&json!("--controller=https://durward.durward-system.svc:8145"))
    );
    for container in [&spec["initContainers"][1], &spec["containers"][0]] {
        assert_eq!(container["volumeMounts"], json!([mount()]), "only the agent may have the token");
        let socket = json!([{"name": "SPIFFE_ENDPOINT_SOCKET", "value": "unix:///var/run/durward/agent.sock"}]);
        assert_eq!(container["env"], socket);
    }
    let on_node = json!({"spec": {"hostNetwork": true, "containers": [{"name": "main"}]}});
    assert_eq!(inject_mode(&on_node, InjectionMode::Agent).expect_err("refused").field, "spec.hostNetwork");
    let taken = json!({"spec": {"containers": [{"name": "durward-agent"}]}});
    assert_eq!(inject_mode(&taken, InjectionMode::Agent).expect_err("refused").field, "spec.containers");
}

#[test]
fn the_gate_forwards_to_the_annotated_or_first_tcp_port() {
    let with = |annotations: Value, ports: Value| {
        let pod = json!({"metadata": {"annotations": annotations}, "spec": {"initContainers": [{"name": "first"}], "containers": [{"name": "main", "ports": ports}]}});
        inject_mode(&pod, InjectionMode::Gate)
    };
    let web = json!([{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 8080}, {"containerPort": 9090}]);
    let pod = with(json!({}), web.clone()).expect("injected");
    let (gate, main) = (&pod["spec"]["initContainers"][0], &pod["spec"]["containers"][0]);
    assert_eq!((&gate["name"], &gate["restartPolicy"]), (&json!("durward-gate"), &json!("Always")));
    let has = |pod: &Value, argument: &str| {
        let arguments = pod["spec"]["initContainers"][0]["args"].as_array().expect("arguments").clone();
        arguments.contains(&json!(argument))
    };
    assert!(has(&pod, "--upstream=http://127.0.0.1:8080") && has(&pod, "--trust-domain=cluster.local"), "{gate}");
    assert_eq!(main["env"], json!([{"name": "DURWARD_OUTBOUND", "value": "http://127.0.0.1:8149"}]));
    assert_eq!(
        (&main["volumeMounts"], &pod["spec"]["containers"][1]),
        (&Value::Null, &Value::Null),
        "only the gate may have the token"
    );
    assert_eq!(inject_mode(&pod, InjectionMode::Gate).as_ref(), Ok(&pod), "a second injection must change nothing");
    for (annotation, upstream) in
        [("9000", "http://127.0.0.1:9000"), ("h2c://127.0.0.1:50051", "h2c://127.0.0.1:50051")]
    {
        let pod = with(json!({gate::UPSTREAM_ANNOTATION: annotation}), web.clone()).expect("injected");
        assert!(has(&pod, &format!("--upstream={upstream}")), "{annotation}");
    }
    for wrong in ["http://10.0.0.1:80", "", "0", "web", "99999"] {
        let refusal = with(json!({gate::UPSTREAM_ANNOTATION: wrong}), web.clone()).expect_err("refused");
        assert_eq!(refusal.field, "metadata.annotations[durward.dev/gate-upstream]", "{wrong}");
    }
    assert_eq!(with(json!({}), json!([])).expect_err("refused").field, "spec.containers[0].ports");
    let port = json!([{"containerPort": 80}]);
    let on_node = json!({"spec": {"hostNetwork": true, "containers": [{"name": "main", "ports": port}]}});
    assert_eq!(inject_mode(&on_node, InjectionMode::Gate).expect_err("refused").field, "spec.hostNetwork");
    let taken = json!({"spec": {"containers": [{"name": "durward-gate", "ports": port}]}});
    assert_eq!(inject_mode(&taken, InjectionMode::Gate).expect_err("refused").field, "spec.containers");
}

#[test]
fn existing_variables_are_kept() {
    let own = json!({"name": "DURWARD_TRUST_BUNDLE", "value": "/elsewhere"});
    let pod = json!({"spec": {"containers": [{"name": "main", "env": [own]}]}});
    let pod = inject_identity(&pod).expect("injected");
    let all = pod["spec"]["containers"][0]["env"].as_array().expect("variables").clone();
    assert!(all.len() == 2 && all[0] == own, "{all:?}");
}

#[test]
fn a_refusal_names_the_conflicting_field() {
    let with = |volumes: Value, mounts: Value| json!({"spec": {"volumes": volumes, "initContainers": [], "containers": [{"name": "a"}, {"name": "b", "volumeMounts": mounts}]}});
    let mut half = volume();
    half["projected"]["sources"].as_array_mut().expect("sources").pop();
    for (pod, field) in [
        (with(json!([{"name": "x"}, {"name": "durward", "emptyDir": {}}]), json!([])), "spec.volumes[1]"),
        (with(json!([half]), json!([])), "spec.volumes[0]"),
        (
            with(json!([]), json!([{"name": "x", "mountPath": "/var/run/durward"}])),
            "spec.containers[1].volumeMounts[0]",
        ),
        (
            with(json!([]), json!([{"name": "x", "mountPath": "/var/run/durward/"}])),
            "spec.containers[1].volumeMounts[0]",
        ),
        (with(json!({}), json!([])), "spec.volumes"),
        (json!({"spec": {"containers": ["a"]}}), "spec.containers[0].volumeMounts"),
        (json!({}), "spec"),
    ] {
        assert_eq!(inject_identity(&pod).expect_err("refused").field, field, "{pod}");
    }
}

fn containers() -> impl Strategy<Value = Value> {
    let variable =
        ("[A-D]|DURWARD_TRUST_BUNDLE", "[a-z]{1,4}").prop_map(|(name, value)| json!({"name": name, "value": value}));
    let mount = "/[a-z]{1,8}".prop_map(|path| json!({"name": "data", "mountPath": path}));
    let container = (
        proptest::option::of(proptest::collection::vec(variable, 0..4)),
        proptest::option::of(proptest::collection::vec(mount, 0..3)),
    );
    let container = container.prop_map(|(env, mounts)| json!({"name": "c", "env": env, "volumeMounts": mounts}));
    proptest::collection::vec(container, 1..4).prop_map(Value::Array)
}

proptest! {
    /// The API server may call the webhook again after others. A second injection adds nothing, and existing fields stay.
    #[test]
    fn a_second_injection_changes_nothing(main in containers(), init in containers(), volumes in proptest::collection::vec("[a-c]{1,3}", 0..3)) {
        let volumes: Vec<Value> = volumes.into_iter().map(|name| json!({"name": name, "emptyDir": {}})).collect();
        let pod = json!({"spec": {"containers": main, "initContainers": init, "volumes": volumes, "nodeName": "n"}});
        let with_agent = inject_mode(&pod, InjectionMode::Agent).expect("injected");
        prop_assert_eq!(&inject_mode(&with_agent, InjectionMode::Agent).expect("injected"), &with_agent);
        let once = inject_identity(&pod).expect("injected");
        prop_assert_eq!(&inject_identity(&once).expect("injected"), &once);
        prop_assert_eq!(&once["spec"]["nodeName"], "n");
        prop_assert_eq!(once["spec"]["volumes"].as_array().map(|all| &all[..volumes.len()]), Some(&volumes[..]));
        for kind in ["containers", "initContainers"] {
            for (before, after) in pod["spec"][kind].as_array().into_iter().flatten().zip(once["spec"][kind].as_array().into_iter().flatten()) {
                for list in ["env", "volumeMounts"] {
                    let before = before[list].as_array().cloned().unwrap_or_default();
                    prop_assert_eq!(&after[list].as_array().expect("a list")[..before.len()], &before[..]);
                }
            }
        }
    }
}
