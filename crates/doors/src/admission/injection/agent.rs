//! The agent as a native sidecar (Kubernetes 1.29 and up): it starts before every other container and ends after them.

use crate::admission::injection::{LABEL, MOUNT, Refusal, VOLUME, add_volume, equip_all, list};
use durward_identity::{DURWARD_AUDIENCE, TRUST_BUNDLE_CONFIG_MAP, TRUST_BUNDLE_KEY};
use durward_api::compile::ClusterDomains;
use serde_json::{Value, json};

/// The container, and the volume by which it proves itself, which no other container gets.
pub(super) const NAME: &str = "durward-agent";
/// Where that volume is mounted.
pub(super) const PROOF: &str = "/var/run/secrets/durward";
/// Port of its health.
const PORT: u16 = 8146;
/// The variable by which every SPIFFE library finds it (SPIFFE Workload Endpoint, section 4).
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// What agents run as, and whom they ask.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Image of Durward.
    pub image: String,
    /// The controller's token listener.
    pub controller: String,
    /// Names that policies are compiled for.
    pub domain: ClusterDomains,
}

impl Agent {
    /// Adds container, volumes, mounts and environment.
    pub(super) fn inject(&self, spec: &mut Value) -> Result<(), Refusal> {
        // a volume in memory: the socket is gone with the pod
        add_volume(spec, json!({"name": VOLUME, "emptyDir": {"medium": "Memory"}}), |other| {
            other.pointer("/emptyDir/medium").is_some_and(|medium| medium == "Memory")
        })?;
        add_proof(spec)?;
        let there = |kind: &str| {
            let all = spec.get(kind).and_then(Value::as_array).into_iter().flatten();
            all.enumerate().find(|(_, container)| container["name"] == NAME)
        };
        if there("containers").is_some() {
            let message =
                format!("durward calls its agent so; call yours something else, or set the label {LABEL} to `none`");
            return Err(Refusal { field: "spec.containers".to_owned(), message });
        }
        let present = there("initContainers").is_some();
        if present {
            return equip_others(spec);
        }
        if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
            let message = "loopback is the node's in such a pod, and so would be its identity; leave it out, or use the label's value `identity`".to_owned();
            return Err(Refusal { field: "spec.hostNetwork".to_owned(), message });
        }
        equip_others(spec)?;
        // before the others, which may want an identity when they start
        list(spec, "spec", "initContainers")?.insert(0, self.container());
        Ok(())
    }

    fn container(&self) -> Value {
        json!({
            "name": NAME,
            "image": self.image,
            "restartPolicy": "Always",
            "args": [
                "agent", format!("--socket={MOUNT}/agent.sock"), format!("--controller={}", self.controller),
                format!("--token-file={PROOF}/token"), format!("--ca-file={PROOF}/{TRUST_BUNDLE_KEY}"),
                format!("--health=0.0.0.0:{PORT}"), "--tcp=127.0.0.1:8147",
            ],
            "volumeMounts": [
                {"name": VOLUME, "mountPath": MOUNT},
                {"name": NAME, "mountPath": PROOF, "readOnly": true},
            ],
            // the others start when there is an identity to give
            "startupProbe": {"httpGet": {"path": "/readyz", "port": PORT}, "periodSeconds": 1, "failureThreshold": 3600},
            "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "securityContext": restricted(),
        })
    }
}

/// Without any right that a container of ours does not need.
pub(super) fn restricted() -> Value {
    json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
        "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
    })
}

/// Mount and environment for every container but the agent.
fn equip_others(spec: &mut Value) -> Result<(), Refusal> {
    let agent = list(spec, "spec", "initContainers")?.iter().position(|container| container["name"] == NAME);
    let agent = match agent {
        Some(i) => Some((i, list(spec, "spec", "initContainers")?.remove(i))),
        None => None,
    };
    equip_all(spec, &[(VARIABLE, format!("unix://{MOUNT}/agent.sock"))])?;
    if let Some((i, agent)) = agent {
        list(spec, "spec", "initContainers")?.insert(i, agent);
    }
    Ok(())
}

/// Adds the volume by which a sidecar proves itself to the controller.
pub(super) fn add_proof(spec: &mut Value) -> Result<(), Refusal> {
    add_volume(spec, proof(), |other| {
        let sources = other.pointer("/projected/sources").and_then(Value::as_array);
        sources
            .into_iter()
            .flatten()
            .any(|source| source.pointer("/serviceAccountToken/audience").is_some_and(|audience| audience == DURWARD_AUDIENCE))
    })
}

fn proof() -> Value {
    json!({"name": NAME, "projected": {"sources": [
        {"serviceAccountToken": {"audience": DURWARD_AUDIENCE, "path": "token", "expirationSeconds": 3600}},
        {"configMap": {"name": TRUST_BUNDLE_CONFIG_MAP, "items": [{"key": TRUST_BUNDLE_KEY, "path": TRUST_BUNDLE_KEY}]}},
    ]}})
}
