//! Another trust domain: an `IdentityProvider` of kind `x509`. What its bundle vouches for is its own workloads, and nobody
//! else.

use crate::bearer::{Bearer, Kind};
use crate::cause::Cause;
use crate::certificate::Certificates;
use crate::endpoint::Endpoint;
use crate::issuer::{bound_to, scopes};
use crate::jwt::{VerifiedClaims, UnverifiedToken};
use crate::keys::{FETCH, KeySet};
use crate::{Credentials, PresentedCredentials, VerifiedCaller};
use arc_swap::ArcSwapOption;
use chrono::{DateTime, TimeDelta, Utc};
use durward_api::field_error::FieldError;
use durward_api::resources::X509Provider;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;
use durward_pki::authority::certificates;
use durward_pki::bundle::{BundleContents, read};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// How often the bundle is fetched where it does not say (SPIFFE Trust Domain and Bundle, section 4.1.2).
const REFRESH: Duration = Duration::from_secs(300);
/// However often it asks for: no storm, and no bundle that is looked at once a week.
const BOUNDS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3600)];
/// For how long a bundle counts when its endpoint can't be reached, as an issuer's keys do.
const MAX_AGE: TimeDelta = TimeDelta::hours(24);

/// One federated trust domain.
pub struct Federation {
    provider: Arc<str>,
    spec: X509Provider,
    endpoint: Option<Endpoint>,
    current: ArcSwapOption<Known>,
    attempt: Mutex<Attempt>,
}

/// A bundle, and what was verified by it.
struct Known {
    bundle: BundleContents,
    certificates: Certificates,
    keys: Option<Arc<KeySet>>,
    /// When the endpoint was last heard; `None` for a bundle that needs no fetching.
    at: Option<DateTime<Utc>>,
}

#[derive(Debug, Default)]
struct Attempt {
    due: Option<Instant>,
    failures: u32,
}

impl Federation {
    /// A trust domain as an `IdentityProvider` describes it; `old` is the one that it replaces, which stays if it is the
    /// same. `own` is this installation's trust domain.
    pub fn new(name: &str, spec: &X509Provider, own: &str, old: Option<&Arc<Self>>) -> Result<Arc<Self>, FieldError> {
        let error = |field: &str, message: String| FieldError { field: format!("spec.x509.{field}"), message };
        if spec.trust_domain == own {
            let message = format!("`{own}` is this installation's own trust domain, which nobody else vouches for");
            return Err(error("trustDomain", message));
        }
        if let Some(old) = old.filter(|old| old.spec == *spec) {
            return Ok(Arc::clone(old));
        }
        let endpoint =
            spec.endpoint.as_ref().map(|endpoint| Endpoint::new(endpoint, &spec.trust_domain)).transpose()?;
        let bundle = spec.bundle.as_deref().map(contents).transpose().map_err(|message| error("bundle", message))?;
        if bundle.is_none() {
            match spec.endpoint.as_ref().map(|endpoint| endpoint.spiffe_id.is_some()) {
                None => {
                    return Err(error(
                        "bundle",
                        "say where the bundle comes from: `bundle`, `endpoint`, or both".to_owned(),
                    ));
                }
                Some(true) => {
                    let message =
                        "the endpoint is verified by the bundle that is there already; give one to begin with";
                    return Err(error("bundle", message.to_owned()));
                }
                Some(false) => {}
            }
        }
        let this = Self {
            provider: name.into(),
            spec: spec.clone(),
            current: ArcSwapOption::empty(),
            attempt: Mutex::default(),
            endpoint,
        };
        if let Some(bundle) = bundle {
            this.current.store(Some(Arc::new(this.known(bundle, this.endpoint.as_ref().map(|_| Utc::now())))));
        }
        Ok(Arc::new(this))
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.spec.trust_domain
    }

    /// Its bundle as SPIFFE has it, if it counts now.
    pub fn bundle(&self, now: DateTime<Utc>) -> Option<serde_json::Value> {
        self.fresh(now).ok().map(|known| known.bundle.to_json())
    }

    /// Verifies its workloads' certificates, if its bundle counts now.
    pub(crate) fn with_certificates<T>(
        &self,
        now: DateTime<Utc>,
        verify: impl FnOnce(&Certificates) -> T,
    ) -> Option<T> {
        self.fresh(now).ok().map(|known| verify(&known.certificates))
    }

