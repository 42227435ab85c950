//! JSON Web Tokens (RFC 7519), verified as RFC 8725 recommends.
//!
//! `UnverifiedToken` → `VerifiedClaims` → caller. [`TokenVerification`] is the one place with these steps.

mod claims;
mod confirmation;
mod mapped;
mod token;
mod verification;

pub(crate) use claims::LEEWAY;
pub use claims::{VerifiedClaims, carried_scopes};
pub use confirmation::thumbprint;
pub(crate) use mapped::{MappedClaims, second_factor};
pub use token::UnverifiedToken;
pub(crate) use token::has_access_token_type;
pub(crate) use verification::{TokenVerification, token_assurance};
