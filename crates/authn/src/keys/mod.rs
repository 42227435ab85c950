//! Keys of token issuers: read from a JWKS (RFC 7517), fetched, and kept fresh.

mod fetch;
mod issuer_keys;
mod key_set;
mod source;
#[cfg(test)]
mod tests;
mod token_cache;
mod verification_key;

pub(crate) use fetch::{FETCH_TIMEOUT, fetch_document, web_client};
pub use fetch::{FetchError, fetch_jwks, restricted_client};
pub use issuer_keys::IssuerKeys;
pub use key_set::{KeySet, KeySetError};
pub use source::{KeySource, KeyUrlError, is_secure};
pub(crate) use token_cache::{CallerCache, caller_cache};
