//! Limits for connections and request bodies, and their settings.

use crate::bodies::BodyBudget;
use crate::duration::parse_duration;
use crate::listener_metrics::ListenerMetrics;
use crate::memory::{container_limit, parse_size};
use crate::source::share_of;
use std::sync::Arc;
use std::time::Duration;

/// Part of the container's memory for request bodies: snapshot, caches and connections share the rest, and a parsed
/// body takes more memory than its bytes.
const BODY_MEMORY_DIVISOR: u64 = 4;
/// Memory for request bodies of a process without a memory limit.
const DEFAULT_BODY_MEMORY: usize = 64 << 20;
/// Least memory for request bodies: two of the largest, which are admission reviews.
const MIN_BODY_MEMORY: usize = 16 << 20;

/// Settings of connections and request bodies.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectionSettings {
    /// Most connections of each listener; at the limit, the one that is idle for longest is closed
    #[arg(long, value_name = "NUMBER", default_value = "4096", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// Share of the connections and of the memory for bodies that one source address may have, in percent
    #[arg(long, value_name = "PERCENT", default_value = "50", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub source_share: u8,
    /// Memory for request bodies over all listeners, such as 64Mi [default: a quarter of the container's memory limit,
    /// or 64Mi]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub body_memory: Option<usize>,
    /// Time for a client to send the body of a request that is read whole
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub body_timeout: Duration,
    /// Time for a client to complete the TLS handshake, and to send the headers of a request
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub client_timeout: Duration,
    /// Time without a request after which an HTTP/2 connection is closed, even if it pings
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub connection_idle_timeout: Duration,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            source_share: 50,
            body_memory: None,
            body_timeout: Duration::from_secs(10),
            client_timeout: Duration::from_secs(10),
            connection_idle_timeout: Duration::from_mins(5),
        }
    }
}

/// The limits of all listeners of a process.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    pub(crate) settings: Arc<ConnectionSettings>,
    pub(crate) bodies: Arc<BodyBudget>,
    pub(crate) metrics: ListenerMetrics,
}

impl ServerLimits {
    /// The limits of these settings. What they refuse is counted in `metrics`.
    #[must_use]
    pub fn new(settings: ConnectionSettings, metrics: ListenerMetrics) -> Self {
        let memory = settings.body_memory.unwrap_or_else(|| default_body_memory(container_limit()));
        let bodies = BodyBudget::new(memory, share_of(memory, settings.source_share), metrics.clone());
        Self { settings: Arc::new(settings), bodies: Arc::new(bodies), metrics }
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self::new(ConnectionSettings::default(), ListenerMetrics::default())
    }
}

fn default_body_memory(container: Option<u64>) -> usize {
    let share = container.map(|limit| usize::try_from(limit / BODY_MEMORY_DIVISOR).unwrap_or(usize::MAX));
    share.unwrap_or(DEFAULT_BODY_MEMORY).max(MIN_BODY_MEMORY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        settings: ConnectionSettings,
    }

    #[test]
    fn bodies_get_a_quarter_of_the_container() {
        for (container, memory) in [(None, 64), (Some(256), 64), (Some(1024), 256), (Some(32), 16)] {
            assert_eq!(default_body_memory(container.map(|limit: u64| limit << 20)), memory << 20, "{container:?}");
        }
    }

    #[test]
    fn the_defaults_of_the_command_line_are_those_of_the_settings() {
        let parsed = Arguments::try_parse_from(["durward"]).ok().map(|arguments| arguments.settings);
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Some(ConnectionSettings::default())));
        for bad in
            [["durward", "--source-share=0"], ["durward", "--source-share=101"], ["durward", "--max-connections=0"]]
        {
            assert!(Arguments::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }
}