    /// The workload that a caller's certificate or token names; `None` if there is neither.
    pub fn authenticate(
        &self,
        shown: &PresentedCredentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Arc<Principal>>, Cause> {
        let known = self.fresh(now);
        let known = match &known {
            Ok(known) => known,
            Err(cause) => return Err(cause.clone()),
        };
        if let Some(verified) = known.certificates.authenticate(shown.credentials, now)? {
            return Ok(Some(verified.principal));
        }
        match shown.bearer()? {
            Some(bearer) => self.token(known, bearer, shown.credentials, audience, now).map(Some),
            None => Ok(None),
        }
    }

    /// The workload that a token names.
    pub fn by_token(
        &self,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Arc<Principal>, Cause> {
        self.token(&*self.fresh(now)?, bearer, credentials, audience, now)
    }

    /// The workload of a JWT-SVID (SPIFFE JWT-SVID, sections 3 and 6).
    fn token(
        &self,
        known: &Known,
        bearer: &Bearer<'_>,
        credentials: &Credentials<'_>,
        audience: &str,
        now: DateTime<Utc>,
    ) -> Result<Arc<Principal>, Cause> {
        let keys = known.keys.as_ref().ok_or(Cause::Issuer)?;
        let reading = bearer.read_as(Kind::Credential, audience);
        if let Some(verified) = keys.remembered(&reading, now) {
            return Ok(verified.principal);
        }
        let token = UnverifiedToken::parse(bearer.text)?;
        let claimed = token.claimed_subject().and_then(|subject| subject.parse::<PrincipalId>().ok());
        if claimed.as_ref().and_then(PrincipalId::trust_domain) != Some(self.trust_domain()) {
            return Err(Cause::Issuer);
        }
        let claims = token.verify(keys, now)?;
        claims.demand_audience([audience].into_iter())?;
        let bound = bound_to(&claims, credentials)?;
        let identity = Identity {
            federation: Some(Arc::clone(&self.provider)),
            scopes: scopes(claims.get("scope")),
            expires_at: claims.end(),
            ..Identity::new(
                self.subject(&claims)?,
                if bound { Assurance::ProofOfPossession } else { Assurance::Bearer },
            )
        };
        let principal = Arc::new(Principal::authenticated(identity));
        if !bound {
            keys.verified.insert(reading.kept(), VerifiedCaller { principal: Arc::clone(&principal), binding: None });
        }
        Ok(principal)
    }

    fn subject(&self, claims: &VerifiedClaims) -> Result<PrincipalId, Cause> {
        let id: Option<PrincipalId> = claims.text("sub")?.parse().ok();
        id.filter(|id| id.trust_domain() == Some(self.trust_domain()))
            .ok_or(Cause::Subject("not a workload of the provider's trust domain"))
    }

    fn fresh(&self, now: DateTime<Utc>) -> Result<Arc<Known>, Cause> {
        let known = self.current.load_full().ok_or_else(|| Cause::NoBundle(self.provider.to_string()))?;
        match known.at {
            Some(at) if now - at > MAX_AGE => Err(Cause::StaleBundle(self.provider.to_string())),
            _ => Ok(known),
        }
    }

    fn known(&self, bundle: BundleContents, at: Option<DateTime<Utc>>) -> Known {
        // a bundle need not have keys for tokens
        let keys = KeySet::parse(bundle.jwks.as_bytes()).ok().map(Arc::new);
        let certificates = Certificates::federated(&self.provider, self.trust_domain(), bundle.roots.clone());
        Known { bundle, certificates, keys, at }
    }

    /// Fetches the bundle if it is due; tells whether it is another one now.
    pub async fn refresh(&self) -> bool {
        let Some(endpoint) = &self.endpoint else { return false };
        let mut attempt = self.attempt.lock().await;
        if attempt.due.is_some_and(|due| due > Instant::now()) {
            return false;
        }
        let known = self.current.load_full();
        let roots = known.as_ref().map(|known| known.bundle.roots.as_slice()).unwrap_or_default();
        let fetched = timeout(FETCH, endpoint.fetch(roots)).await;
        let fetched = fetched.unwrap_or_else(|_| Err("the endpoint did not answer in time".to_owned()));
        let [least, most] = BOUNDS;
        match fetched.and_then(|bytes| self.take(&bytes, known.as_deref())) {
            Ok((changed, hint)) => {
                *attempt = Attempt { due: Some(Instant::now() + hint.clamp(least, most)), failures: 0 };
                changed
            }
            Err(error) => {
                tracing::warn!(
                    provider = &*self.provider,
                    error,
                    "the trust bundle could not be fetched; the last good one is kept"
                );
                let pause = least.saturating_mul(1 << attempt.failures.min(16)).min(REFRESH);
                *attempt = Attempt { due: Some(Instant::now() + pause), failures: attempt.failures + 1 };
                false
            }
        }
    }

    /// Takes a fetched bundle over, unless it is older than the one that is there; tells whether it is another one, and
    /// when to look for the next. The same one keeps what was verified by it.
    fn take(&self, bytes: &[u8], known: Option<&Known>) -> Result<(bool, Duration), String> {
        let bundle = read(bytes).map_err(|error| error.to_string())?;
        match (known.and_then(|known| known.bundle.sequence), bundle.sequence) {
            (Some(known), Some(sequence)) if sequence < known => {
                return Err(format!("its sequence went back from {known} to {sequence}"));
            }
            (Some(_), None) => return Err("it has no sequence any more".to_owned()),
            _ => {}
        }
        let hint = bundle.refresh_hint.map_or(REFRESH, Duration::from_secs);
        let now = Some(Utc::now());
        let next = match known {
            Some(known) if known.bundle == bundle => {
                let (certificates, keys) = (known.certificates.clone(), known.keys.clone());
                Known { bundle, certificates, keys, at: now }
            }
            _ => {
                tracing::info!(
                    provider = &*self.provider,
                    sequence = bundle.sequence,
                    roots = bundle.roots.len(),
                    "another trust bundle"
                );
                self.known(bundle, now)
            }
        };
        let changed = known.is_none_or(|known| known.bundle != next.bundle);
        self.current.store(Some(Arc::new(next)));
        Ok((changed, hint))
    }
}

/// A bundle as it stands in a resource: SPIFFE's JSON, or roots in PEM.
fn contents(text: &str) -> Result<BundleContents, String> {
    if text.trim_start().starts_with('{') {
        return read(text.as_bytes()).map_err(|error| error.to_string());
    }
    let roots = certificates(text).map_err(|_| "it is neither SPIFFE's JSON nor certificates in PEM".to_owned())?;
    Ok(BundleContents { roots, ..BundleContents::default() })
}

impl fmt::Debug for Federation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Federation").field("trust_domain", &self.spec.trust_domain).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_api::resources::{BundleEndpoint, BundleProfile};
    use durward_pki::authority::CertificateAuthority;
    use durward_pki::bundle::write;
    use durward_pki::serial::CertificateSerial;
    use serde_json::json;

    fn federation(inline: Option<String>) -> Arc<Federation> {
        let endpoint =
            BundleEndpoint { url: "https://x".to_owned(), profile: BundleProfile::HttpsWeb, spiffe_id: None };
        let spec =
            X509Provider { trust_domain: "partner.example".to_owned(), bundle: inline, endpoint: Some(endpoint) };
        Federation::new("partner", &spec, "cluster.local", None).expect("good")
    }

    fn take(federation: &Federation, bytes: &[u8]) -> Result<(bool, Duration), String> {
        federation.take(bytes, federation.current.load_full().as_deref())
    }

    #[test]
    fn a_bundle_is_taken_unless_it_goes_back() {
        let authority =
            CertificateAuthority::create("partner.example", Utc::now(), CertificateSerial::unbound([1; 15]));
        let roots = authority.expect("an authority").roots().to_vec();
        let text = |sequence, hint| write(&roots, [], sequence, hint);
        let this = federation(Some(text(5, 60)));
        for (bytes, expected) in [
            (text(4, 60), Err("its sequence went back from 5 to 4")),
            (json!({"keys": []}).to_string(), Err("it has no sequence any more")),
            ("nonsense".to_owned(), Err("it is no SPIFFE bundle")),
            (json!({"keys": vec![json!({}); 1000], "spiffe_sequence": 9}).to_string(), Err("it has 1000 keys")),
            (text(5, 60), Ok((false, 60))),
            (text(6, 7), Ok((true, 7))),
            (text(5, 60), Err("its sequence went back from 6 to 5")),
            // everything is taken back
            (json!({"keys": [], "spiffe_sequence": 7}).to_string(), Ok((true, 300))),
        ] {
            let before = this.bundle(Utc::now());
            let taken = take(&this, bytes.as_bytes()).map(|(changed, hint)| (changed, hint.as_secs()));
            match expected {
                Ok(_) => assert_eq!(taken, expected.map_err(ToOwned::to_owned), "{bytes}"),
                Err(error) => {
                    assert!(taken.is_err_and(|found| found.contains(error)), "{bytes}");
                    assert_eq!(this.bundle(Utc::now()), before, "what was good stays: {bytes}");
                }
            }
        }
    }

    #[test]
    fn a_bundle_counts_for_a_day_after_its_endpoint_was_last_heard() {
        let this = federation(None);
        let now = Utc::now();
        assert_eq!(this.fresh(now).err(), Some(Cause::NoBundle("partner".to_owned())));
        take(&this, br#"{"keys": []}"#).expect("taken");
        assert!(this.fresh(now + TimeDelta::hours(23)).is_ok());
        let late = now + TimeDelta::hours(25);
        assert_eq!(this.fresh(late).err(), Some(Cause::StaleBundle("partner".to_owned())));
        assert_eq!(this.bundle(late), None, "nobody is told of it");
        assert!(this.with_certificates(late, |_| ()).is_none(), "no handshake either");
    }
}
