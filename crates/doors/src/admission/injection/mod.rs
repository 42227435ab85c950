//! Pods that ask for an identity by a label get the volume that brings it.
//!
//! Who gets a certificate is the signer's to decide, by the policies; here a pod is only given the place where it finds it.

mod agent;
mod gate;

pub use agent::Agent;

use crate::admission::{Request, Webhooks, refuse};
use axum::http::StatusCode;
use durward_core::pods::NotEntitled;
use durward_core::principal::PrincipalId;
use durward_identity::{SIGNER_NAME, not_entitled_message};
use kube::core::admission::AdmissionResponse;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Label of pods and namespaces.
pub const LABEL: &str = "durward.dev/inject";
/// Volume that containers get.
const VOLUME: &str = "durward";
/// Where it is mounted in every container.
const MOUNT: &str = "/var/run/durward";
/// Key and certificate chain in one file, as kubelet writes them.
const CREDENTIALS: &str = "credential-bundle.pem";
/// Roots of the trust domain.
const ROOTS: &str = "trust-bundle.pem";
/// What containers are told.
const ENVIRONMENT: [(&str, &str); 2] = [("DURWARD_CREDENTIAL_BUNDLE", CREDENTIALS), ("DURWARD_TRUST_BUNDLE", ROOTS)];
/// A pod that a node runs by a file of its own; it can't have such volumes.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What a pod asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Certificate and trust bundle, as files.
    Identity,
    /// The agent beside the containers: SPIFFE Workload API and Envoy's SDS.
    Agent,
    /// The gate before the application.
    Gate,
    /// Nothing, whatever its namespace says.
    Nothing,
}

impl Mode {
    /// Those that ask for something.
    pub const ASKED: [Self; 3] = [Self::Identity, Self::Agent, Self::Gate];

    /// As the label has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Agent => "agent",
            Self::Gate => "gate",
            Self::Nothing => "none",
        }
    }

    fn of(label: &str) -> Option<Self> {
        Self::ASKED.into_iter().chain([Self::Nothing]).find(|mode| mode.as_str() == label)
    }
}

/// Why a pod can't be given what it asks for.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    field: String,
    message: String,
}

/// Answers the API server about one pod; `of_namespace` is what the namespace asks for, which the pod's own label overrules.
pub(super) fn admit(webhooks: &Webhooks, request: &Request, of_namespace: Option<Mode>) -> AdmissionResponse {
    let Some(object) = &request.object else {
        return AdmissionResponse::from(request);
    };
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let mode = match labels.get(LABEL) {
        Some(label) => match Mode::of(label) {
            Some(mode) => mode,
            None => {
                let field = format!("metadata.labels[{LABEL}]");
                let message = format!("`{label}` is not known; use `identity`, `agent`, `gate` or `none`");
                return refused(request, &Refusal { field, message });
            }
        },
        None => of_namespace.unwrap_or(Mode::Nothing),
    };
    let mirror = object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR));
    if mode == Mode::Nothing || mirror {
        return AdmissionResponse::from(request);
    }
    let Ok(before) = serde_json::to_value(object) else {
        return refused(request, &Refusal { field: "spec".to_owned(), message: "the pod can't be read".to_owned() });
    };
    let mut pod = before.clone();
    if let Err(refusal) = inject(&mut pod, mode, &webhooks.agent) {
        return refused(request, &refusal);
    }
    let response = AdmissionResponse::from(request);
    let response = match json_patch::diff(&before, &pod) {
        patch if patch.is_empty() => response,
        patch => match response.with_patch(patch) {
            Ok(response) => response,
            Err(error) => {
                return refused(request, &Refusal { field: "spec".to_owned(), message: error.to_string() });
            }
        },
    };
    warned(webhooks, request, &before, &labels, response)
}

/// A pod that no policy is about would wait for its certificate without a word; its owner is told here first.
fn warned(
    webhooks: &Webhooks,
    request: &Request,
    pod: &Value,
    labels: &BTreeMap<String, String>,
    mut response: AdmissionResponse,
) -> AdmissionResponse {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let account = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or("default");
    let id = PrincipalId::workload(&webhooks.trust_domain, namespace, account);
    let snapshot = webhooks.engine.snapshot();
    let minting =
        id.map_err(|_| NotEntitled::NoPolicy).and_then(|id| snapshot.certificate_entitlement(&id, namespace, labels));
    if let Err(why) = minting {
        let warning =
            format!("durward: {}; until then it waits for its certificate", not_entitled_message(&why, namespace));
        response.warnings = Some(vec![warning]);
    }
    response
}

fn refused(request: &Request, Refusal { field, message }: &Refusal) -> AdmissionResponse {
    refuse(request, StatusCode::UNPROCESSABLE_ENTITY, "Invalid", format!("{field}: {message}"))
}

