//! Why the state directory can't be used.

use durward_identity::TokenKeyFileError;
use durward_pki::authority::AuthorityError;
use durward_pki::token::TokenKeyError;
use durward_runtime::private_files::PrivateFileError;
use durward_runtime::random::RandomnessUnavailable;
use thiserror::Error;

/// The state directory can't be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// No directory is given, and the user has no home directory.
    #[error("there is no home directory for the state; name a directory with --state")]
    NoDirectory,
    /// The directory or a file in it can't be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The certificate authority is not valid.
    #[error(
        "the CA in `{path}` can't be used: {source}; move the directory away to start with a new CA, \
         which makes every certificate of this one invalid"
    )]
    Authority {
        /// The directory.
        path: String,
        /// What is wrong with the authority.
        source: AuthorityError,
    },
    /// The certificate authority belongs to another trust domain.
    #[error(
        "the CA in `{path}` does not belong to the trust domain `{requested}`; set --trust-domain to its own, \
         or use another --state"
    )]
    OtherTrustDomain {
        /// The directory.
        path: String,
        /// The requested trust domain.
        requested: String,
    },
    /// A certificate can't be issued.
    #[error("can't issue a certificate: {0}")]
    Issue(#[source] AuthorityError),
    /// The file of a token key or of the audit key is not valid.
    #[error("a key in `{path}` can't be used: {source}")]
    KeyFile {
        /// The directory.
        path: String,
        /// What is wrong with the file.
        source: TokenKeyFileError,
    },
    /// The audit key is not valid.
    #[error(
        "the key of the audit log `{path}` can't be used: {source}; restore it, or move it away to start with a new \
         key, and keep the old public key for the old log"
    )]
    AuditKey {
        /// The file.
        path: String,
        /// What is wrong with the key.
        source: TokenKeyError,
    },
    /// A token key or the audit key can't be generated.
    #[error("can't generate a key for `{path}`: {source}")]
    KeyGeneration {
        /// The directory.
        path: String,
        /// What went wrong.
        source: TokenKeyError,
    },
    /// The system gives no random numbers.
    #[error(transparent)]
    Randomness(#[from] RandomnessUnavailable),
}
