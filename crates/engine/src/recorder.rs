//! Records events in the audit log and counts them in the metrics.

use crate::audit::{AuditRecord, AuditWriter};
use crate::metrics::Metrics;
use std::sync::Arc;

/// The audit log and the metrics.
#[derive(Debug)]
pub(crate) struct Recorder {
    log: AuditWriter,
    metrics: Arc<Metrics>,
}

impl Recorder {
    pub(crate) fn new(log: AuditWriter, metrics: Arc<Metrics>) -> Self {
        Self { log, metrics }
    }

    /// Opens the audit log again, if its file was renamed or removed.
    pub(crate) fn reopen_log(&self) {
        self.log.reopen();
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Records and counts an event. Returns whether it may take effect: it is recorded, or the log may lose records.
    pub(crate) fn record(&self, record: &impl AuditRecord) -> bool {
        record.count(&self.metrics);
        let recorded = self.log.record(record);
        if recorded.is_err() {
            self.metrics.audit_record_lost();
        }
        let effective = recorded.is_ok() || self.log.tolerates_loss();
        if effective {
            record.count_effect(&self.metrics);
        }
        effective
    }
}
