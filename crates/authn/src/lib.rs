//! Authentication: turns the credentials of a request into a `Principal`. No other crate makes principals.
//!
//! The crate does not decide what a principal may do, and never tells a caller why its credential was refused: the
//! [`Cause`] of a failure is for the audit log alone.
//!
//! Begin with [`Authenticator::authenticate`] in `authenticator`. Each kind of credential has its own module:
//! `workload`, `issuer`, `federation`, `certificate`, `api_key` and `access_token`.

pub mod access_token;
pub mod api_key;
mod authenticator;
pub mod bearer;
mod caller;
mod cause;
pub mod certificate;
mod credentials;
mod factor;
mod federation;
mod issuer;
pub mod jwt;
pub mod key_uses;
pub mod keys;
mod kubernetes_user;
pub mod liveness;
pub mod tls;
mod trust_domain;
mod workload;

pub use authenticator::{Authenticator, LocalVerdict, ProviderProblem, check_provider};
pub use caller::{AuthenticatedSubject, VerifiedCaller};
pub use cause::Cause;
pub use credentials::{AuthenticationFailure, Credentials, Expectation, SubjectToken};
pub use factor::{Factor, FactorProof};
pub use jwt::{carried_scopes, thumbprint};
pub use key_uses::KeyUses;
pub use keys::{KeySource, is_secure, restricted_client};
pub use kubernetes_user::{CREDENTIAL_ID, FACTOR, FACTOR_TIME, kubernetes_user};
pub use liveness::LivenessIndex;
pub use trust_domain::{ServiceAccountIssuer, TrustDomain};
