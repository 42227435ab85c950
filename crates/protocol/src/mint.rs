//! What an agent or a gate asks the mint of the controller, and its answers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Where certificates are minted.
pub const X509_PATH: &str = "/mint/x509";
/// Where tokens are minted.
pub const JWT_PATH: &str = "/mint/jwt";

/// Asks for a certificate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateRequest {
    /// PKCS#10 (RFC 2986) in DER and base64.
    pub csr: String,
    /// Longest lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u32>,
}

/// A certificate.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateAnswer {
    pub spiffe_id: String,
    /// Leaf first, DER in base64.
    pub chain: Vec<String>,
    pub not_after: DateTime<Utc>,
    /// When to ask for the next one.
    pub refresh_at: DateTime<Utc>,
}

/// Asks for a token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    pub audience: Vec<String>,
}

/// A token.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenAnswer {
    pub spiffe_id: String,
    pub token: String,
    pub expires_at: DateTime<Utc>,
}
