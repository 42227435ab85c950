//! Records events in the audit log and counts them in the metrics.

use crate::audit::{AuditRecord, AuditWriter, PendingRecord, RecordLost};
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

    /// Like [`Recorder::record`], and waits until the record is written if the log must not lose any.
    pub(crate) fn record_effect(&self, record: &impl AuditRecord) -> PendingEffect {
        record.count(&self.metrics);
        let recorded = self.log.record_effect(record);
        if recorded.is_err() {
            self.metrics.audit_record_lost();
        }
        PendingEffect { recorded, tolerates_loss: self.log.tolerates_loss() }
    }
}

/// What may take effect once its record is written.
#[must_use]
pub(crate) struct PendingEffect {
    recorded: Result<PendingRecord, RecordLost>,
    tolerates_loss: bool,
}

impl PendingEffect {
    /// Whether it may take effect. Counts a record that is not written in time as lost.
    pub(crate) async fn allowed(self, metrics: &Metrics) -> bool {
        match self.recorded {
            Ok(record) => record.finished().await.inspect_err(|_| metrics.audit_record_lost()).is_ok(),
            Err(RecordLost) => self.tolerates_loss,
        }
    }
}
