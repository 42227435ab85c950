//! Identities for pods: certificates by Kubernetes' own PodCertificateRequests, the trust bundle that goes with them, and
//! the authorities and keys behind both.

mod authorities;
mod bundle;
mod exchange;
mod issue;
mod mint;
mod pods;
mod rotation;
mod secret;
mod served;
mod signer;
mod store;
mod token_keys;

pub(crate) use authorities::{Authorities, Trust};
pub(crate) use bundle::{Bundle, CONFIG_MAP, CONFIG_MAP_KEY, published_roots};
pub(crate) use exchange::{AccessToken, Refusal, SecondFactor, TokenRequest, TokenService};
pub(crate) use issue::Granted;
pub(crate) use mint::{AUDIENCE, Mint, MintError};
pub(crate) use rotation::{Carriers, Rotation};
pub use secret::Wish;
pub(crate) use secret::{ROTATE, text};
pub(crate) use served::Served;
pub(crate) use signer::{Signer, not_minted};
pub use store::Origin;
pub(crate) use store::{Seen, Store, stored_in};
pub(crate) use token_keys::{KeyStore, PERIOD, Ring, TOKEN_KEYS, TokenKeys};

/// Name of the signer, in pods' `podCertificate` volumes and trust bundles.
pub const SIGNER: &str = "durward.dev/workload";
