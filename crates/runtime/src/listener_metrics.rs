//! Metrics of connections, request bodies and slots. Every label has a fixed set of values.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SlotLabels {
    endpoint: &'static str,
    reason: &'static str,
}

/// Why a connection is not served, or not served any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// Its source has its share of connections, and none of them is idle.
    SourceShare,
    /// The listener is full, and no connection is idle.
    Full,
    /// It was idle, and made room for another.
    Displaced,
    /// It had no request for too long.
    Idle,
}

impl ConnectionRefusal {
    const ALL: [Self; 4] = [Self::SourceShare, Self::Full, Self::Displaced, Self::Idle];

    const fn as_str(self) -> &'static str {
        match self {
            Self::SourceShare => "source_share",
            Self::Full => "full",
            Self::Displaced => "displaced",
            Self::Idle => "idle",
        }
    }
}

/// Why a body is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyRefusal {
    /// The bodies of its source take their share of the memory.
    SourceShare,
    /// The bodies of all clients take the whole memory for bodies.
    Memory,
    /// It did not arrive in time.
    Timeout,
}

impl BodyRefusal {
    const ALL: [Self; 3] = [Self::SourceShare, Self::Memory, Self::Timeout];

    const fn as_str(self) -> &'static str {
        match self {
            Self::SourceShare => "source_share",
            Self::Memory => "memory",
            Self::Timeout => "timeout",
        }
    }
}

/// What the listeners of the process refuse, and the memory that request bodies take now.
#[derive(Debug, Clone, Default)]
pub struct ListenerMetrics {
    connections: Family<ReasonLabels, Counter>,
    bodies: Family<ReasonLabels, Counter>,
    slots: Family<SlotLabels, Counter>,
    /// Bytes of request bodies in memory. This is the counter that the budget compares with its limit.
    pub(crate) body_bytes: Gauge,
}

impl ListenerMetrics {
    /// Registers the metrics. The counters start at 0, because an alert watches their increase.
    pub fn register(&self, registry: &mut Registry) {
        for refusal in ConnectionRefusal::ALL {
            drop(self.connections.get_or_create(&ReasonLabels { reason: refusal.as_str() }));
        }
        for refusal in BodyRefusal::ALL {
            drop(self.bodies.get_or_create(&ReasonLabels { reason: refusal.as_str() }));
        }
        registry.register(
            "connections_refused",
            "Connections that were refused, or closed to make room or for being idle, by reason",
            self.connections.clone(),
        );
        registry.register(
            "request_bodies_refused",
            "Request bodies that were not read, by reason",
            self.bodies.clone(),
        );
        registry.register(
            "slots_refused",
            "Requests that were refused because too many were processed at once, by endpoint and reason",
            self.slots.clone(),
        );
        registry.register(
            "request_body_bytes",
            "Memory that request bodies take now, over all listeners",
            self.body_bytes.clone(),
        );
    }

    pub(crate) fn connection_refused(&self, refusal: ConnectionRefusal) {
        self.connections.get_or_create(&ReasonLabels { reason: refusal.as_str() }).inc();
    }

    pub(crate) fn body_refused(&self, refusal: BodyRefusal) {
        self.bodies.get_or_create(&ReasonLabels { reason: refusal.as_str() }).inc();
    }

    pub(crate) fn slot_refused(&self, endpoint: &'static str, reason: &'static str) {
        self.slots.get_or_create(&SlotLabels { endpoint, reason }).inc();
    }
}
