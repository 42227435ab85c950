//! Tokens before their verification.
//!
//! The envelope is parsed here, not by `jsonwebtoken::decode`: that function reads the system clock instead of the time
//! that is passed in, ignores `crit` and `typ`, and does not distinguish all [`Cause`]s. Only the signatures are
//! verified by `jsonwebtoken`.

use crate::bearer::MAX_TOKEN;
use crate::cause::Cause;
use crate::jwt::claims::{LEEWAY, VerifiedClaims};
use crate::keys::KeySet;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use durward_core::principal::PrincipalId;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

/// Maximum number of authentication methods in `amr`.
const MAX_METHODS: usize = 16;
/// Maximum length of an authentication method; registered ones have up to five letters.
const MAX_METHOD: usize = 64;

/// A parsed token whose signature is not verified. Its claims may be forged.
#[derive(Debug)]
pub struct UnverifiedToken<'t> {
    message: &'t str,
    signature: &'t str,
    /// The algorithm of the signature.
    pub algorithm: Algorithm,
    /// Name of the key.
    pub kid: Option<String>,
    /// Whether the type of the token is access token (RFC 9068, section 2.1).
    pub is_access_token: bool,
    claims: Map<String, Value>,
}

impl<'t> UnverifiedToken<'t> {
    /// Parses a token.
    ///
    /// # Errors
    /// When the token is too long, malformed, of another type, or has unsupported header parameters.
    pub fn parse(text: &'t str) -> Result<Self, Cause> {
        if text.len() > MAX_TOKEN {
            return Err(Cause::TooLong);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(Cause::Malformed("it has no segments"))?;
        let (header, claims) = message.split_once('.').ok_or(Cause::Malformed("it has two segments"))?;
        if claims.contains('.') {
            return Err(Cause::Malformed("it has more than three segments"));
        }
        let header = object(header).ok_or(Cause::Malformed("its header is no JSON object in base64url"))?;
        let claims = object(claims).ok_or(Cause::Malformed("its claims are no JSON object in base64url"))?;
        for critical in ["crit", "b64", "zip", "enc"] {
            if header.contains_key(critical) {
                return Err(Cause::Critical(critical));
            }
        }
        let is_access_token = match header.get("typ").map(Value::as_str) {
            None => false,
            // JOSE: SPIFFE JWT-SVID, section 2.3
            Some(Some(typ)) if typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("JOSE") => false,
            Some(Some(typ)) if is_access_token_type(typ) => true,
            Some(_) => return Err(Cause::Type),
        };
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(accepted_algorithm);
        let algorithm = algorithm.ok_or(Cause::Algorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Cause::Malformed("its key name is no text")),
        };
        Ok(Self { message, signature, algorithm, kid, is_access_token, claims })
    }

    /// The stated issuer. Use it only to choose the keys for the verification.
    pub(crate) fn claimed_issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// The stated subject. Use it only to choose the keys for the verification.
    #[must_use]
    pub fn claimed_subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(Value::as_str)
    }

    /// The stated subject of a JWT-SVID, parsed (SPIFFE JWT-SVID, sections 2.3 and 3.1). Use it only to choose the keys
    /// for the verification.
    ///
    /// # Errors
    /// When the token is an access token, or its subject is not the SPIFFE ID of a workload.
    pub fn claimed_svid(&self) -> Result<PrincipalId, Cause> {
        if self.is_access_token {
            return Err(Cause::Type);
        }
        let id = self.claimed_subject().and_then(|subject| subject.parse::<PrincipalId>().ok());
        id.filter(PrincipalId::is_workload).ok_or(Cause::Subject("not the SPIFFE ID of a workload"))
    }

    /// Whether the token states this audience. Use it only to choose the audience to demand.
    pub(crate) fn claims_audience(&self, audience: &str) -> bool {
        match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// The stated audience, if there is only one. Use it only to choose the audience to demand.
    #[must_use]
    pub fn claimed_audience(&self) -> Option<&str> {
        self.claims.get("aud").and_then(Value::as_str)
    }

    /// The stated authentication methods (`amr`, RFC 8176), within the limits. Use them only after the verification.
    pub(crate) fn claimed_methods(&self) -> Vec<String> {
        let methods = self.claims.get("amr").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        methods.filter(|method| method.len() <= MAX_METHOD).take(MAX_METHODS).map(ToOwned::to_owned).collect()
    }

    /// Verifies signature and times.
    ///
    /// # Errors
    /// When the key is unknown, the signature is wrong, or the token is not valid at `now`.
    pub fn verify(self, keys: &KeySet, now: DateTime<Utc>) -> Result<VerifiedClaims, Cause> {
        keys.verify(self.kid.as_deref(), self.algorithm, self.message, self.signature)?;
        let claims = VerifiedClaims::new(self.claims);
        let now = now.timestamp();
        let end = claims.time("exp")?.ok_or(Cause::MissingClaim("exp"))?;
        if end.saturating_add(LEEWAY) <= now {
            return Err(Cause::Expired(now - end));
        }
        if let Some(start) = claims.time("nbf")?.filter(|start| *start > now + LEEWAY) {
            return Err(Cause::NotYetValid(start - now));
        }
        if let Some(issued) = claims.time("iat")?.filter(|issued| *issued > now + LEEWAY) {
            return Err(Cause::IssuedInFuture(issued - now));
        }
        Ok(claims)
    }
}

fn is_access_token_type(typ: &str) -> bool {
    typ.eq_ignore_ascii_case("at+jwt") || typ.eq_ignore_ascii_case("application/at+jwt")
}

/// Whether the type in a token's header is access token, without a check of the rest.
pub(crate) fn has_access_token_type(text: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct TypeHeader {
        typ: Option<String>,
    }
    let header = text.split_once('.').and_then(|(header, _)| URL_SAFE_NO_PAD.decode(header).ok());
    let header = header.and_then(|header| serde_json::from_slice::<TypeHeader>(&header).ok());
    header.and_then(|header| header.typ).is_some_and(|typ| is_access_token_type(&typ))
}

/// A segment as a JSON object.
fn object(segment: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(segment).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Algorithms with public keys alone: not `none`, and no shared secrets, for which a public key could be mistaken.
fn accepted_algorithm(name: &str) -> Option<Algorithm> {
    let algorithm: Algorithm = name.parse().ok()?;
    matches!(
        algorithm,
        Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512
            | Algorithm::ES256
            | Algorithm::ES384
            | Algorithm::EdDSA
    )
    .then_some(algorithm)
}
