//! The `durward agent` process: gives the containers of one pod its identity, over the SPIFFE Workload API and Envoy's
//! SDS.
//!
//! It issues nothing itself and authorizes no requests; the controller decides which identity the pod has.
//! Begin with [`run`], then read `workload_api` and `sds`.
//!
//! ```text
//! controller ──certificate, bundles──▶ identity source ──▶ Workload API, SDS ◀──socket── containers of the pod
//!     ▲                                      │
//!     └────CSR, service-account token────────┘   the key never leaves this process
//! ```

mod sds;
mod secrets;
mod server;
mod validation;
mod workload_api;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use chrono::Utc;
use durward_controller_client::client::ControllerClient;
use durward_controller_client::identity::IdentitySource;
use durward_runtime::Failure;
use durward_runtime::limits::ServerLimits;
use durward_runtime::signals::ReloadSignals;
use durward_runtime::supervisor::{Supervisor, bind};
use sds::SdsService;
use server::{AgentError, open_socket, serve};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use url::Url;
use workload_api::WorkloadApi;

/// Settings of the agent.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Unix socket of the Workload API and SDS.
    pub socket: PathBuf,
    /// Loopback address that serves the same. Some gRPC libraries can't use the socket: they send its path as the host
    /// name, which HTTP/2 does not allow.
    pub tcp: Option<SocketAddr>,
    /// The controller's token listener.
    pub controller: Url,
    /// File with the pod's service-account token for the controller.
    pub token: PathBuf,
    /// File with the roots of the controller's certificate.
    pub roots: PathBuf,
    /// Limit for the lifetime of certificates in seconds, where shorter than the policy's.
    pub ttl_seconds: Option<u32>,
    /// Hint that distinguishes the identity from others of the pod.
    pub hint: String,
    /// Address of the health endpoint.
    pub health: SocketAddr,
}

/// Runs the agent until a signal ends it.
///
/// # Errors
/// When the socket or an address can't be used, or when a task of the agent fails.
pub async fn run(settings: AgentSettings) -> Result<(), Failure> {
    let signals = ReloadSignals::catch()?;
    let health = bind(settings.health, "health", "health").await?;
    let socket = open_socket(&settings.socket)?;
    let tcp = match settings.tcp {
        // every client that reaches this address has the pod's identity
        Some(address) if !address.ip().is_loopback() => return Err(AgentError::PublicAddress(address).into()),
        Some(address) => Some(bind(address, "the Workload API", "tcp").await?),
        None => None,
    };
    let AgentSettings { controller, token, roots, ttl_seconds, hint, .. } = settings;
    let source = IdentitySource::new(ControllerClient { url: controller, token, roots }, ttl_seconds);
    let limits = ServerLimits::default();
    let mut supervisor = Supervisor::new(limits.clone())?;
    supervisor.spawn(|stop| signals.run(stop));
    let certificate_source = source.clone();
    supervisor.spawn(|stop| certificate_source.renew_certificate(stop));
    let bundle_source = source.clone();
    supervisor.spawn(|stop| bundle_source.follow_bundles(stop));
    supervisor.serve_admin(health, None, health_endpoint(&source));
    let services = Routes::new(WorkloadApi::server(source.clone(), hint)).add_service(SdsService::server(source));
    let router = services.prepare().into_axum_router();
    if let Some(tcp) = tcp {
        let (router, limits) = (router.clone(), limits.clone());
        supervisor.spawn(|stop| serve(TcpListenerStream::new(tcp), router, limits, stop));
    }
    supervisor.spawn(|stop| serve(UnixListenerStream::new(socket), router, limits, stop));
    let ended = supervisor.run_until_shutdown(std::future::ready(())).await;
    // without the file, a client that connects now fails at once
    let _ = fs::remove_file(&settings.socket);
    ended
}

/// `/readyz` responds 200 while there is a valid identity; `/healthz` always does.
fn health_endpoint(source: &IdentitySource) -> Router {
    let state = source.state();
    let readyz = move || {
        let ready = state.borrow().valid_identity(Utc::now()).is_some();
        std::future::ready(if ready {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "no valid identity\n")
        })
    };
    Router::new().route("/readyz", get(readyz)).route("/healthz", get(async || "ok\n"))
}
