//! What is added to which pods.

use super::*;
use proptest::prelude::*;

fn injected(pod: &Value) -> Result<Value, Refusal> {
    as_asked(pod, Mode::Identity)
}

fn as_asked(pod: &Value, mode: Mode) -> Result<Value, Refusal> {
    let agent =
        Agent { image: "durward:1".to_owned(), controller: "https://durward.durward-system.svc:8145".to_owned() };
    let mut pod = pod.clone();
    inject(&mut pod, mode, &agent).map(|()| pod)
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
fn a_pod_gets_one_volume_a_mount_and_two_variables_and_nothing_else() {
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
    assert_eq!(injected(&pod), Ok(expected));
}

#[test]
fn the_agent_starts_first_and_keeps_its_proof_to_itself() {
    let pod = json!({"spec": {"initContainers": [{"name": "first"}], "containers": [{"name": "main"}]}});
    let pod = as_asked(&pod, Mode::Agent).expect("injected");
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
        assert_eq!(container["volumeMounts"], json!([mount()]), "the token is the agent's alone");
        let socket = json!([{"name": "SPIFFE_ENDPOINT_SOCKET", "value": "unix:///var/run/durward/agent.sock"}]);
        assert_eq!(container["env"], socket);
    }
    let on_node = json!({"spec": {"hostNetwork": true, "containers": [{"name": "main"}]}});
    assert_eq!(as_asked(&on_node, Mode::Agent).expect_err("refused").field, "spec.hostNetwork");
    let taken = json!({"spec": {"containers": [{"name": "durward-agent"}]}});
    assert_eq!(as_asked(&taken, Mode::Agent).expect_err("refused").field, "spec.containers");
}

#[test]
fn what_the_author_wrote_stays() {
    let own = json!({"name": "DURWARD_TRUST_BUNDLE", "value": "/elsewhere"});
    let pod = json!({"spec": {"containers": [{"name": "main", "env": [own]}]}});
    let pod = injected(&pod).expect("injected");
    let all = pod["spec"]["containers"][0]["env"].as_array().expect("variables").clone();
    assert!(all.len() == 2 && all[0] == own, "{all:?}");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let with = |volumes: Value, mounts: Value| json!({"spec": {"volumes": volumes, "initContainers": [], "containers": [{"name": "a"}, {"name": "b", "volumeMounts": mounts}]}});
    let mut half = files();
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
        assert_eq!(injected(&pod).expect_err("refused").field, field, "{pod}");
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
    /// The API server may ask again after other webhooks: nothing is added twice, and nothing that was there is lost.
    #[test]
    fn asking_twice_is_asking_once(main in containers(), init in containers(), volumes in proptest::collection::vec("[a-c]{1,3}", 0..3)) {
        let volumes: Vec<Value> = volumes.into_iter().map(|name| json!({"name": name, "emptyDir": {}})).collect();
        let pod = json!({"spec": {"containers": main, "initContainers": init, "volumes": volumes, "nodeName": "n"}});
        let with_agent = as_asked(&pod, Mode::Agent).expect("injected");
        prop_assert_eq!(&as_asked(&with_agent, Mode::Agent).expect("injected"), &with_agent);
        let once = injected(&pod).expect("injected");
        prop_assert_eq!(&injected(&once).expect("injected"), &once);
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
