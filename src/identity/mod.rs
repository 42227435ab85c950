//! Identities for pods: certificates by Kubernetes' own PodCertificateRequests, and the trust bundle that goes with them.

mod bundle;
mod issue;
mod signer;

pub(crate) use bundle::Bundle;
pub(crate) use signer::Signer;

/// Name of the signer, in pods' `podCertificate` volumes and trust bundles.
pub const SIGNER: &str = "durward.dev/workload";
