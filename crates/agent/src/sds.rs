//! Envoy's secret discovery service (`envoy.service.secret.v3`). The names of secrets are those of SPIRE's agent.

use durward_controller_client::identity::{IdentitySource, IdentityState};
use durward_core::digest::Digest;
use durward_pki::authority::pem;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret::Type,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use envoy_types::pb::google::protobuf::Any;
use futures::stream::{BoxStream, StreamExt, unfold};
use prost::Message;
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

/// Name of the pod's certificate and key, which works without knowing its SPIFFE ID.
const CERTIFICATE_NAME: &str = "default";
/// Name of the roots of the pod's trust domain, which works without knowing its SPIFFE ID.
const ROOTS_NAME: &str = "ROOTCA";
/// Type of the resources.
const SECRET_TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Limit for the names that one stream may subscribe to.
const MAX_NAMES: usize = 256;

fn too_many_names() -> Status {
    Status::invalid_argument(format!("a stream can subscribe to at most {MAX_NAMES} names"))
}

/// Serves the secrets of the pod to its Envoy.
pub(crate) struct SdsService {
    source: IdentitySource,
}

impl SdsService {
    pub(crate) fn server(source: IdentitySource) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(Self { source })
    }
}

/// One state-of-the-world stream: the names subscribed to, and the secrets last sent.
struct SecretSubscription {
    requests: Streaming<DiscoveryRequest>,
    states: watch::Receiver<IdentityState>,
    names: Option<Vec<String>>,
    sent: Vec<Any>,
    version: u64,
}

impl SecretSubscription {
    /// The next response, or `None` once the client is gone. Equal secrets are not sent twice, so an acknowledgement
    /// gets no response.
    async fn next(mut self) -> Option<(Result<DiscoveryResponse, Status>, Self)> {
        loop {
            tokio::select! {
                request = self.requests.next() => match request? {
                    Ok(request) => {
                        if let Some(error) = request.error_detail {
                            tracing::warn!(error = error.message, "Envoy rejected a secret; keeping the stream open");
                        }
                        if request.resource_names.len() > MAX_NAMES {
                            return Some((Err(too_many_names()), self));
                        }
                        self.names = Some(request.resource_names);
                    }
                    Err(_) => return None,
                },
                Ok(()) = self.states.changed() => {}
            }
            let state = self.states.borrow_and_update().clone();
            let Some(names) = &self.names else { continue };
            match secrets(&state, names) {
                Ok(Some(secrets)) if secrets != self.sent => {
                    self.version += 1;
                    self.sent.clone_from(&secrets);
                    return Some((Ok(response(secrets, self.version)), self));
                }
                Ok(_) => {}
                Err(status) => return Some((Err(status), self)),
            }
        }
    }
}

/// One incremental stream, on which only changed secrets are sent.
struct DeltaSecretSubscription {
    requests: Streaming<DeltaDiscoveryRequest>,
    states: watch::Receiver<IdentityState>,
    names: BTreeSet<String>,
    /// Version of each secret that the client has.
    sent: BTreeMap<String, String>,
    responses: u64,
}

impl DeltaSecretSubscription {
    async fn next(mut self) -> Option<(Result<DeltaDiscoveryResponse, Status>, Self)> {
        loop {
            tokio::select! {
                request = self.requests.next() => match request? {
                    Ok(request) => self.update_names(request),
                    Err(_) => return None,
                },
                Ok(()) = self.states.changed() => {}
            }
            if self.names.len() > MAX_NAMES {
                return Some((Err(too_many_names()), self));
            }
            let state = self.states.borrow_and_update().clone();
            match self.changed_secrets(&state) {
                Ok(resources) if resources.is_empty() => {}
                Ok(resources) => {
                    self.responses += 1;
                    let nonce = self.responses.to_string();
                    let response = DeltaDiscoveryResponse {
                        resources,
                        nonce,
                        type_url: SECRET_TYPE.to_owned(),
                        ..Default::default()
                    };
                    return Some((Ok(response), self));
                }
                Err(status) => return Some((Err(status), self)),
            }
        }
    }

    /// Takes in the names of a request.
    fn update_names(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(error) = request.error_detail {
            tracing::warn!(error = error.message, "Envoy rejected a secret; keeping the stream open");
        }
        // what the client has from an earlier stream
        self.sent.extend(request.initial_resource_versions);
        for name in &request.resource_names_unsubscribe {
            self.names.remove(name);
            self.sent.remove(name);
        }
        self.names.extend(request.resource_names_subscribe);
    }

    /// The subscribed secrets of which the client does not have the current version.
    fn changed_secrets(&mut self, state: &IdentityState) -> Result<Vec<Resource>, Status> {
        let names: Vec<String> = self.names.iter().cloned().collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let Some(secrets) = secrets(state, &names)? else { return Ok(Vec::new()) };
        let mut changed = Vec::new();
        for (name, secret) in names.into_iter().zip(secrets) {
            let version = Digest::of([secret.value.as_slice()]).to_string();
            if self.sent.insert(name.clone(), version.clone()).as_ref() != Some(&version) {
                changed.push(Resource { name, version, resource: Some(secret), ..Resource::default() });
            }
        }
        Ok(changed)
    }
}

