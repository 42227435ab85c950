//! Verifying a JWT (RFC 7519), as RFC 8725 asks.

use crate::bearer::MAX_TOKEN;
use crate::cause::Cause;
use crate::keys::KeySet;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

/// Clock difference between issuers and us that is accepted, in seconds: common practice, and small against the
/// minutes for which tokens live.
pub(crate) const LEEWAY: i64 = 30;
/// Most ways of authentication that are read, and the longest; registered ones have up to five letters.
const MAX_METHODS: usize = 16;
const MAX_METHOD: usize = 64;
/// Times beyond this are no times, but attempts at an overflow (the year 9999).
const LAST_TIME: i64 = 253_402_300_799;

/// A token, taken apart and not believed yet.
#[derive(Debug)]
pub struct UnverifiedToken<'t> {
    message: &'t str,
    signature: &'t str,
    pub algorithm: Algorithm,
    pub kid: Option<String>,
    /// Whether it is an access token by its type (RFC 9068, section 2.1).
    pub access: bool,
    claims: Map<String, Value>,
}

impl<'t> UnverifiedToken<'t> {
    /// Takes a token apart.
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
        match header.get("typ").map(Value::as_str) {
            None => {}
            // JOSE: SPIFFE JWT-SVID, section 2.3
            Some(Some(typ))
                if typ.eq_ignore_ascii_case("JWT") || typ.eq_ignore_ascii_case("JOSE") || is_access(typ) => {}
            Some(_) => return Err(Cause::Type),
        }
        let access = header.get("typ").and_then(Value::as_str).is_some_and(is_access);
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(accepted).ok_or(Cause::Algorithm)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Cause::Malformed("its key name is no text")),
        };
        Ok(Self { message, signature, algorithm, kid, access, claims })
    }

    /// Who says to have issued it. Only good for choosing whose keys to verify it with.
    pub(crate) fn claimed_issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// Whom it says to be about. Only good for choosing whose keys to verify it with.
    pub fn claimed_subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(Value::as_str)
    }

    /// Whether it says to be for an audience. Only good for choosing what to demand.
    pub(crate) fn claims_audience(&self, audience: &str) -> bool {
        match self.claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// The one audience that it says to be for.
    pub fn claimed_audience(&self) -> Option<&str> {
        self.claims.get("aud").and_then(Value::as_str)
    }

    /// Ways in which the subject says to have authenticated (RFC 8176), as far as they are such. As good as the token.
    pub(crate) fn claimed_methods(&self) -> Vec<String> {
        let methods = self.claims.get("amr").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        methods.filter(|method| method.len() <= MAX_METHOD).take(MAX_METHODS).map(ToOwned::to_owned).collect()
    }

    /// The claims, once signature and times hold.
    pub fn verify(self, keys: &KeySet, now: DateTime<Utc>) -> Result<VerifiedClaims, Cause> {
        let key = keys.find(self.kid.as_deref())?;
        if !key.algorithms.contains(&self.algorithm) {
            return Err(Cause::AlgorithmOfKey);
        }
        let verified = jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), &key.key, self.algorithm);
        if !verified.unwrap_or(false) {
            return Err(Cause::Signature);
        }
        let claims = VerifiedClaims(self.claims);
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

/// VerifiedClaims of a token whose signature and times hold.
#[derive(Debug)]
pub struct VerifiedClaims(Map<String, Value>);

impl VerifiedClaims {
    /// A claim as it stands there.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All claims.
    pub const fn all(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A claim that has to be a text.
    pub fn text(&self, name: &'static str) -> Result<&str, Cause> {
        self.get(name).ok_or(Cause::MissingClaim(name))?.as_str().ok_or(Cause::ClaimType(name))
    }

    /// A time in seconds since 1970 (`NumericDate`, RFC 7519 section 2): a number and nothing else.
    pub fn time(&self, name: &'static str) -> Result<Option<i64>, Cause> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => {
                #[expect(clippy::cast_possible_truncation, reason = "the range is checked right after")]
                let seconds = number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as i64));
                seconds.filter(|seconds| (0..=LAST_TIME).contains(seconds)).map(Some).ok_or(Cause::ClaimType(name))
            }
            Some(_) => Err(Cause::ClaimType(name)),
        }
    }

    /// End of the token, with the leeway that it was accepted with.
    pub fn end(&self) -> Option<DateTime<Utc>> {
        self.time("exp").ok().flatten().and_then(|end| DateTime::from_timestamp(end + LEEWAY, 0))
    }

    /// Demands that the token is for one of `audiences`.
    pub fn demand_audience<'a>(&self, mut audiences: impl Iterator<Item = &'a str>) -> Result<(), Cause> {
        let meant = match self.get("aud") {
            None => return Err(Cause::MissingClaim("aud")),
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => {
                several.iter().map(Value::as_str).collect::<Option<Vec<_>>>().ok_or(Cause::ClaimType("aud"))?
            }
            Some(_) => return Err(Cause::ClaimType("aud")),
        };
        if audiences.any(|audience| meant.contains(&audience)) { Ok(()) } else { Err(Cause::Audience) }
    }
}

fn is_access(typ: &str) -> bool {
    typ.eq_ignore_ascii_case("at+jwt") || typ.eq_ignore_ascii_case("application/at+jwt")
}

/// Whether a text is an access token by its type, without looking further.
pub(crate) fn is_access_token(text: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Typed {
        typ: Option<String>,
    }
    let header = text.split_once('.').and_then(|(header, _)| URL_SAFE_NO_PAD.decode(header).ok());
    let typed = header.and_then(|header| serde_json::from_slice::<Typed>(&header).ok());
    typed.and_then(|typed| typed.typ).is_some_and(|typ| is_access(&typ))
}

/// A segment as a JSON object.
fn object(segment: &str) -> Option<Map<String, Value>> {
    let bytes = URL_SAFE_NO_PAD.decode(segment).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// Signatures by public keys alone: no `none`, and no shared secret that a public key could be mistaken for.
fn accepted(name: &str) -> Option<Algorithm> {
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
