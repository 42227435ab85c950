//! What `durward agent` hands out, by answers of a controller that the test changes.

use durward_tests::clock::Clock;
use durward_tests::controller::FakeController;
use durward_tests::{durward, eventually, free, request};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, secret::Type,
};
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use futures::stream::{self, StreamExt};
use prost::Message;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use tempfile::TempDir;
use tonic::transport::Endpoint;

/// An agent; killed when dropped.
struct AgentProcess {
    child: Child,
    health: SocketAddr,
    api: SocketAddr,
    _directory: TempDir,
}

impl AgentProcess {
    fn start(controller: &FakeController, clock: &Clock) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (health, api) = (free(), free());
        let mut command = durward();
        command.args(["agent", "--controller", &format!("https://{}", controller.address)]);
        command.args(["--health", &health.to_string(), "--tcp", &api.to_string()]);
        command.arg("--token-file").arg(controller.file("token")).arg("--ca-file").arg(controller.file("roots.pem"));
        command.arg("--socket").arg(directory.path().join("agent.sock")).stderr(Stdio::null());
        clock.give(&mut command);
        Self { child: command.spawn().unwrap(), health, api, _directory: directory }
    }

    fn becomes_ready(&self, ready: bool) {
        let status = || {
            std::net::TcpStream::connect(self.health).ok()?;
            Some(request(self.health, "GET", "/readyz", &[("Host", "agent")], "").status)
        };
        let expected = if ready { 200 } else { 503 };
        eventually(&format!("ready: {ready}"), || status().filter(|status| *status == expected)).unwrap();
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, PartialEq, Message)]
struct WorkloadTokenRequest {
    #[prost(string, repeated, tag = "1")]
    audience: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct WorkloadTokenResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<WorkloadToken>,
}

#[derive(Clone, PartialEq, Message)]
struct WorkloadToken {
    #[prost(string, tag = "2")]
    svid: String,
}

/// A token by the Workload API.
async fn token(agent: &AgentProcess) -> Result<String, tonic::Code> {
    let channel = Endpoint::from_shared(format!("http://{}", agent.api)).unwrap().connect().await.unwrap();
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(WorkloadTokenRequest { audience: vec!["billing".to_owned()] });
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    let path = http::uri::PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchJWTSVID");
    let codec = tonic_prost::ProstCodec::<WorkloadTokenRequest, WorkloadTokenResponse>::default();
    let response = client.unary(request, path, codec).await.map_err(|status| status.code())?;
    Ok(response.into_inner().svids.remove(0).svid)
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_are_renewed_by_wall_clock_and_kept_while_valid() {
    let clock = Clock::with_system_time();
    let controller = FakeController::start();
    let agent = AgentProcess::start(&controller, &clock);
    agent.becomes_ready(true);
    assert_eq!(token(&agent).await.as_deref(), Ok("token-1"));
    let advance = |minutes: i64| {
        clock.advance(minutes * 60);
        controller.change(|answers| answers.ahead = clock.ahead());
    };

    // as after a sleep: no timer has noticed that half of the lifetime is over
    advance(31);
    eventually("another certificate", || (controller.answers().issued.0 == 2).then_some(())).unwrap();
    assert_eq!(token(&agent).await.as_deref(), Ok("token-2"));

    // what is valid stays in use while the controller fails or is silent
    advance(31);
    controller.change(|answers| answers.fails = true);
    assert_eq!(token(&agent).await.as_deref(), Ok("token-2"));
    advance(1);
    controller.change(|answers| (answers.fails, answers.silent) = (false, true));
    assert_eq!(token(&agent).await.as_deref(), Ok("token-2"));
    agent.becomes_ready(true);
    controller.change(|answers| (answers.fails, answers.silent) = (true, false));

    // and no longer
    advance(40);
    agent.becomes_ready(false);
    assert_eq!(token(&agent).await, Err(tonic::Code::Unavailable));
    controller.change(|answers| answers.fails = false);
    let renewed = async || eventually("a certificate", || (controller.answers().issued.0 > 2).then_some(()));
    renewed().await.unwrap();
    agent.becomes_ready(true);
}

/// The trusted roots, as text, by the name of the secret and the trust domain.
fn trusted(response: &DiscoveryResponse) -> BTreeMap<String, BTreeMap<String, String>> {
    let secrets = response.resources.iter().map(|any| Secret::decode(any.value.as_slice()).unwrap());
    let contexts = secrets.filter_map(|secret| match secret.r#type {
        Some(Type::ValidationContext(context)) => Some((secret.name, roots(&context))),
        _ => None,
    });
    contexts.collect()
}

fn roots(context: &CertificateValidationContext) -> BTreeMap<String, String> {
    if let Some(validator) = &context.custom_validator_config {
        assert_eq!(validator.name, "envoy.tls.cert_validator.spiffe");
        let config = validator.typed_config.as_ref().unwrap();
        let config = SpiffeCertValidatorConfig::decode(config.value.as_slice()).unwrap();
        return config.trust_domains.into_iter().map(|one| (one.name, format!("{:?}", one.trust_bundle))).collect();
    }
    assert!(context.trusted_ca.is_some(), "Envoy trusts everybody without a root");
    BTreeMap::from([(String::new(), format!("{:?}", context.trusted_ca))])
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_learns_that_a_federation_began_and_ended() {
    const PARTNER: &str = "spiffe://partner.example";
    let controller = FakeController::start();
    let agent = AgentProcess::start(&controller, &Clock::with_system_time());
    agent.becomes_ready(true);
    let names = ["default", "ROOTCA", "ALL", PARTNER, "no such secret"].map(ToOwned::to_owned).to_vec();
    let first = DiscoveryRequest { resource_names: names, ..DiscoveryRequest::default() };
    let channel = Endpoint::from_shared(format!("http://{}", agent.api)).unwrap().connect().await.unwrap();
    let requests = stream::iter([first]).chain(stream::pending());
    let mut updates = SecretDiscoveryServiceClient::new(channel).stream_secrets(requests).await.unwrap().into_inner();
    let mut next = async || trusted(&updates.message().await.expect("the stream goes on").expect("an update"));

    let before = next().await;
    assert_eq!(before.keys().collect::<Vec<_>>(), ["ALL", "ROOTCA", PARTNER], "the unknown name has no secret");
    assert_eq!(before["ALL"].keys().collect::<Vec<_>>(), ["cluster.local"]);
    controller.change(|answers| answers.partners = vec!["partner.example"]);
    let federated = next().await;
    assert_eq!(federated["ALL"].keys().collect::<Vec<_>>(), ["cluster.local", "partner.example"]);
    assert_eq!(federated[PARTNER][""], federated["ALL"]["partner.example"], "the partner's roots");
    controller.change(|answers| answers.partners.clear());
    let after = next().await;
    assert_eq!(after, before, "nobody of the partner is trusted");
    assert_ne!(after[PARTNER], federated[PARTNER]);
}
