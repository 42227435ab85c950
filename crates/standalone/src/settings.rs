//! Settings of `durward up`.

use durward_api::compile::ClusterDomains;
use durward_authn::ServiceAccountIssuer;
use durward_doors::admin::AdminSettings;
use durward_engine::audit::{AuditSink, OnLoss};
use durward_engine::openfga::OpenFga;
use durward_runtime::limits::ConnectionSettings;
use durward_runtime::peers::TrustedPeers;
use durward_step_up::StepUpArguments;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of `durward up`.
#[derive(Debug)]
pub struct StandaloneSettings {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// Whether to refuse to start with invalid manifests.
    pub strict: bool,
    /// State directory.
    pub state: PathBuf,
    /// Domains that policies are compiled for.
    pub domains: ClusterDomains,
    /// Addresses of the listeners.
    pub addresses: StandaloneAddresses,
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
    /// `iss` of tokens. The default is the URL of the token listener.
    pub issuer: Option<String>,
    /// Second factors of people. The default URL of their page is the issuer, or the token listener at `localhost`.
    pub step_up: StepUpArguments,
    /// Issuer of Kubernetes service-account tokens.
    pub service_accounts: Option<ServiceAccountIssuer>,
    /// The OpenFGA server that policies may query.
    pub openfga: Option<OpenFga>,
}

/// Addresses of the listeners. Port 0 takes any free port.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct StandaloneAddresses {
    /// Address for forward auth and AuthZEN
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8180", value_parser = durward_runtime::address::parse_address)]
    pub http: SocketAddr,
    /// Address for forward auth and AuthZEN over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8143", value_parser = durward_runtime::address::parse_address)]
    pub https: SocketAddr,
    /// Address for Envoy ext_authz over gRPC
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180", value_parser = durward_runtime::address::parse_address)]
    pub grpc: SocketAddr,
    /// Address for Envoy ext_authz over gRPC with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9143", value_parser = durward_runtime::address::parse_address)]
    pub grpcs: SocketAddr,
    /// Address for token keys, token exchange, step-up, approvals and the trust bundle
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8182", value_parser = durward_runtime::address::parse_address)]
    pub tokens: SocketAddr,
    /// Address for the same endpoints over TLS, for clients with certificates
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8145", value_parser = durward_runtime::address::parse_address)]
    pub tokens_tls: SocketAddr,
    /// Address for health, metrics and the snapshot
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8181", value_parser = durward_runtime::address::parse_address)]
    pub admin: SocketAddr,
}
