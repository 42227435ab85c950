//! X.509-SVIDs: of the peer itself, or forwarded by a proxy that terminates TLS.

mod forwarded;

pub use forwarded::FORWARDED_CLIENT_CERT;

use crate::caller::VerifiedCaller;
use crate::cause::Cause;
use crate::credentials::Credentials;
use crate::keys::{CallerCache, caller_cache};
use crate::liveness::Binding;
use chrono::{DateTime, Utc};
use durward_core::digest::Digest;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;
use durward_pki::svid::{BACKDATE, SvidError, X509Svid, parse, verify_client};
use forwarded::forwarded_chain;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// Verifies certificates by the roots of one trust domain.
#[derive(Clone)]
pub(crate) struct CertificateVerifier {
    trust_domain: String,
    /// The provider of a federated trust domain; `None` for our own.
    federation: Option<Arc<str>>,
    roots: Vec<CertificateDer<'static>>,
    /// Verifier for handshakes; `None` if no root is usable.
    pub handshake: Option<Arc<dyn ClientCertVerifier>>,
    /// Verified chains. The cache is dropped together with the roots, so open connections are verified by the new ones.
    verified: Arc<CallerCache<Digest>>,
}

impl CertificateVerifier {
    /// The verifier of our own trust domain.
    pub fn own(trust_domain: &str, roots: Vec<CertificateDer<'static>>) -> Self {
        Self::new(None, trust_domain, roots)
    }

    /// The verifier of a trust domain that `provider` federates.
    pub fn federated(provider: &Arc<str>, trust_domain: &str, roots: Vec<CertificateDer<'static>>) -> Self {
        Self::new(Some(Arc::clone(provider)), trust_domain, roots)
    }

    fn new(federation: Option<Arc<str>>, trust_domain: &str, roots: Vec<CertificateDer<'static>>) -> Self {
        let handshake = handshake_verifier(&roots);
        let verified = Arc::new(caller_cache());
        Self { trust_domain: trust_domain.to_owned(), federation, roots, handshake, verified }
    }

    /// The workload of a certificate; `None` without one. A forwarded certificate is verified in the same way as a
    /// peer's own, whatever the proxy states.
    pub fn authenticate(
        &self,
        credentials: &Credentials<'_>,
        now: DateTime<Utc>,
    ) -> Result<Option<VerifiedCaller>, Cause> {
        let forwarded = if credentials.client_cert_header_trusted { forwarded_chain(credentials)? } else { None };
        match (credentials.certificate, forwarded) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Cause::Forwarded("the peer has a certificate of its own")),
            (Some(chain), None) => self.verify(chain, now).map(Some),
            (None, Some(chain)) => self.verify(&chain, now).map(Some),
        }
    }

    fn verify(&self, chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Result<VerifiedCaller, Cause> {
        let cache_key = Digest::of(chain.iter().map(AsRef::as_ref));
        if let Some(caller) = self.verified.get(&cache_key) {
            let expires_at = caller.principal.identity().expires_at;
            return if expires_at.is_some_and(|end| end > now) { Ok(caller) } else { Err(Cause::CertificateExpired) };
        }
        // roots are valid for their own trust domain alone; other names are refused before the costly signature check
        self.id(&parse(chain.first().ok_or(SvidError::Unreadable)?)?)?;
        let svid = verify_client(chain, &self.roots, now.timestamp())?;
        // only our own serial numbers name pods of this cluster
        let binding = match &self.federation {
            None => Binding::of_serial(&svid.serial, issued_at(&svid)),
            Some(_) => None,
        };
        let caller = VerifiedCaller { principal: Arc::new(self.principal(&svid, now)?), binding };
        self.verified.insert(cache_key, caller.clone());
        Ok(caller)
    }

    fn principal(&self, svid: &X509Svid, now: DateTime<Utc>) -> Result<Principal, Cause> {
        let id = self.id(svid)?;
        let expires_at = DateTime::from_timestamp(svid.not_after, 0).filter(|end| *end > now);
        let expires_at = expires_at.ok_or(Cause::CertificateExpired)?;
        let federation = self.federation.clone();
        let identity =
            Identity { expires_at: Some(expires_at), federation, ..Identity::new(id, Assurance::ProofOfPossession) };
        Ok(Principal::authenticated(identity))
    }

    /// The workload of this trust domain that a certificate names.
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

/// The leaf certificate of the caller, without any verification.
pub fn leaf(credentials: &Credentials<'_>) -> Result<Option<CertificateDer<'static>>, Cause> {
    match credentials.certificate {
        Some(chain) => Ok(chain.first().map(|leaf| leaf.clone().into_owned())),
        None if credentials.client_cert_header_trusted => {
            Ok(forwarded_chain(credentials)?.and_then(|chain| chain.into_iter().next()))
        }
        None => Ok(None),
    }
}

fn issued_at(svid: &X509Svid) -> DateTime<Utc> {
    DateTime::from_timestamp(svid.not_before + BACKDATE, 0).unwrap_or_default()
}

/// A verifier for handshakes. A client without a certificate is anonymous; a client with a wrong one gets no
/// connection.
fn handshake_verifier(roots: &[CertificateDer<'static>]) -> Option<Arc<dyn ClientCertVerifier>> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::new(aws_lc_rs::default_provider()))
        .allow_unauthenticated()
        .build()
        .inspect_err(|error| tracing::warn!(%error, "the roots are not usable; refusing client certificates"))
        .ok()
}
