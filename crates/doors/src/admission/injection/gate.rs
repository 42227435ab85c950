//! The gate as a native sidecar: it starts before every other container and ends after them.

use crate::admission::injection::mode::INJECTION_LABEL;
use crate::admission::injection::pod::{InjectionRefusal, list, set_variables};
use crate::admission::injection::sidecar::{
    TOKEN_MOUNT_PATH, TOKEN_VOLUME, add_token_volume, is_in_host_network, security_context,
};
use crate::admission::webhook::SidecarSettings;
use durward_identity::TRUST_BUNDLE_KEY;
use durward_protocol::upstream::Upstream;
use serde_json::{Value, json};

/// Name of the container.
const NAME: &str = "durward-gate";
/// Annotation with the port or URL of the application. Without it, the first container port is used.
pub(super) const UPSTREAM_ANNOTATION: &str = "durward.dev/gate-upstream";
/// Port for callers, which the Service's `targetPort` names.
const PORT: u16 = 8148;
/// Address for the application's outbound calls.
const OUTBOUND_ADDRESS: &str = "127.0.0.1:8149";
/// Port of health and metrics.
const ADMIN_PORT: u16 = 8146;
/// The variable by which the application finds the gate.
const VARIABLE: &str = "DURWARD_OUTBOUND";

/// Adds container, volume and variables.
pub(super) fn inject(settings: &SidecarSettings, pod: &mut Value) -> Result<(), InjectionRefusal> {
    let upstream = upstream(pod)?;
    let Some(spec) = pod.get_mut("spec") else { return Ok(()) };
    if is_in_host_network(spec) {
        return Err(InjectionRefusal::new(
            "spec.hostNetwork",
            "the whole node could reach the application past the gate; remove this field",
        ));
    }
    if list(spec, "spec", "containers")?.iter().any(|container| container["name"] == NAME) {
        return Err(InjectionRefusal::new(
            "spec.containers",
            format!(
                "the name {NAME} is reserved for durward's gate; rename the container, or set the label \
                 {INJECTION_LABEL} to `none`"
            ),
        ));
    }
    add_token_volume(spec)?;
    set_variables(spec, NAME, &[(VARIABLE, format!("http://{OUTBOUND_ADDRESS}"))])?;
    let sidecars = list(spec, "spec", "initContainers")?;
    if !sidecars.iter().any(|container| container["name"] == NAME) {
        // first, as the other containers may call services when they start
        sidecars.insert(0, container(settings, &upstream));
    }
    Ok(())
}

fn container(settings: &SidecarSettings, upstream: &str) -> Value {
    let ready = json!({"path": "/readyz", "port": ADMIN_PORT});
    json!({
        "name": NAME,
        "image": settings.image,
        "restartPolicy": "Always",
        "args": [
            "gate", format!("--controller={}", settings.controller),
            format!("--token-file={TOKEN_MOUNT_PATH}/token"),
            format!("--ca-file={TOKEN_MOUNT_PATH}/{TRUST_BUNDLE_KEY}"),
            format!("--trust-domain={}", settings.domains.trust_domain),
            format!("--cluster-domain={}", settings.domains.cluster_domain), format!("--upstream={upstream}"),
            format!("--listen=0.0.0.0:{PORT}"), format!("--outbound={OUTBOUND_ADDRESS}"),
            format!("--admin=0.0.0.0:{ADMIN_PORT}"),
        ],
        "ports": [{"name": NAME, "containerPort": PORT, "protocol": "TCP"}],
        "volumeMounts": [{"name": TOKEN_VOLUME, "mountPath": TOKEN_MOUNT_PATH, "readOnly": true}],
        // the other containers start once the gate has its identity and its policies
        "startupProbe": {"httpGet": ready, "periodSeconds": 1, "failureThreshold": 3600},
        "readinessProbe": {"httpGet": ready, "periodSeconds": 5},
        "resources": {"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": security_context(),
    })
}

/// URL of the application.
fn upstream(pod: &Value) -> Result<String, InjectionRefusal> {
    let annotations = pod.pointer("/metadata/annotations");
    if let Some(text) = annotations.and_then(|all| all.get(UPSTREAM_ANNOTATION)).and_then(Value::as_str) {
        let is_port = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let url = if is_port { format!("http://127.0.0.1:{text}") } else { text.to_owned() };
        return match url.parse::<Upstream>() {
            Ok(_) => Ok(url),
            Err(error) => {
                Err(InjectionRefusal::new(format!("metadata.annotations[{UPSTREAM_ANNOTATION}]"), error.to_string()))
            }
        };
    }
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let ports = containers.into_iter().flatten().filter_map(|container| container["ports"].as_array()).flatten();
    let is_tcp = |port: &&Value| port.get("protocol").is_none_or(|protocol| protocol == "TCP" || protocol.is_null());
    match ports.filter(is_tcp).find_map(|port| port["containerPort"].as_u64()) {
        Some(port) => Ok(format!("http://127.0.0.1:{port}")),
        None => Err(InjectionRefusal::new(
            "spec.containers[0].ports",
            format!(
                "no port says where the application listens; declare one, or set the annotation {UPSTREAM_ANNOTATION}"
            ),
        )),
    }
}
