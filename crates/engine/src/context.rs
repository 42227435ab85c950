//! What the builders of a process share.

use crate::Engine;
use crate::audit::AuditWriter;
use crate::metrics::Metrics;
use crate::openfga::OpenFga;
use durward_authn::Authenticator;
use durward_runtime::Failure;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// An engine, and the authenticator and the metrics that it works with. A process assembles it once and hands its
/// parts to doors and tasks.
#[derive(Debug, Clone)]
pub struct EngineContext {
    /// Decides and records.
    pub engine: Arc<Engine>,
    /// Authenticates callers.
    pub authenticator: Arc<Authenticator>,
    /// The metrics of the process.
    pub metrics: Arc<Metrics>,
}

impl EngineContext {
    /// Assembles an engine. `process` makes its decision ids differ from those of other processes.
    #[must_use]
    pub fn new(
        authenticator: Arc<Authenticator>,
        audit: AuditWriter,
        metrics: Arc<Metrics>,
        openfga: Option<OpenFga>,
        process: u64,
    ) -> Self {
        let engine = Engine::new(Arc::clone(&authenticator), audit, Arc::clone(&metrics), process);
        Self { engine: Arc::new(engine.with_openfga(openfga)), authenticator, metrics }
    }
    /// Opens the audit log again on each change of `reload`, until `shutdown`.
    ///
    /// # Errors
    /// None; the signature is that of a task.
    pub async fn reopen_audit_log(
        self,
        mut reload: watch::Receiver<u64>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! {
                Ok(()) = reload.changed() => self.engine.reopen_audit_log(),
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }
}
