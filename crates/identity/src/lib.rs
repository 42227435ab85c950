//! Identities for pods: the CA and its rotation, certificates, access tokens, and the keys that sign tokens.
//!
//! It does not authenticate callers of a service, and it does not decide operations.
//! Begin with [`ca`], then [`issuance`], then [`tokens`].

pub mod ca;
pub mod certificates_api;
pub mod issuance;
pub mod names;
pub mod tokens;

pub use ca::authorities::{Authorities, TrustState};
pub use ca::bundle::{
    PublishedRootsError, TRUST_BUNDLE_CONFIG_MAP, TRUST_BUNDLE_KEY, TrustBundlePublisher, published_roots,
};
pub use ca::rotation::{CaRotation, PropagationWatchers};
pub use ca::secret::{CaSecretError, ROTATE_ANNOTATION, RotationRequest, SecretTextError, secret_text};
pub use ca::store::{CaSecretState, CaSource, CaStore, CaStoreError, ca_secret_names};
pub use certificates_api::CertificatesApi;
pub use issuance::issue::IssuedCertificate;
pub use issuance::mint::{CertificateMint, MintError, PodCredential};
pub use issuance::not_entitled_message;
pub use issuance::pods::LabelledPod;
pub use issuance::signer::PodCertificateSigner;
pub use names::{DURWARD_AUDIENCE, SIGNER_NAME};
pub use tokens::exchange::{AccessToken, ExchangeError, ExchangeRequest, FactorEvidence, TokenService};
pub use tokens::key_ring::{TokenKeyFileError, TokenKeyRing};
pub use tokens::key_store::{TOKEN_KEY_CHECK_INTERVAL, TOKEN_KEY_SCHEDULE, TokenKeyStore, TokenKeyStoreError};
pub use tokens::token_keys::TokenKeys;
