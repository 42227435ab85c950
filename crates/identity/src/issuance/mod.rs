//! Certificates and tokens for pods: for PodCertificateRequests of kubelets, and for pods that ask the controller.

pub mod issue;
pub mod mint;
pub mod pods;
pub mod signer;

use durward_core::pods::NotEntitled;

/// Explains to the owner of a pod why the pod gets no identity.
pub fn not_entitled_message(reason: &NotEntitled, namespace: &str) -> String {
    match reason {
        NotEntitled::NoPolicy => format!(
            "no AccessPolicy is about this pod: select it with `spec.service.podSelector` of a policy in namespace \
             {namespace}, or name its service account in a grant"
        ),
        NotEntitled::Denied(rule) => format!("{rule} denies its service account"),
    }
}
