//! Identities for pods: the CA and its rotation, certificates, tokens, and the keys that sign them.
//!
//! It authenticates no caller of a service and decides no operation.
//! Begin with [`ca`], then [`issuance`], then [`tokens`].

pub mod ca;
pub mod issuance;
pub mod tokens;

pub use ca::authorities::{Authorities, TrustState};
pub use ca::bundle::{TRUST_BUNDLE_CONFIG_MAP, TRUST_BUNDLE_KEY, TrustBundlePublisher, published_roots};
pub use ca::rotation::{CaRotation, PropagationWatchers};
pub use ca::secret::{ROTATE_ANNOTATION, RotationRequest, secret_text};
pub use ca::store::{CaSecretState, CaSource, CaStore, ca_secret_names};
pub use issuance::issue::IssuedCertificate;
pub use issuance::mint::{AUDIENCE, CertificateMint, MintError};
pub use issuance::pods::LabelledPod;
pub use issuance::served::CertificatesApi;
pub use issuance::signer::{PodCertificateSigner, not_entitled_message};
pub use tokens::exchange::{AccessToken, ExchangeError, ExchangeRequest, FactorEvidence, TokenService};
pub use tokens::token_keys::{TOKEN_KEY_CHECK_INTERVAL, TOKEN_KEY_SCHEDULE, TokenKeyRing, TokenKeyStore, TokenKeys};

/// Name of the signer, in pods' `podCertificate` volumes and trust bundles.
pub const SIGNER_NAME: &str = "durward.dev/workload";
