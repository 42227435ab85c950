//! Identities for pods: the CA and its rotation, certificates, tokens, and the keys that sign them.
//!
//! It authenticates no caller of a service and decides no operation.
//! Begin with [`ca`], then [`issuance`], then [`tokens`].

pub mod ca;
pub mod issuance;
pub mod tokens;

pub use ca::authorities::{Authorities, Trust};
pub use ca::bundle::{Bundle, CONFIG_MAP, CONFIG_MAP_KEY, published_roots};
pub use ca::rotation::{Carriers, Rotation};
pub use ca::secret::{ROTATE, Wish, text};
pub use ca::store::{Origin, Seen, Store, stored_in};
pub use issuance::issue::Granted;
pub use issuance::mint::{AUDIENCE, Mint, MintError};
pub use issuance::served::Served;
pub use issuance::signer::{Signer, not_minted};
pub use tokens::exchange::{AccessToken, Refusal, SecondFactor, TokenRequest, TokenService};
pub use tokens::token_keys::{KeyStore, PERIOD, Ring, TOKEN_KEYS, TokenKeys};

/// Name of the signer, in pods' `podCertificate` volumes and trust bundles.
pub const SIGNER: &str = "durward.dev/workload";
