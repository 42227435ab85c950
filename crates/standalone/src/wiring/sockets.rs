//! The listening sockets. They are bound before anything else, so that a port in use ends the start at once.

use crate::settings::StandaloneAddresses;
use axum::Router;
use durward_doors::ext_authz::ExtAuthzListener;
use durward_runtime::supervisor::{ListenError, Supervisor, bind};
use rustls::ServerConfig;
use std::io;
use std::sync::Arc;
use tokio::net::TcpListener;

/// One socket for each listener.
pub(super) struct StandaloneSockets {
    http: TcpListener,
    https: TcpListener,
    grpc: TcpListener,
    grpcs: TcpListener,
    tokens: TcpListener,
    tokens_tls: TcpListener,
    admin: TcpListener,
}

/// What the sockets serve. The listeners with and without TLS serve the same.
pub(super) struct StandaloneRouters {
    pub http: Router,
    pub grpc: ExtAuthzListener,
    pub tokens: Router,
    pub admin: Router,
}

impl StandaloneSockets {
    pub async fn bind(addresses: &StandaloneAddresses) -> Result<Self, ListenError> {
        Ok(Self {
            http: bind(addresses.http, "forward auth and AuthZEN", "http").await?,
            https: bind(addresses.https, "forward auth and AuthZEN over TLS", "https").await?,
            grpc: bind(addresses.grpc, "ext_authz", "grpc").await?,
            grpcs: bind(addresses.grpcs, "ext_authz over TLS", "grpcs").await?,
            tokens: bind(addresses.tokens, "tokens", "tokens").await?,
            tokens_tls: bind(addresses.tokens_tls, "tokens over TLS", "tokens-tls").await?,
            admin: bind(addresses.admin, "admin", "admin").await?,
        })
    }

    /// Addresses of the sockets, with the ports that the system has chosen.
    pub fn addresses(&self) -> io::Result<StandaloneAddresses> {
        Ok(StandaloneAddresses {
            http: self.http.local_addr()?,
            https: self.https.local_addr()?,
            grpc: self.grpc.local_addr()?,
            grpcs: self.grpcs.local_addr()?,
            tokens: self.tokens.local_addr()?,
            tokens_tls: self.tokens_tls.local_addr()?,
            admin: self.admin.local_addr()?,
        })
    }

    /// Starts every listener.
    pub fn serve(self, supervisor: &mut Supervisor, tls: &Arc<ServerConfig>, routers: StandaloneRouters) {
        supervisor.serve(self.grpc, None, routers.grpc.clone());
        supervisor.serve(self.grpcs, Some(Arc::clone(tls)), routers.grpc);
        supervisor.serve(self.http, None, routers.http.clone());
        supervisor.serve(self.https, Some(Arc::clone(tls)), routers.http);
        supervisor.serve(self.tokens, None, routers.tokens.clone());
        supervisor.serve(self.tokens_tls, Some(Arc::clone(tls)), routers.tokens);
        supervisor.serve_admin(self.admin, None, routers.admin);
    }
}
