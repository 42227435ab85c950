//! What the doors for proxies and enforcement points share.

use durward_authn::Authenticator;
use durward_engine::Engine;
use durward_runtime::peers::TrustedPeers;
use std::sync::Arc;

/// The engine, the authenticator, and the peers that are trusted.
#[derive(Debug, Clone)]
pub struct Doors {
    pub engine: Arc<Engine>,
    pub authenticator: Arc<Authenticator>,
    /// The peers whose forwarded requests and certificates are trusted.
    pub trust: Arc<TrustedPeers>,
}
