//! Validation of JWT-SVIDs for the containers of the pod (SPIFFE Workload API, section 6.2.3).

use chrono::{DateTime, Utc};
use durward_authn::Cause;
use durward_authn::jwt::UnverifiedToken;
use durward_authn::keys::{KeySet, KeySetError};
use durward_core::principal::PrincipalId;
use durward_pki::bundle::BundleContents;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use thiserror::Error;

/// The claims that SPIFFE defines (SPIFFE JWT-SVID, section 3).
const SVID_CLAIMS: [&str; 3] = ["sub", "aud", "exp"];

/// A valid JWT-SVID.
#[derive(Debug)]
pub(crate) struct ValidatedSvid {
    pub(crate) id: PrincipalId,
    pub(crate) claims: Map<String, Value>,
}

/// A token is not a valid JWT-SVID.
#[derive(Debug, Error)]
pub(crate) enum SvidRefusal {
    #[error(transparent)]
    Token(#[from] Cause),
    #[error("the trust domain of its subject is not trusted here")]
    NotTrusted,
    #[error("the keys of its trust domain are not usable: {0}")]
    Keys(#[from] KeySetError),
}

/// Validates a token by the bundles of the trust domains. `own` is the SPIFFE ID of the pod's own trust domain.
pub(crate) fn validate(
    svid: &str,
    audience: &str,
    bundles: &BTreeMap<String, BundleContents>,
    own: &str,
    now: DateTime<Utc>,
) -> Result<ValidatedSvid, SvidRefusal> {
    let token = UnverifiedToken::parse(svid)?;
    let id = token.claimed_svid()?;
    let trust_domain = format!("spiffe://{}", id.trust_domain().unwrap_or_default());
    let bundle = bundles.get(&trust_domain).ok_or(SvidRefusal::NotTrusted)?;
    let claims = token.verify(&KeySet::parse(bundle.jwks.as_bytes())?, now)?;
    claims.demand_audience([audience].into_iter())?;
    // another trust domain can put any claim into its tokens, and an application could take it for ours
    let is_ours = |name: &str| own == trust_domain || SVID_CLAIMS.contains(&name);
    let claims = claims.all().iter().filter(|(name, _)| is_ours(name));
    Ok(ValidatedSvid { id, claims: claims.map(|(name, value)| (name.clone(), value.clone())).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_pki::token::{SigningAlgorithm, TokenKey, jwks};
    use serde_json::json;

    #[test]
    fn only_svids_are_valid_and_foreign_claims_stay_outside() {
        let key = TokenKey::generate(SigningAlgorithm::Es256).expect("a key");
        let contents = BundleContents { jwks: jwks([key.jwk()]), ..BundleContents::default() };
        let bundle = |name: &str| (format!("spiffe://{name}"), contents.clone());
        let bundles = [bundle("cluster.local"), bundle("partner.example")].into();
        let now = Utc::now();
        let check = |sub: &str, typ: &str, audience: &str| {
            let claims = json!({"sub": sub, "aud": "orders", "exp": now.timestamp() + 60, "admin": true});
            let token = key.sign(&claims, typ).expect("a token");
            validate(&token, audience, &bundles, "spiffe://cluster.local", now)
        };
        for (sub, claims) in [
            ("spiffe://cluster.local/ns/shop/sa/orders", &["admin", "aud", "exp", "sub"][..]),
            ("spiffe://partner.example/x/y", &["aud", "exp", "sub"]),
        ] {
            let valid = check(sub, "JWT", "orders").expect(sub);
            assert_eq!(valid.id.to_string(), sub);
            assert_eq!(valid.claims.keys().map(String::as_str).collect::<Vec<_>>(), claims, "{sub}");
        }
        let long = format!("spiffe://partner.example/{}", "a".repeat(5000));
        for sub in [
            "spiffe://partner.example",
            "spiffe://partner.example/",
            "spiffe://partner.example/../y",
            "spiffe://partner.example/./y",
            "spiffe://partner.example//x",
            "spiffe://partner.example/x/",
            "spiffe://partner.example/x y",
            "spiffe://partner.example/x\n",
            "spiffe://partner.example/x%2fy",
            "spiffe://partner.example/x?y",
            "spiffe://partner.example:443/x",
            "spiffe://a@partner.example/x",
            "spiffe://PARTNER.example/x",
            "https://partner.example/x",
            "user:partner/x",
            "kube:x",
            "",
            &long,
        ] {
            assert!(matches!(check(sub, "JWT", "orders"), Err(SvidRefusal::Token(Cause::Subject(_)))), "{sub}");
        }
        let good = "spiffe://partner.example/x";
        assert!(matches!(check(good, "at+jwt", "orders"), Err(SvidRefusal::Token(Cause::Type))));
        assert!(matches!(check(good, "application/at+jwt", "orders"), Err(SvidRefusal::Token(Cause::Type))));
        assert!(matches!(check(good, "JWT", "billing"), Err(SvidRefusal::Token(Cause::Audience))));
        assert!(matches!(check("spiffe://other.example/x", "JWT", "orders"), Err(SvidRefusal::NotTrusted)));
    }
}
