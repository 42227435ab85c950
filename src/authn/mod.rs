//! Credentials in, a `Principal` out.

use chrono::{DateTime, Utc};
use durward_core::policy::Way;
use durward_core::principal::Principal;
use rustls_pki_types::CertificateDer;

#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    pub headers: &'a http::HeaderMap,
    pub certificate: Option<&'a [CertificateDer<'a>]>,
    pub client_cert_header_trusted: bool,
}

#[derive(Debug)]
pub struct Expectation<'a> {
    pub audience: &'a str,
    pub ways: &'a [Way],
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("no credential")]
    NoCredential,
}

impl Failure {
    pub fn is_missing(&self) -> bool {
        true
    }
}

#[derive(Debug, Default)]
pub struct Authenticator {}

impl Authenticator {
    pub async fn authenticate(
        &self,
        _credentials: &Credentials<'_>,
        _expect: &Expectation<'_>,
        _now: DateTime<Utc>,
    ) -> Result<Principal, Failure> {
        Err(Failure::NoCredential)
    }
}
