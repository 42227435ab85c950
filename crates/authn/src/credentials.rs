//! What a caller presents, and what a service expects.

use crate::bearer::{self, Bearer};
use crate::cause::Cause;
use durward_core::authentication::AuthenticationMethod;
use http::HeaderMap;
use rustls_pki_types::CertificateDer;
use std::fmt;

/// The credentials of a request.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Headers of the request.
    pub headers: &'a HeaderMap,
    /// Certificate chain of the caller, leaf first, verified in the handshake.
    pub certificate: Option<&'a [CertificateDer<'a>]>,
    /// Whether the peer is trusted to forward the certificate of its own client.
    pub client_cert_header_trusted: bool,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// The credentials of a request, with the bearer token read once for all authentication methods.
pub(crate) struct PresentedCredentials<'c> {
    pub credentials: &'c Credentials<'c>,
    bearer: Result<Option<Bearer<'c>>, Cause>,
}

impl<'c> PresentedCredentials<'c> {
    pub fn new(credentials: &'c Credentials<'c>) -> Self {
        Self { credentials, bearer: bearer::from_headers(credentials.headers) }
    }

    pub fn bearer(&self) -> Result<Option<&Bearer<'_>>, Cause> {
        self.bearer.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }
}

/// A token to exchange, with the type that its bearer states (RFC 8693, section 3).
#[derive(Clone, Copy)]
pub enum SubjectToken<'t> {
    /// Any JWT.
    Jwt(&'t str),
    /// An access token, of an external issuer or of our own token service.
    AccessToken(&'t str),
}

/// Writes the type's name alone; the token is secret.
impl fmt::Debug for SubjectToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubjectToken").finish_non_exhaustive()
    }
}

/// What a service expects of callers.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// Expected audience of tokens.
    pub audience: &'a str,
    /// Accepted authentication methods, in the order in which they are tried.
    pub methods: &'a [AuthenticationMethod],
}

/// A failed authentication. Its text is for the audit log, never for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct AuthenticationFailure(#[from] Cause);

impl AuthenticationFailure {
    /// Whether the request had no credential at all.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.0 == Cause::NoCredential
    }

    /// The cause of the failure.
    #[must_use]
    pub const fn cause(&self) -> &Cause {
        &self.0
    }
}
