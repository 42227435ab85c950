//! Envoy's secret discovery service (`envoy.service.secret.v3`): the streams, by which Envoy follows [secrets](crate::secrets).

use crate::secrets::{SECRET_TYPE, known_secrets};
use chrono::Utc;
use durward_controller_client::identity::{IdentitySource, IdentityState};
use durward_core::digest::Digest;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use envoy_types::pb::google::protobuf::Any;
use futures::stream::{BoxStream, StreamExt, unfold};
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

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
    /// Whether the last request subscribed to other names than the one before.
    new_names: bool,
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
                        self.new_names = self.names.as_ref() != Some(&request.resource_names);
                        self.names = Some(request.resource_names);
                    }
                    Err(_) => return None,
                },
                Ok(()) = self.states.changed() => {}
            }
            let state = self.states.borrow_and_update().clone();
            let Some(names) = &self.names else { continue };
            let secrets = match known_secrets(&state, names, Utc::now()) {
                Ok(secrets) => secrets,
                Err(status) => return Some((Err(status), self)),
            };
            if mem::take(&mut self.new_names) {
                report_unknown(names, &secrets);
            }
            let secrets: Vec<Any> = secrets.into_iter().map(|(_, secret)| secret).collect();
            // a response without secrets is an error for Envoy
            if !secrets.is_empty() && secrets != self.sent {
                self.version += 1;
                self.sent.clone_from(&secrets);
                return Some((Ok(response(secrets, self.version)), self));
            }
        }
    }
}

/// One incremental stream, on which only changed secrets are sent.
struct DeltaSecretSubscription {
    requests: Streaming<DeltaDiscoveryRequest>,
    states: watch::Receiver<IdentityState>,
    names: BTreeSet<String>,
    /// Whether the last request subscribed to names.
    new_names: bool,
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
        self.new_names = !request.resource_names_subscribe.is_empty();
        self.names.extend(request.resource_names_subscribe);
    }

    /// The subscribed secrets of which the client does not have the current version.
    fn changed_secrets(&mut self, state: &IdentityState) -> Result<Vec<Resource>, Status> {
        let names: Vec<String> = self.names.iter().cloned().collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let secrets = known_secrets(state, &names, Utc::now())?;
        if mem::take(&mut self.new_names) {
            report_unknown(&names, &secrets);
        }
        let mut changed = Vec::new();
        for (name, secret) in secrets {
            let version = Digest::of([secret.value.as_slice()]).to_string();
            if self.sent.insert(name.clone(), version.clone()).as_ref() != Some(&version) {
                changed.push(Resource { name, version, resource: Some(secret), ..Resource::default() });
            }
        }
        Ok(changed)
    }
}

/// Logs the names of a subscription that no secret has. They don't end the stream: a secret is sent once there is one.
fn report_unknown(names: &[String], known: &[(String, Any)]) {
    for name in names.iter().filter(|name| known.iter().all(|(known, _)| known != *name)) {
        tracing::warn!(name, "there is no secret of this name now; sending it once there is one");
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
            new_names: false,
            sent: Vec::new(),
            version: 0,
        };
        Ok(Response::new(unfold(subscription, SecretSubscription::next).boxed()))
    }

    async fn fetch_secrets(&self, request: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        let state = self.source.state().borrow().clone();
        let names = request.into_inner().resource_names;
        let secrets = known_secrets(&state, &names, Utc::now())?;
        if secrets.is_empty() {
            return Err(Status::unavailable("there is no secret of these names now"));
        }
        Ok(Response::new(response(secrets.into_iter().map(|(_, secret)| secret).collect(), 1)))
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let subscription = DeltaSecretSubscription {
            requests: request.into_inner(),
            states: self.source.state(),
            names: BTreeSet::new(),
            new_names: false,
            sent: BTreeMap::new(),
            responses: 0,
        };
        Ok(Response::new(unfold(subscription, DeltaSecretSubscription::next).boxed()))
    }
}
