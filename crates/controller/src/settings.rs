//! Settings of the controller.

use crate::webhooks::FailurePolicy;
use durward_api::compile::ClusterDomains;
use durward_core::authentication::AuthenticationMethod;
use durward_doors::admin::AdminSettings;
use durward_doors::api_server::ApiServerSettings;
use durward_engine::audit::{AuditSink, OnLoss};
use durward_engine::openfga::OpenFga;
use durward_identity::CaSource;
use durward_pki::rotation::RotationSchedule;
use durward_runtime::limits::ConnectionSettings;
use durward_runtime::peers::TrustedPeers;
use durward_step_up::StepUpSettings;
use std::net::SocketAddr;
use std::time::Duration;

/// Settings of `durward controller`.
#[derive(Debug)]
pub struct ControllerSettings {
    /// Namespace of this installation.
    pub namespace: String,
    /// Name of this pod.
    pub pod: String,
    /// Service in front of all replicas. The names of all objects of the installation begin with it.
    pub service: String,
    /// Domains that policies are compiled for.
    pub domains: ClusterDomains,
    /// Addresses of the listeners.
    pub addresses: ControllerAddresses,
    /// Limits of connections and request bodies.
    pub connections: ConnectionSettings,
    /// Access to the admin listener.
    pub admin: AdminSettings,
    /// Peers whose forwarded headers are trusted.
    pub trust: TrustedPeers,
    /// Destination of the audit log.
    pub audit: AuditSink,
    /// What to do when a record can't be written.
    pub on_loss: OnLoss,
    /// The OpenFGA server that policies may query.
    pub openfga: Option<OpenFga>,
    /// Namespaces whose labelled Secrets hold API keys, in addition to the installation's own.
    pub api_key_namespaces: Vec<String>,
    /// What the API server does with governed operations while no replica answers.
    pub failure_policy: FailurePolicy,
    /// Image of the agents that are injected into pods.
    pub agent_image: String,
    /// What the API server does with pods that request an identity while no replica answers.
    pub injection_failure_policy: FailurePolicy,
    /// Authentication methods that are accepted at the API server itself (`TokenReview`).
    pub token_review_methods: Vec<AuthenticationMethod>,
    /// Whether the authorization webhook allows what policies allow. Otherwise it only denies.
    pub authorization_allows: bool,
    /// Origin of the CA.
    pub ca: CaSource,
    /// Duration of each step of the CA's rotation.
    pub rotation: RotationSchedule,
    /// `iss` of tokens: an https URL that serves the discovery document and the keys.
    pub issuer: String,
    /// Second factors of people.
    pub step_up: StepUpSettings,
    /// Lifetime of the listeners' certificate.
    pub certificate_lifetime: Duration,
    /// How the API server authenticates at its webhooks.
    pub api_server: ApiServerSettings,
    /// The cert-manager Certificate for the webhooks, which is also the name of its Secret.
    pub webhook_certificate: Option<String>,
}

/// Addresses of the listeners. Port 0 takes any free port.
#[derive(Debug, Clone, clap::Args)]
pub struct ControllerAddresses {
    /// Address for forward auth and AuthZEN over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8143", value_parser = durward_runtime::address::parse_address)]
    pub https: SocketAddr,
    /// Address for Envoy ext_authz over gRPC with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9143", value_parser = durward_runtime::address::parse_address)]
    pub grpcs: SocketAddr,
    /// Address for the webhooks of the API server
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443", value_parser = durward_runtime::address::parse_address)]
    pub webhooks: SocketAddr,
    /// Address for token keys, discovery and the trust bundle over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8145", value_parser = durward_runtime::address::parse_address)]
    pub tokens: SocketAddr,
    /// Address for health, metrics and the snapshot over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8181", value_parser = durward_runtime::address::parse_address)]
    pub admin: SocketAddr,
}
