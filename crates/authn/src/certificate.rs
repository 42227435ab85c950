//! X.509-SVIDs: of the peer itself, or forwarded by a proxy that terminated TLS.

use crate::bearer::single;
use crate::cause::Cause;
use crate::liveness::Binding;
use crate::tls;
use crate::{Credentials, VerifiedCaller};
use chrono::{DateTime, Utc};
use durward_core::digest::Digest;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;
use durward_pki::svid::{BACKDATE, SvidError, X509Svid, parse, verify_client};
use quick_cache::sync::Cache;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;

/// Envoy's header with the certificate of its client.
pub const FORWARDED_CLIENT_CERT: &str = "x-forwarded-client-cert";

/// Chains that are remembered as verified, at about 1 kB each.
const REMEMBERED: usize = 10_000;

/// Verifies certificates against the roots of a trust domain.
#[derive(Clone)]
pub(crate) struct Certificates {
    trust_domain: String,
    /// The provider that vouches for the trust domain; `None` for our own.
    federation: Option<Arc<str>>,
    roots: Vec<CertificateDer<'static>>,
    /// Verifies them in handshakes; `None` when no root is usable.
    pub handshake: Option<Arc<dyn ClientCertVerifier>>,
    /// Gone with these roots: on connections that are older than a change of roots, certificates are verified anew.
    verified: Arc<Cache<Digest, VerifiedCaller>>,
}

impl Certificates {
    /// Those of our own trust domain.
    pub fn own(trust_domain: &str, roots: Vec<CertificateDer<'static>>) -> Self {
        Self::new(None, trust_domain, roots)
    }

    /// Those of another trust domain, for which `provider` vouches.
    pub fn federated(provider: &Arc<str>, trust_domain: &str, roots: Vec<CertificateDer<'static>>) -> Self {
        Self::new(Some(Arc::clone(provider)), trust_domain, roots)
    }

    fn new(federation: Option<Arc<str>>, trust_domain: &str, roots: Vec<CertificateDer<'static>>) -> Self {
        let handshake = tls::verifier(&roots);
        let (trust_domain, verified) = (trust_domain.to_owned(), Arc::new(Cache::new(REMEMBERED)));
        Self { trust_domain, federation, roots, handshake, verified }
    }

    /// The workload that a certificate names; `None` if there is no certificate. A forwarded one is verified as well as a
    /// peer's own, whatever the proxy says of it.
    pub fn authenticate(&self, credentials: &Credentials<'_>, now: DateTime<Utc>) -> Result<Option<VerifiedCaller>, Cause> {
        let forwarded = if credentials.client_cert_header_trusted { forwarded(credentials)? } else { None };
        match (credentials.certificate, forwarded) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Cause::Forwarded("the peer has a certificate of its own")),
            (Some(chain), None) => self.verified(chain, now).map(Some),
            (None, Some(chain)) => self.verified(&chain, now).map(Some),
        }
    }

    fn verified(&self, chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Result<VerifiedCaller, Cause> {
        let remembered_as = Digest::of(chain.iter().map(AsRef::as_ref));
        if let Some(verified) = self.verified.get(&remembered_as) {
            let ends = verified.principal.identity().expires_at;
            return if ends.is_some_and(|end| end > now) { Ok(verified) } else { Err(Cause::CertificateExpired) };
        }
        // roots vouch for the workloads of their own trust domain alone, and others are not worth a signature's check
        self.id(&parse(chain.first().ok_or(SvidError::Unreadable)?)?)?;
        let svid = verify_client(chain, &self.roots, now.timestamp())?;
        // serial numbers of others say nothing of our pods
        let binding = self.federation.is_none().then(|| Binding::of_serial(&svid.serial, since(&svid))).flatten();
        let verified = VerifiedCaller { principal: Arc::new(self.principal(&svid, now)?), binding };
        self.verified.insert(remembered_as, verified.clone());
        Ok(verified)
    }

    fn principal(&self, svid: &X509Svid, now: DateTime<Utc>) -> Result<Principal, Cause> {
        let id = self.id(svid)?;
        let expires_at =
            DateTime::from_timestamp(svid.not_after, 0).filter(|end| *end > now).ok_or(Cause::CertificateExpired)?;
        let federation = self.federation.clone();
        let identity =
            Identity { expires_at: Some(expires_at), federation, ..Identity::new(id, Assurance::ProofOfPossession) };
        Ok(Principal::authenticated(identity))
    }

    /// The name of a workload of this trust domain.
    fn id(&self, svid: &X509Svid) -> Result<PrincipalId, Cause> {
        match (svid.id.parse(), &self.federation) {
            (Ok(id @ PrincipalId::Workload { .. }), _) | (Ok(id @ PrincipalId::Spiffe { .. }), Some(_))
                if id.trust_domain() == Some(&self.trust_domain) =>
            {
                Ok(id)
            }
            _ => Err(Cause::TrustDomain),
        }
    }
}

/// The caller's own certificate, good for authentication or not.
pub fn leaf(credentials: &Credentials<'_>) -> Result<Option<CertificateDer<'static>>, Cause> {
    match credentials.certificate {
        Some(chain) => Ok(chain.first().map(|leaf| leaf.clone().into_owned())),
        None if credentials.client_cert_header_trusted => {
            Ok(forwarded(credentials)?.and_then(|chain| chain.into_iter().next()))
        }
        None => Ok(None),
    }
}

fn since(svid: &X509Svid) -> DateTime<Utc> {
    DateTime::from_timestamp(svid.not_before + BACKDATE, 0).unwrap_or_default()
}

/// The chain in `x-forwarded-client-cert`. Only the certificate itself counts: `URI`, `Subject` and `Hash` are text.
fn forwarded(credentials: &Credentials<'_>) -> Result<Option<Vec<CertificateDer<'static>>>, Cause> {
    let Some(value) = single(credentials.headers, FORWARDED_CLIENT_CERT)? else { return Ok(None) };
    let text = value.to_str().map_err(|_| Cause::Forwarded("it is not ASCII"))?;
    let pairs = pairs(text)?;
    let get = |name: &str| {
        let mut found = pairs.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        match (found.next(), found.next()) {
            (_, Some(_)) => Err(Cause::Forwarded("a key is there twice")),
            (first, None) => Ok(first),
        }
    };
    let encoded = get("Chain")?.or(get("Cert")?).ok_or(Cause::Forwarded("it has neither `Cert` nor `Chain`"))?;
    let pem = percent_encoding::percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| Cause::Forwarded("the certificate is not readable"))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(Some(chain)),
        _ => Err(Cause::Forwarded("the certificate is not readable")),
    }
}

/// The `key=value` pairs of the one element; several elements are several proxies, and only one is trusted.
fn pairs(text: &str) -> Result<Vec<(String, String)>, Cause> {
    let (mut pairs, mut key, mut value) = (Vec::new(), String::new(), None::<String>);
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        let in_value = value.is_some();
        let current = value.as_mut().unwrap_or(&mut key);
        match c {
            _ if escaped => {
                current.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => current.push(c),
            ',' => return Err(Cause::Forwarded("it has more than one element")),
            ';' => pairs.push((std::mem::take(&mut key), value.take().ok_or(Cause::Forwarded("a key has no value"))?)),
            '=' if !in_value => value = Some(String::new()),
            c => current.push(c),
        }
    }
    if quoted || escaped {
        return Err(Cause::Forwarded("a quote is not closed"));
    }
    pairs.push((key, value.ok_or(Cause::Forwarded("a key has no value"))?));
    Ok(pairs)
}
