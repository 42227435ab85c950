//! Names that pods, the API server and Durward agree on.

/// Name of the signer, in `podCertificate` volumes of pods and in trust bundles.
pub const SIGNER_NAME: &str = "durward.dev/workload";
/// Audience of the service-account tokens by which pods authenticate to Durward.
pub const DURWARD_AUDIENCE: &str = "durward";
