//! Refreshes of keys and bundles.

use super::Authenticator;
use futures::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Interval between checks for keys and bundles that are due for a refresh.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of concurrent refreshes. With several, a slow server does not delay the others.
const MAX_CONCURRENT: usize = 8;

impl Authenticator {
    /// Keeps the keys of all issuers and the bundles of all trust domains fresh until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = self.refresh() => {}
                () = shutdown.cancelled() => return,
            }
            tokio::select! {
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
                () = self.providers_replaced.notified() => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Refreshes all keys and bundles that are due.
    async fn refresh(&self) {
        let domain = self.domain.load_full();
        let providers = self.providers.load_full();
        let issuer_keys = providers.values().filter_map(|provider| Some(Arc::clone(&provider.issuer()?.keys)));
        let cluster_keys = domain.workloads.as_ref().and_then(|workloads| workloads.cluster_keys()).cloned();
        let keys: Vec<_> = issuer_keys.chain(cluster_keys).collect();
        let federations: Vec<_> = providers.values().filter_map(|provider| provider.federation().cloned()).collect();
        let keys = stream::iter(keys).for_each_concurrent(MAX_CONCURRENT, async |keys| keys.refresh().await);
        let federations = stream::iter(federations).for_each_concurrent(MAX_CONCURRENT, |federation| {
            let bundles = self.bundles.clone();
            async move {
                if federation.refresh().await {
                    bundles.send_replace(());
                }
            }
        });
        tokio::join!(keys, federations);
    }
}
