//! Causes of failed authentications.
//!
//! Causes are for the audit log alone: callers get the same answer for each of them. Audit records store the texts, so
//! a change of a text is a change of the record format.

use durward_pki::svid::SvidError;
use thiserror::Error;

/// The actual cause of a failure. No text contains any part of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Cause {
    /// The request has no credential.
    #[error("no credential")]
    NoCredential,
    /// The request has a credential, but none that the service accepts.
    #[error("the policy accepts no credential of this kind")]
    NotAccepted,
    /// The request repeats `Authorization` or the header for API keys.
    #[error("the header `{0}` is there more than once")]
    Repeated(String),
    /// `Authorization` has another scheme, or is malformed.
    #[error("the Authorization header is not `Bearer` and one token")]
    NotBearer,
    /// The credential is longer than the limit.
    #[error("the credential is too long")]
    TooLong,
    /// The token is not three segments of base64url.
    #[error("the token is no JWT: {0}")]
    Malformed(&'static str),
    /// A header parameter changes the meaning of the token.
    #[error("the token's header has `{0}`, which is not understood")]
    Critical(&'static str),
    /// `typ` names another type of token.
    #[error("the token is of another type than JWT and at+jwt")]
    Type,
    /// The token is not of the type that the exchange request names.
    #[error("the token is not of the type that the request names")]
    SubjectType,
    /// The algorithm is `none`, unknown, or uses a shared secret.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// The algorithm does not fit the key.
    #[error("the token's algorithm does not belong to its key")]
    AlgorithmOfKey,
    /// No accepted provider has the issuer of the token.
    #[error("the token is of an issuer that the policy does not accept")]
    Issuer,
    /// The issuer has no such key.
    #[error("the issuer has no key of the token's name")]
    UnknownKey,
    /// More keys of the issuer fit than are tried.
    #[error("the token does not say which key signed it, and too many keys of the issuer fit")]
    TooManyKeys,
    /// The issuer's keys were never fetched.
    #[error("the issuer's keys are not there: {0}")]
    NoKeys(String),
    /// The issuer's keys could not be refreshed for too long.
    #[error("the issuer's keys are too old; they could not be refreshed")]
    StaleKeys,
    /// The bundle of a federated trust domain was never fetched.
    #[error("the trust bundle of provider `{0}` is not there yet")]
    NoBundle(String),
    /// The bundle of a federated trust domain could not be refreshed for too long.
    #[error("the trust bundle of provider `{0}` is too old; it could not be refreshed")]
    StaleBundle(String),
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// A required claim is missing.
    #[error("the token has no `{0}`")]
    MissingClaim(&'static str),
    /// A claim has the wrong type.
    #[error("the token's `{0}` is of the wrong type")]
    ClaimType(&'static str),
    /// The token expired so many seconds ago.
    #[error("the token expired {0} s ago")]
    Expired(i64),
    /// The token becomes valid in so many seconds.
    #[error("the token is not valid before {0} s from now")]
    NotYetValid(i64),
    /// The token was issued so many seconds in the future.
    #[error("the token was issued {0} s in the future")]
    IssuedInFuture(i64),
    /// The token is for another service.
    #[error("the token is for another audience")]
    Audience,
    /// The subject is not a principal.
    #[error("the token's subject is no principal: {0}")]
    Subject(&'static str),
    /// The token is bound to a key that the caller did not present (RFC 7800, RFC 8705).
    #[error("the token is bound to a certificate that the caller did not show")]
    Binding,
    /// The key is not of the form `dwk_NAME_SECRET`.
    #[error("the API key is malformed")]
    KeyMalformed,
    /// No key has this name, or its secret is another one.
    #[error("the API key is unknown or wrong")]
    KeyWrong,
    /// The key has expired.
    #[error("the API key has expired")]
    KeyExpired,
    /// The certificate is not an SVID of the trust domain.
    #[error("{0}")]
    Svid(#[from] SvidError),
    /// The certificate has another trust domain, or an ID that is not a workload.
    #[error("the certificate is of another trust domain, or names no service account")]
    TrustDomain,
    /// The certificate has expired.
    #[error("the certificate has expired")]
    CertificateExpired,
    /// The pod or service account of the credential was deleted.
    #[error("the pod or service account that the credential was issued for is gone")]
    Gone,
    /// The forwarded certificate is malformed.
    #[error("the forwarded client certificate can't be used: {0}")]
    Forwarded(&'static str),
    /// The provider is missing or invalid.
    #[error("the provider `{0}` is not usable")]
    Provider(String),
}

impl Cause {
    /// How specific the cause is. If several authentication methods fail, the most specific cause is reported.
    pub const fn weight(&self) -> u8 {
        match self {
            Self::NoCredential => 0,
            Self::NotAccepted => 1,
            Self::Issuer | Self::TrustDomain | Self::Provider(_) => 2,
            _ => 3,
        }
    }
}
