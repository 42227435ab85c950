//! Requests of agents and gates for certificates and tokens, and the controller's responses.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Path of certificate requests.
pub const X509_PATH: &str = "/mint/x509";
/// Path of token requests.
pub const JWT_PATH: &str = "/mint/jwt";

/// A request for an X.509-SVID.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRequest {
    /// PKCS#10 (RFC 2986) in DER and base64.
    pub csr: String,
    /// Limit for the lifetime, where shorter than the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
}

/// An X.509-SVID.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateResponse {
    /// SPIFFE ID of the certificate.
    pub spiffe_id: String,
    /// Certificates, leaf first, each in DER and base64.
    pub chain: Vec<String>,
    /// When the certificate expires.
    pub not_after: DateTime<Utc>,
    /// When to request the next one.
    pub refresh_at: DateTime<Utc>,
}

/// A request for a JWT-SVID.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// Audiences of the token.
    pub audience: Vec<String>,
}

/// A JWT-SVID.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenResponse {
    /// SPIFFE ID in the token.
    pub spiffe_id: String,
    /// The token, in compact form.
    pub token: String,
    /// When the token expires.
    pub expires_at: DateTime<Utc>,
}
