//! Envoy's secret discovery service (`envoy.service.secret.v3`), by the names that SPIRE's agent uses too.

use durward_controller_client::source::{Source, State};
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

/// Certificate and key, whatever the SPIFFE ID is.
const CERTIFICATE: &str = "default";
/// Roots of the own trust domain, whatever its name is.
const ROOTS: &str = "ROOTCA";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
/// Most names that one stream may ask for.
const MAX_NAMES: usize = 256;

/// Answers the pod's Envoy.
pub struct Sds {
    source: Source,
}

impl Sds {
    pub fn server(source: Source) -> SecretDiscoveryServiceServer<Self> {
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

/// As [`Subscription`], in the variant where only what changed is told.
struct DeltaSubscription {
    requests: Streaming<DeltaDiscoveryRequest>,
    states: watch::Receiver<State>,
    names: BTreeSet<String>,
    /// Version of each secret that the client has.
    told: BTreeMap<String, String>,
    answers: u64,
}

impl DeltaSubscription {
    async fn next(mut self) -> Option<(Result<DeltaDiscoveryResponse, Status>, Self)> {
        loop {
            tokio::select! {
                request = self.requests.next() => match request? {
                    Ok(request) => self.asked(request),
                    Err(_) => return None,
                },
                Ok(()) = self.states.changed() => {}
            }
            if self.names.len() > MAX_NAMES {
                return Some((Err(Status::invalid_argument("too many names")), self));
            }
            let state = self.states.borrow_and_update().clone();
            match self.news(&state) {
                Ok(resources) if resources.is_empty() => {}
                Ok(resources) => {
                    self.answers += 1;
                    let nonce = self.answers.to_string();
                    let answer =
                        DeltaDiscoveryResponse { resources, nonce, type_url: SECRET.to_owned(), ..Default::default() };
                    return Some((Ok(answer), self));
                }
                Err(status) => return Some((Err(status), self)),
            }
        }
    }

    fn asked(&mut self, request: DeltaDiscoveryRequest) {
        if let Some(error) = request.error_detail {
            tracing::warn!(error = error.message, "Envoy does not take a secret");
        }
        // of a stream before this one
        self.told.extend(request.initial_resource_versions);
        for name in &request.resource_names_unsubscribe {
            self.names.remove(name);
            self.told.remove(name);
        }
        self.names.extend(request.resource_names_subscribe);
    }

    /// The secrets that were asked for and that the client does not have as they are now.
    fn news(&mut self, state: &State) -> Result<Vec<Resource>, Status> {
        let names: Vec<String> = self.names.iter().cloned().collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let Some(secrets) = secrets(state, &names)? else { return Ok(Vec::new()) };
        let mut news = Vec::new();
        for (name, secret) in names.into_iter().zip(secrets) {
            let version = Digest::of([secret.value.as_slice()]).to_string();
            if self.told.insert(name.clone(), version.clone()).as_ref() != Some(&version) {
                news.push(Resource { name, version, resource: Some(secret), ..Resource::default() });
            }
        }
        Ok(news)
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
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let subscription = DeltaSubscription {
            requests: request.into_inner(),
            states: self.source.state(),
            names: BTreeSet::new(),
            told: BTreeMap::new(),
            answers: 0,
        };
        Ok(Response::new(unfold(subscription, DeltaSubscription::next).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_controller_client::source::Svid;
    use durward_pki::bundle::BundleContents;
    use std::sync::Arc;
    use zeroize::Zeroizing;

    fn state() -> State {
        let svid = Svid {
            id: "spiffe://cluster.local/ns/a/sa/b".to_owned(),
            chain: vec![vec![1]],
            key: Zeroizing::new(vec![2]),
            key_pem: Zeroizing::new("key".to_owned()),
        };
        let bundle =
            |root: u8| BundleContents { roots: vec![CertificateDer::from(vec![root])], ..BundleContents::default() };
        let bundles =
            [("spiffe://cluster.local".to_owned(), bundle(3)), ("spiffe://partner.example".to_owned(), bundle(4))];
        State { svid: Some(Arc::new(svid)), bundles: Arc::new(bundles.into()), refused: None }
    }

    fn told(name: &str) -> Result<String, tonic::Code> {
        let all = secrets(&state(), &[name.to_owned()]).map_err(|status| status.code())?.expect("an identity");
        let [any] = all.as_slice() else { return Ok(String::new()) };
        let secret = Secret::decode(any.value.as_slice()).expect("a secret");
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
    fn secrets_go_by_the_names_of_trust_domains() {
        let pem = |byte: u8| pem(&CertificateDer::from(vec![byte]));
        for (name, expected) in [
            ("default", Ok(pem(1))),
            ("spiffe://cluster.local/ns/a/sa/b", Ok(pem(1))),
            ("ROOTCA", Ok(pem(3))),
            ("spiffe://cluster.local", Ok(pem(3))),
            ("spiffe://partner.example", Ok(pem(4))),
            ("spiffe://nobody.example", Err(tonic::Code::InvalidArgument)),
            ("spiffe://partner.example/x", Err(tonic::Code::InvalidArgument)),
        ] {
            assert_eq!(told(name), expected, "{name}");
        }
    }
}
