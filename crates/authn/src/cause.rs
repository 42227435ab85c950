//! Why an authentication failed. For the audit log alone: callers get one answer for all of these.

use durward_pki::svid::SvidError;
use thiserror::Error;

/// The true cause of a failure. No text holds any part of a credential.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Cause {
    /// Nothing there to check.
    #[error("no credential")]
    NoCredential,
    /// There is a credential, but none that the service accepts.
    #[error("the policy accepts no credential of this kind")]
    NotAccepted,
    /// More than one `Authorization` or key header.
    #[error("the header `{0}` is there more than once")]
    Repeated(String),
    /// `Authorization` of another scheme or shape.
    #[error("the Authorization header is not `Bearer` and one token")]
    NotBearer,
    /// Longer than any token.
    #[error("the credential is too long")]
    TooLong,
    /// Not three segments of base64url.
    #[error("the token is no JWT: {0}")]
    Malformed(&'static str),
    /// A header parameter that changes what the token means.
    #[error("the token's header has `{0}`, which is not understood")]
    Critical(&'static str),
    /// `typ` of something else.
    #[error("the token is of another type than JWT and at+jwt")]
    Type,
    /// Another kind of token than the caller said.
    #[error("the token is not of the type that the request names")]
    SubjectType,
    /// `none`, or an algorithm nobody should use.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// An algorithm that does not go with the key.
    #[error("the token's algorithm does not belong to its key")]
    AlgorithmOfKey,
    /// No issuer, or one that no accepted provider has.
    #[error("the token is of an issuer that the policy does not accept")]
    Issuer,
    /// The issuer has no such key.
    #[error("the issuer has no key of the token's name")]
    UnknownKey,
    /// No `kid`, and more than one key.
    #[error("the token does not name its key, and the issuer has several")]
    UnnamedKey,
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
    /// Wrong signature.
    #[error("the token's signature is wrong")]
    Signature,
    /// A claim that has to be there.
    #[error("the token has no `{0}`")]
    MissingClaim(&'static str),
    /// A claim of the wrong type.
    #[error("the token's `{0}` is of the wrong type")]
    ClaimType(&'static str),
    /// Past its end.
    #[error("the token expired {0} s ago")]
    Expired(i64),
    /// Before its beginning.
    #[error("the token is not valid before {0} s from now")]
    NotYetValid(i64),
    /// Issued in the future.
    #[error("the token was issued {0} s in the future")]
    IssuedInFuture(i64),
    /// For another service.
    #[error("the token is for another audience")]
    Audience,
    /// A subject that is no principal.
    #[error("the token's subject is no principal: {0}")]
    Subject(&'static str),
    /// Bound to a key that the caller did not show (RFC 7800, RFC 8705).
    #[error("the token is bound to a certificate that the caller did not show")]
    Binding,
    /// Claims that are larger than they may be.
    #[error("the token's mapped claims are too large")]
    TooManyClaims,
    /// Not `dwk_NAME_SECRET`.
    #[error("the API key is malformed")]
    KeyMalformed,
    /// No such key, or another secret.
    #[error("the API key is unknown or wrong")]
    KeyWrong,
    /// A key past its end.
    #[error("the API key has expired")]
    KeyExpired,
    /// A certificate that is no SVID of this trust domain.
    #[error("{0}")]
    Svid(#[from] SvidError),
    /// Another trust domain, or an ID of ours that is nobody's.
    #[error("the certificate is of another trust domain, or names no service account")]
    TrustDomain,
    /// Past its end.
    #[error("the certificate has expired")]
    CertificateExpired,
    /// Issued for somebody who lives no more.
    #[error("the pod or service account that the credential was issued for is gone")]
    Gone,
    /// A forwarded certificate that can't be understood.
    #[error("the forwarded client certificate can't be used: {0}")]
    Forwarded(&'static str),
    /// A provider that is not usable.
    #[error("the provider `{0}` is not usable")]
    Provider(String),
}

impl Cause {
    /// How much it says about the credential that was shown; of several ways in, the best cause is told.
    pub const fn weight(&self) -> u8 {
        match self {
            Self::NoCredential => 0,
            Self::NotAccepted => 1,
            Self::Issuer | Self::TrustDomain | Self::Provider(_) => 2,
            _ => 3,
        }
    }
}
