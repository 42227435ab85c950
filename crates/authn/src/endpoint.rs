//! Where a trust domain publishes its bundle (SPIFFE Federation, section 5).

use crate::keys::{restricted_client, client, get};
use durward_api::field_error::FieldError;
use durward_api::resources::{BundleEndpoint, BundleProfile};
use durward_core::principal::PrincipalId;
use durward_pki::svid::verify_server;
use durward_runtime::tls::{HandshakeVerifier, VerifyServer};
use rustls::crypto::aws_lc_rs;
use rustls::{CertificateError, ClientConfig, Error};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use url::Url;

/// A bundle endpoint.
#[derive(Debug)]
pub struct Endpoint {
    url: Url,
    /// Its SPIFFE ID; without one it has a certificate of the web.
    id: Option<PrincipalId>,
}

impl Endpoint {
    pub fn new(spec: &BundleEndpoint, trust_domain: &str) -> Result<Self, FieldError> {
        let error = |field: &str, message: String| FieldError { field: format!("spec.x509.endpoint.{field}"), message };
        let url = Url::parse(&spec.url).map_err(|parse| error("url", format!("`{}` is no URL: {parse}", spec.url)))?;
        if url.scheme() != "https" {
            return Err(error("url", "a bundle is fetched by https only".to_owned()));
        }
        let id = match (spec.profile, &spec.spiffe_id) {
            (BundleProfile::HttpsWeb, None) => None,
            (BundleProfile::HttpsSpiffe, Some(id)) => {
                let id: PrincipalId = id.parse().map_err(|parse| error("spiffeId", format!("{parse}")))?;
                if id.trust_domain() != Some(trust_domain) {
                    let message =
                        format!("an endpoint of another trust domain than `{trust_domain}` can't be verified");
                    return Err(error("spiffeId", message));
                }
                Some(id)
            }
            (BundleProfile::HttpsWeb, Some(_)) => {
                return Err(error("spiffeId", "it goes with profile `https_spiffe`; leave it out".to_owned()));
            }
            (BundleProfile::HttpsSpiffe, None) => {
                return Err(error("spiffeId", "say which SPIFFE ID the endpoint has".to_owned()));
            }
        };
        Ok(Self { url, id })
    }

    /// What it publishes now. `roots` are those that are there already.
    pub async fn fetch(&self, roots: &[CertificateDer<'static>]) -> Result<Vec<u8>, String> {
        let Some(id) = &self.id else { return get(client()?, &self.url).await };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = HandshakeVerifier::new(ExpectedId { id: id.clone(), roots: roots.to_vec() });
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?;
        let config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        let client = restricted_client().tls_backend_preconfigured(config).build().map_err(|error| error.to_string())?;
        get(&client, &self.url).await
    }
}

/// Accepts a server whose X.509-SVID has the expected SPIFFE ID, whatever the name in its address.
#[derive(Debug)]
struct ExpectedId {
    id: PrincipalId,
    roots: Vec<CertificateDer<'static>>,
}

impl VerifyServer for ExpectedId {
    fn verify(&self, chain: &[CertificateDer<'_>], _: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let svid = verify_server(chain, &self.roots, now)
            .map_err(|error| Error::General(format!("the endpoint's certificate does not count: {error}")))?;
        if svid.id.parse().as_ref() == Ok(&self.id) { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
    }
}
