//! The listening sockets. They are bound before anything else, so that a port in use ends the start at once.

use crate::error::GateError;
use crate::settings::GateAddresses;
use durward_runtime::Failure;
use durward_runtime::supervisor::bind;
use std::io;
use tokio::net::TcpListener;

/// One socket for each listener.
pub(super) struct GateSockets {
    pub callers: TcpListener,
    pub outbound: Option<TcpListener>,
    pub admin: TcpListener,
}

impl GateSockets {
    pub async fn bind(addresses: &GateAddresses) -> Result<Self, Failure> {
        let callers = bind(addresses.listen, "callers", "listen").await?;
        let outbound = match addresses.outbound {
            // every client of this listener acts with the identity of the pod
            Some(address) if !address.ip().is_loopback() => return Err(GateError::PublicOutbound(address).into()),
            Some(address) => Some(bind(address, "the application's calls", "outbound").await?),
            None => None,
        };
        Ok(Self { callers, outbound, admin: bind(addresses.admin, "admin", "admin").await? })
    }

    /// Addresses of the sockets, with the ports that the system has chosen.
    pub fn addresses(&self) -> io::Result<GateAddresses> {
        Ok(GateAddresses {
            listen: self.callers.local_addr()?,
            outbound: self.outbound.as_ref().map(TcpListener::local_addr).transpose()?,
            admin: self.admin.local_addr()?,
        })
    }
}
