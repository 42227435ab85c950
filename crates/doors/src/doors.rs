//! What the doors for proxies and enforcement points share.

use durward_engine::Engine;
use durward_runtime::peers::TrustedPeers;
use std::sync::Arc;

/// The engine, and the peers that it may trust.
#[derive(Debug, Clone)]
pub struct Doors {
    pub engine: Arc<Engine>,
    /// The peers whose forwarded requests and certificates are trusted.
    pub trust: Arc<TrustedPeers>,
}
