//! The listening sockets. They are bound before anything else, so that a port in use ends the start at once.

use crate::settings::ControllerAddresses;
use durward_runtime::supervisor::{ListenError, bind};
use std::io;
use tokio::net::TcpListener;

/// One socket for each listener.
pub(super) struct ControllerSockets {
    pub https: TcpListener,
    pub grpcs: TcpListener,
    pub webhooks: TcpListener,
    pub tokens: TcpListener,
    pub admin: TcpListener,
}

impl ControllerSockets {
    pub async fn bind(addresses: &ControllerAddresses) -> Result<Self, ListenError> {
        Ok(Self {
            https: bind(addresses.https, "forward auth and AuthZEN over TLS", "https").await?,
            grpcs: bind(addresses.grpcs, "ext_authz over TLS", "grpcs").await?,
            webhooks: bind(addresses.webhooks, "webhooks", "webhooks").await?,
            tokens: bind(addresses.tokens, "token keys", "tokens").await?,
            admin: bind(addresses.admin, "admin", "admin").await?,
        })
    }

    /// Port of the webhooks, once the system has chosen one.
    pub fn webhook_port(&self) -> io::Result<u16> {
        Ok(self.webhooks.local_addr()?.port())
    }
}
