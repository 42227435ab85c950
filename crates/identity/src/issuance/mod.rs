//! Certificates and tokens for pods.

pub mod issue;
pub mod mint;
pub mod pods;
pub mod served;
pub mod signer;
