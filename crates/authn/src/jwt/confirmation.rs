//! Tokens that are bound to a certificate (RFC 8705, section 3).

use crate::cause::Cause;
use crate::certificate::leaf;
use crate::credentials::Credentials;
use crate::jwt::claims::VerifiedClaims;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::CertificateDer;
use subtle::ConstantTimeEq;

/// Whether the token is bound to the certificate of the caller (RFC 8705, section 3.1); `false` if it is not bound.
///
/// Fails if the token is bound to another key, or in a way that is not supported.
pub(super) fn is_bound(claims: &VerifiedClaims, credentials: &Credentials<'_>) -> Result<bool, Cause> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(false) };
    let members = confirmation.as_object().filter(|members| members.len() == 1);
    let expected = members.and_then(|members| members.get("x5t#S256")?.as_str()).ok_or(Cause::Binding)?;
    let presented = thumbprint(&leaf(credentials)?.ok_or(Cause::Binding)?);
    if bool::from(presented.as_bytes().ct_eq(expected.as_bytes())) { Ok(true) } else { Err(Cause::Binding) }
}

/// The thumbprint by which a token names its certificate: `x5t#S256` (RFC 8705, section 3.1).
#[must_use]
pub fn thumbprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    URL_SAFE_NO_PAD.encode(digest.as_ref())
}
