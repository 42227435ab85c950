//! Bundle endpoints of other trust domains (SPIFFE Federation, section 5).

use crate::keys::{FetchError, fetch_document, restricted_client, web_client};
use durward_api::field_error::FieldError;
use durward_api::resources::{BundleEndpoint, BundleProfile};
use durward_core::principal::PrincipalId;
use durward_pki::bundle::BundleError;
use durward_pki::svid::verify_server;
use durward_runtime::tls::{HandshakeVerifier, VerifyServer};
use rustls::crypto::aws_lc_rs;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use thiserror::Error;
use url::Url;

/// Fetches the bundle of a trust domain.
#[derive(Debug)]
pub struct BundleEndpointClient {
    url: Url,
    /// SPIFFE ID of the endpoint; `None` for an endpoint with a certificate of a public web authority.
    id: Option<PrincipalId>,
}

/// A trust bundle could not be updated.
#[derive(Debug, Error)]
pub enum BundleUpdateError {
    /// The bundle could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The TLS client could not be configured.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// The HTTP client could not be built.
    #[error(transparent)]
    Client(#[from] reqwest::Error),
    /// The endpoint did not answer in time.
    #[error("the endpoint did not answer in time")]
    Timeout,
    /// The document is not a usable bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The bundle is older than the current one.
    #[error("its sequence went back from {current} to {fetched}")]
    OlderSequence {
        /// Sequence number of the current bundle.
        current: u64,
        /// Sequence number of the fetched bundle.
        fetched: u64,
    },
    /// The bundle has no sequence number, but the current one has.
    #[error("it has no sequence number, but the current bundle has one")]
    NoSequence,
}

impl BundleEndpointClient {
    /// A client for the endpoint of a trust domain.
    pub fn new(spec: &BundleEndpoint, trust_domain: &str) -> Result<Self, FieldError> {
        let error = |field: &str, message: String| FieldError { field: format!("spec.x509.endpoint.{field}"), message };
        let url =
            Url::parse(&spec.url).map_err(|parse| error("url", format!("`{}` is not a URL: {parse}", spec.url)))?;
        if url.scheme() != "https" {
            return Err(error("url", "write an https URL".to_owned()));
        }
        let id = match (spec.profile, &spec.spiffe_id) {
            (BundleProfile::HttpsWeb, None) => None,
            (BundleProfile::HttpsSpiffe, Some(id)) => {
                let id: PrincipalId = id.parse().map_err(|parse| error("spiffeId", format!("{parse}")))?;
                if id.trust_domain() != Some(trust_domain) {
                    let message = format!("the SPIFFE ID of the endpoint must be in trust domain `{trust_domain}`");
                    return Err(error("spiffeId", message));
                }
                Some(id)
            }
            (BundleProfile::HttpsWeb, Some(_)) => {
                return Err(error("spiffeId", "allowed only with profile `https_spiffe`; leave it out".to_owned()));
            }
            (BundleProfile::HttpsSpiffe, None) => {
                return Err(error("spiffeId", "required with profile `https_spiffe`".to_owned()));
            }
        };
        Ok(Self { url, id })
    }

    /// Fetches the bundle. `roots` are those of the current bundle; they verify an endpoint with a SPIFFE ID.
    pub async fn fetch(&self, roots: &[CertificateDer<'static>]) -> Result<Vec<u8>, BundleUpdateError> {
        let Some(id) = &self.id else { return Ok(fetch_document(web_client()?, &self.url).await?) };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = HandshakeVerifier::new(ExpectedEndpoint { id: id.clone(), roots: roots.to_vec() });
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        let client = restricted_client().tls_backend_preconfigured(config).build()?;
        Ok(fetch_document(&client, &self.url).await?)
    }
}

/// Accepts a server whose X.509-SVID has the expected SPIFFE ID, regardless of the name in its address.
#[derive(Debug)]
struct ExpectedEndpoint {
    id: PrincipalId,
    roots: Vec<CertificateDer<'static>>,
}

impl VerifyServer for ExpectedEndpoint {
    fn verify(&self, chain: &[CertificateDer<'_>], _: &ServerName<'_>, now: UnixTime) -> Result<(), rustls::Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let svid = verify_server(chain, &self.roots, now)
            .map_err(|error| rustls::Error::General(format!("the endpoint's certificate is not valid: {error}")))?;
        if svid.id.parse().as_ref() == Ok(&self.id) { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}
