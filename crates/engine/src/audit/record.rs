//! What every record has in common.

use crate::metrics::Metrics;
use serde::Serialize;

/// A record of the audit log that the metrics count too.
pub trait AuditRecord: Serialize {
    /// Counts the event, whether or not it is recorded.
    fn count(&self, metrics: &Metrics);

    /// Counts what takes effect only if the engine returns `true` for the record: it is recorded, or may be lost.
    fn count_effect(&self, _metrics: &Metrics) {}
}
