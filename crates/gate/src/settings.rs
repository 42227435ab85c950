//! The settings of a gate.

use crate::wiring::{ClusterGate, LocalGate};
use durward_api::compile::ClusterDomains;
use durward_core::risk::RiskLevel;
use durward_engine::audit::{AuditSink, OnLoss};
use durward_engine::openfga::OpenFga;
use durward_protocol::upstream::Upstream;
use durward_runtime::duration::parse_duration;
use durward_runtime::limits::ConnectionSettings;
use serde::Serialize;
use std::net::SocketAddr;
use std::time::Duration;

/// The settings of a gate.
#[derive(Debug)]
pub struct GateSettings {
    /// Where to listen.
    pub listen: GateAddresses,
    /// The application.
    pub upstream: Upstream,
    /// Where policies and identity come from.
    pub source: GateSource,
    /// Trust domain and cluster domain that policies are compiled for.
    pub domain: ClusterDomains,
    /// Limits on requests and times.
    pub limits: GateLimits,
    /// Limits of connections and request bodies.
    pub connections: ConnectionSettings,
    /// Whether callers may use TLS 1.2.
    pub tls12: bool,
    /// The OpenFGA server, if policies may ask one.
    pub openfga: Option<OpenFga>,
    /// Where the audit log goes.
    pub audit: AuditSink,
    /// What to do when it can't be written.
    pub on_loss: OnLoss,
}

/// Where policies and identity come from.
#[derive(Debug)]
pub enum GateSource {
    /// A directory of policies on this host.
    Local(LocalGate),
    /// The controller of a cluster.
    Cluster(ClusterGate),
}

/// The addresses to listen on; port 0 takes any free port.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct GateAddresses {
    /// Address for callers, over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8148", env = "DURWARD_LISTEN", value_parser = durward_runtime::address::parse_address)]
    pub listen: SocketAddr,
    /// Address where the application calls other services in plain HTTP; a loopback address
    #[arg(long, value_name = "ADDRESS", env = "DURWARD_OUTBOUND", value_parser = durward_runtime::address::parse_address)]
    pub outbound: Option<SocketAddr>,
    /// Health and metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8181", env = "DURWARD_ADMIN", value_parser = durward_runtime::address::parse_address)]
    pub admin: SocketAddr,
}

/// Limits on requests and times.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct GateLimits {
    /// Most concurrent requests on each side; further ones are refused with 503
    #[arg(long = "max-requests", value_name = "NUMBER", default_value = "4096")]
    pub requests: usize,
    /// Time for the application, or a service, to begin its response after the end of the request
    #[arg(long = "response-timeout", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub response: Duration,
    /// Longest time without a frame in either direction of a request; an open WebSocket may be silent
    #[arg(long = "idle-timeout", value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub idle: Duration,
    /// Time for open requests to complete after shutdown
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = parse_duration)]
    pub drain: Duration,
    /// Which operations end their open streams and WebSockets within a second once the caller is no longer allowed
    #[arg(long = "end-streams", value_name = "OPERATIONS", value_enum, default_value_t)]
    pub recheck: RecheckedStreams,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self {
            requests: 4096,
            response: Duration::from_secs(60),
            idle: Duration::from_mins(5),
            drain: Duration::from_secs(25),
            recheck: RecheckedStreams::default(),
        }
    }
}

/// The operations whose open streams end once their caller is no longer allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum RecheckedStreams {
    /// Operations of high risk
    #[default]
    High,
    /// All operations
    All,
    /// None: what was allowed goes on until one end closes it
    None,
}

impl RecheckedStreams {
    /// Whether the streams of an operation of this risk end.
    pub(super) fn applies(self, risk: Option<RiskLevel>) -> bool {
        match self {
            Self::High => risk == Some(RiskLevel::High),
            Self::All => true,
            Self::None => false,
        }
    }
}
