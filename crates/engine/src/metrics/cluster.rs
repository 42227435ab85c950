//! Metrics of the connections in a cluster.

use super::register;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Metrics of the API server, the controller and its replicas.
#[derive(Debug)]
pub(super) struct ClusterMetrics {
    pub(super) api_server_seen: Gauge,
    pub(super) api_server_failures: Counter,
    pub(super) controller_seen: Gauge,
    pub(super) leader: Gauge,
    pub(super) replicas_behind: Gauge,
}

impl ClusterMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            api_server_seen: register(
                registry,
                "api_server_last_seen_timestamp_seconds",
                "Time of the last answer of the API server, in seconds since 1970; 0 without a cluster",
                Gauge::default(),
            ),
            api_server_failures: register(
                registry,
                "api_server_failures",
                "Watches of the API server that failed",
                Counter::default(),
            ),
            controller_seen: register(
                registry,
                "controller_last_seen_timestamp_seconds",
                "Time of the last message of the controller to a gate, in seconds since 1970; 0 elsewhere",
                Gauge::default(),
            ),
            leader: register(
                registry,
                "leader",
                "1 if this replica leads: it writes statuses and webhooks",
                Gauge::default(),
            ),
            replicas_behind: register(
                registry,
                "replicas_behind",
                "Ready replicas without the newest snapshot in force; reported by the leader",
                Gauge::default(),
            ),
        }
    }
}