fn response(resources: Vec<Any>, version: u64) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_string(),
        nonce: version.to_string(),
        type_url: SECRET_TYPE.to_owned(),
        resources,
        ..DiscoveryResponse::default()
    }
}

/// The secrets with these names, or all if `names` is empty; `None` while there is no identity.
fn secrets(state: &IdentityState, names: &[String]) -> Result<Option<Vec<Any>>, Status> {
    let Some((issued, trust_domain, bundle)) = state.ready() else {
        return state.refusal.as_ref().map_or(Ok(None), |reason| Err(Status::permission_denied(reason.clone())));
    };
    let default_names = [CERTIFICATE_NAME.to_owned(), ROOTS_NAME.to_owned()];
    let names = if names.is_empty() { &default_names } else { names };
    let secret = |name: &String| {
        let kind = if name == CERTIFICATE_NAME || *name == issued.id {
            let chain = issued.chain.iter().map(|der| pem(&CertificateDer::from(der.as_slice()))).collect::<String>();
            Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(inline(chain)),
                private_key: Some(inline(issued.key_pem.to_string())),
                ..TlsCertificate::default()
            })
        } else {
            let named = if name == ROOTS_NAME || name == trust_domain { Some(bundle) } else { state.bundles.get(name) };
            let roots =
                &named.ok_or_else(|| Status::invalid_argument(format!("there is no secret named `{name}`")))?.roots;
            Type::ValidationContext(CertificateValidationContext {
                trusted_ca: Some(inline(roots.iter().map(pem).collect())),
                ..CertificateValidationContext::default()
            })
        };
        let secret = Secret { name: name.clone(), r#type: Some(kind) };
        Ok(Any { type_url: SECRET_TYPE.to_owned(), value: secret.encode_to_vec() })
    };
    names.iter().map(secret).collect::<Result<_, _>>().map(Some)
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text)), ..DataSource::default() }
}

#[tonic::async_trait]
impl SecretDiscoveryService for SdsService {
    type DeltaSecretsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type StreamSecretsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let subscription = SecretSubscription {
            requests: request.into_inner(),
            states: self.source.state(),
            names: None,
            sent: Vec::new(),
            version: 0,
        };
        Ok(Response::new(unfold(subscription, SecretSubscription::next).boxed()))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let state = self.source.state().borrow().clone();
        let secrets = secrets(&state, &request.into_inner().resource_names)?;
        Ok(Response::new(response(secrets.ok_or_else(|| Status::unavailable("no certificate yet"))?, 1)))
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let subscription = DeltaSecretSubscription {
            requests: request.into_inner(),
            states: self.source.state(),
            names: BTreeSet::new(),
            sent: BTreeMap::new(),
            responses: 0,
        };
        Ok(Response::new(unfold(subscription, DeltaSecretSubscription::next).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_controller_client::identity::IssuedIdentity;
    use durward_pki::bundle::BundleContents;
    use std::sync::Arc;
    use zeroize::Zeroizing;

    fn state() -> IdentityState {
        let issued = IssuedIdentity {
            id: "spiffe://cluster.local/ns/a/sa/b".to_owned(),
            chain: vec![vec![1]],
            key: Zeroizing::new(vec![2]),
            key_pem: Zeroizing::new("key".to_owned()),
        };
        let bundle =
            |root: u8| BundleContents { roots: vec![CertificateDer::from(vec![root])], ..BundleContents::default() };
        let bundles =
            [("spiffe://cluster.local".to_owned(), bundle(3)), ("spiffe://partner.example".to_owned(), bundle(4))];
        IdentityState { issued: Some(Arc::new(issued)), bundles: Arc::new(bundles.into()), refusal: None }
    }

    fn secret_text(name: &str) -> Result<String, tonic::Code> {
        let all =
            secrets(&state(), &[name.to_owned()]).map_err(|status| status.code())?.expect("the state has an identity");
        let [any] = all.as_slice() else { return Ok(String::new()) };
        let secret = Secret::decode(any.value.as_slice()).expect("the value is a Secret");
        let source = match secret.r#type {
            Some(Type::ValidationContext(context)) => context.trusted_ca,
            Some(Type::TlsCertificate(certificate)) => certificate.certificate_chain,
            _ => None,
        };
        match source.and_then(|source| source.specifier) {
            Some(Specifier::InlineString(text)) => Ok(text),
            _ => Ok(String::new()),
        }
    }

    #[test]
    fn secrets_are_found_by_the_names_of_spire_and_by_spiffe_ids() {
        let pem = |byte: u8| pem(&CertificateDer::from(vec![byte]));
        for (name, expected) in [
            ("default", Ok(pem(1))),
            ("spiffe://cluster.local/ns/a/sa/b", Ok(pem(1))),
            ("ROOTCA", Ok(pem(3))),
            ("spiffe://cluster.local", Ok(pem(3))),
            ("spiffe://partner.example", Ok(pem(4))),
            ("spiffe://unknown.example", Err(tonic::Code::InvalidArgument)),
            ("spiffe://partner.example/x", Err(tonic::Code::InvalidArgument)),
        ] {
            assert_eq!(secret_text(name), expected, "{name}");
        }
    }
}
