//! What the agent and the gate have in common as sidecars.

use crate::admission::injection::pod::{InjectionRefusal, add_volume};
use durward_identity::{DURWARD_AUDIENCE, TRUST_BUNDLE_CONFIG_MAP, TRUST_BUNDLE_KEY};
use serde_json::{Value, json};

/// Volume with the token by which a sidecar authenticates to the controller. No other container gets it.
pub(super) const TOKEN_VOLUME: &str = "durward-agent";
/// Where that volume is mounted.
pub(super) const TOKEN_MOUNT_PATH: &str = "/var/run/secrets/durward";

/// A security context without any right that the sidecars don't need.
pub(super) fn security_context() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
        "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Adds the volume with the token and the roots of the controller's certificate.
pub(super) fn add_token_volume(spec: &mut Value) -> Result<(), InjectionRefusal> {
    let volume = json!({"name": TOKEN_VOLUME, "projected": {"sources": [
        {"serviceAccountToken": {"audience": DURWARD_AUDIENCE, "path": "token", "expirationSeconds": 3600}},
        {"configMap": {
            "name": TRUST_BUNDLE_CONFIG_MAP, "items": [{"key": TRUST_BUNDLE_KEY, "path": TRUST_BUNDLE_KEY}],
        }},
    ]}});
    add_volume(spec, volume, |other| {
        let sources = other.pointer("/projected/sources").and_then(Value::as_array);
        let mut audiences =
            sources.into_iter().flatten().filter_map(|source| source.pointer("/serviceAccountToken/audience"));
        audiences.any(|audience| audience == DURWARD_AUDIENCE)
    })
}

pub(super) fn is_in_host_network(spec: &Value) -> bool {
    spec.get("hostNetwork").and_then(Value::as_bool) == Some(true)
}
