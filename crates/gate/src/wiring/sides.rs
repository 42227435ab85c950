//! The two sides of the gate. Each begins to serve when the gate has its first certificate.

use crate::application::Application;
use crate::identity::{GateTls, IdentityPublisher};
use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::settings::GateLimits;
use crate::tunnel::Tunnels;
use durward_engine::EngineContext;
use durward_runtime::Failure;
use durward_runtime::connection::HttpService;
use durward_runtime::listener::{Listener, serve_with_drain};
use rustls::ServerConfig;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// One side: the listener, and what both sides need to serve on it.
pub(super) struct Side {
    listener: Listener,
    publisher: IdentityPublisher,
    limits: GateLimits,
    tunnels: Tunnels,
}

impl Side {
    pub fn new(listener: Listener, publisher: IdentityPublisher, limits: GateLimits) -> Self {
        Self { listener, publisher, limits, tunnels: Tunnels::default() }
    }

    /// Serves callers over TLS, until `shutdown`.
    pub async fn serve_inbound(
        self,
        context: EngineContext,
        application: Application,
        tls12: bool,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let Some(identity) = self.identity(&shutdown).await else { return Ok(()) };
        let tls = identity.server_config(tls12)?;
        let inbound = Inbound::new(context, application, self.limits, self.tunnels.clone());
        self.serve(Some(tls), inbound, shutdown).await
    }

    /// Serves the application in plain HTTP, until `shutdown`.
    pub async fn serve_outbound(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let Some(identity) = self.identity(&shutdown).await else { return Ok(()) };
        let outbound = Outbound::new(&identity.peers, &identity.certificate, self.limits, self.tunnels.clone())?;
        self.serve(None, outbound, shutdown).await
    }

    /// Waits for the first certificate; `None` at `shutdown`.
    async fn identity(&self, shutdown: &CancellationToken) -> Option<Arc<GateTls>> {
        tokio::select! {
            Some(identity) = self.publisher.identity() => Some(identity),
            () = shutdown.cancelled() => None,
        }
    }

    async fn serve(
        self,
        tls: Option<Arc<ServerConfig>>,
        service: impl HttpService,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let drain = self.limits.drain;
        let served = serve_with_drain(self.listener, tls, service, drain, shutdown.clone());
        let (served, ()) = tokio::join!(served, self.tunnels.end(drain, shutdown));
        Ok(served?)
    }
}
