//! The steps that all kinds of tokens share.

use crate::bearer::TokenCacheKey;
use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::credentials::Credentials;
use crate::jwt::claims::VerifiedClaims;
use crate::jwt::confirmation::is_bound;
use crate::jwt::token::UnverifiedToken;
use crate::keys::KeySet;
use chrono::{DateTime, Utc};
use durward_core::risk::Assurance;

/// The verification of a token by chosen keys.
pub(crate) struct TokenVerification<'v> {
    /// Keys of the token's issuer.
    pub keys: &'v KeySet,
    /// Key under which the caller is cached.
    pub cache_key: TokenCacheKey<&'v str>,
    /// Credentials of the request, for the certificate that the token may be bound to.
    pub credentials: &'v Credentials<'v>,
    /// Current time.
    pub now: DateTime<Utc>,
}

impl TokenVerification<'_> {
    /// Verifies signature, times, audience and confirmation, and only then reads the caller from the claims.
    ///
    /// `read_caller` gets the claims, and whether the token is bound to the caller's certificate. The caller of an
    /// unbound token is cached with the keys. A bound token is verified each time: the certificate can be another one.
    pub fn verify<'a>(
        &self,
        token: UnverifiedToken<'_>,
        audiences: impl Iterator<Item = &'a str>,
        read_caller: impl FnOnce(&VerifiedClaims, bool) -> Result<VerifiedCaller, Cause>,
    ) -> Result<VerifiedCaller, Cause> {
        let claims = token.verify(self.keys, self.now)?;
        claims.demand_audience(audiences)?;
        let is_bound = is_bound(&claims, self.credentials)?;
        let caller = read_caller(&claims, is_bound)?;
        if !is_bound {
            self.keys.verified.insert(self.cache_key.to_stored(), caller.clone());
        }
        Ok(caller)
    }
}

/// Assurance of a token: the caller of a bound token has proved to hold the key of its certificate.
pub(crate) const fn token_assurance(is_bound: bool) -> Assurance {
    if is_bound { Assurance::ProofOfPossession } else { Assurance::Bearer }
}
