//! The agent as a native sidecar (Kubernetes 1.29 and up): it starts before every other container and ends after them.

use crate::admission::injection::mode::INJECTION_LABEL;
use crate::admission::injection::pod::{InjectionRefusal, MOUNT_PATH, VOLUME, add_volume, equip_all, list};
use crate::admission::injection::sidecar::{
    TOKEN_MOUNT_PATH, TOKEN_VOLUME, add_token_volume, is_in_host_network, security_context,
};
use crate::admission::webhook::SidecarSettings;
use durward_identity::TRUST_BUNDLE_KEY;
use serde_json::{Value, json};

/// Name of the container.
const NAME: &str = "durward-agent";
/// Port of its health endpoint.
const PORT: u16 = 8146;
/// The variable by which every SPIFFE library finds the agent (SPIFFE Workload Endpoint, section 4).
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// Adds container, volumes, mounts and variables.
pub(super) fn inject(settings: &SidecarSettings, spec: &mut Value) -> Result<(), InjectionRefusal> {
    // a volume in memory: the socket ends with the pod
    add_volume(spec, json!({"name": VOLUME, "emptyDir": {"medium": "Memory"}}), |other| {
        other.pointer("/emptyDir/medium").is_some_and(|medium| medium == "Memory")
    })?;
    add_token_volume(spec)?;
    if has_agent(spec, "containers") {
        return Err(InjectionRefusal::new(
            "spec.containers",
            format!(
                "the name {NAME} is reserved for durward's agent; rename the container, or set the label \
                 {INJECTION_LABEL} to `none`"
            ),
        ));
    }
    if has_agent(spec, "initContainers") {
        return equip_others(spec);
    }
    if is_in_host_network(spec) {
        return Err(InjectionRefusal::new(
            "spec.hostNetwork",
            format!(
                "the agent would serve the pod's identity to the whole node; remove this field, or set the label \
                 {INJECTION_LABEL} to `identity`"
            ),
        ));
    }
    equip_others(spec)?;
    // first, as the other containers may need an identity when they start
    list(spec, "spec", "initContainers")?.insert(0, container(settings));
    Ok(())
}

fn has_agent(spec: &Value, kind: &str) -> bool {
    let mut containers = spec.get(kind).and_then(Value::as_array).into_iter().flatten();
    containers.any(|container| container["name"] == NAME)
}

fn container(settings: &SidecarSettings) -> Value {
    let ready = json!({"path": "/readyz", "port": PORT});
    json!({
        "name": NAME,
        "image": settings.image,
        "restartPolicy": "Always",
        "args": [
            "agent", format!("--socket={MOUNT_PATH}/agent.sock"), format!("--controller={}", settings.controller),
            format!("--token-file={TOKEN_MOUNT_PATH}/token"),
            format!("--ca-file={TOKEN_MOUNT_PATH}/{TRUST_BUNDLE_KEY}"),
            format!("--health=0.0.0.0:{PORT}"), "--tcp=127.0.0.1:8147",
        ],
        "volumeMounts": [
            {"name": VOLUME, "mountPath": MOUNT_PATH},
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_MOUNT_PATH, "readOnly": true},
        ],
        // the other containers start once the agent has an identity
        "startupProbe": {"httpGet": ready, "periodSeconds": 1, "failureThreshold": 3600},
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": security_context(),
    })
}

/// Adds mount and variable to every container but the agent.
fn equip_others(spec: &mut Value) -> Result<(), InjectionRefusal> {
    let init_containers = list(spec, "spec", "initContainers")?;
    let position = init_containers.iter().position(|container| container["name"] == NAME);
    let agent = position.map(|i| (i, init_containers.remove(i)));
    equip_all(spec, &[(VARIABLE, format!("unix://{MOUNT_PATH}/agent.sock"))])?;
    if let Some((i, agent)) = agent {
        list(spec, "spec", "initContainers")?.insert(i, agent);
    }
    Ok(())
}
