//! Claims of verified tokens.

use crate::cause::Cause;
use chrono::{DateTime, Utc};
use durward_core::scope::Scope;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Tolerated clock difference between issuers and this host, in seconds: common practice, and small compared to the
/// lifetime of tokens.
pub(crate) const LEEWAY: i64 = 30;
/// Latest accepted time: the end of the year 9999. Later times are attempts at an overflow.
const LAST_TIME: i64 = 253_402_300_799;

/// Claims of a token whose signature and times were verified.
#[derive(Debug)]
pub struct VerifiedClaims(Map<String, Value>);

impl VerifiedClaims {
    /// Only the verification of a token calls this.
    pub(super) const fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    /// A claim.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All claims.
    #[must_use]
    pub const fn all(&self) -> &Map<String, Value> {
        &self.0
    }

    /// A required claim that must be a text.
    ///
    /// # Errors
    /// When the claim is missing or not a text.
    pub fn text(&self, name: &'static str) -> Result<&str, Cause> {
        self.get(name).ok_or(Cause::MissingClaim(name))?.as_str().ok_or(Cause::ClaimType(name))
    }

    /// A time in seconds since 1970 (`NumericDate`, RFC 7519 section 2); it must be a number.
    ///
    /// # Errors
    /// When the claim is not such a time.
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

    /// End of the token, with the leeway of the verification.
    #[must_use]
    pub fn end(&self) -> Option<DateTime<Utc>> {
        self.time("exp").ok().flatten().and_then(|end| DateTime::from_timestamp(end + LEEWAY, 0))
    }

    /// Demands that the token is for one of `audiences`.
    ///
    /// # Errors
    /// When it is not, or `aud` is missing or malformed.
    pub fn demand_audience<'a>(&self, mut audiences: impl Iterator<Item = &'a str>) -> Result<(), Cause> {
        let stated = match self.get("aud") {
            None => return Err(Cause::MissingClaim("aud")),
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => {
                several.iter().map(Value::as_str).collect::<Option<Vec<_>>>().ok_or(Cause::ClaimType("aud"))?
            }
            Some(_) => return Err(Cause::ClaimType("aud")),
        };
        if audiences.any(|audience| stated.contains(&audience)) { Ok(()) } else { Err(Cause::Audience) }
    }
}

/// The scopes of a token, without malformed ones; `None` without the claim. They are the words of a text (RFC 8693,
/// section 4.2) or the items of a list. No other claim has words.
#[must_use]
pub fn carried_scopes(claim: Option<&Value>) -> Option<BTreeSet<Scope>> {
    let scopes: Vec<&str> = match claim? {
        Value::String(text) => text.split(' ').collect(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    Some(scopes.into_iter().filter_map(|scope| Scope::parse(scope).ok()).collect())
}
