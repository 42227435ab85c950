//! Envoy's secret discovery service (`envoy.service.secret.v3`), by the names that SPIRE's agent uses too.

use crate::agent::source::{Source, State};
use durward_pki::authority::pem;
use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret::Type,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use envoy_types::pb::google::protobuf::Any;
use futures::stream::{BoxStream, StreamExt, unfold};
use prost::Message;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

/// Certificate and key, whatever the SPIFFE ID is.
const CERTIFICATE: &str = "default";
/// Roots of the own trust domain, whatever its name is.
const ROOTS: &str = "ROOTCA";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Most names that one stream may ask for.
const MAX_NAMES: usize = 256;

/// Answers the pod's Envoy.
pub(crate) struct Sds {
    source: Source,
}

impl Sds {
    pub(crate) fn server(source: Source) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(Self { source })
    }
}

/// One stream: what was asked for, and what was told last.
struct Subscription {
    requests: Streaming<DiscoveryRequest>,
    states: watch::Receiver<State>,
    names: Option<Vec<String>>,
    told: Vec<Any>,
    version: u64,
}

impl Subscription {
    /// The next answer; none once the client is gone. The same is never told twice, so an acknowledgement gets no answer.
    async fn next(mut self) -> Option<(Result<DiscoveryResponse, Status>, Self)> {
        loop {
            tokio::select! {
                request = self.requests.next() => match request? {
                    Ok(request) => {
                        if let Some(error) = request.error_detail {
                            tracing::warn!(error = error.message, "Envoy does not take a secret");
                        }
                        if request.resource_names.len() > MAX_NAMES {
                            return Some((Err(Status::invalid_argument("too many names")), self));
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
                Ok(Some(secrets)) if secrets != self.told => {
                    self.version += 1;
                    self.told.clone_from(&secrets);
                    return Some((Ok(answer(secrets, self.version)), self));
                }
                Ok(_) => {}
                Err(status) => return Some((Err(status), self)),
            }
        }
    }
}

fn answer(resources: Vec<Any>, version: u64) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_string(),
        nonce: version.to_string(),
        type_url: SECRET.to_owned(),
        resources,
        ..DiscoveryResponse::default()
    }
}

/// The secrets of these names, of all when there is none; `None` while there is no identity.
fn secrets(state: &State, names: &[String]) -> Result<Option<Vec<Any>>, Status> {
    let Some((svid, own, bundle)) = state.ready() else {
        return state.refused.as_ref().map_or(Ok(None), |why| Err(Status::permission_denied(why.clone())));
    };
    let all = [CERTIFICATE.to_owned(), ROOTS.to_owned()];
    let names = if names.is_empty() { &all } else { names };
    let secret = |name: &String| {
        let kind = if name == CERTIFICATE || *name == svid.id {
            let chain = svid.chain.iter().map(|der| pem(&CertificateDer::from(der.as_slice()))).collect::<String>();
            Type::TlsCertificate(TlsCertificate {
                certificate_chain: Some(inline(chain)),
                private_key: Some(inline(svid.key_pem.to_string())),
                ..TlsCertificate::default()
            })
        } else {
            let named = if name == ROOTS || name == own { Some(bundle) } else { state.bundles.get(name) };
            let roots = &named.ok_or_else(|| Status::invalid_argument(format!("no secret is called `{name}`")))?.roots;
            Type::ValidationContext(CertificateValidationContext {
                trusted_ca: Some(inline(roots.iter().map(pem).collect())),
                ..CertificateValidationContext::default()
            })
        };
        let secret = Secret { name: name.clone(), r#type: Some(kind) };
        Ok(Any { type_url: SECRET.to_owned(), value: secret.encode_to_vec() })
    };
    names.iter().map(secret).collect::<Result<_, _>>().map(Some)
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text)), ..DataSource::default() }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type DeltaSecretsStream = BoxStream<'static, Result<DeltaDiscoveryResponse, Status>>;
    type StreamSecretsStream = BoxStream<'static, Result<DiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let subscription = Subscription {
            requests: request.into_inner(),
            states: self.source.state(),
            names: None,
            told: Vec::new(),
            version: 0,
        };
        Ok(Response::new(unfold(subscription, Subscription::next).boxed()))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let state = self.source.state().borrow().clone();
        let secrets = secrets(&state, &request.into_inner().resource_names)?;
        Ok(Response::new(answer(secrets.ok_or_else(|| Status::unavailable("no certificate yet"))?, 1)))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("use the state-of-the-world variant: `api_type: GRPC`"))
    }
}