/// Adds what the mode asks for to a pod; what is there already stays.
fn inject(pod: &mut Value, mode: Mode, agent: &Agent) -> Result<(), Refusal> {
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else {
        return Err(Refusal { field: "spec".to_owned(), message: "the pod has none".to_owned() });
    };
    match mode {
        Mode::Nothing => Ok(()),
        Mode::Identity => {
            add_volume(spec, files(), is_ours)?;
            let environment = ENVIRONMENT.map(|(name, file)| (name, format!("{MOUNT}/{file}")));
            equip_all(spec, &environment)
        }
        Mode::Agent => agent.inject(spec),
        Mode::Gate => gate::inject(agent, pod),
    }
}

/// Adds a volume, unless one of its name is there already that will do.
fn add_volume(spec: &mut Value, volume: Value, will_do: impl Fn(&Value) -> bool) -> Result<(), Refusal> {
    let volumes = list(spec, "spec", "volumes")?;
    let there = volumes.iter().enumerate().find(|(_, other)| other.get("name") == volume.get("name"));
    let taken = there.filter(|(_, other)| !will_do(other)).map(|(i, _)| i);
    if let Some(i) = taken {
        let message = format!(
            "durward brings the pod's identity in a volume of this name; call yours something else, or set the label {LABEL} to `none`"
        );
        return Err(Refusal { field: format!("spec.volumes[{i}]"), message });
    }
    if there.is_none() {
        volumes.push(volume);
    }
    Ok(())
}

/// Gives every container the mount and the environment.
fn equip_all(spec: &mut Value, environment: &[(&str, String)]) -> Result<(), Refusal> {
    for kind in ["initContainers", "containers"] {
        if spec.get(kind).is_none_or(Value::is_null) {
            continue;
        }
        for (i, container) in list(spec, "spec", kind)?.iter_mut().enumerate() {
            equip(container, &format!("spec.{kind}[{i}]"), environment)?;
        }
    }
    Ok(())
}

/// The volume with files that kubelet keeps fresh.
fn files() -> Value {
    json!({"name": VOLUME, "projected": {"sources": [
        {"podCertificate": {"signerName": SIGNER_NAME, "keyType": "ECDSAP256", "credentialBundlePath": CREDENTIALS}},
        {"clusterTrustBundle": {"signerName": SIGNER_NAME, "labelSelector": {}, "path": ROOTS}},
    ]}})
}

/// Whether a volume brings what containers are told to be there, whoever wrote it.
fn is_ours(volume: &Value) -> bool {
    let sources = volume.pointer("/projected/sources").and_then(Value::as_array);
    let has = |kind: &str, key: &str, path: &str| {
        let mut all = sources.into_iter().flatten().map(|source| &source[kind]);
        all.any(|source| source["signerName"] == SIGNER_NAME && source[key] == path)
    };
    has("podCertificate", "credentialBundlePath", CREDENTIALS) && has("clusterTrustBundle", "path", ROOTS)
}

/// Gives one container the mount and the environment.
fn equip(container: &mut Value, field: &str, environment: &[(&str, String)]) -> Result<(), Refusal> {
    let mounts = list(container, field, "volumeMounts")?;
    let at = |mount: &Value| mount["mountPath"].as_str().map(|path| path.trim_end_matches('/').to_owned());
    match mounts.iter().position(|mount| at(mount).as_deref() == Some(MOUNT)) {
        None => mounts.push(json!({"name": VOLUME, "mountPath": MOUNT, "readOnly": true})),
        Some(i) if mounts.get(i).is_some_and(|mount| mount["name"] == VOLUME) => {}
        Some(i) => {
            let message = format!(
                "durward mounts the pod's identity at {MOUNT}; mount yours elsewhere, or set the label {LABEL} to `none`"
            );
            return Err(Refusal { field: format!("{field}.volumeMounts[{i}]"), message });
        }
    }
    add_variables(container, field, environment)
}

/// Gives every container but one of ours the environment alone.
fn set_variables(spec: &mut Value, but: &str, environment: &[(&str, String)]) -> Result<(), Refusal> {
    for kind in ["initContainers", "containers"] {
        if spec.get(kind).is_none_or(Value::is_null) {
            continue;
        }
        for (i, container) in list(spec, "spec", kind)?.iter_mut().enumerate() {
            if container["name"] != but {
                add_variables(container, &format!("spec.{kind}[{i}]"), environment)?;
            }
        }
    }
    Ok(())
}

fn add_variables(container: &mut Value, field: &str, environment: &[(&str, String)]) -> Result<(), Refusal> {
    let variables = list(container, field, "env")?;
    for (name, value) in environment {
        // what the pod's author says counts
        if !variables.iter().any(|variable| variable["name"] == *name) {
            variables.push(json!({"name": name, "value": value}));
        }
    }
    Ok(())
}

/// A list in an object, made if it is not there.
fn list<'v>(object: &'v mut Value, field: &str, name: &str) -> Result<&'v mut Vec<Value>, Refusal> {
    let wrong = || Refusal { field: format!("{field}.{name}"), message: "it is no list".to_owned() };
    let slot = object.as_object_mut().ok_or_else(wrong)?.entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = json!([]);
    }
    slot.as_array_mut().ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
