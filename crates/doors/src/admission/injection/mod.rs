//! Injects identity, agent or gate into pods that ask for it by a label.
//!
//! The signer decides by the policies which pods get a certificate; injection only prepares the pod for it.

mod agent;
mod gate;
mod identity;
mod mode;
mod pod;
mod sidecar;

pub use mode::{INJECTION_LABEL, InjectionMode};

use crate::admission::webhook::{AdmissionWebhooks, ReviewRequest, SidecarSettings, refuse};
use axum::http::StatusCode;
use durward_core::pods::NotEntitled;
use durward_core::principal::PrincipalId;
use durward_identity::not_entitled_message;
use kube::core::admission::AdmissionResponse;
use pod::InjectionRefusal;
use serde_json::Value;
use std::collections::BTreeMap;

/// Annotation of a pod that a node runs from a file of its own; such a pod can't have these volumes.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Answers the API server about one pod. The pod's own label takes precedence over its namespace's.
pub(super) fn admit(
    webhooks: &AdmissionWebhooks,
    request: &ReviewRequest,
    namespace_mode: Option<InjectionMode>,
) -> AdmissionResponse {
    let Some(object) = &request.object else {
        return AdmissionResponse::from(request);
    };
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let mode = match labels.get(INJECTION_LABEL) {
        None => namespace_mode.unwrap_or(InjectionMode::None),
        Some(label) => match InjectionMode::from_label(label) {
            Some(mode) => mode,
            None => {
                let message = format!("`{label}` is not known; use `identity`, `agent`, `gate` or `none`");
                let refusal = InjectionRefusal::new(format!("metadata.labels[{INJECTION_LABEL}]"), message);
                return refused(request, &refusal);
            }
        },
    };
    let is_mirror = object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR_ANNOTATION));
    if mode == InjectionMode::None || is_mirror {
        return AdmissionResponse::from(request);
    }
    let Ok(before) = serde_json::to_value(object) else {
        return refused(request, &InjectionRefusal::new("spec", "the pod can't be read"));
    };
    let mut pod = before.clone();
    if let Err(refusal) = inject(&mut pod, mode, &webhooks.sidecars) {
        return refused(request, &refusal);
    }
    let mut response = AdmissionResponse::from(request);
    let patch = json_patch::diff(&before, &pod);
    if !patch.is_empty() {
        response = match response.with_patch(patch) {
            Ok(response) => response,
            Err(error) => return refused(request, &InjectionRefusal::new("spec", error.to_string())),
        };
    }
    if let Some(warning) = warning(webhooks, request, &before, &labels) {
        response.warnings = Some(vec![warning]);
    }
    response
}

/// Warns about a pod that no policy selects, which would wait for its certificate without any message.
fn warning(
    webhooks: &AdmissionWebhooks,
    request: &ReviewRequest,
    pod: &Value,
    labels: &BTreeMap<String, String>,
) -> Option<String> {
    let namespace = request.namespace.as_deref().unwrap_or_default();
    let account = pod.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or("default");
    let snapshot = webhooks.engine.snapshot();
    let entitlement = match PrincipalId::workload(&webhooks.trust_domain, namespace, account) {
        Ok(id) => snapshot.certificate_entitlement(&id, namespace, labels),
        Err(_) => Err(NotEntitled::NoPolicy),
    };
    let reason = entitlement.err()?;
    Some(format!("durward: {}; until then it waits for its certificate", not_entitled_message(&reason, namespace)))
}

fn refused(request: &ReviewRequest, InjectionRefusal { field, message }: &InjectionRefusal) -> AdmissionResponse {
    refuse(request, StatusCode::UNPROCESSABLE_ENTITY, "Invalid", format!("{field}: {message}"))
}

/// Adds what the mode stands for to a pod.
fn inject(pod: &mut Value, mode: InjectionMode, settings: &SidecarSettings) -> Result<(), InjectionRefusal> {
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else {
        return Err(InjectionRefusal::new("spec", "the pod has no spec"));
    };
    match mode {
        InjectionMode::None => Ok(()),
        InjectionMode::Identity => identity::inject(spec),
        InjectionMode::Agent => agent::inject(settings, spec),
        InjectionMode::Gate => gate::inject(settings, pod),
    }
}

#[cfg(test)]
mod tests;
