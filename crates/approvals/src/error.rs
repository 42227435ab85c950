//! Why approvals can't be stored or signed.

use durward_kubernetes::requests::RequestError;
use durward_pki::token::TokenKeyError;
use durward_runtime::private_files::PrivateFileError;
use durward_runtime::random::RandomnessUnavailable;
use thiserror::Error;

/// An approval can't be read from the store or written to it.
#[derive(Debug, Error)]
pub enum ApprovalStoreError {
    /// The API server rejects the request, or does not respond.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A file or the folder can't be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// A file holds no approval.
    #[error("`{path}` is not an Approval: {source}; delete the file")]
    Malformed {
        /// The file.
        path: String,
        /// The mistake in it.
        source: serde_json::Error,
    },
    /// A file is larger than any approval.
    #[error("`{path}` is larger than any Approval; delete the file")]
    TooLarge {
        /// The file.
        path: String,
    },
    /// An approval can't be encoded.
    #[error("the Approval can't be encoded: {0}")]
    Encode(serde_json::Error),
    /// The system gives no random numbers.
    #[error(transparent)]
    Randomness(#[from] RandomnessUnavailable),
}

/// A decision can't be signed.
#[derive(Debug, Error)]
pub enum ApprovalSealError {
    /// The object lacks a member that the signature covers.
    #[error("the Approval has no name, uid or decision to sign")]
    Incomplete,
    /// There is no key now.
    #[error("there is no key to sign the Approval with")]
    NoKey,
    /// The key does not sign.
    #[error("the Approval can't be signed: {0}")]
    Signing(TokenKeyError),
}
