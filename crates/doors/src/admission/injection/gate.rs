//! The gate as a native sidecar: it starts before every other container and ends after them.

use crate::admission::injection::agent::{Agent, NAME as AGENT, PROOF, add_proof, restricted};
use crate::admission::injection::{LABEL, Refusal, list, set_variables};
use durward_identity::TRUST_BUNDLE_KEY;
use durward_protocol::upstream::Upstream;
use serde_json::{Value, json};

/// The container.
const NAME: &str = "durward-gate";
/// Where the application listens, as a port or a URL; otherwise it is the first port that a container names.
pub(super) const UPSTREAM: &str = "durward.dev/gate-upstream";
/// Where callers come in: what the Service's `targetPort` names.
const PORT: u16 = 8148;
/// Where the application calls others.
const OUTBOUND: &str = "127.0.0.1:8149";
/// Health and metrics.
const ADMIN: u16 = 8146;
/// The variable by which the application finds it.
const VARIABLE: &str = "DURWARD_OUTBOUND";

/// Adds container, volume and environment.
pub(super) fn inject(agent: &Agent, pod: &mut Value) -> Result<(), Refusal> {
    let upstream = upstream(pod)?;
    let Some(spec) = pod.get_mut("spec") else { return Ok(()) };
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        let message = "loopback is the node's in such a pod, and so would be its application; leave it out".to_owned();
        return Err(Refusal { field: "spec.hostNetwork".to_owned(), message });
    }
    if list(spec, "spec", "containers")?.iter().any(|container| container["name"] == NAME) {
        let message =
            format!("durward calls its gate so; call yours something else, or set the label {LABEL} to `none`");
        return Err(Refusal { field: "spec.containers".to_owned(), message });
    }
    add_proof(spec)?;
    set_variables(spec, NAME, &[(VARIABLE, format!("http://{OUTBOUND}"))])?;
    let sidecars = list(spec, "spec", "initContainers")?;
    if !sidecars.iter().any(|container| container["name"] == NAME) {
        // before the others, which may want to call somebody when they start
        sidecars.insert(0, container(agent, &upstream));
    }
    Ok(())
}

fn container(agent: &Agent, upstream: &str) -> Value {
    let ready = json!({"path": "/readyz", "port": ADMIN});
    json!({
        "name": NAME,
        "image": agent.image,
        "restartPolicy": "Always",
        "args": [
            "gate", format!("--controller={}", agent.controller), format!("--token-file={PROOF}/token"),
            format!("--ca-file={PROOF}/{TRUST_BUNDLE_KEY}"), format!("--trust-domain={}", agent.domain.trust_domain),
            format!("--cluster-domain={}", agent.domain.cluster_domain), format!("--upstream={upstream}"),
            format!("--listen=0.0.0.0:{PORT}"), format!("--outbound={OUTBOUND}"), format!("--admin=0.0.0.0:{ADMIN}"),
        ],
        "ports": [{"name": NAME, "containerPort": PORT, "protocol": "TCP"}],
        "volumeMounts": [{"name": AGENT, "mountPath": PROOF, "readOnly": true}],
        // the others start when it knows who it is and what to decide by
        "startupProbe": {"httpGet": ready, "periodSeconds": 1, "failureThreshold": 3600},
        "readinessProbe": {"httpGet": ready, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": restricted(),
    })
}

/// Where the application listens.
fn upstream(pod: &Value) -> Result<String, Refusal> {
    let annotation = pod.pointer("/metadata/annotations").and_then(|all| all.get(UPSTREAM)).and_then(Value::as_str);
    if let Some(text) = annotation {
        let url = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            format!("http://127.0.0.1:{text}")
        } else {
            text.to_owned()
        };
        let field = format!("metadata.annotations[{UPSTREAM}]");
        let read: Result<Upstream, _> = url.parse();
        return read.map(|_| url).map_err(|error| Refusal { field, message: error.to_string() });
    }
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let ports = containers.into_iter().flatten().filter_map(|container| container["ports"].as_array()).flatten();
    let tcp = |port: &&Value| port.get("protocol").is_none_or(|protocol| protocol == "TCP" || protocol.is_null());
    let first = ports.filter(tcp).find_map(|port| port["containerPort"].as_u64());
    let missing = || Refusal {
        field: "spec.containers[0].ports".to_owned(),
        message: format!("no port says where the application listens; name one, or set the annotation {UPSTREAM}"),
    };
    first.map(|port| format!("http://127.0.0.1:{port}")).ok_or_else(missing)
}
